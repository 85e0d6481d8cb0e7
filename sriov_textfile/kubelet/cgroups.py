"""Finds containers and their cpusets in the cgroups that the kubelet creates for pods.

Their names depend on the kubelet's cgroup driver (systemd or cgroupfs) and on the container
runtime, their location on the cgroup version. The names are from pkg/kubelet/cm in Kubernetes'
source, and from the runtimes' sources.
"""

from __future__ import annotations

import os
import re

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.host.files import ABSENT, read
from sriov_textfile.problems import Problem, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Skip = Callable[[Problem], None]

# kubepods-burstable-pod<uid>.slice (systemd), pod<uid> (cgroupfs). systemd's names have
# underscores instead of dashes; a static pod's uid is a hash without either.
_POD = re.compile(
    r"(?:[\w-]+-)?pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?"
)
# The parents of Burstable and BestEffort pods; Guaranteed pods are next to them.
_QOS = re.compile(r"(?:[\w-]+-)?(?:burstable|besteffort)(?:\.slice)?")
# cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope (systemd), <id> (cgroupfs).
_CONTAINER = re.compile(r"(?:([a-z][a-z-]*)-)?([0-9a-f]{20,})(?:\.scope)?")

# Where the pods' cgroups are below /sys/fs/cgroup: v2, then v1, with either driver.
_INSIDE = ("kubepods.slice", "kubepods", "cpuset/kubepods.slice", "cpuset/kubepods")
_ENDINGS = ("/kubepods", "/kubepods.slice")


class Container:
    """A container: its pod's uid, the runtime's id, and its cpuset, empty if none is set."""

    __slots__ = ("cpus", "id", "pod_uid")

    def __init__(self, pod_uid: str, id: str, cpus: frozenset[int]) -> None:
        self.pod_uid = pod_uid
        self.id = id
        self.cpus = cpus


class Tree:
    """The directory of the pods' cgroups, and each pod's uid and cgroup in a fixed order."""

    __slots__ = ("pods", "root")

    def __init__(self, root: str, pods: list[tuple[str, str]]) -> None:
        self.root = root
        self.pods = pods


def find(path: str) -> Tree:
    """Return the pods' cgroups at `path`, or at its equivalent on this node.

    `path` is the directory with cgroup v1 and the cgroupfs driver, …/cpuset/kubepods, or else the
    root of a cgroup tree. A node whose cgroup driver was changed keeps the other driver's
    directory, and may keep its pods' directories, so the directory with containers is preferred.
    Raises FileNotFoundError with all the paths that were tried, and OSError.
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
    trees, empty = [], ""
    for place in places:
        names = _folders(place)
        kinds = [name for name in names if _QOS.fullmatch(name)]
        pods = [
            pod for kind in kinds for pod in _pods(f"{place}/{kind}", _folders(f"{place}/{kind}"))
        ]
        pods += _pods(place, names)
        if pods:
            trees.append(Tree(place, pods))
        elif not empty and (kinds or (place.endswith(_ENDINGS) and os.path.isdir(place))):
            empty = place
    if len(trees) > 1:
        trees.sort(key=_has_containers, reverse=True)
    if trees:
        return trees[0]
    if empty:
        return Tree(empty, [])
    raise FileNotFoundError(f"there are no pod cgroups at {' or '.join(places)}")


def _has_containers(tree: Tree) -> bool:
    return any(_CONTAINER.fullmatch(name) for _, cgroup in tree.pods for name in _folders(cgroup))


def _pods(folder: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return uid and cgroup of the pods among the directories of a cgroup."""
    matches = [(_POD.fullmatch(name), name) for name in names]
    return [(pod[1].replace("_", "-"), f"{folder}/{name}") for pod, name in matches if pod]


def pool_cpus(root: str) -> list[frozenset[int]]:
    """Return the sets of CPUs that all pods together may use: as configured, and as in effect.

    Raises OSError, ValueError.
    """
    names = ("cpuset.cpus", "cpuset.cpus.effective", "cpuset.effective_cpus")
    sets = [parse_cpu_list(read(f"{root}/{name}") or "") for name in names]
    return [cpus for cpus in sets if cpus]


def containers(tree: Tree, skip: Skip) -> Iterator[Container]:
    """Yield the containers of all pods, in the order of the cgroups' names.

    A container that disappears meanwhile is left out; a container whose cpuset cannot be read is
    passed to `skip` and left out.
    """
    for uid, cgroup in tree.pods:
        try:
            scopes = _folders(cgroup)
        except OSError as error:
            reason = f"cannot read the containers of pod {uid}: {cause(error)}"
            skip(Problem("unreadable", cgroup, reason))
            continue
        for scope in scopes:
            container = _CONTAINER.fullmatch(scope)
            # CRI-O runs each container's monitor in a scope next to it.
            if container and not (container[1] or "").endswith("conmon"):
                try:
                    cpus = _cpuset(f"{cgroup}/{scope}")
                except (OSError, ValueError) as error:
                    reason = f"cannot read the cpuset of container {container[2]}: {cause(error)}"
                    skip(Problem("unreadable", f"{cgroup}/{scope}", reason))
                else:
                    yield Container(uid, container[2], cpus)


def _cpuset(cgroup: str) -> frozenset[int]:
    """Return the cpuset of a container, or that of the cgroup that CRI-O may nest in it."""
    cpus = parse_cpu_list(read(f"{cgroup}/cpuset.cpus") or "")
    if not cpus:
        for name in _folders(cgroup):
            cpus |= parse_cpu_list(read(f"{cgroup}/{name}/cpuset.cpus") or "")
    return cpus


def _folders(path: str) -> list[str]:
    """Return the names of the directories in a directory; none if it has disappeared."""
    try:
        with os.scandir(path) as entries:
            return sorted([entry.name for entry in entries if entry.is_dir()])
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise
