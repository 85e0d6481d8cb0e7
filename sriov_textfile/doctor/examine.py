"""Reads the machine into a Report, by the same readers that the collectors use."""

from __future__ import annotations

import os
import pwd
import stat
import threading
import time
from collections.abc import Callable

from sriov_textfile import __version__
from sriov_textfile.config import Config
from sriov_textfile.doctor import node_exporter
from sriov_textfile.doctor.report import (
    Cpus,
    Kubelet,
    Pf,
    Problem,
    Reader,
    Report,
    Textfile,
    Vf,
)
from sriov_textfile.gather import describe
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
# Of --timeout: what takes longer than a collection may is to be seen all the same.
_PATIENCE = 2
_GRACE_SECONDS = 5.0  # for what has no deadline of its own

DescribeNic = Callable[[pci.Pf], nic.Nic]
Pods = dict[str, list[str]]  # by PCI address


class ExamineError(Exception):
    """Raised when the machine does not answer, or answers what nobody thought of."""


class _Skips(Log):
    """Keeps what a collection would warn of; errors reach the report as facts."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, None] = {}  # each once, in order

    def warn(self, message: str, **fields: object) -> None:
        self.messages[message] = None

    def error(self, message: str, **fields: object) -> None:
        pass


def examine(config: Config, describe_nic: DescribeNic) -> Report:
    """Return the facts about the machine, without findings.

    Raises ExamineError. A driver or a file system that does not answer holds up a system call
    for good, so the work is done in a thread, as a collection's is.
    """
    examination = _Examination(config, describe_nic)
    thread = threading.Thread(target=examination.run, daemon=True)
    thread.start()
    # The kubelet and the PFs may each take what they are given, and a little more.
    limit = (1 + _PATIENCE) * config.timeout + _GRACE_SECONDS
    thread.join(limit)
    if thread.is_alive():
        reason = f"no answer within {limit:g} s"
        raise ExamineError(f"{reason}, looking at {examination.step}; see dmesg")
    if error := examination.error:
        raise ExamineError(f"{describe(error)}, looking at {examination.step}") from error
    return examination.report


class _Examination:
    """The work, step by step."""

    report: Report

    def __init__(self, config: Config, describe_nic: DescribeNic) -> None:
        self._config = config
        self._describe_nic = describe_nic
        self._skips = _Skips()
        self.step = ""
        self.error: Exception | None = None

    def run(self) -> None:
        """Make the report, or keep the error for who waits."""
        try:
            self._examine()
        except Exception as error:
            self.error = error

    def _examine(self) -> None:
        config = self._config
        self.step = f"the kubelet at {config.kubeletsocket}"
        kubelet, pods = _kubelet(config)
        self.step = f"{config.kubecgroup} and {config.nodecpuinfo}"
        found_cpus = _cpus(config, self._skips.warn)
        self.step = config.textfile_path
        textfile = _textfile(config) if config.textfile_path else None
        system = os.uname()
        self.report = Report(
            version=__version__,
            host=system.nodename,
            kernel=f"{system.sysname} {system.release}",
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            user=_user(),
            collectors=sorted(config.collectors),
            kubelet=kubelet,
            cpus=found_cpus,
            textfile=textfile,
            seconds_allowed=config.timeout,
        )
        self.step = config.sysbuspci
        deadline = time.monotonic() + _PATIENCE * config.timeout
        snapshot = Snapshot(config, self._skips, deadline)
        try:
            self._add_pfs(snapshot, pods)
        finally:
            snapshot.close()
        self.report.skipped = list(self._skips.messages)

    def _add_pfs(self, snapshot: Snapshot, pods: Pods) -> None:
        report, config = self.report, self._config
        start = time.monotonic()
        try:
            pfs = snapshot.pfs
            if not pfs:  # Why not? Nothing else asks for PFs that the flags leave out.
                report.left_out = len(pci.discover(config.sysbuspci, lambda _: None))
        except OSError as error:
            reason, _, _ = str(error).partition("; ")
            report.paths.append(Problem("path.sysbuspci", reason))
            return
        netdevs = [pf.netdev for pf in pfs if pf.netdev]
        folder = config.sysclassnet
        if (
            "sysfs" in config.vfstats_priority
            and netdevs
            and not any(os.path.isdir(f"{folder}/{name}") for name in netdevs)
        ):
            reason = f"{folder} has none of the PFs' netdevs ({netdevs[0]} …)"
            report.paths.append(Problem("path.sysclassnet", reason))
        for pf in pfs:
            self.step = f"PF {pf.netdev or pf.address}"
            report.pfs.append(_pf(snapshot, pf, pods))
        report.seconds = time.monotonic() - start
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
    if problem and "vfinfo" in snapshot.config.collectors:
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
        unknown_here=isinstance(counters.failures.get("netlink"), NoSuchNetdevError),
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
    driver, netdev = snapshot.vf_driver_and_netdev(address)
    root = snapshot.config.sysbuspci
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
    kubelet.devices = len(pods)
    return kubelet, pods


def _cpus(config: Config, skip: Callable[[str], None]) -> Cpus:
    found = Cpus("kubepodcpu" in config.collectors)
    if not found.wanted:
        return found
    try:
        cpus.numa_nodes(config.nodecpuinfo)
    except (OSError, ValueError) as error:
        found.problems.append(Problem("path.nodecpuinfo", str(error)))
    try:
        root = cgroups.find_root(config.kubecgroup)
        cgroups.pool_cpus(root)
        for _ in cgroups.containers(root, skip):
            pass
    except (OSError, ValueError) as error:
        reason, _, mend = str(error).partition("; ")
        found.problems.append(Problem("path.kubecgroup", reason, mend))
    try:
        found.policy = cpu_manager.read_checkpoint(config.cpucheckpoint).policy
    except (OSError, ValueError) as error:
        found.problems.append(Problem("path.cpucheckpoint", str(error)))
    return found


def _textfile(config: Config) -> Textfile:
    path = os.path.abspath(config.textfile_path)
    folder = os.path.dirname(path)
    folder_exists, age, problem = True, None, ""
    try:
        os.stat(folder)
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
