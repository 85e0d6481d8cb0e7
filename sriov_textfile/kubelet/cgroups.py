"""Finds containers and their cpusets among the cgroups that the kubelet makes for pods.

Which names there are depends on the kubelet's cgroup driver (systemd or cgroupfs) and on the
container runtime; where they are, on the cgroup version. The names: pkg/kubelet/cm in
Kubernetes' source, and the runtimes' own.
"""

from __future__ import annotations

import os
import re

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.host.files import ABSENT, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# kubepods-burstable-pod<uid>.slice (systemd), pod<uid> (cgroupfs). systemd's names have
# underscores for the dashes; a static pod's uid is a hash without either.
_POD = re.compile(
    r"(?:[\w-]+-)?pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?"
)
# Where the pods of the other two QoS classes lie; Guaranteed pods lie beside them.
_QOS = re.compile(r"(?:[\w-]+-)?(?:burstable|besteffort)(?:\.slice)?")
# cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope (systemd), <id> (cgroupfs).
_CONTAINER = re.compile(r"(?:([a-z][a-z-]*)-)?([0-9a-f]{20,})(?:\.scope)?")

# Where the pods' cgroups are in a tree of cgroups: v2, then v1, with either driver.
_INSIDE = ("kubepods.slice", "kubepods", "cpuset/kubepods.slice", "cpuset/kubepods")


class Container:
    """A container, by its pod's uid and its runtime's id, and its cpuset, empty if not set."""

    __slots__ = ("cpus", "id", "pod_uid")

    def __init__(self, pod_uid: str, id: str, cpus: frozenset[int]) -> None:
        self.pod_uid = pod_uid
        self.id = id
        self.cpus = cpus


def find_root(path: str) -> str:
    """Return the folder of the pods' cgroups: `path`, or where this node has it instead.

    `path` is as cgroup v1 and the cgroupfs driver have it, …/cpuset/kubepods, or else a whole
    tree of cgroups. Raises OSError with all the places that were looked at.
    """
    path = path.rstrip("/")
    parent, _, name = path.rpartition("/")
    if not name.startswith("kubepods"):
        places = [*[f"{path}/{inside}" for inside in _INSIDE], path]
    else:
        places = [path, f"{parent}/{name}.slice"]
        if parent.endswith("/cpuset"):  # a controller of v1; v2 has one tree for all
            parent = parent.removesuffix("/cpuset")
            places += [f"{parent}/{name}.slice", f"{parent}/{name}"]
    for place in places:
        if _holds_pods(place):
            return place
    raise OSError(
        f"there are no cgroups of pods at {' or '.join(places)};"
        " mount them there or set --path.kubecgroup"
    )


def _holds_pods(folder: str) -> bool:
    if folder.endswith(("/kubepods", "/kubepods.slice")):
        return os.path.isdir(folder)
    return any(_POD.fullmatch(name) or _QOS.fullmatch(name) for name in _folders(folder))


def pool_cpus(root: str) -> list[frozenset[int]]:
    """Return the CPUs that all pods together may use, as set and as in effect.

    Raises OSError, ValueError.
    """
    names = ("cpuset.cpus", "cpuset.cpus.effective", "cpuset.effective_cpus")
    sets = [parse_cpu_list(read(f"{root}/{name}") or "") for name in names]
    return [cpus for cpus in sets if cpus]


def containers(root: str, skip: Callable[[str], None]) -> Iterator[Container]:
    """Yield the containers of all pods, in the order of names.

    One that goes away meanwhile is left out; one whose cpuset cannot be read is told to
    `skip` and left out. Raises OSError if the folder itself cannot be read.
    """
    for name in sorted(os.listdir(root)):
        if _QOS.fullmatch(name):
            yield from _pod_containers(f"{root}/{name}", skip)
    yield from _pod_containers(root, skip)


def _pod_containers(folder: str, skip: Callable[[str], None]) -> Iterator[Container]:
    for name in _folders(folder):
        if pod := _POD.fullmatch(name):
            uid = pod[1].replace("_", "-")
            try:
                scopes = _folders(f"{folder}/{name}")
            except OSError as error:
                skip(f"cannot read the containers of pod {uid}: {error}")
                continue
            for scope in scopes:
                container = _CONTAINER.fullmatch(scope)
                # CRI-O's monitor of a container has a scope beside it.
                if container and not (container[1] or "").endswith("conmon"):
                    try:
                        cpus = _cpuset(f"{folder}/{name}/{scope}")
                    except (OSError, ValueError) as error:
                        skip(f"cannot read the cpuset of container {container[2]}: {error}")
                    else:
                        yield Container(uid, container[2], cpus)


def _cpuset(cgroup: str) -> frozenset[int]:
    """Return the cpuset of a container, or that of the one folder which CRI-O nests in it."""
    cpus = parse_cpu_list(read(f"{cgroup}/cpuset.cpus") or "")
    if not cpus:
        for name in _folders(cgroup):
            cpus |= parse_cpu_list(read(f"{cgroup}/{name}/cpuset.cpus") or "")
    return cpus


def _folders(path: str) -> list[str]:
    """Return the names of the folders in a folder; none if it has gone away."""
    try:
        with os.scandir(path) as entries:
            return sorted([entry.name for entry in entries if entry.is_dir()])
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise
