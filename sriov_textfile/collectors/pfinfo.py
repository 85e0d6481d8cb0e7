"""pfinfo: every PF, its driver, the readers of its VFs' counters, and how many VFs it has."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.host.pci import Pf
    from sriov_textfile.snapshot import Snapshot


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return `sriov_pf_info`, `sriov_pf_total_vfs` and `sriov_pf_num_vfs` for each PF.

    Raises ProblemError.
    """
    info = Family(
        "sriov_pf_info",
        "gauge",
        "A PF; reader names the source of its VFs' counters, empty if there is none.",
    )
    total = Family("sriov_pf_total_vfs", "gauge", "VFs that the PF can have.")
    existing = Family("sriov_pf_num_vfs", "gauge", "VFs that the PF has.")
    for pf in snapshot.pfs:
        info.add(
            labels(
                driver=pf.driver,
                eswitch_mode="switchdev" if pf.switchdev else "",
                numa_node=pf.numa_node,
                pciAddr=pf.address,
                pf=pf.netdev,
                reader=_readers(snapshot, pf),
            ),
            1,
        )
        series = labels(numa_node=pf.numa_node, pciAddr=pf.address, pf=pf.netdev)
        total.add(series, pf.total_vfs)
        if pf.num_vfs is not None:
            existing.add(series, pf.num_vfs)
    return info, total, existing


def _readers(snapshot: Snapshot, pf: Pf) -> str:
    # With vfstats off the counters are not read, and the label alone is not worth reading them.
    if "vfstats" not in snapshot.config.collectors:
        return ""
    return ",".join(snapshot.vf_counters[pf].served)
