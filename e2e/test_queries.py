"""The documented queries, on a real Prometheus that has scraped the demo's metrics."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Prometheus, prometheus_reading, textfile_folder

DOCUMENTED = re.findall(
    r"```promql\n(.*?)\n```", (Path(__file__).parent.parent / "docs/queries.md").read_text()
)


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped two collections of the demo."""
    work = tmp_path_factory.mktemp("prometheus")
    folder = textfile_folder(work / "textfile")
    with prometheus_reading([folder], debian, work) as prometheus:
        for _ in range(2):
            demo = [sys.executable, "-m", "sriov_textfile", "demo"]
            subprocess.run([*demo, f"--textfile.path={folder}/sriov.prom"], check=True)
            time.sleep(2)
        prometheus.wait_for("count_over_time(sriov_vf_rx_bytes[1m]) > 2")
        yield prometheus


def by_pod(series: list[dict[str, dict[str, str]]]) -> dict[str, set[str]]:
    """Return the PCI addresses of each pod's VFs."""
    found: dict[str, set[str]] = {}
    for sample in series:
        labels = sample["metric"]
        pod = f"{labels['namespace']}/{labels['pod']}"
        found.setdefault(pod, set()).add(labels["pciAddr"])
    return found


@pytest.mark.parametrize("query", DOCUMENTED)
def test_every_documented_query_returns_series(prometheus: Prometheus, query: str) -> None:
    assert prometheus.wait_for(query)


def test_vfs_join_with_the_pods_that_use_them(prometheus: Prometheus) -> None:
    series = prometheus.wait_for(
        "sriov_vf_tx_errors * on (pciAddr) group_left(pod,namespace) sriov_kubepoddevice"
    )
    # netlink has no tx_errors, so the PF that is read by netlink has no such series.
    assert by_pod(series) == {
        "core/upf-0": {"0000:11:00.0", "0000:11:00.1"},
        "ran/du-0": {"0000:11:00.2", "0000:11:00.3"},
        "edge/router-0": {"0000:11:00.4", "0000:11:00.5"},
    }
    values = {sample["metric"]["pciAddr"]: sample["value"][1] for sample in series}
    assert values["0000:11:00.1"] == "1"


def test_vfs_join_with_the_labels_of_their_pods(prometheus: Prometheus) -> None:
    series = prometheus.wait_for(
        "(sriov_vf_tx_errors * on (pciAddr) group_left(pod,namespace) sriov_kubepoddevice)"
        " * on (pod,namespace) group_left (label_app_kubernetes_io_name) kube_pod_labels"
    )
    assert len(series) == 6
    for sample in series:
        labels = sample["metric"]
        assert labels["label_app_kubernetes_io_name"] == labels["pod"].split("-")[0]


def test_cpus_join_with_their_pods_by_uid(prometheus: Prometheus) -> None:
    series = prometheus.wait_for(
        "sriov_kubepodcpu * on (uid) group_left(pod,namespace) kube_pod_info"
    )
    found: dict[str, set[str]] = {}
    for sample in series:
        labels = sample["metric"]
        found.setdefault(f"{labels['namespace']}/{labels['pod']}", set()).add(labels["cpu_id"])
    assert found == {
        "core/upf-0": {"2", "3"},
        "ran/du-0": {"10", "11"},
        "core/upf-1": {"4", "5", "12", "13"},
        "ran/du-1": {"6", "7"},
    }
