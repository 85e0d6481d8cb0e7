"""Reads the machine into a Report, by the same readers that the collectors use."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable

from sriov_textfile import __version__
from sriov_textfile.config import Config
from sriov_textfile.doctor import node_exporter
from sriov_textfile.doctor.report import Cpus, Kubelet, Pf, Reader, Report, Textfile, Vf
from sriov_textfile.gather import missing
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

DescribeNic = Callable[[pci.Pf], nic.Nic]
Pods = dict[str, list[str]]  # by PCI address


class _Skips(Log):
    """Keeps what a collection would warn of; errors reach the report as facts."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if level == "warn":
            self.messages.append(message)


def examine(config: Config, describe_nic: DescribeNic) -> Report:
    """Return the facts about the machine, without findings."""
    kubelet, pods = _kubelet(config)
    skips = _Skips()
    snapshot = Snapshot(config, skips, time.monotonic() + config.timeout)
    try:
        report = Report(
            version=__version__,
            user=_user(),
            pci_problem="",
            net_problem="",
            nic_problem="",
            left_out=0,
            pfs=[],
            kubelet=kubelet,
            cpus=_cpus(config),
            textfile=_textfile(config) if config.textfile_path else None,
            skipped=skips.messages,
        )
        _add_pfs(report, snapshot, describe_nic, pods)
    finally:
        snapshot.close()
    return report


def _add_pfs(report: Report, snapshot: Snapshot, describe_nic: DescribeNic, pods: Pods) -> None:
    config = snapshot.config
    try:
        pfs = snapshot.pfs
        report.left_out = len(pci.discover(config.sysbuspci, lambda _: None)) - len(pfs)
    except OSError as error:
        report.pci_problem = str(error).partition("; ")[0]
        return
    netdevs = [pf.netdev for pf in pfs if pf.netdev]
    if netdevs and not any(os.path.isdir(f"{config.sysclassnet}/{name}") for name in netdevs):
        report.net_problem = f"{config.sysclassnet} has none of the PFs' netdevs ({netdevs[0]} …)"
    for pf in pfs:
        facts = nic.Nic()
        try:
            facts = describe_nic(pf)
        except ModuleNotFoundError as error:
            report.nic_problem = missing(error)
        report.pfs.append(_pf(snapshot, pf, facts, pods))


def _pf(snapshot: Snapshot, pf: pci.Pf, facts: nic.Nic, pods: Pods) -> Pf:
    link, problem = Link(pf.netdev, 0, {}, wrapped=False), None
    if pf.netdev:
        try:
            link = snapshot.link(pf)
        except (NetlinkError, NetlinkDecodeError) as error:
            problem = error
    counters = snapshot.vf_counters(pf)
    return Pf(
        address=pf.address,
        netdev=pf.netdev,
        kind=pf.kind,
        driver=pf.driver,
        driver_version=facts.driver_version,
        firmware=facts.firmware,
        numa_node=pf.numa_node,
        link_state=facts.link_state,
        speed_mbps=facts.speed,
        eswitch_mode=facts.eswitch_mode or ("switchdev" if pf.switchdev else None),
        total_vfs=pf.total_vfs,
        num_vfs=pf.num_vfs,
        in_other_namespace=isinstance(problem, NoSuchNetdevError),
        vf_list_wrapped=link.wrapped,
        netlink_problem=str(problem or ""),
        readers=[_reader(name, snapshot.config, pf, counters) for name in _NOTHING],
        vfs=[
            _vf(snapshot, number, address, link, counters, pods)
            for number, address in pf.vfs.items()
        ],
    )


def _reader(name: str, config: Config, pf: pci.Pf, counters: VfCounters) -> Reader:
    return Reader(name, counters.readers.get(name, 0), _why_not(name, config, pf, counters))


def _why_not(name: str, config: Config, pf: pci.Pf, counters: VfCounters) -> str:
    """Say why a reader serves none of the PF's VFs, or not all; "" where there is no reason."""
    order, served = config.vfstats_priority, counters.readers.get(name, 0)
    if served == len(pf.vfs):
        return ""
    if name not in order:
        return f"switched off by --collector.{name}=false or --collector.vfstatspriority"
    if not pf.netdev:
        return "the PF has no netdev to ask about"
    if name in counters.failures:
        return str(counters.failures[name])
    before = [reader for reader in order[: order.index(name)] if reader in counters.readers]
    if served + sum(counters.readers[reader] for reader in before) == len(pf.vfs):
        return f"{' and '.join(before)} served {'the others' if served else 'every VF'}"
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
    wanted = "kubepoddevice" in config.collectors
    kubelet = Kubelet(wanted, config.kubeletsocket, problem="", mend="", devices=0)
    if not wanted and not os.path.exists(config.kubeletsocket):
        kubelet.problem = "not asked: --collector.kubepoddevice is off"
        return kubelet, {}
    try:
        from sriov_textfile.kubelet import podresources
    except ModuleNotFoundError as error:
        kubelet.problem = missing(error)
        return kubelet, {}
    pods: Pods = {}
    try:
        for device in podresources.pod_devices(config.kubeletsocket, config.timeout):
            pods.setdefault(device.address, []).append(f"{device.namespace}/{device.pod}")
    except podresources.KubeletError as error:
        kubelet.problem, kubelet.mend = error.reason, error.mend
    kubelet.devices = len(pods)
    return kubelet, pods


def _cpus(config: Config) -> Cpus:
    found = Cpus("kubepodcpu" in config.collectors, policy="", missing=[])
    if not found.wanted:
        return found
    try:
        cpus.numa_nodes(config.nodecpuinfo)
    except (OSError, ValueError) as error:
        found.missing.append(f"--path.nodecpuinfo: {error}")
    try:
        cgroups.find_root(config.kubecgroup)
    except OSError as error:
        found.missing.append(f"--path.kubecgroup: {error}")
    try:
        found.policy = cpu_manager.read_checkpoint(config.cpucheckpoint).policy
    except (OSError, ValueError) as error:
        found.missing.append(f"--path.cpucheckpoint: {error}")
    return found


def _textfile(config: Config) -> Textfile:
    path = config.textfile_path
    folder = os.path.dirname(path) or "."
    try:
        age = time.time() - os.stat(path).st_mtime
    except OSError:
        age = None
    return Textfile(
        path=path,
        folder_exists=os.path.isdir(folder),
        writable=os.access(folder, os.W_OK | os.X_OK),
        age_seconds=age,
        stale_after_seconds=max(_STALE_SECONDS, 3 * config.interval),
        node_exporters=node_exporter.running(folder),
        sees_processes=node_exporter.sees_processes(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"uid {os.geteuid()}"
