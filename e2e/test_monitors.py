"""A real Prometheus scrapes simulated exporters as prometheus-operator's monitors say.

Debian builds Prometheus without Kubernetes discovery: static targets have the labels that it would
find.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import PODS, Prometheus, free_port, running_prometheus, started
from e2e.kubernetes import Manifest, build, only
from e2e.test_manifests import DEPLOYMENT, NODE_EXPORTERS, patched_by_kustomization

NODE = "worker-1"
SIDECAR, HTTP, PATCHED = "node-exporter-sriov", "sriov-metrics-exporter", "node-exporter"  # jobs
KEYS = ("namespace", "pod", "container")


def scrape_config(monitor: Manifest, address: str) -> dict[str, Any]:
    """Return what prometheus-operator makes of a monitor with one endpoint, for one pod.

    It sets some labels before the monitor's own relabelings.
    """
    spec = monitor["spec"]
    (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
    name = spec["selector"]["matchLabels"]["app.kubernetes.io/name"]
    discovered = {
        "namespace": "monitoring",
        "pod_container_name": name,
        "pod_name": f"{name}-x7f2a",
        "pod_node_name": NODE,
    }
    sources = {"namespace": "namespace", "container": "pod_container_name", "pod": "pod_name"}
    if monitor["kind"] == "ServiceMonitor":
        discovered["service_name"] = name
        sources["service"] = "service_name"
    return {
        "job_name": name,  # spec.jobLabel has this value
        "honor_labels": endpoint.get("honorLabels", False),
        "static_configs": [
            {
                "targets": [address],
                "labels": {f"__meta_kubernetes_{key}": value for key, value in discovered.items()},
            }
        ],
        "relabel_configs": [
            *(
                {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
                for label, source in sources.items()
            ),
            {"target_label": "endpoint", "replacement": endpoint["port"]},
            *map(snake_case, endpoint["relabelings"]),
        ],
    }


def snake_case(relabeling: dict[str, Any]) -> dict[str, Any]:
    """Return a relabeling as Prometheus writes it: source_labels, not sourceLabels."""
    return {re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in relabeling.items()}


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    work = tmp_path_factory.mktemp("monitors")
    ours = build(DEPLOYMENT / "prometheus-operator")
    theirs = patched_by_kustomization(work, NODE_EXPORTERS / "kube-prometheus.yaml")
    textfile, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    demo: list[str | Path] = [sys.executable, "-m", "sriov_textfile", "demo"]
    subprocess.run([*demo, f"--textfile.path={work}/sriov.prom"], check=True)
    node_exporter: list[str | Path] = [
        debian / "usr/bin/prometheus-node-exporter",
        f"--web.listen-address={textfile}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={work}",
    ]
    config = {
        "global": {"scrape_interval": "2s"},
        "scrape_configs": [
            scrape_config(only("PodMonitor", ours), textfile),
            scrape_config(only("ServiceMonitor", ours), http),
            scrape_config(only("ServiceMonitor", theirs), textfile),
        ],
    }
    with (
        started(node_exporter, work / "node_exporter.log", f"http://{textfile}/"),
        started(
            [*demo, "serve", f"--web.listen-address={http}"],
            work / "serve.log",
            f"http://{http}/metrics",
        ),
        running_prometheus(debian / "usr/bin/prometheus", work, config) as server,
    ):
        yield server


@pytest.mark.parametrize("job", [SIDECAR, HTTP])
def test_counters_have_the_nodes_name_and_no_label_of_the_exporters_pod(
    prometheus: Prometheus, job: str
) -> None:
    series = prometheus.wait_for(f'sriov_vf_rx_bytes{{job="{job}"}}')
    assert len(series) == 24
    for sample in series:
        labels = sample["metric"]
        assert (labels["instance"], labels["node"]) == (NODE, NODE)
        own = {"numa_node", "pciAddr", "pf", "vf"}
        assert labels.keys() - own == {"__name__", "instance", "job", "node"}


@pytest.mark.parametrize("job", [SIDECAR, HTTP, PATCHED])
def test_vfs_have_the_pods_that_use_them(prometheus: Prometheus, job: str) -> None:
    series = prometheus.wait_for(f'sriov_kubepoddevice{{job="{job}"}}')
    pods = {tuple(sample["metric"][key] for key in KEYS) for sample in series}
    assert pods == {
        (pod.namespace, pod.name, container.name)
        for pod in PODS
        for container in pod.containers
        if container.devices or container.claims
    }


def test_the_http_exporter_and_a_node_exporter_have_the_same_instance(
    prometheus: Prometheus,
) -> None:
    prometheus.wait_for(f'node_textfile_mtime_seconds{{job="{PATCHED}"}}')
    file = f'node_textfile_mtime_seconds{{job="{PATCHED}"}}'
    joined = f'sriov_pf_info{{job="{HTTP}"}} * on (instance) group_left () {file}'
    assert len(prometheus.wait_for(joined)) == 3
