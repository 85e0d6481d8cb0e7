"""The image in both DaemonSets' pods, and in the sriov-network-operator's: each delivers the truth.

The pods are those of deployment/, as static pods: kustomize's tag is added, nothing else changed.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import truth
import yaml
from common import parse
from comparing import compare, failures
from conftest import Loop
from kubernetes import Node, restart_kubelet, wait
from pods import BY_NAME

DEPLOYMENT = Path("/lab/checkout/deployment")
WORKLOAD = ("upf", "two", "burstable-vf")
HTTP = "http://127.0.0.1:9808/metrics"
OPERATOR = "http://127.0.0.1:9110/metrics"


def template(folder: str) -> dict[str, Any]:
    """Return the pod of a DaemonSet, with the images that its kustomization names."""
    daemonset = yaml.safe_load((DEPLOYMENT / folder / "daemonset.yaml").read_text())
    metadata = {"name": daemonset["metadata"]["name"], "namespace": "monitoring"}
    return with_tag(folder, metadata, daemonset["spec"]["template"]["spec"])


def operators() -> dict[str, Any]:
    spec = yaml.safe_load(Path(__file__).with_name("operator.yaml").read_text())
    metadata = {"name": "sriov-network-metrics-exporter", "namespace": "operator"}
    return with_tag("http", metadata, spec)


def with_tag(folder: str, metadata: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    kustomization = yaml.safe_load((DEPLOYMENT / folder / "kustomization.yaml").read_text())
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    for container in spec["containers"]:
        if tag := tags.get(container["image"]):
            container["image"] += f":{tag}"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        page: str = answer.read().decode()
    return page


def with_page(url: str) -> Callable[[], bool]:
    """Return a condition: the page can be had, and no collector in it has failed."""

    def there() -> bool:
        try:
            return failures(get(url)) == []
        except OSError:
            return False

    return there


@pytest.fixture(scope="module", autouse=True)
def pods(node: Node) -> None:
    """Run the three pods beside pods that have something."""
    workload = [BY_NAME[name] for name in WORKLOAD]
    node.run(*workload, template("textfile"), template("http"), operators())


def textfile() -> str:
    """Return the next file that the sidecar writes into the volume that it shares."""
    (uid,) = {one.uid for one in truth.containers() if one.pod.startswith("node-exporter-sriov-")}
    volumes = Path(f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir")
    path = volumes / "textfile/sriov.prom"
    wait(str(path), path.exists)
    return Loop(path).next()


def test_the_textfile_daemonset(node: Node) -> None:
    compare(node, textfile)


def test_node_exporter_delivers_the_file(node: Node) -> None:
    wait("node_exporter", with_page("http://127.0.0.1:9100/metrics"))
    compare(node, lambda: get("http://127.0.0.1:9100/metrics"))
    samples = parse(get("http://127.0.0.1:9100/metrics"))
    errors = [value for name, _, value in samples if name == "node_textfile_scrape_error"]
    assert errors == [0]


@pytest.mark.parametrize("url", [HTTP, OPERATOR], ids=["http", "operator"])
def test_the_page(node: Node, url: str) -> None:
    wait(url, with_page(url))
    compare(node, lambda: get(url), off=["kubepodcpu"])


def test_doctor_in_the_container(node: Node) -> None:
    (one,) = [one for one in truth.containers() if one.name == "sriov-metrics-exporter"]
    command = ["ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id=doctor", one.id]
    command += ["sriov-textfile", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout)
    assert report["flags_of"] == ["process 1"]
    assert report["kubelet"]["enabled"]
    findings = {finding["code"] for finding in report["findings"]}
    assert findings == {"only-zeros"}  # igb counts nothing.


def test_after_a_restart_of_the_kubelet(node: Node) -> None:
    """A mounted folder shows the kubelet's new socket. A mounted file is the old one."""
    wait("the devices", restart_kubelet())
    wait(HTTP, with_page(HTTP))
    compare(node, lambda: get(HTTP), off=["kubepodcpu"])
    compare(node, textfile)
    assert failures(get(OPERATOR)) == ["kubepoddevice failed"]
    assert "sriov_kubepoddevice{" not in get(OPERATOR)
