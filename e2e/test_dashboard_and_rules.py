"""The dashboard, the rules and the autoscaler's query, on a real Prometheus.

It scrapes the simulated nodes of fleet.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import Prometheus
from e2e.fleet import EMPTIED, FAULTY, HEALTHY, RULES, fleet
from e2e.grafana import DASHBOARD, PANELS, with_values

PROJECT = Path(__file__).parent.parent
GROUPS = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
RECORDED = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = [
    pytest.param(variable["query"], id=variable["name"])
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
]


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    # A short path: the nodes put unix sockets below it, whose paths are limited to 107 characters.
    work = tmp_path_factory.mktemp("fleet")
    with fleet(debian, work) as prometheus:
        prometheus.wait_for("count(count_over_time(sriov_vf_rx_bytes[1m]) > 5) == 37")
        yield prometheus


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_panel_query_returns_series(prometheus: Prometheus, expression: str) -> None:
    assert prometheus.wait_for(with_values(expression))


@pytest.mark.parametrize("query", VARIABLES)
def test_every_variable_has_values(prometheus: Prometheus, query: str) -> None:
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", with_values(query))
    assert match
    values = {series.get(match[2]) for series in prometheus.get("series", **{"match[]": match[1]})}
    assert values - {None}


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_every_recording_rule_records_series(prometheus: Prometheus, rule: dict[str, str]) -> None:
    assert prometheus.wait_for(rule["expr"])
    assert prometheus.wait_for(rule["record"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_matches_the_faulty_node_and_not_the_healthy_one(
    prometheus: Prometheus, rule: dict[str, Any]
) -> None:
    series = prometheus.wait_for(rule["expr"])
    nodes = {sample["metric"]["instance"] for sample in series}
    assert nodes == {EMPTIED if rule["alert"] == "SriovMetricsMissing" else FAULTY}


def test_prometheus_evaluates_all_rules_without_errors(prometheus: Prometheus) -> None:
    prometheus.wait_for("ALERTS")
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDED) + len(ALERTS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_the_main_panels_have_the_expected_values(prometheus: Prometheus) -> None:
    expressions = {panel["title"]: with_values(panel["targets"][0]["expr"]) for panel in PANELS}
    assert len(prometheus.wait_for(expressions["Received per VF"])) == 37
    (vfs,) = prometheus.wait_for(expressions["VFs"])
    # Two more than above: the PF that rtnetlink does not know has VFs, but no counters.
    assert vfs["value"][1] == "39"
    (in_use,) = prometheus.wait_for(expressions["VFs used by pods"])
    assert in_use["value"][1] == "31"
    aligned = prometheus.wait_for(expressions["NUMA alignment per pod"])
    assert {(sample["metric"]["pod"], sample["value"][1]) for sample in aligned} == {
        ("upf-0", "1"),
        ("du-0", "1"),
        ("upf-1", "1"),
        ("du-1", "1"),
        ("gw-0", "0"),
    }
    inventory = prometheus.wait_for(expressions["VFs and the pods that use them"])
    assert len(inventory) == 39
    assert {sample["metric"].get("pod") for sample in inventory} >= {"upf-0", "gw-0", None}


def test_promtools_rule_tests_pass(debian: Path) -> None:
    promtool = [str(debian / "usr/bin/promtool"), "test", "rules", f"{PROJECT}/e2e/rules_test.yml"]
    done = subprocess.run(promtool, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_test_cases_that_fire_and_that_do_not() -> None:
    fires: dict[str, list[bool]] = {}
    for test in yaml.safe_load((PROJECT / "e2e/rules_test.yml").read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            fires.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))
    assert {name: set(cases) for name, cases in fires.items()} == {
        rule["alert"]: {True, False} for rule in ALERTS
    }


def test_every_alert_has_a_section_in_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (PROJECT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        url = f"https://sriov-textfile.example/docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == url


def test_the_autoscaler_gets_a_metric_for_each_pod(prometheus: Prometheus) -> None:
    """Applies the rule as prometheus-adapter does: finds series, renames them, runs the query."""
    (rule,) = yaml.safe_load((PROJECT / "deployment/hpa/prometheus-adapter.yml").read_text())[
        "rules"
    ]["custom"]
    (hpa,) = yaml.safe_load_all((PROJECT / "deployment/hpa/hpa.yaml").read_text())
    (metric,) = hpa["spec"]["metrics"]
    prometheus.wait_for(rule["seriesQuery"])
    name = rule["name"]["as"].replace("${1}", r"\1")
    series = {
        re.sub(rule["name"]["matches"], name, labels["__name__"]): labels
        for labels in prometheus.get("series", **{"match[]": rule["seriesQuery"]})
    }
    found = series[metric["pods"]["metric"]["name"]]
    assert {"namespace", "pod"} <= found.keys()
    query = (
        rule["metricsQuery"]
        .replace("<<.Series>>", found["__name__"])
        .replace("<<.LabelMatchers>>", 'namespace="core",pod=~"upf-0|upf-1|upf-2"')
        .replace("<<.GroupBy>>", "pod")
    )
    answer = prometheus.wait_for(query)
    received = {sample["metric"]["pod"]: float(sample["value"][1]) for sample in answer}
    assert received.keys() == {"upf-0", "upf-1", "upf-2"}
    # Each pod uses VFs 0 and 1 of one PF.
    vfs = f'vf:sriov_vf_rx_bytes:rate5m{{instance="{HEALTHY}",vf=~"0|1"}}'
    for pf in prometheus.wait_for(f"sum by (pf) ({vfs})"):
        pod = {"ens1f0": "upf-0", "ens2f0np0": "upf-1", "ens3f2": "upf-2"}[pf["metric"]["pf"]]
        assert received[pod] == pytest.approx(float(pf["value"][1]), rel=0.2)


def test_the_dashboards_json_is_up_to_date() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="no wheel for Python 3.10")
    from tools import dashboard

    assert dashboard.DASHBOARD.read_text() == dashboard.rendered()


def test_the_dashboard_uses_every_metric_except_a_few() -> None:
    demo = [sys.executable, "-m", "sriov_textfile", "demo", "--collector.vfinfo"]
    written = subprocess.run(demo, capture_output=True, text=True, check=True).stdout
    shown = set(re.findall(r"\bsriov_\w+", json.dumps(DASHBOARD)))
    names = set(re.findall(r"# TYPE (\S+)", written))
    assert names - shown == {
        "sriov_vf_rx_broadcast",
        "sriov_vf_rx_multicast",
        "sriov_vf_max_tx_rate_mbps",
        "sriov_cpu_info",
    }
