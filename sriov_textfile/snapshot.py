"""Snapshot: what one collection reads from the machine and the kubelet, each thing once.

A value is read when it is first used. If that fails, it is not read again: every use raises the
same ProblemError.
"""

from __future__ import annotations

import errno
import os
import time

from sriov_textfile.deadline import Task
from sriov_textfile.held_back import BELIEVED_AFTER, Past, judge, names
from sriov_textfile.host import pci, readers, rtnetlink, vfsysfs
from sriov_textfile.problems import OUT_OF_MEMORY, Problem, ProblemError, cause, counted, unexpected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sriov_textfile.config import Config
    from sriov_textfile.host.pci import Pf
    from sriov_textfile.host.rdma import Port
    from sriov_textfile.host.rtnetlink import Link, Rtnetlink
    from sriov_textfile.kubelet.cgroups import Container, Tree
    from sriov_textfile.kubelet.cpu_manager import Checkpoint
    from sriov_textfile.kubelet.podresources import PodResources
    from sriov_textfile.log import Log

    Value = TypeVar("Value")

# Of the remaining time: a kubelet that hangs must not cost the metrics of other collectors, and a
# PF whose driver does not answer not those of other PFs.
_KUBELET_SHARE = 0.8
_LINK_SHARE = 0.5
_MIN_SECONDS = 0.1
_MAX_SKIPPED = 1000  # a kubelet or driver that repeats itself must not fill the memory


class VfCounters:
    """A PF's VF counters, and which readers were tried, had counters or failed."""

    __slots__ = ("asked", "by_vf", "failures", "held_back", "read_at", "served")

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.by_vf: dict[int, dict[str, int]] = {}  # counters by name, for each VF's number
        # Since when VFs that had counted are held back, in seconds since 1970; by_vf lacks them.
        self.held_back: dict[int, int] = {}
        self.served: dict[str, int] = {}  # by reader: the number of VFs that it had counters for
        self.failures: dict[str, Problem] = {}  # by reader
        self.read_at = 0.0  # on the clock of time.monotonic()


class Memory:
    """What a process keeps from one collection to the next."""

    __slots__ = ("hanging", "listings", "past", "recall", "too_large", "vfs")

    def __init__(self, recall: Callable[[], Past] = lambda: Past(0)) -> None:
        """`recall` returns what an earlier process has found, for the first collection of this."""
        self.recall = recall
        self.past: Past | None = None
        self.listings = vfsysfs.Listings()
        # Calls that wait for a driver, by what they are about: they are not repeated.
        self.hanging: dict[str, Task] = {}
        # Netdevs that the kernel cannot describe in one message: whether a dump may have them. This
        # is so while the PFs have these numbers of VFs.
        self.too_large: dict[str, bool] = {}
        self.vfs: list[tuple[str, int]] = []


class Snapshot:
    """The machine and the kubelet, read on demand and at most once; each collection has its own.

    `failed` has the failures after which the collection continued, `skipped` the first 1,000 inputs
    that it left out, and `skips` their number. `reading` is what is being read, for the message
    about a read that hangs.
    """

    def __init__(
        self, config: Config, log: Log, deadline: float, memory: Memory | None = None
    ) -> None:
        """`deadline` is when to stop waiting, on the clock of time.monotonic().

        `memory` is what the process keeps from one collection to the next.
        """
        self.config = config
        self.log = log
        self.deadline = deadline
        self.failed: list[Problem] = []
        self.skipped: list[Problem] = []
        self.skips = 0
        self.reading = ""
        self.left_out: list[Pf] = []  # that the flags pf-include and pf-exclude leave out
        self._rtnetlink: Rtnetlink | None = None
        self._memory = memory or Memory()
        self._values: dict[object, object] = {}
        self._unreadable: dict[object, Problem] = {}

    def close(self) -> None:
        """Close what the snapshot has opened, and forget what it has read."""
        if self._rtnetlink:
            self._rtnetlink.close()
        self._values.clear()
        self._unreadable.clear()

    def fail(self, problem: Problem) -> None:
        """Record a failure after which the collection can continue."""
        self.failed.append(problem)

    def skip(self, problem: Problem, count: int = 1) -> None:
        """Record an input that is left out, or `count` inputs with the same problem."""
        self.skips += count
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(problem)

    @property
    def pfs(self) -> list[Pf]:
        """The PFs that the flags pf-include and pf-exclude select; raises ProblemError."""
        path = self.config.sysbuspci
        return self._once(
            "pfs",
            path,
            self._select_pfs,
            lambda error: _missing(
                "path.sysbuspci", f"cannot list PCI devices in {cause(error, path)}", error
            ),
        )

    def _select_pfs(self) -> list[Pf]:
        include, exclude = self.config.pf_include, self.config.pf_exclude
        selected: list[Pf] = []
        for pf in pci.discover(self.config.sysbuspci, self.skip):
            is_included = include is None or include.search(pf.netdev)
            is_excluded = exclude is not None and exclude.search(pf.netdev)
            (selected if is_included and not is_excluded else self.left_out).append(pf)
        return selected

    @property
    def listings(self) -> vfsysfs.Listings:
        """The names of VFs' counters in sysfs, as listed before."""
        return self._memory.listings

    def link(self, pf: Pf) -> Link:
        """Return the PF's link with its VFs from rtnetlink; raises ProblemError."""
        netdev = pf.netdev

        def problem(error: Exception) -> Problem:
            if isinstance(error, rtnetlink.NoSuchNetdevError):
                return Problem("unknown-netdev", netdev, str(error), error.hint)
            hint = "see dmesg for messages of the driver"
            if isinstance(error, rtnetlink.NetlinkError):
                return Problem("rtnetlink", netdev, str(error), error.hint or hint)
            return Problem("rtnetlink", netdev, f"cannot decode the reply about {netdev}: {error}")

        return self._once(
            ("link", netdev), f"{netdev} via rtnetlink", lambda: self._read_link(netdev), problem
        )

    def _read_link(self, netdev: str) -> Link:
        """Ask for the netdev, or for all links if the kernel cannot describe it in one message.

        What the kernel cannot do, it is not asked for again while the PFs have as many VFs.
        """
        memory = self._memory
        if memory.too_large and memory.vfs != self._numbers_of_vfs():
            memory.too_large.clear()
        if netdev not in memory.too_large:
            try:
                return self._ask(netdev, lambda connection: connection.link(netdev))
            except rtnetlink.MessageSizeError:
                memory.too_large[netdev] = True
                memory.vfs = self._numbers_of_vfs()
        if memory.too_large[netdev]:
            links, error = self._dump
            if netdev in links:
                link = rtnetlink.decode_link(links[netdev])
                link.dumped = True
                return link
            if error != errno.EMSGSIZE:
                reason = f": {os.strerror(error)}" if error else ""
                raise rtnetlink.NetlinkError(f"a dump of all links lacks {netdev}{reason}")
            memory.too_large[netdev] = False
        reason = (
            f"the kernel cannot describe {netdev} with its VFs (EMSGSIZE), and a dump of all links"
            " ended before it"
        )
        raise ProblemError(Problem("emsgsize", netdev, reason, rtnetlink.EMSGSIZE_HINT))

    def _numbers_of_vfs(self) -> list[tuple[str, int]]:
        # Also of the PFs that the flags leave out: a dump ends at the first that is too large.
        return [(pf.netdev, len(pf.vfs)) for pf in (*self.pfs, *self.left_out)]

    @property
    def _dump(self) -> tuple[dict[str, bytes], int]:
        """The PFs' links from a dump of all links, and its error; raises ProblemError."""
        about = "all links"

        def dump() -> tuple[dict[str, bytes], int]:
            netdevs = {pf.netdev for pf in self.pfs}
            return self._ask(about, lambda connection: connection.dump(netdevs))

        return self._once(
            "dump",
            f"{about} via rtnetlink",
            dump,
            lambda error: Problem("rtnetlink", about, str(error), "see dmesg"),
        )

    def _ask(self, about: str, request: Callable[[Rtnetlink], Value]) -> Value:
        """Ask in a thread, because sending a request waits for the driver and the RTNL lock."""
        unanswered = f"the kernel does not answer about {about}"
        if self._still_hangs(about):
            raise rtnetlink.NetlinkError(unanswered)
        if self._rtnetlink is None:
            self._rtnetlink = rtnetlink.Rtnetlink(self.config.rtnetlink, self.deadline)
        connection = self._rtnetlink
        answers: list[Value] = []
        if not self._ends(about, lambda: answers.append(request(connection)), connection.close):
            self._rtnetlink = None  # The next request gets a connection of its own.
            raise rtnetlink.NetlinkError(unanswered)
        return answers[0]

    def _still_hangs(self, about: str) -> bool:
        """Whether a call that hung in an earlier collection still does; it is not repeated."""
        earlier = self._memory.hanging.pop(about, None)
        if earlier is None or earlier.done:
            return False
        self._memory.hanging[about] = earlier
        return True

    def _ends(
        self, about: str, call: Callable[[], object], late: Callable[[], object] | None = None
    ) -> bool:
        """Run a call in a thread, and return whether it ends within its share of the time."""
        task = Task(call, late)
        if task.wait(self._share(_LINK_SHARE)):
            return True
        self._memory.hanging[about] = task
        return False

    def _share(self, share: float) -> float:
        """Return a share of the time that is left, in seconds."""
        return max((self.deadline - time.monotonic()) * share, _MIN_SECONDS)

    @property
    def vf_counters(self) -> dict[Pf, VfCounters]:
        """The counters of the VFs of all PFs; raises ProblemError.

        The readers are tried in the order of --collector.vfstatspriority, each for the VFs that
        the readers before it had no counters for. A failure is recorded, and the next reader tried.
        The counters of a VF are held back if all of them are 0 and may be false. PFs that the flags
        leave out because their netdev is gone, as it may be while a NIC resets, are there too.
        """
        about = "the VF counters"
        return self._once(
            about, about, self._read_all_counters, lambda error: unexpected(about, error)
        )

    def _read_all_counters(self) -> dict[Pf, VfCounters]:
        found = {pf: self._read_counters(pf) for pf in self.pfs}
        found.update({pf: VfCounters() for pf in self.left_out if not pf.netdev})
        self._hold_back(found)
        return found

    def _hold_back(self, found: dict[Pf, VfCounters]) -> None:
        """Remove the counters that are held back, and record them as left out."""
        memory = self._memory

        def recall() -> Past:
            self.reading = self.config.textfile_path
            return memory.recall()

        ports = [(pf, counters.by_vf, bool(counters.failures)) for pf, counters in found.items()]
        memory.past = judge(ports, memory.past, recall, self._created)
        if not memory.past.held_back:
            return
        for pf, counters in found.items():
            left_out = 0
            for vf, name in names(pf).items():
                if name in memory.past.held_back:
                    counters.held_back[vf] = memory.past.held_back[name]
                    zeros = counters.by_vf.pop(vf, None)
                    left_out += bool(zeros or not counters.failures)
            if left_out:
                self.skip(_held_back_problem(pf, left_out), left_out)

    def _created(self, address: str) -> float:
        """Return when a VF was created, in seconds since 1970, or 0 if that is unknown."""
        from sriov_textfile.host import age

        try:
            seconds = age.seconds(f"{self.config.sysbuspci}/{address}")
        except OSError:
            return 0
        return 0 if seconds is None else time.time() - seconds

    def _read_counters(self, pf: Pf) -> VfCounters:
        """Return the counters of the PF's VFs as the readers have them."""
        counters = VfCounters()
        if not pf.netdev:
            counters.read_at = time.monotonic()
            return counters
        table = {reader.name: reader for reader in readers.READERS}
        for name in self.config.vfstats_priority:
            missing = [vf for vf in pf.vfs if vf not in counters.by_vf]
            if not missing:
                break
            counters.asked.append(name)
            self.reading = f"VF counters of {pf.netdev} from {name}"
            try:
                found = table[name].read(self, pf, missing)
            except ProblemError as error:
                counters.failures[name] = error.problem
            except (OSError, ValueError) as error:
                reason = f"the {name} reader failed for {pf.netdev}: {cause(error)}"
                counters.failures[name] = Problem("reader-failed", pf.netdev, reason, "see dmesg")
            else:
                if found:
                    counters.by_vf.update(found)
                    counters.served[name] = len(found)
        counters.read_at = time.monotonic()
        for problem in counters.failures.values():
            self.fail(problem)
        return counters

    def vf_driver_and_netdev(self, address: str) -> tuple[str, str]:
        """Return a VF's driver and netdev, each "" if it has none; raises ProblemError."""
        root = self.config.sysbuspci
        return self._once(
            ("binding", address),
            f"VF {address}",
            lambda: pci.vf_driver_and_netdev(root, address),
            lambda error: Problem(
                "unreadable",
                address,
                f"cannot read driver and netdev of VF {cause(error, address)}",
            ),
        )

    def rdma_ports(self, pf: Pf) -> dict[int, list[Port]]:
        """Return the ports of the RDMA devices of a PF's VFs, with their counters, by VF.

        They are read in a thread, because the driver may ask the NIC's firmware for a counter. A VF
        whose devices cannot be read is left out. Raises ProblemError if the driver hangs.
        """
        about = f"the RDMA counters of {pf.netdev or pf.address}"
        return self._once(
            about, about, lambda: self._read_rdma(about, pf), lambda error: unexpected(about, error)
        )

    def _read_rdma(self, about: str, pf: Pf) -> dict[int, list[Port]]:
        from sriov_textfile.host import rdma

        found: dict[int, list[Port]] = {}
        skipped: list[Problem] = []

        def read() -> None:
            for vf, address in pf.vfs.items():
                try:
                    found[vf] = rdma.ports(f"{self.config.sysbuspci}/{address}", skipped.append)
                except OSError as error:
                    reason = f"cannot read the RDMA counters of VF {cause(error, address)}"
                    skipped.append(Problem("unreadable", address, reason))

        if self._still_hangs(about) or not self._ends(about, read):
            reason = f"the driver does not answer about {about}"
            raise ProblemError(Problem("hangs", pf.netdev, reason, "see dmesg"))
        for problem in skipped:
            self.skip(problem)
        return found

    @property
    def shares_rdma(self) -> bool | None:
        """Whether RDMA devices are visible in all network namespaces; raises ProblemError."""
        from sriov_textfile.host import rdma

        sysfs = os.path.dirname(os.path.dirname(os.path.dirname(self.config.sysbuspci.rstrip("/"))))
        return self._once(
            "shares_rdma",
            sysfs,
            lambda: rdma.shares_devices(sysfs),
            lambda error: Problem(
                "unreadable", sysfs, f"cannot read the RDMA mode: {cause(error)}"
            ),
        )

    def link_speed(self, pf: Pf) -> int | None:
        """Return the speed of the PF's link in Mbit/s; None if it is down or unknown."""
        from sriov_textfile.host import nic

        reading = f"the link speed of {pf.netdev}"
        return self._once(
            ("link_speed", pf.netdev),
            reading,
            lambda: nic.link_speed(self.config.sysclassnet, pf.netdev),
            lambda error: unexpected(reading, error),
        )

    @property
    def numa_nodes(self) -> dict[int, str]:
        """The NUMA node of each online CPU; raises ProblemError."""
        from sriov_textfile.host import cpus

        path = self.config.nodecpuinfo
        return self._once(
            "numa_nodes",
            path,
            lambda: cpus.numa_nodes(path),
            lambda error: _missing(
                "path.nodecpuinfo", f"cannot read the NUMA nodes in {cause(error, path)}", error
            ),
        )

    @property
    def pod_cgroups(self) -> Tree:
        """The cgroups of the pods; raises ProblemError."""
        from sriov_textfile.kubelet import cgroups

        path = self.config.kubecgroup

        def find() -> Tree:
            tree = cgroups.find(path)
            self.log.debug("pods' cgroups", path=tree.root)
            return tree

        return self._once(
            "pod_cgroups",
            path,
            find,
            lambda error: _missing(
                "path.kubecgroup", f"cannot find the pods' cgroups: {cause(error)}", error
            ),
        )

    @property
    def pool_cpus(self) -> list[frozenset[int]]:
        """The CPUs that pods may use, as configured and as in effect; raises ProblemError."""
        from sriov_textfile.kubelet import cgroups

        root = self.pod_cgroups.root
        return self._once(
            "pool_cpus",
            root,
            lambda: cgroups.pool_cpus(root),
            lambda error: Problem(
                "unreadable", root, f"cannot read the cpuset of all pods in {cause(error, root)}"
            ),
        )

    @property
    def containers(self) -> list[Container]:
        """The containers of all pods with their cpusets, in a fixed order; raises ProblemError."""
        from sriov_textfile.kubelet import cgroups

        tree = self.pod_cgroups
        return self._once(
            "containers",
            tree.root,
            lambda: list(cgroups.containers(tree, self.skip)),
            lambda error: _missing(
                "path.kubecgroup",
                f"cannot read the pods' cgroups in {cause(error, tree.root)}",
                error,
            ),
        )

    @property
    def cpu_checkpoint(self) -> Checkpoint:
        """The state of the kubelet's CPU manager; raises ProblemError."""
        from sriov_textfile.kubelet import cpu_manager

        path = self.config.cpucheckpoint
        return self._once(
            "cpu_checkpoint",
            path,
            lambda: cpu_manager.read_checkpoint(path),
            lambda error: _missing(
                "path.cpucheckpoint", f"cannot read {cause(error, path)}", error
            ),
        )

    @property
    def pod_resources(self) -> PodResources:
        """The devices and CPUs of all containers, from the kubelet; raises ProblemError."""
        path = self.config.kubeletsocket

        def problem(error: Exception) -> Problem:
            return Problem("kubelet", path, cause(error), getattr(error, "hint", ""))

        reading = f"the pods' devices from the kubelet at {path}"
        return self._once("pod_resources", reading, self._ask_kubelet, problem)

    def _ask_kubelet(self) -> PodResources:
        try:
            from sriov_textfile.kubelet import podresources
        except OUT_OF_MEMORY:
            raise
        except Exception as error:  # protobuf raises its own errors for mismatched versions
            from sriov_textfile import packages

            raise ProblemError(packages.problem("kubepoddevice", error)) from None
        seconds = self._share(_KUBELET_SHARE)
        return podresources.pod_resources(self.config.kubeletsocket, seconds)

    @property
    def assigned_devices(self) -> dict[str, set[str]]:
        """The IDs of pods' devices by uid, from the kubelet's checkpoint; raises ProblemError."""
        from sriov_textfile.kubelet import devices

        folder = os.path.dirname(self.config.cpucheckpoint)
        path = f"{folder}/device-plugins/kubelet_internal_checkpoint"
        return self._once(
            "assigned_devices",
            path,
            lambda: devices.read_checkpoint(path),
            lambda error: _missing(
                "path.cpucheckpoint", f"cannot read {cause(error, path)}", error
            ),
        )

    def auxiliary_function(self, name: str) -> tuple[str, str]:
        """Return the PF's address and the netdev of an auxiliary device; raises ProblemError."""
        from sriov_textfile.host import auxiliary

        bus = os.path.dirname(os.path.dirname(self.config.sysbuspci.rstrip("/")))
        root = f"{bus}/auxiliary/devices"
        return self._once(
            ("auxiliary", name),
            f"auxiliary device {name}",
            lambda: auxiliary.function(root, name),
            lambda error: Problem(
                "unreadable",
                name,
                f"cannot read PF and netdev of {cause(error, f'{root}/{name}')}",
                "in a container, mount /sys/bus from the host",
            ),
        )

    def _once(
        self,
        key: object,
        reading: str,
        read: Callable[[], Value],
        problem: Callable[[Exception], Problem],
    ) -> Value:
        """Call `read` the first time, and return its value every time.

        If it fails, raises ProblemError with the same Problem every time; `problem` makes it from
        an OSError or ValueError.
        """
        if key in self._unreadable:
            raise ProblemError(self._unreadable[key])
        if key not in self._values:
            self.reading = reading
            try:
                self._values[key] = read()
            except ProblemError as error:
                self._unreadable[key] = error.problem
                raise
            except (OSError, ValueError) as error:
                self._unreadable[key] = problem(error)
                raise ProblemError(self._unreadable[key]) from None
            except OUT_OF_MEMORY:
                raise
            except Exception as error:
                self._unreadable[key] = unexpected(reading, error)
                raise ProblemError(self._unreadable[key]) from None
        value: Value = self._values[key]  # type: ignore[assignment]
        return value


def _held_back_problem(pf: Pf, count: int) -> Problem:
    what = f"{counted(count, 'VF')} of {pf.netdev or pf.address}"
    reason = f"all counters of {what} fell to 0 or are missing, as they are while a NIC resets"
    minutes = BELIEVED_AFTER // 60
    hint = f"see dmesg; they are left out until they grow, for at most {minutes} minutes"
    return Problem("held-back", pf.netdev or pf.address, reason, hint)


def _missing(flag: str, reason: str, error: Exception) -> Problem:
    """Return the problem for a path that cannot be read, and the flag that sets the path."""
    hint = f"set --{flag}; in a container, mount it from the host"
    if isinstance(error, PermissionError):
        hint = "run as root or as a user with access to it"
    return Problem("missing-mount", f"--{flag}", reason, hint)
