"""`make fleet` measures, and what docs/performance.md says about a fleet's series is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.fleet import __main__ as benchmark
from e2e import nodes
from e2e.conftest import running_prometheus
from e2e.fleet import RULES
from e2e.grafana import DASHBOARD

PAGE = (Path(__file__).parent.parent / "docs/performance.md").read_text()
VFS = 64


def test_make_fleet_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "build/fleet.json")
    # In half a minute, Prometheus must scrape the nodes and after that itself.
    monkeypatch.setattr(benchmark, "SCRAPE_SECONDS", 10)
    benchmark.main(["--nodes=4", "--vfs=16", "--minutes=0.5", "--storm"])
    ((title, result),) = json.loads((tmp_path / "build/fleet.json").read_text()).items()
    assert title.startswith("4 nodes with 64 VFs, ")
    assert result["series"] > 4 * 200
    assert result["samples_per_second"] > 0
    assert result["memory_bytes"] > 10_000_000
    assert {group["failed"] + group["missed"] for group in result["groups"].values()} == {0}
    assert [query for query in result["queries"] if query["error"]] == []
    assert max(query["series"] for query in result["queries"]) > 0


def test_dropping_series_spares_rules_and_dashboard(debian: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(metric_relabel_configs:\n.*?)```", PAGE, re.DOTALL)
    with nodes.served(nodes.pfs(VFS)) as address:
        (everything, _) = nodes.scrape_configs(address, {"east": 1})
        less = {**everything, **yaml.safe_load(block), "job_name": "less"}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [everything, less]}
        with running_prometheus(debian / "usr/bin/prometheus", tmp_path, config) as prometheus:
            both = 'up{job="less"} == 1 and on (instance) up{job="node"} == 1'
            found: list[dict[str, Any]] = prometheus.wait_for(
                f'count by (job, __name__) ({{__name__=~".+"}}) and on () ({both})'
            )
    counts: dict[str, dict[str, int]] = {"node": {}, "less": {}}
    for series in found:
        names = counts[series["metric"]["job"]]
        names[series["metric"]["__name__"]] = int(series["value"][1])
    before, after = counts["node"], counts["less"]
    dropped = before.keys() - after.keys()
    assert dropped == {"sriov_vf_rx_broadcast", "sriov_vf_rx_multicast", "sriov_cpu_info"}
    assert {name: before[name] for name in after} == after
    queries = json.dumps(DASHBOARD) + "".join(path.read_text() for path in RULES)
    assert not re.search("|".join(dropped), queries)
