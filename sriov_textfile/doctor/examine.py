"""Reads the machine into a Report, by the same readers that the collectors use."""

from __future__ import annotations

import os
import pwd
import stat
import threading
import time
from collections.abc import Callable

from sriov_textfile import __version__
from sriov_textfile.collectors import COLLECTORS, Collector
from sriov_textfile.config import Config
from sriov_textfile.doctor import node_exporter
from sriov_textfile.doctor.report import (
    CollectorRun,
    Cpus,
    Kubelet,
    Pf,
    Problem,
    Reader,
    Report,
    Textfile,
    Vf,
)
from sriov_textfile.gather import describe, run
from sriov_textfile.host import cpus, files, nic, pci
from sriov_textfile.host.rtnetlink import (
    Link,
    NetlinkDecodeError,
    NetlinkError,
    NoSuchNetdevError,
)
from sriov_textfile.host.snapshot import Snapshot, VfCounters
from sriov_textfile.kubelet import cgroups, cpu_manager
from sriov_textfile.log import Log

# A timer or cron writes at least every minute.
_STALE_SECONDS = 300.0
_GRACE_SECONDS = 5.0  # for what has no deadline of its own

DescribeNic = Callable[[pci.Pf], nic.Nic]
Pods = dict[str, list[str]]  # by PCI address


class ExamineError(Exception):
    """Raised when the machine does not answer, or answers what nobody thought of."""


class _Messages(Log):
    """Keeps what a collection would log as left out or failed, each once, and writes nothing."""

    def __init__(self) -> None:
        super().__init__("error")
        self.warnings: dict[str, None] = {}
        self.errors: dict[str, None] = {}

    def warn(self, message: str, **fields: object) -> None:
        self.warnings[message] = None

    def error(self, message: str, **fields: object) -> None:
        self.errors[message] = None


def examine(config: Config, describe_nic: DescribeNic) -> Report:
    """Return the facts about the machine, without findings.

    Raises ExamineError. A driver or a file system that does not answer holds up a system call
    for good, so the work is done in a thread, as a collection's is.
    """
    examination = _Examination(config, describe_nic)
    thread = threading.Thread(target=examination.run, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise ExamineError(f"{error}; allow more tasks (ulimit -u) and memory") from None
    # The collectors may take what a collection may; then the kubelet is asked once more.
    limit = 2 * config.timeout + _GRACE_SECONDS
    thread.join(limit)
    if thread.is_alive():
        reason = f"no answer within {limit:g} s"
        raise ExamineError(f"{reason}, looking at {examination.step}; see dmesg")
    if failed := examination.error:
        raise ExamineError(f"{describe(failed)}, looking at {examination.step}") from failed
    return examination.report


class _Examination:
    """The work, step by step."""

    report: Report

    def __init__(self, config: Config, describe_nic: DescribeNic) -> None:
        self._config = config
        self._describe_nic = describe_nic
        self._messages = _Messages()
        self.step = ""
        self.error: Exception | None = None

    def run(self) -> None:
        """Make the report, or keep the error for who waits."""
        snapshot = Snapshot(self._config, self._messages, time.monotonic() + self._config.timeout)
        try:
            self._examine(snapshot)
        except Exception as error:
            self.error = error
        finally:
            snapshot.close()

    def _examine(self, snapshot: Snapshot) -> None:
        config = self._config
        collectors = [
            self._run(one, snapshot) for one in COLLECTORS if one.name in config.collectors
        ]
        self.step = f"the kubelet at {config.kubeletsocket}"
        kubelet, pods = _kubelet(config)
        self.step = f"{config.kubecgroup} and {config.nodecpuinfo}"
        found_cpus = _cpus(config)
        self.step = config.textfile_path
        textfile = _textfile(config) if config.textfile_path else None
        system = os.uname()
        self.report = Report(
            version=__version__,
            host=system.nodename,
            kernel=f"{system.sysname} {system.release}",
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            user=_user(),
            collectors=collectors,
            seconds_allowed=config.timeout,
            kubelet=kubelet,
            cpus=found_cpus,
            textfile=textfile,
        )
        self.step = config.sysbuspci
        self._add_pfs(snapshot, pods)
        self.report.skipped = list(self._messages.warnings)

    def _run(self, collector: Collector, snapshot: Snapshot) -> CollectorRun:
        """Run a collector as a collection does; what it reads is there for what follows."""
        self.step = f"what collector {collector.name} reads"
        before, start = len(self._messages.errors), time.monotonic()
        success = run(collector, snapshot, [])
        problems = list(self._messages.errors)[before:]
        return CollectorRun(collector.name, success, time.monotonic() - start, problems)

    def _add_pfs(self, snapshot: Snapshot, pods: Pods) -> None:
        report, config = self.report, self._config
        try:
            pfs = snapshot.pfs
            if not pfs:  # Why not? Nothing else asks for PFs that the flags leave out.
                report.left_out = len(pci.discover(config.sysbuspci, lambda _: None))
        except OSError as error:
            reason, _, _ = str(error).partition("; ")
            report.paths.append(Problem("path.sysbuspci", reason))
            return
        for pf in pfs:
            self.step = f"PF {pf.netdev or pf.address}"
            report.pfs.append(_pf(snapshot, pf, pods))
        if _sysfs_is_missed(config, report.pfs):
            name = next(pf.netdev for pf in pfs if pf.netdev)
            reason = f"{config.sysclassnet} has none of the PFs' netdevs ({name} …)"
            report.paths.append(Problem("path.sysclassnet", reason))
        for pf, described in zip(pfs, report.pfs, strict=True):
            self.step = f"the NIC of PF {pf.netdev or pf.address}"
            self._add_nic(pf, described)

    def _add_nic(self, pf: pci.Pf, described: Pf) -> None:
        try:
            facts = self._describe_nic(pf)
        except ImportError as error:
            self.report.nics = describe(error)
            return
        described.driver_version = facts.driver_version
        described.firmware = facts.firmware
        described.link_state = facts.link_state
        described.speed_mbps = facts.speed
        described.eswitch_mode = facts.eswitch_mode or described.eswitch_mode


def _sysfs_is_missed(config: Config, pfs: list[Pf]) -> bool:
    """Return whether the sysfs reader is asked, and has no netdev of any PF to look at."""
    order = config.vfstats_priority
    if "vfstats" not in config.collectors or "sysfs" not in order:
        return False
    asked = [
        pf.netdev
        for pf in pfs
        if pf.netdev and pf.vfs and (order[0] == "sysfs" or not all(vf.counters for vf in pf.vfs))
    ]
    return bool(asked) and not any(os.path.isdir(f"{config.sysclassnet}/{name}") for name in asked)


def _pf(snapshot: Snapshot, pf: pci.Pf, pods: Pods) -> Pf:
    link, problem = Link(pf.netdev, 0, {}, wrapped=False), None
    if pf.netdev:
        try:
            link = snapshot.link(pf)
        except (NetlinkError, NetlinkDecodeError) as error:
            problem = error
    counters = VfCounters()
    if "vfstats" in snapshot.config.collectors:
        counters = snapshot.vf_counters(pf)
    if problem and pf.vfs and "vfinfo" in snapshot.config.collectors:
        counters.failures["netlink"] = problem
    return Pf(
        address=pf.address,
        netdev=pf.netdev,
        kind=pf.kind,
        driver=pf.driver,
        driver_version=None,
        firmware=None,
        numa_node=pf.numa_node,
        link_state=None,
        speed_mbps=None,
        eswitch_mode="switchdev" if pf.switchdev else None,
        total_vfs=pf.total_vfs,
        num_vfs=pf.num_vfs,
        unknown_here=isinstance(problem, NoSuchNetdevError),
        vf_list_wrapped=link.wrapped,
        configuration_problem=str(problem or ""),
        readers=[_reader(name, snapshot.config, pf, counters) for name in _NOTHING],
        vfs=[
            _vf(snapshot, number, address, link, counters, pods)
            for number, address in pf.vfs.items()
        ],
    )


def _reader(name: str, config: Config, pf: pci.Pf, counters: VfCounters) -> Reader:
    return Reader(
        name,
        counters.readers.get(name, 0),
        _why_not(name, config, pf, counters),
        str(counters.failures.get(name, "")),
    )


def _why_not(name: str, config: Config, pf: pci.Pf, counters: VfCounters) -> str:
    """Say why a reader serves none of the PF's VFs, or not all; "" where there is no reason."""
    order, served = config.vfstats_priority, counters.readers.get(name, 0)
    if served == len(pf.vfs):
        return ""
    if "vfstats" not in config.collectors or name not in order:
        off = f"collector.{name} or collector.vfstatspriority"
        return f"switched off by --{off if 'vfstats' in config.collectors else 'collector.vfstats'}"
    if not pf.netdev:
        return "the PF has no netdev to ask about"
    before = [reader for reader in order[: order.index(name)] if reader in counters.readers]
    if served + sum(counters.readers[reader] for reader in before) == len(pf.vfs):
        return f"{' and '.join(before)} served {'the others' if served else 'every VF'}"
    if name in counters.failures:
        return str(counters.failures[name])
    return _NOTHING[name](config, pf)


def _nothing_in_sysfs(config: Config, pf: pci.Pf) -> str:
    folder = f"{config.sysclassnet.rstrip('/')}/{pf.netdev}/device/sriov"
    if os.path.isdir(folder):
        return f"{folder} has no statistics of them"
    return f"driver {pf.driver or 'none'} publishes no VF counters: there is no {folder}"


def _nothing_by_netlink(config: Config, pf: pci.Pf) -> str:
    return "the kernel has no counters of them: it is older than 4.4, or left the VFs out"


# What a reader that was asked and did not fail found nothing for.
_NOTHING = {"sysfs": _nothing_in_sysfs, "netlink": _nothing_by_netlink}


def _vf(
    snapshot: Snapshot, number: int, address: str, link: Link, counters: VfCounters, pods: Pods
) -> Vf:
    root = snapshot.config.sysbuspci
    try:
        driver, netdev = pci.vf_driver_and_netdev(root, address)
    except OSError:  # Where vfinfo reads it, too, it has told so.
        driver, netdev = "", ""
    vf = Vf(
        number=number,
        address=address,
        driver=driver,
        netdev=netdev,
        netdev_packets=_packets(f"{root}/{address}/net/{netdev}") if netdev else None,
        counters=counters.by_vf.get(number, {}),
        pods=pods.get(address, []),
    )
    if said := link.vfs.get(number):
        vf.mac, vf.link_state = said.mac, said.link_state
        vf.trust, vf.spoofchk = said.trust, said.spoofchk
        if said.vlan:
            vf.vlan, vf.qos, vf.vlan_proto = said.vlan, said.qos, said.vlan_proto
    return vf


def _packets(netdev: str) -> int | None:
    """Return the packets that a netdev has counted itself, whatever its PF counts for it."""
    try:
        counts = [files.read_int(f"{netdev}/statistics/{way}_packets") for way in ("rx", "tx")]
    except OSError:
        return None
    return sum(count or 0 for count in counts) if any(c is not None for c in counts) else None


def _kubelet(config: Config) -> tuple[Kubelet, Pods]:
    """Ask the kubelet who holds which device, also where nobody wants it as a metric."""
    kubelet = Kubelet("kubepoddevice" in config.collectors, config.kubeletsocket)
    pods: Pods = {}
    if not kubelet.wanted and not os.path.exists(config.kubeletsocket):
        return kubelet, pods
    kubelet.asked = True
    try:
        from sriov_textfile.kubelet import podresources
    except Exception as error:  # protobuf has errors of its own for versions that do not fit
        kubelet.problem = Problem("path.kubeletSocket", describe(error), "repair the installation")
        return kubelet, pods
    try:
        for device in podresources.pod_devices(config.kubeletsocket, config.timeout):
            holders = pods.setdefault(device.address, [])
            if (pod := f"{device.namespace}/{device.pod}") not in holders:
                holders.append(pod)
    except podresources.KubeletError as error:
        kubelet.problem = Problem("path.kubeletSocket", error.reason, error.mend)
    except Exception as error:  # grpc's own, for a path that it cannot take
        kubelet.problem = Problem("path.kubeletSocket", describe(error))
    kubelet.devices = len(pods)
    return kubelet, pods


def _cpus(config: Config) -> Cpus:
    found = Cpus("kubepodcpu" in config.collectors)
    if not found.wanted:
        return found
    try:
        cpus.numa_nodes(config.nodecpuinfo)
    except (OSError, ValueError) as error:
        found.problems.append(Problem("path.nodecpuinfo", str(error)))
    try:
        cgroups.find_root(config.kubecgroup)
    except OSError as error:
        reason, _, mend = str(error).partition("; ")
        found.problems.append(Problem("path.kubecgroup", reason, mend))
    try:
        found.policy = cpu_manager.read_checkpoint(config.cpucheckpoint).policy
    except (OSError, ValueError) as error:
        found.problems.append(Problem("path.cpucheckpoint", str(error)))
    return found


def _textfile(config: Config) -> Textfile:
    path = os.path.join(os.getcwd(), config.textfile_path)
    folder = os.path.dirname(path)
    folder_exists, age, problem = True, None, ""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            problem = f"{folder} is not a folder"
        elif not os.statvfs(folder).f_bavail:
            problem = f"there is no space left in {folder}"
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        folder_exists = error.filename != folder
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    else:
        age = max(0.0, time.time() - status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            problem = f"{path} is a folder, not a file"
    return Textfile(
        path=path,
        folder=folder,
        folder_exists=folder_exists,
        writable=os.access(folder, os.W_OK | os.X_OK),
        problem=problem,
        age_seconds=age,
        stale_after_seconds=max(_STALE_SECONDS, 3 * config.interval),
        node_exporters=node_exporter.running(folder),
        sees_processes=node_exporter.sees_processes(),
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user has no name
        return f"uid {os.geteuid()}"
