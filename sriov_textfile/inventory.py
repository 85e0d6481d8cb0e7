"""Inventory: a snapshot's PFs, VFs, pods and CPUs, joined as plain data.

Collectors turn a snapshot into metrics, and this module turns it into the facts for doctor and top.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from sriov_textfile import packages
from sriov_textfile.config import Config
from sriov_textfile.host import files, nic, pci, rdma, readers, rtnetlink
from sriov_textfile.problems import Problem, ProblemError
from sriov_textfile.snapshot import Snapshot, VfCounters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sriov_textfile.kubelet import podresources

DescribeNic = Callable[[pci.Pf], nic.Nic]
Pods = dict[str, list[str]]  # namespace/name of the pods that use a device, by PCI address


@dataclass
class Vf:
    """A VF; None means unknown, or not read: see take()."""

    number: int
    address: str
    driver: str = ""  # "" if no driver is bound to it, or not read
    netdev: str = ""  # "" if it has none in this network namespace, or not read
    netdev_packets: int | None = None  # received and sent by its own netdev, if it has one here
    mac: str | None = None
    vlan: int | None = None  # None also if no VLAN is set
    qos: int | None = None
    vlan_proto: str | None = None
    trust: bool | None = None
    spoofchk: bool | None = None
    link_state: str | None = None  # auto, enable or disable, as the PF sets it
    counters: dict[str, int] = field(default_factory=dict)
    held_back_since: int | None = None  # seconds since 1970, if its counters are held back
    rdma_devices: list[str] = field(default_factory=list)  # visible here, if vfrdma is on
    pods: list[str] = field(default_factory=list)  # namespace/name


@dataclass
class ReaderUse:
    """A reader of VF counters, and how many VFs of a PF it has counters for."""

    name: str
    asked: bool  # whether a collection uses it
    vfs: int
    why_not: str  # why it does not serve all VFs; "" if it does
    failure: Problem | None  # set even if another reader serves the VFs


@dataclass
class Pf:
    """A PF; None means unknown, or not read: see take()."""

    address: str
    netdev: str  # "" if it has none
    kind: str  # Ethernet, InfiniBand or other network
    driver: str  # "" if no driver is bound to it
    driver_version: str | None
    firmware: str | None
    numa_node: str  # "" if the kernel reports none
    link_state: str | None
    speed_mbps: int | None
    eswitch_mode: str | None  # legacy or switchdev
    total_vfs: int
    num_vfs: int | None
    netdev_in_sysfs: bool  # whether --path.sysclassnet has its netdev
    vf_list_wrapped: bool  # whether the VF list is too long for other tools
    vf_list_dumped: bool  # whether the kernel returns it only in a dump of all links
    link_problem: Problem | None  # why the configuration of its VFs is unknown
    readers: list[ReaderUse]
    vfs: list[Vf]
    # Visible in this network namespace, if vfrdma is on.
    rdma_devices: list[str] = field(default_factory=list)


@dataclass
class Device:
    """A device of a container."""

    name: str  # PCI address, or name on the auxiliary bus
    numa_nodes: list[str]  # that it is local to, usually one; [] if unknown


@dataclass
class Container:
    """A container with devices or exclusive CPUs; NUMA nodes that are unknown are left out."""

    name: str  # namespace/pod/container
    cpus: list[int]
    cpu_numa_nodes: list[str]
    devices: list[Device]


@dataclass
class Kubelet:
    """What the kubelet reported about the pods' devices and CPUs."""

    enabled: bool  # whether kubepoddevice is on
    socket: str
    asked: bool = False
    problem: Problem | None = None
    devices: int = 0  # PCI devices that pods use
    containers: list[Container] = field(default_factory=list)


@dataclass
class Cpus:
    """The sources of the pods' CPUs, if kubepodcpu is on."""

    enabled: bool
    policy: str = ""  # of the kubelet's CPU manager; "" if unknown
    cgroups: str = ""  # directory of the pods' cgroups; "" if it was not found


@dataclass
class Inventory:
    """The PFs and VFs of a host, and the sources of its pods' devices and CPUs."""

    pfs: list[Pf]
    left_out: int  # PFs that --collector.pf-include and --collector.pf-exclude leave out
    problem: Problem | None  # why the PFs could not be listed
    nics: str  # why driver versions, firmware and links are unknown; "" if they are known
    kubelet: Kubelet
    cpus: Cpus
    rdma_shared: bool | None  # whether all network namespaces see all RDMA devices


def take(snapshot: Snapshot, describe_nic: DescribeNic | None) -> Inventory:
    """Return the inventory of a snapshot; what the snapshot has not read yet is read now.

    Without `describe_nic` it costs little more than a collection: details of the NICs, and
    configuration, drivers, netdevs and RDMA devices of the VFs are not read.
    """
    kubelet, pods = _kubelet(snapshot)
    cpus = _cpus(snapshot)
    pfs, problem, nics = [], None, ""
    try:
        pfs = [_pf(snapshot, pf, pods) for pf in snapshot.pfs]
        kubelet.containers = _containers(snapshot, kubelet, pfs)
        if describe_nic:
            _add_details(snapshot, pfs)
            nics = _add_nics(snapshot, pfs, describe_nic)
    except ProblemError as error:
        problem = error.problem
    rdma_shared = _rdma_shared(snapshot) if describe_nic else None
    return Inventory(pfs, len(snapshot.left_out), problem, nics, kubelet, cpus, rdma_shared)


def _add_details(snapshot: Snapshot, pfs: list[Pf]) -> None:
    """Add configuration, drivers, netdevs and RDMA devices of the VFs."""
    for pf, described in zip(snapshot.pfs, pfs, strict=True):
        link = rtnetlink.Link(pf.netdev, 0, {}, wrapped=False)
        if pf.netdev:
            try:
                link = snapshot.link(pf)
            except ProblemError as error:
                described.link_problem = error.problem
        described.vf_list_wrapped, described.vf_list_dumped = link.wrapped, link.dumped
        described.rdma_devices = _rdma_devices(snapshot, pf.address)
        for vf in described.vfs:
            vf.rdma_devices = _rdma_devices(snapshot, vf.address)
            _add_driver_and_netdev(snapshot, vf)
            if vf.number in link.vfs:
                _add_configuration(link.vfs[vf.number], vf)


def _add_driver_and_netdev(snapshot: Snapshot, vf: Vf) -> None:
    try:
        vf.driver, vf.netdev = snapshot.vf_driver_and_netdev(vf.address)
    except ProblemError:  # vfinfo reports it, if it is on.
        return
    if vf.netdev:
        vf.netdev_packets = _packets(f"{snapshot.config.sysbuspci}/{vf.address}/net/{vf.netdev}")


def _packets(netdev: str) -> int | None:
    """Return how many packets a netdev has received and sent, or None if unknown."""
    try:
        counts = [files.read_int(f"{netdev}/statistics/{way}_packets") for way in ("rx", "tx")]
    except OSError:
        return None
    return sum(count or 0 for count in counts) if any(c is not None for c in counts) else None


def _add_configuration(described: rtnetlink.Vf, vf: Vf) -> None:
    vf.mac, vf.link_state = described.mac, described.link_state
    vf.trust, vf.spoofchk = described.trust, described.spoofchk
    if described.vlan:
        vf.vlan, vf.qos, vf.vlan_proto = described.vlan, described.qos, described.vlan_proto


def _rdma_devices(snapshot: Snapshot, address: str) -> list[str]:
    """Return the RDMA devices of a PF or VF, if vfrdma is on."""
    if "vfrdma" not in snapshot.config.collectors:
        return []
    try:
        return rdma.devices(f"{snapshot.config.sysbuspci}/{address}")
    except OSError:  # vfrdma reports it.
        return []


def _rdma_shared(snapshot: Snapshot) -> bool | None:
    try:
        return snapshot.shares_rdma
    except ProblemError:  # Only the explanation of a missing device lacks it.
        return None


def _add_nics(snapshot: Snapshot, pfs: list[Pf], describe_nic: DescribeNic) -> str:
    """Add the details of the PFs' NICs; return why there are none, or ""."""
    for pf, described in zip(snapshot.pfs, pfs, strict=True):
        snapshot.reading = f"the NIC of {pf.netdev or pf.address}"
        try:
            facts = describe_nic(pf)
        except ImportError as error:
            return packages.problem("doctor", error).text
        described.driver_version = facts.driver_version
        described.firmware = facts.firmware
        described.link_state = facts.link_state
        described.speed_mbps = facts.speed
        described.eswitch_mode = facts.eswitch_mode or described.eswitch_mode
    return ""


def _pf(snapshot: Snapshot, pf: pci.Pf, pods: Pods) -> Pf:
    config = snapshot.config
    counters = VfCounters()
    if "vfstats" in config.collectors:
        counters = snapshot.vf_counters[pf]
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
        netdev_in_sysfs=bool(pf.netdev) and os.path.isdir(f"{config.sysclassnet}/{pf.netdev}"),
        vf_list_wrapped=False,
        vf_list_dumped=False,
        link_problem=None,
        readers=[_reader_use(reader, config, pf, counters) for reader in readers.READERS],
        vfs=[_vf(number, address, counters, pods) for number, address in pf.vfs.items()],
    )


def _reader_use(
    reader: readers.Reader, config: Config, pf: pci.Pf, counters: VfCounters
) -> ReaderUse:
    return ReaderUse(
        reader.name,
        reader.name in counters.asked,
        counters.served.get(reader.name, 0),
        _why_not(reader, config, pf, counters),
        counters.failures.get(reader.name),
    )


def _why_not(reader: readers.Reader, config: Config, pf: pci.Pf, counters: VfCounters) -> str:
    """Return why a reader does not serve all VFs of the PF, or ""."""
    name, order, served = reader.name, config.vfstats_priority, counters.served
    own = served.get(name, 0)
    before = [other for other in served if name in order and other in order[: order.index(name)]]
    if own == len(pf.vfs):
        reason = ""
    elif "vfstats" not in config.collectors:
        reason = "switched off by --collector.vfstats"
    elif name not in order:
        reason = f"switched off by --collector.{name} or --collector.vfstatspriority"
    elif not pf.netdev:
        reason = "the PF has no netdev"
    elif own + sum(served[other] for other in before) == len(pf.vfs):
        others = " and ".join(before)
        reason = f"{others} served the others" if own else f"not used: {others} served every VF"
    elif name in counters.failures:
        reason = counters.failures[name].text
    else:
        reason = reader.no_counters(config, pf)
    return reason


def _vf(number: int, address: str, counters: VfCounters, pods: Pods) -> Vf:
    return Vf(
        number,
        address,
        counters=counters.by_vf.get(number, {}),
        held_back_since=counters.held_back.get(number),
        pods=pods.get(address, []),
    )


def _kubelet(snapshot: Snapshot) -> tuple[Kubelet, Pods]:
    """Ask the kubelet which pods use which devices, even if kubepoddevice is off."""
    config = snapshot.config
    kubelet = Kubelet("kubepoddevice" in config.collectors, config.kubeletsocket)
    pods: Pods = {}
    if not kubelet.enabled and not _may_exist(config.kubeletsocket):
        return kubelet, pods
    kubelet.asked = True
    try:
        for container, device in snapshot.pod_resources.uses:
            if device.is_auxiliary:  # A part of a PCI device; no VF has its name.
                continue
            users = pods.setdefault(device.name, [])
            if (pod := f"{container.namespace}/{container.pod}") not in users:
                users.append(pod)
    except ProblemError as error:
        kubelet.problem = error.problem
    kubelet.devices = len(pods)
    return kubelet, pods


def _may_exist(path: str) -> bool:
    """Return whether a file exists; if its directory is closed, as the kubelet's is, it may."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _containers(snapshot: Snapshot, kubelet: Kubelet, pfs: list[Pf]) -> list[Container]:
    """Return the containers with devices or CPUs, in a fixed order."""
    if not kubelet.asked or kubelet.problem:
        return []
    node_of = {vf.address: pf.numa_node for pf in pfs for vf in pf.vfs}
    found = []
    for container in snapshot.pod_resources.containers:
        nodes: dict[int, str] = {}
        if container.cpus:
            try:
                nodes = snapshot.numa_nodes
            except ProblemError:  # kubepoddevice reports it, if it is on.
                pass
        found.append(
            Container(
                name=f"{container.namespace}/{container.pod}/{container.name}",
                cpus=container.cpus,
                cpu_numa_nodes=sorted({nodes[cpu] for cpu in container.cpus if cpu in nodes}),
                devices=[_device(device, node_of) for device in container.devices],
            )
        )
    return found


def _device(device: podresources.Device, node_of: dict[str, str]) -> Device:
    nodes = device.numa_node or node_of.get(device.name, "")
    return Device(device.name, nodes.split(",") if nodes else [])


def _cpus(snapshot: Snapshot) -> Cpus:
    cpus = Cpus("kubepodcpu" in snapshot.config.collectors)
    if cpus.enabled:
        try:
            cpus.policy = snapshot.cpu_checkpoint.policy
        except ProblemError:  # kubepodcpu reports it.
            pass
        try:
            cpus.cgroups = snapshot.pod_cgroups.root
        except ProblemError:
            pass
    return cpus
