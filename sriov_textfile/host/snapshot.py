"""Snapshot: one collection's view of the machine, in which nothing is read twice."""

from __future__ import annotations

from sriov_textfile.host import pci, rtnetlink, vfsysfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sriov_textfile.config import Config
    from sriov_textfile.host.pci import Pf
    from sriov_textfile.host.rtnetlink import Link, Rtnetlink
    from sriov_textfile.log import Log


class VfCounters:
    """A PF's VF counters, and the readers that gave them or failed."""

    __slots__ = ("by_vf", "failures", "readers")

    def __init__(self) -> None:
        self.by_vf: dict[int, dict[str, int]] = {}  # counters by name, for each VF's number
        self.readers: dict[str, int] = {}  # the number of VFs that each gave counters for
        self.failures: dict[str, Exception] = {}


class Snapshot:
    """The machine, read when asked and at most once; made anew for each collection.

    `skipped` and `problems` count what was left out and what failed, each of which is in the
    log too.
    """

    def __init__(self, config: Config, log: Log, deadline: float) -> None:
        """`deadline` is when to stop waiting, on the clock of time.monotonic()."""
        self.config = config
        self.log = log
        self.deadline = deadline
        self.skipped = 0
        self.problems = 0
        self._pfs: list[Pf] | OSError | None = None
        self._rtnetlink: Rtnetlink | None = None
        self._links: dict[str, Link | Exception] = {}
        self._counters: dict[Pf, VfCounters] = {}

    def close(self) -> None:
        """Give back what the snapshot holds open."""
        if self._rtnetlink:
            self._rtnetlink.close()

    def skip(self, message: str) -> None:
        """Log and count an input that is left out."""
        self.skipped += 1
        self.log.warn(message)

    def problem(self, message: str) -> None:
        """Log and count a failure after which the collection can go on."""
        self.problems += 1
        self.log.error(message)

    @property
    def pfs(self) -> list[Pf]:
        """The PFs that the flags pf-include and pf-exclude leave; raises OSError."""
        if self._pfs is None:
            try:
                self._pfs = self._discover()
            except OSError as error:
                self._pfs = OSError(
                    f"cannot list PCI devices in {self.config.sysbuspci}: {error.strerror};"
                    " mount it there or set --path.sysbuspci"
                )
        if isinstance(self._pfs, OSError):
            raise self._pfs
        return self._pfs

    def _discover(self) -> list[Pf]:
        include, exclude = self.config.pf_include, self.config.pf_exclude
        return [
            pf
            for pf in pci.discover(self.config.sysbuspci, self.skip)
            if (include is None or include.search(pf.netdev))
            and (exclude is None or not exclude.search(pf.netdev))
        ]

    def link(self, pf: Pf) -> Link:
        """Return the PF's link with its VFs; the kernel is asked the first time only.

        Raises NetlinkError, NetlinkDecodeError.
        """
        if pf.netdev not in self._links:
            try:
                if self._rtnetlink is None:
                    # Past the deadline nobody waits for the collection any more. Giving up a
                    # little later makes sure of that: a kernel that does not answer must not
                    # pass for one without VFs.
                    give_up = self.deadline + 1
                    self._rtnetlink = rtnetlink.Rtnetlink(self.config.rtnetlink, give_up)
                self._links[pf.netdev] = self._rtnetlink.link(pf.netdev)
            except (rtnetlink.NetlinkError, rtnetlink.NetlinkDecodeError) as error:
                self._links[pf.netdev] = error
        link = self._links[pf.netdev]
        if isinstance(link, Exception):
            raise link
        return link

    def vf_counters(self, pf: Pf) -> VfCounters:
        """Return the counters of the PF's VFs, from the readers in the order of their priority.

        A VF that a reader gives nothing for is asked of the next one. A reader that fails is a
        problem, and the next one is asked.
        """
        if pf not in self._counters:
            self._counters[pf] = self._read_counters(pf)
        return self._counters[pf]

    def _read_counters(self, pf: Pf) -> VfCounters:
        counters = VfCounters()
        for reader in self.config.vfstats_priority:
            missing = [vf for vf in pf.vfs if vf not in counters.by_vf]
            if not missing or not pf.netdev:
                break
            try:
                given = _READERS[reader](self, pf, missing)
            except (OSError, ValueError) as error:
                self.problem(f"{reader} reader, PF {pf.netdev}: {error}")
                counters.failures[reader] = error
                continue
            if given:
                counters.by_vf.update(given)
                counters.readers[reader] = len(given)
        return counters


def _read_netlink(snapshot: Snapshot, pf: Pf, vfs: list[int]) -> dict[int, dict[str, int]]:
    link = snapshot.link(pf)
    return {vf: link.vfs[vf].stats for vf in vfs if vf in link.vfs and link.vfs[vf].stats}


def _read_sysfs(snapshot: Snapshot, pf: Pf, vfs: list[int]) -> dict[int, dict[str, int]]:
    return vfsysfs.counters(snapshot.config.sysclassnet, pf.netdev, vfs, snapshot.skip)


# The readers of VF counters, by the name that collector.vfstatspriority knows them by.
_READERS = {"sysfs": _read_sysfs, "netlink": _read_netlink}
