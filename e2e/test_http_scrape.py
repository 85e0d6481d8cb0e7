"""HTTP mode, scraped by a real Prometheus."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import (
    Prometheus,
    free_port,
    get,
    prometheus_reading,
    started,
    textfile_folder,
)
from e2e.test_queries import DOCUMENTED
from sriov_textfile.simulate import demo


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the demo over HTTP a few times."""
    work = tmp_path_factory.mktemp("prometheus")
    folder = textfile_folder(work / "textfile")
    address = f"127.0.0.1:{free_port()}"
    serve = [sys.executable, "-m", "sriov_textfile", "demo", "serve", "--web.rate-limit=10"]
    serve += ["--collector.vfrdma"]
    metrics = f"http://{address}/metrics"
    with (
        started([*serve, f"--web.listen-address={address}"], work / "serve.log", metrics),
        prometheus_reading([folder], debian, work, sriov=address) as prometheus,
    ):
        prometheus.wait_for("count_over_time(sriov_vf_rx_bytes[1m]) > 3")
        yield prometheus


def test_the_target_is_up(prometheus: Prometheus) -> None:
    assert prometheus.wait_for('up{job="sriov"} == 1')


# The other queries need metrics of node_exporter.
@pytest.mark.parametrize(
    "query", [query for query in DOCUMENTED.values() if not re.search(r"\bnode_", query)]
)
def test_documented_queries_return_series(prometheus: Prometheus, query: str) -> None:
    assert prometheus.wait_for(query)


def test_counters_follow_the_simulated_traffic(prometheus: Prometheus) -> None:
    (series,) = prometheus.wait_for('sriov_vf_rx_bytes{pf="ens2f0np0",vf="1"} > 1001003')
    pf = demo.pf(1, vfs=8)
    possible = range(pf.counters(1, 0)["rx_bytes"] + 1, pf.counters(1, 600)["rx_bytes"])
    assert int(series["value"][1]) in possible


def test_the_go_exporters_process_metrics_are_exported(prometheus: Prometheus) -> None:
    for name in (
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        'promhttp_metric_handler_requests_total{code="200"}',
    ):
        assert prometheus.wait_for(name), get(prometheus.node_exporters[0])
