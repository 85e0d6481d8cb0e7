// A mixin for kube-prometheus and other jsonnet users: the rules, alerts and dashboard of this
// directory. It needs go-jsonnet, or jsonnet 0.20 or newer.
local groups(yaml) = std.parseYaml(yaml).groups;

{
  _config+:: {
    // The page with a section for each alert.
    runbookURL: std.rstripChars(importstr 'runbook_url', '\n'),
  },

  prometheusRules+:: {
    groups+: groups(importstr 'prometheus/rules/recording.yml'),
  },

  prometheusAlerts+:: {
    groups+: [
      group {
        rules: [
          alert {
            annotations+: { runbook_url: $._config.runbookURL + '#' + std.asciiLower(alert.alert) },
          }
          for alert in group.rules
        ],
      }
      for group in groups(importstr 'prometheus/rules/alerts.yml')
    ],
  },

  grafanaDashboards+:: {
    'sriov.json': import 'grafana/sriov.json',
  },
}
