"""The table of collectors. Each is a module of the same name with a function `collect`.

A collector's flag, `--collector.<name>`, its metrics about the run and its line in doctor follow
from its row.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.metrics import Family
    from sriov_textfile.snapshot import Snapshot


class Collector:
    """One row of the table: `default` is whether it is on without a flag."""

    __slots__ = ("default", "help", "name")

    def __init__(self, name: str, default: bool, help: str) -> None:
        self.name = name
        self.default = default
        self.help = help

    def collect(self, snapshot: Snapshot) -> Iterable[Family]:
        """Return the collector's metrics; its module is imported here."""
        module = __import__(f"{__name__}.{self.name}", fromlist=["collect"])
        families: Iterable[Family] = module.collect(snapshot)
        return families


COLLECTORS = (
    Collector("vfstats", True, "VF counters"),
    Collector("vfinfo", False, "VF configuration: MAC, VLAN, trust, rate limits, driver, netdev"),
    Collector("vfrdma", False, "counters of the VFs' RDMA devices (RoCE, InfiniBand)"),
    Collector("pfinfo", True, "PF details: driver, number of VFs, source of the VF counters"),
    Collector("kubepoddevice", False, "the PCI devices that pods use"),
    Collector("kubepodcpu", False, "the exclusive CPUs of pods"),
)
