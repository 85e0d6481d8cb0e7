"""vfstats: the counters of every VF, as the PF's driver reports them."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.snapshot import Snapshot

# The standard counters in output order; those of a driver follow, sorted by name.
HELP = {
    "rx_bytes": "Bytes that the VF received.",
    "tx_bytes": "Bytes that the VF sent.",
    "rx_packets": "Packets that the VF received.",
    "tx_packets": "Packets that the VF sent.",
    "rx_dropped": "Packets to the VF that were dropped on receipt.",
    "tx_dropped": "Packets from the VF that were dropped on sending.",
    "rx_broadcast": "Broadcast packets that the VF received.",
    "rx_multicast": "Multicast packets that the VF received.",
    "tx_errors": "Errors on sending from the VF.",
}


HELD_BACK = "held_back_since_timestamp_seconds"
# Metrics that are no counters of a driver: a page must not have two families of one name.
RESERVED = frozenset({HELD_BACK, "info", "max_tx_rate_mbps", "min_tx_rate_mbps"})
RDMA = "rdma_"  # how the names of vfrdma's metrics begin


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return a family `sriov_vf_<name>` for each counter that a reader found.

    `sriov_vf_held_back_since_timestamp_seconds` has the VFs that had counted and whose counters
    are left out. Raises ProblemError.
    """
    families = {name: _family(name, help) for name, help in HELP.items()}
    held_back = Family(
        f"sriov_vf_{HELD_BACK}",
        "gauge",
        "When all counters of the VF, which had counted, fell to 0 or failed; they are left out.",
    )
    for pf, found in snapshot.vf_counters.items():
        counters = found.by_vf
        for vf, address in pf.vfs.items():
            series = labels(numa_node=pf.numa_node, pciAddr=address, pf=pf.netdev, vf=str(vf))
            if vf not in counters:
                if vf in found.held_back:
                    held_back.add(series, found.held_back[vf])
                continue
            for name, value in counters[vf].items():
                if name not in families:
                    families[name] = _family(name, f"The driver's counter {name} of the VF.")
                families[name].add(series, value)
    for name in [name for name in families if name in RESERVED or name.startswith(RDMA)]:
        reason = f"a driver's counter {name} would be sriov_vf_{name}, which is another metric"
        snapshot.skip(Problem("bad-counter", name, reason), len(families.pop(name).samples))
    known = [families.pop(name) for name in HELP]
    return [*known, *[families[name] for name in sorted(families)], held_back]


def _family(name: str, help: str) -> Family:
    return Family(f"sriov_vf_{name}", "counter", help)
