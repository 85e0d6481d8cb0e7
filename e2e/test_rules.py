"""The rules and the autoscaler's query, on a real Prometheus that scrapes the nodes of fleet.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import Prometheus, settled
from e2e.fleet import ALERTS, EMPTIED, EMPTIED_CLUSTER, FAULTY, HEALTHY, RECORDED

PROJECT = Path(__file__).parent.parent


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_every_recording_rule_records_series(three_nodes: Prometheus, rule: dict[str, str]) -> None:
    assert three_nodes.wait_for(rule["expr"])
    assert three_nodes.wait_for(rule["record"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_matches_the_faulty_node_and_not_the_healthy_one(
    three_nodes: Prometheus, rule: dict[str, Any]
) -> None:
    def places() -> set[tuple[str | None, ...]]:
        series = three_nodes.wait_for(rule["expr"])
        return {tuple(s["metric"].get(name) for name in ("cluster", "instance")) for s in series}

    missing = {
        "SriovMetricsMissing": (EMPTIED_CLUSTER, EMPTIED),
        "SriovClusterMissing": (EMPTIED_CLUSTER, None),
    }
    expected = {missing.get(rule["alert"], (None, FAULTY))}
    assert settled(places, expected) == expected


def test_prometheus_evaluates_all_rules_without_errors(three_nodes: Prometheus) -> None:
    three_nodes.wait_for("ALERTS")
    rules = [rule for group in three_nodes.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDED) + len(ALERTS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


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


def test_the_autoscaler_gets_a_metric_for_each_pod(three_nodes: Prometheus) -> None:
    """Applies the rule as prometheus-adapter does: finds series, renames them, runs the query."""
    (rule,) = yaml.safe_load((PROJECT / "deployment/hpa/prometheus-adapter.yml").read_text())[
        "rules"
    ]["custom"]
    (hpa,) = yaml.safe_load_all((PROJECT / "deployment/hpa/hpa.yaml").read_text())
    (metric,) = hpa["spec"]["metrics"]
    # Rates per VF and per pod are not recorded at the same moment, and those of few samples vary.
    samples = f'count_over_time(sriov_vf_rx_bytes{{instance="{HEALTHY}"}}[1m])'
    three_nodes.wait_for(f"min({samples}) > 25")
    three_nodes.wait_for(rule["seriesQuery"])
    name = rule["name"]["as"].replace("${1}", r"\1")
    series = {
        re.sub(rule["name"]["matches"], name, labels["__name__"]): labels
        for labels in three_nodes.get("series", **{"match[]": rule["seriesQuery"]})
    }
    found = series[metric["pods"]["metric"]["name"]]
    assert {"namespace", "pod"} <= found.keys()
    query = (
        rule["metricsQuery"]
        .replace("<<.Series>>", found["__name__"])
        .replace("<<.LabelMatchers>>", 'namespace="core",pod=~"upf-0|upf-1|upf-2"')
        .replace("<<.GroupBy>>", "pod")
    )
    answer = three_nodes.wait_for(query)
    received = {sample["metric"]["pod"]: float(sample["value"][1]) for sample in answer}
    assert received.keys() == {"upf-0", "upf-1", "upf-2"}
    # Each pod uses VFs 0 and 1 of one PF.
    vfs = f'vf:sriov_vf_rx_bytes:rate5m{{instance="{HEALTHY}",vf=~"0|1"}}'
    for pf in three_nodes.wait_for(f"sum by (pf) ({vfs})"):
        pod = {"ens1f0": "upf-0", "ens2f0np0": "upf-1", "ens3f2": "upf-2"}[pf["metric"]["pf"]]
        assert received[pod] == pytest.approx(float(pf["value"][1]), rel=0.2)
