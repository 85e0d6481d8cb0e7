"""The table of collectors. Each one is the module of its name, with a function `collect`.

A collector is on or off by `default` and by its flag, `--collector.<name>`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.host.snapshot import Snapshot
    from sriov_textfile.metrics import Family


class Collector:
    """One row of the table."""

    __slots__ = ("default", "help", "name")

    def __init__(self, name: str, default: bool, help: str) -> None:
        self.name = name
        self.default = default
        self.help = help

    def collect(self, snapshot: Snapshot) -> Iterable[Family]:
        """Return what the collector finds on the machine; its module is imported here."""
        module = __import__(f"{__name__}.{self.name}", fromlist=["collect"])
        families: Iterable[Family] = module.collect(snapshot)
        return families


COLLECTORS = (
    Collector("vfstats", True, "counters of every VF"),
    Collector("vfinfo", False, "configuration of every VF: MAC, VLAN, trust, driver, netdev"),
    Collector("pfinfo", True, "every PF: its driver, the reader of its counters, its VFs"),
    Collector("kubepoddevice", False, "which pods hold which PCI devices"),
    Collector("kubepodcpu", False, "which pods have which CPUs to themselves"),
)
