"""The table of VF counter readers.

Each reader is one row. Its flag, its place in `--collector.vfstatspriority`, its metrics and its
line in doctor follow from the row.
"""

from __future__ import annotations

import os

from sriov_textfile.host import vfsysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from sriov_textfile.config import Config
    from sriov_textfile.host.pci import Pf
    from sriov_textfile.host.rtnetlink import Link
    from sriov_textfile.problems import Problem

    class Machine(Protocol):
        """What a reader may use: a part of the snapshot of one collection."""

        config: Config

        @property
        def listings(self) -> vfsysfs.Listings:
            """The names of VFs' counters in sysfs, as listed before."""

        def link(self, pf: Pf) -> Link:
            """Return the PF's link from rtnetlink, requested once; raises ProblemError."""

        def skip(self, problem: Problem) -> None:
            """Record an input that is left out."""

    Counters = dict[int, dict[str, int]]  # counters by name, for each VF's number


class Reader:
    """One row: a source of VF counters.

    `read` is called for PFs with a netdev. It returns the counters of the given VFs, without the
    VFs that it has none for, or raises ProblemError, OSError or ValueError. `no_counters` returns
    why a reader that did not fail has no counters.
    """

    __slots__ = ("name", "no_counters", "read")

    def __init__(
        self,
        name: str,
        read: Callable[[Machine, Pf, Sequence[int]], Counters],
        no_counters: Callable[[Config, Pf], str],
    ) -> None:
        self.name = name
        self.read = read
        self.no_counters = no_counters


def _sysfs(machine: Machine, pf: Pf, vfs: Sequence[int]) -> Counters:
    sysclassnet = machine.config.sysclassnet
    return vfsysfs.counters(sysclassnet, pf.netdev, vfs, machine.listings, machine.skip)


def _no_counters_in_sysfs(config: Config, pf: Pf) -> str:
    folder = vfsysfs.folder(config.sysclassnet, pf.netdev)
    if os.path.isdir(folder):
        return f"{folder} has no statistics for them"
    return f"driver {pf.driver or 'none'} has no VF counters in sysfs: {folder} does not exist"


def _netlink(machine: Machine, pf: Pf, vfs: Sequence[int]) -> Counters:
    described = machine.link(pf).vfs
    return {vf: described[vf].stats for vf in vfs if vf in described and described[vf].stats}


def _no_counters_by_netlink(config: Config, pf: Pf) -> str:
    return "the kernel returned no counters for them"


# In the order of the default of --collector.vfstatspriority.
READERS = (
    Reader("sysfs", _sysfs, _no_counters_in_sysfs),
    Reader("netlink", _netlink, _no_counters_by_netlink),
)
