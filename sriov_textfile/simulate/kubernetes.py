"""Simulates a Kubernetes node: the cgroups and files of its pods, and its kubelet."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sriov_textfile.simulate.pods import Pools, SimulatedContainer, SimulatedPod


@dataclass(frozen=True)
class Layout:
    """The layout of a node's cgroups: cgroup version, cgroup driver and container runtime."""

    version: Literal[1, 2] = 2
    driver: Literal["systemd", "cgroupfs"] = "systemd"
    runtime: Literal["cri-containerd", "crio", "docker"] = "cri-containerd"
    nested: bool = False  # whether the cpuset is one level deeper, as with CRI-O

    @property
    def root(self) -> str:
        """The directory of the pods' cgroups, below /sys/fs/cgroup."""
        tree = "cpuset/" if self.version == 1 else ""
        return tree + ("kubepods.slice" if self.driver == "systemd" else "kubepods")

    def pod(self, pod: SimulatedPod) -> str:
        """Return a pod's directory below the root."""
        if self.driver == "cgroupfs":
            qos = "" if pod.qos == "guaranteed" else f"{pod.qos}/"
            return f"{qos}pod{pod.uid}"
        uid = pod.uid.replace("-", "_")
        if pod.qos == "guaranteed":
            return f"kubepods-pod{uid}.slice"
        return f"kubepods-{pod.qos}.slice/kubepods-{pod.qos}-pod{uid}.slice"

    def container(self, container: SimulatedContainer) -> str:
        """Return a container's directory below its pod's."""
        if self.driver == "cgroupfs":
            return container.id
        return f"{self.runtime}-{container.id}.scope"


class SimulatedNode:
    """A node in the directory `root`, with some pods.

    `numa` has the CPUs of each NUMA node, `pool` the CPUs of containers without exclusive CPUs, and
    `pools` the devices of device plugins. The kubelet answers within `with node.running():`.
    """

    def __init__(
        self,
        root: Path,
        pods: Sequence[SimulatedPod],
        numa: Sequence[str] = ("0-3,8-11", "4-7,12-15"),
        pool: str = "0-1,8-9",
        layout: Layout | None = None,
        pools: Pools | None = None,
    ) -> None:
        self.pods = pods
        self.pools = pools or {}
        self.layout = layout or Layout()
        self.pool = pool
        self._all = ",".join([cpus for cpus in numa if cpus])
        self.nodes = root / "sys/devices/system/node"
        for number, cpus in enumerate(numa):
            _write(self.nodes / f"node{number}/cpulist", cpus)
        self.cgroups = root / "sys/fs/cgroup" / self.layout.root
        self._add_cgroups()
        self.checkpoint = root / "var/lib/kubelet/cpu_manager_state"
        entries = {pod.uid: {c.name: c.cpus for c in pod.containers if c.cpus} for pod in self.pods}
        state = {"policyName": "static", "defaultCpuSet": pool, "entries": entries}
        checksum = zlib.crc32(json.dumps(state).encode())
        _write(self.checkpoint, json.dumps({**state, "checksum": checksum}))
        self.socket = root / "kubelet.sock"  # A socket's path has at most 107 characters.

    @property
    def flags(self) -> list[str]:
        """The flags that point the program at this node and turn its collectors on."""
        return [
            "--collector.kubepoddevice",
            "--collector.kubepodcpu",
            f"--path.kubeletSocket={self.socket}",
            f"--path.kubecgroup={self.cgroups}",
            f"--path.cpucheckpoint={self.checkpoint}",
            f"--path.nodecpuinfo={self.nodes}",
        ]

    def running(
        self,
        fault: Literal[
            "", "hangs", "lacks the API", "lacks GetAllocatableResources", "is cut off"
        ] = "",
    ) -> AbstractContextManager[None]:
        """Run the kubelet for as long as the context lasts, with a fault if one is given."""
        from sriov_textfile.simulate import kubelet  # the only module here that needs grpcio

        return kubelet.running(str(self.socket), self.pods, self.pools, fault)

    def container(self, pod: SimulatedPod, container: SimulatedContainer) -> Path:
        """Return a container's cgroup."""
        return self.cgroups / self.layout.pod(pod) / self.layout.container(container)

    def _add_cgroups(self) -> None:
        # In v1 a cpuset is always set. In v2 it is empty until something sets it.
        inherited = self._all if self.layout.version == 1 else ""
        _write(self.cgroups / "cpuset.cpus", inherited)
        _write(self.cgroups / "cpuset.cpus.effective", self._all)
        for pod in self.pods:
            folder = self.cgroups / self.layout.pod(pod)
            _write(folder / "cpuset.cpus", inherited)
            _write(folder.parent / "cpuset.cpus", inherited)
            for container in pod.containers:
                scope = self.container(pod, container)
                own = scope / "container" if self.layout.nested else scope
                if self.layout.nested:
                    _write(scope / "cpuset.cpus", "")
                _write(own / "cpuset.cpus", container.cpus or self.pool)
                if self.layout.runtime == "crio":
                    monitor = folder / f"crio-conmon-{container.id}.scope"
                    _write(monitor / "cpuset.cpus", "15")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
