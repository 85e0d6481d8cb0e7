"""kubepodcpu: which container has which CPUs to itself, and the NUMA node of each CPU."""

from __future__ import annotations

from sriov_textfile.host import cpus
from sriov_textfile.kubelet import cgroups, cpu_manager
from sriov_textfile.metrics import Family, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sriov_textfile.host.snapshot import Snapshot


def collect(snapshot: Snapshot) -> Iterator[Family]:
    """Yield `sriov_cpu_info` and `sriov_kubepodcpu`; raises OSError, ValueError.

    A container is one of the second if its cpuset is set, is not what all pods together may
    use, and has no CPU of the CPU manager's default set, on which the shared pool runs. (While
    that set changes, containers in the pool have the old one for some seconds.)
    """
    info = Family("sriov_cpu_info", "gauge", "A CPU that is online, and its NUMA node.")
    nodes = cpus.numa_nodes(snapshot.config.nodecpuinfo)
    for cpu, node in sorted(nodes.items()):
        info.add(labels(cpu=f"cpu{cpu}", numa_node=node), 1)
    yield info

    family = Family("sriov_kubepodcpu", "gauge", "A CPU that a pod's container has to itself.")
    root = cgroups.find_root(snapshot.config.kubecgroup)
    if root != snapshot.config.kubecgroup.rstrip("/"):
        snapshot.log.info_once("pods' cgroups are elsewhere", path=root, flag="--path.kubecgroup")
    pool = cgroups.pool_cpus(root)
    default: frozenset[int] = frozenset()
    try:
        default = cpu_manager.read_checkpoint(snapshot.config.cpucheckpoint).default_cpus
    except (OSError, ValueError) as error:
        snapshot.skip(f"the shared pool is taken from {root} alone: {error}")
    for container in cgroups.containers(root, snapshot.skip):
        own = container.cpus not in pool and container.cpus.isdisjoint(default)
        if container.cpus and own:
            for cpu in sorted(container.cpus):
                series = labels(
                    container_id=container.id,
                    cpu_id=str(cpu),
                    numa_node=nodes.get(cpu, ""),
                    uid=container.pod_uid,
                )
                family.add(series, 1)
    yield family
