"""kubepodcpu: the exclusive CPUs of containers, and the NUMA node of each CPU."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import ProblemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sriov_textfile.snapshot import Snapshot


def collect(snapshot: Snapshot) -> Iterator[Family]:
    """Yield `sriov_cpu_info` and `sriov_kubepodcpu`; raises ProblemError.

    A container has exclusive CPUs if its cpuset is set, differs from the CPUs that all pods
    together may use, and has no CPU of the CPU manager's default set, on which the shared pool
    runs. (When that set changes, containers in the pool keep the old one for some seconds.) A CPU
    of several containers is exclusive to none: the containers of a pod may share the pod's CPUs
    (PodLevelResourceManagers).
    """
    info = Family("sriov_cpu_info", "gauge", "A CPU that is online, and its NUMA node.")
    nodes = snapshot.numa_nodes
    for cpu, node in sorted(nodes.items()):
        info.add(labels(cpu=f"cpu{cpu}", numa_node=node), 1)
    yield info

    family = Family("sriov_kubepodcpu", "gauge", "A CPU that a pod's container has to itself.")
    pool = snapshot.pool_cpus
    default: frozenset[int] = frozenset()
    try:
        default = snapshot.cpu_checkpoint.default_cpus
    except ProblemError as error:  # Without it, only the other two conditions apply.
        snapshot.skip(error.problem)
    candidates = [
        container
        for container in snapshot.containers
        if container.cpus and container.cpus not in pool and container.cpus.isdisjoint(default)
    ]
    seen: set[int] = set()
    shared: set[int] = set()
    for container in candidates:
        shared |= seen & container.cpus
        seen |= container.cpus
    for container in candidates:
        for cpu in sorted(container.cpus - shared):
            series = labels(
                container_id=container.id,
                cpu_id=str(cpu),
                numa_node=nodes.get(cpu, ""),
                uid=container.pod_uid,
            )
            family.add(series, 1)
    yield family
