"""What the node's containers really have, by everyone but sriov-textfile.

containerd's bundles say which containers run. Their processes have the CPUs that they may use, and
their devices in a variable. The kubelet's checkpoints have what it has assigned.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vfs

BUNDLES = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
CPU_STATE = Path("/var/lib/kubelet/cpu_manager_state")
DEVICE_CHECKPOINT = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")
CRI = "io.kubernetes.cri."


@dataclass(frozen=True)
class Container:
    """A container that runs."""

    namespace: str
    pod: str
    name: str
    uid: str
    id: str
    cpus: frozenset[int]  # that its first process may use
    devices: frozenset[str]  # that the device plugin gave it, by PCI address

    @property
    def key(self) -> tuple[str, str]:
        """Return what the kubelet's checkpoints know it by."""
        return self.uid, self.name


class _NotBegunError(Exception):
    """A container's process is still the container runtime's."""


def containers() -> frozenset[Container]:
    """Return the containers that run; the pods' sandboxes are none."""
    found = set()
    for bundle in BUNDLES.glob("*"):
        try:
            annotations = json.loads((bundle / "config.json").read_text())["annotations"]
            if annotations[f"{CRI}container-type"] == "container":
                found.add(_container(bundle, annotations))
        except (_NotBegunError, FileNotFoundError, ProcessLookupError, ValueError):
            continue  # It is just beginning, or has just ended.
    return frozenset(found)


def _container(bundle: Path, annotations: dict[str, str]) -> Container:
    process = Path("/proc") / (bundle / "init.pid").read_text()
    if (process / "comm").read_text().startswith("runc"):
        raise _NotBegunError
    (cpus,) = re.findall(r"^Cpus_allowed_list:\s*(.*)$", (process / "status").read_text(), re.M)
    variables = (process / "environ").read_bytes().decode().split("\0")
    given = dict(variable.partition("=")[::2] for variable in variables).get(vfs.VARIABLE)
    return Container(
        annotations[f"{CRI}sandbox-namespace"],
        annotations[f"{CRI}sandbox-name"],
        annotations[f"{CRI}container-name"],
        annotations[f"{CRI}sandbox-uid"],
        bundle.name,
        cpu_set(cpus),
        frozenset(given.split(",") if given else ()),
    )


def pods_with_cgroups() -> set[str]:
    """Return the UIDs of the pods that the kubelet has not cleaned up yet."""
    folders = Path("/sys/fs/cgroup").glob("kubepods*/**/*pod*")
    names = [re.fullmatch(r"(?:kubepods-.*)?pod([0-9a-f_-]+)(?:\.slice)?", f.name) for f in folders]
    return {match[1].replace("_", "-") for match in names if match}


def full_name(pod: str) -> str:
    """Return the name of a static pod, which the kubelet makes of the manifest's and the node's."""
    return f"{pod}-{platform.node()}"


def cpu_set(text: str) -> frozenset[int]:
    """Return the CPUs of a list such as 0-2,5."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def long_running(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod that run as long as it does: the kubelet lists only these."""
    spec = manifest["spec"]
    return spec["containers"] + [
        container for container in spec.get("initContainers", ()) if "restartPolicy" in container
    ]


def cpu_state() -> dict[str, Any]:
    return json.loads(CPU_STATE.read_text())


def assigned_cpus(state: dict[str, Any] | None = None) -> dict[tuple[str, str], frozenset[int]]:
    """Return the CPUs in the kubelet's checkpoint, by pod UID and container."""
    entries = (cpu_state() if state is None else state).get("entries", {})
    return {
        (uid, name): cpu_set(cpus)
        for uid, by_container in entries.items()
        for name, cpus in by_container.items()
    }


def assigned_devices() -> dict[tuple[str, str], frozenset[str]]:
    """Return the devices in the kubelet's checkpoint, by pod UID and container."""
    entries = json.loads(DEVICE_CHECKPOINT.read_text())["Data"]["PodDeviceEntries"] or ()
    return {
        (entry["PodUID"], entry["ContainerName"]): frozenset(
            address for addresses in entry["DeviceIDs"].values() for address in addresses
        )
        for entry in entries
    }


def cpus_are_settled(running: Iterable[Container]) -> bool:
    """Return whether each container has its own CPUs, or those that no container owns."""
    try:
        state = cpu_state()
    except ValueError:
        return False  # The kubelet writes it just now.
    assigned, pool = assigned_cpus(state), cpu_set(state["defaultCpuSet"])
    return all(container.cpus == assigned.get(container.key, pool) for container in running)


def numa_node(cpu: int) -> str:
    """Return the NUMA node of a CPU, as a label has it."""
    (node,) = Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node*")
    return node.name.removeprefix("node")
