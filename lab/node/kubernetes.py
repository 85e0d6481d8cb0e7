"""Makes the machine a Kubernetes node: VFs, containerd, kubelet and device plugin."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import truth
import vfs
from common import sh

DISK = Path("/disk")
KUBELET = DISK / "kubelet"
CONFIGURATION = Path("/var/lib/kubelet/config.json")
MANIFESTS = Path("/etc/kubernetes/manifests")
FLAGS = Path("/run/flags")  # mounted into pods that wait for something
CONTAINERD = Path("/etc/containerd/config.toml")
ENDPOINT = "unix:///run/containerd/containerd.sock"

KUBELET_UNIT = """\
[Unit]
After=containerd.service
[Service]
ExecStart={command}
Restart=always
RestartSec=1
KillMode=process
"""
PLUGIN_UNIT = f"""\
[Service]
ExecStart={sys.executable} -B /lab/guest/device_plugin.py
Restart=always
RestartSec=1
"""


class Node:
    """A standalone kubelet: no API server, static pods only."""

    def __init__(self) -> None:
        """Start the node; takes a minute under emulation."""
        vfs.create()
        for folder in (MANIFESTS, CONFIGURATION.parent, FLAGS, CONTAINERD.parent):
            folder.mkdir(parents=True, exist_ok=True)
        version = re.search(r"v1\.(\d+)", sh(f"{KUBELET} --version"))
        assert version
        self.version = int(version[1])
        self.has_sidecars = self.version >= 29  # Before, they are init containers that never end.
        self.reports_allocatable = self.version >= 23  # and CPUs that a container really owns
        self.removes_cgroups = self.version >= 22  # Before, they stay for minutes.
        self.pods: dict[str, dict[str, Any]] = {}  # by name, without the node's
        self._unit("device-plugin", PLUGIN_UNIT)
        sh("systemctl restart device-plugin")
        CONTAINERD.write_text(containerd_configuration("systemd"))
        sh("systemctl restart containerd")
        each = "for image in *.tar; do ctr -n k8s.io images import --local $image; done"
        with subprocess.Popen(each, shell=True, cwd=DISK, stdout=subprocess.DEVNULL) as importing:
            self.configure("systemd")
            assert importing.wait() == 0

    def configure(self, driver: str, **more: Any) -> None:
        """Start containerd and the kubelet with a cgroup driver, and more of its configuration.

        Return once the kubelet knows the devices: it refuses a pod that asks for others, for good.
        """
        containerd = containerd_configuration(driver)
        if CONTAINERD.read_text() != containerd:
            CONTAINERD.write_text(containerd)
            sh("systemctl restart containerd")
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": str(MANIFESTS),
            "fileCheckFrequency": "1s",
            "address": "127.0.0.1",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": driver,
            "cpuManagerPolicy": "static",
            "cpuManagerReconcilePeriod": "2s",
            "reservedSystemCPUs": "0",
            "topologyManagerPolicy": "best-effort",
            "failSwapOn": False,
            **more,
        }
        flags = ["--v=2", f"--config={CONFIGURATION}"]
        if self.version >= 27:
            configuration["containerRuntimeEndpoint"] = ENDPOINT
        else:
            flags.append(f"--container-runtime-endpoint={ENDPOINT}")
            if self.version < 24:
                flags.append("--container-runtime=remote")
        CONFIGURATION.write_text(json.dumps(configuration))
        self._unit("kubelet", KUBELET_UNIT.format(command=" ".join([str(KUBELET), *flags])))
        wait("the devices", restart_kubelet())

    def _unit(self, name: str, text: str) -> None:
        Path(f"/etc/systemd/system/{name}.service").write_text(text)
        sh("systemctl daemon-reload")

    def run(self, *pods: dict[str, Any], starting: str = "", ended: str = "") -> None:
        """Run exactly these pods: start those that do not run, and end the others.

        Return once their containers run, each with the CPUs that it is to have. Of the pod
        `starting` only the init containers are waited for; the pod `ended` is to have ended.
        """
        self.pods = {pod["metadata"]["name"]: pod for pod in pods}
        for path in MANIFESTS.glob("*.json"):
            if path.stem not in self.pods:
                path.unlink()
        for name, pod in self.pods.items():
            new = MANIFESTS / f".{name}"  # The kubelet leaves out names that begin with a dot.
            new.write_text(json.dumps(pod))
            new.rename(MANIFESTS / f"{name}.json")
        expected = set()
        for name, pod in self.pods.items():
            if name == starting:
                containers = pod["spec"]["initContainers"]
            else:
                containers = [] if name == ended else truth.long_running(pod)
            expected |= {(truth.full_name(name), container["name"]) for container in containers}

        def settled() -> bool:
            running = truth.containers()
            names = {(container.pod, container.name) for container in running}
            gone = truth.pods_with_cgroups() - {container.uid for container in running}
            return (
                names == expected
                and not (gone and self.removes_cgroups)
                and truth.cpus_are_settled(running)
            )

        wait(f"containers {sorted(expected)}", settled, 600)


def containerd_configuration(driver: str) -> str:
    """Return containerd's defaults with a cgroup driver and the tests' image for sandboxes."""
    settings = sh("containerd config default")
    settings = re.sub(r"sandbox_image = .*", "sandbox_image = 'localhost/app:1'", settings)
    # Of a machine that stalls, containerd would take containers for dead.
    limits = r'("io\.containerd\.timeout\.(?:shim\.load|shim\.cleanup|task\.state)") = "\w+"'
    settings = re.sub(limits, r'\1 = "60s"', settings)
    systemd = "true" if driver == "systemd" else "false"
    return re.sub(r"SystemdCgroup = \w+", f"SystemdCgroup = {systemd}", settings)


def restart_kubelet() -> Callable[[], bool]:
    """Restart the kubelet. Return a condition: the device plugin has registered with it again.

    Until then, the kubelet has no devices to assign.
    """

    def registrations() -> int:
        return sh("journalctl -u device-plugin -o cat --no-pager").count("knows the devices")

    before = registrations()
    sh("systemctl restart kubelet")
    return lambda: registrations() > before


def wait(what: str, condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until a condition holds. Raises AssertionError with the kubelet's log if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            units = "-u kubelet -u containerd -u device-plugin"
            log = sh(f"journalctl {units} -o cat --no-pager | grep -v node_status | tail -n 50")
            raise AssertionError(f"{what}: not there after {seconds:g} s\n{log}")
        time.sleep(1)
