"""Finds the physical functions (PFs), their virtual functions (VFs) and netdevs in sysfs.

The files: the kernel's Documentation/ABI/testing/sysfs-bus-pci and sysfs-class-net.
"""

from __future__ import annotations

import os

from sriov_textfile.host.files import ABSENT, names, read, read_int, to_u64
from sriov_textfile.problems import Problem, cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Skip = Callable[[Problem], None]

# PCI class codes, without the programming interface.
_NETWORK_CLASSES = {"0x0200": "Ethernet", "0x0207": "InfiniBand", "0x0280": "other network"}


class Pf:
    """A physical function, or one of its ports if several ports share the PCI address."""

    __slots__ = (
        "address",
        "driver",
        "kind",
        "netdev",
        "num_vfs",
        "numa_node",
        "port",
        "switchdev",
        "total_vfs",
        "vfs",
    )

    def __init__(self, address: str) -> None:
        self.address = address  # 0000:3b:00.0, the name below /sys/bus/pci/devices
        self.kind = ""  # class: Ethernet, InfiniBand, other network
        self.netdev = ""  # net/<netdev>; "" if it has none, as with vfio-pci
        self.port = 0  # the number of the port, from 1; 0 if it is the only one
        self.driver = ""  # target of the link `driver`; "" if there is none
        self.numa_node = ""  # numa_node; "" if the kernel reports -1
        self.total_vfs = 0  # sriov_totalvfs
        self.num_vfs: int | None = None  # sriov_numvfs
        self.switchdev = False  # whether phys_switch_id names an embedded switch
        self.vfs: dict[int, str] = {}  # virtfn<N>: PCI address of VF N, in the order of N


def discover(sysbuspci: str, skip: Skip) -> list[Pf]:
    """Return every network PF below `sysbuspci`, in the order of PCI addresses and ports.

    A device or VF that disappears while it is read is left out; a device that cannot be read is
    passed to `skip` and left out. Raises OSError if `sysbuspci` itself cannot be read.
    """
    pfs: list[Pf] = []
    vf_addresses: set[str] = set()
    # In this order a PF comes before its VFs, so the directories of VFs need not be read.
    for address in sorted(os.listdir(sysbuspci)):
        if address in vf_addresses:
            continue
        try:
            ports = _ports(sysbuspci, address, skip)
        except OSError as error:
            reason = f"cannot read PCI device {address}: {cause(error)}"
            skip(Problem("unreadable-device", address, reason))
            continue
        if ports:
            vf_addresses.update(ports[0].vfs.values())
            pfs += ports
    pfs.sort(key=lambda pf: _position(pf.address))
    return pfs


def vf_driver_and_netdev(sysbuspci: str, address: str) -> tuple[str, str]:
    """Return the driver that a VF is bound to and its netdev, each "" if it has none.

    A VF that a pod or virtual machine uses is bound to vfio-pci, or its netdev is in another
    network namespace. Raises OSError.
    """
    device = f"{sysbuspci}/{address}"
    netdevs = sorted(names(f"{device}/net"))
    return _link_name(f"{device}/driver") or "", netdevs[0] if netdevs else ""


def is_userspace(driver: str) -> bool:
    """Return whether a driver assigns a device to a virtual machine or to a program in userspace.

    Some NICs have a VFIO driver of their own, such as mlx5_vfio_pci, for live migration.
    """
    # vfio-pci, mlx5_vfio_pci, igb_uio, uio_pci_generic
    return "vfio" in driver or "uio" in driver or driver == "pci-stub"


def _ports(sysbuspci: str, address: str, skip: Skip) -> list[Pf]:
    """Return the network PF at this address, once for each of its ports; [] if there is none.

    A detail that cannot be read is passed to `skip` and left empty: it is not needed to find the
    PF's VFs and netdev.
    """

    def detail(name: str) -> str:
        try:
            return read(f"{device}/{name}") or ""
        except OSError as error:
            path = f"{device}/{name}"
            skip(Problem("unreadable", path, f"cannot read {cause(error)}"))
            return ""

    device = f"{sysbuspci}/{address}"
    total_vfs = read_int(f"{device}/sriov_totalvfs")
    if total_vfs is None:  # True of most devices, of which nothing else is read.
        return []
    kind = _NETWORK_CLASSES.get((read(f"{device}/class") or "")[:6])
    if kind is None:
        return []
    # The ports share the device, which is read once.
    driver = _link_name(f"{device}/driver") or ""
    numa_node = _number_or_empty(detail("numa_node"))
    num_vfs = to_u64(detail("sriov_numvfs"))
    vfs = _vfs(device)
    ports = []
    netdevs = _netdevs(f"{device}/net") or [""]
    for number, netdev in enumerate(netdevs, 1):
        pf = Pf(address)
        pf.port = number if len(netdevs) > 1 else 0
        pf.kind = kind
        pf.netdev = netdev
        pf.driver = driver
        pf.numa_node = numa_node
        pf.total_vfs = total_vfs
        pf.num_vfs = num_vfs
        pf.switchdev = bool(netdev and detail(f"net/{netdev}/phys_switch_id"))
        pf.vfs = vfs
        ports.append(pf)
    return ports


def _vfs(device: str) -> dict[int, str]:
    """Return the VFs' PCI addresses by number, from the links virtfn0, virtfn1 …."""
    try:
        folder = os.open(device, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in ABSENT:
            return {}
        raise
    try:
        links = [name for name in os.listdir(folder) if name.startswith("virtfn")]
        vfs = {}
        # Relative to the directory, because resolving the whole path each time is slower.
        for number in sorted([int(name[6:]) for name in links if name[6:].isdecimal()]):
            if address := _link_name(f"virtfn{number}", folder):
                vfs[number] = address
        return vfs
    finally:
        os.close(folder)


def _netdevs(net: str) -> list[str]:
    """Return the PF's own netdevs, one for each port, in the order of ports.

    In switchdev mode `net` also has a representor for each VF (`pf0vf3`, `pf0sf88`, on a DPU
    `c1pf0vf3`) next to the uplink (`p0`). On InfiniBand it also has a child for each partition,
    created after the port's own netdev. The port names: the kernel's
    Documentation/networking/switchdev.rst.
    """
    port_names = {name: read(f"{net}/{name}/phys_port_name") or "" for name in names(net)}
    uplinks = [name for name, port in port_names.items() if _is_numbered(port, "p")]
    own = uplinks or [name for name, port in port_names.items() if not _is_representor(port)]
    if len(own) < 2:
        return own
    oldest: dict[tuple[int, str], str] = {}  # by port: number and name
    for name in sorted(own, key=lambda name: read_int(f"{net}/{name}/ifindex") or 0):
        oldest.setdefault((read_int(f"{net}/{name}/dev_port") or 0, port_names[name]), name)
    return [oldest[port] for port in sorted(oldest)]


def _is_representor(port_name: str) -> bool:
    controller, _, _ = port_name.partition("pf")
    return port_name.startswith("pf") or _is_numbered(controller, "c")


def _is_numbered(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdecimal()


def _number_or_empty(text: str) -> str:
    return text if to_u64(text) is not None else ""


def _link_name(path: str, dir_fd: int | None = None) -> str | None:
    try:
        return os.readlink(path, dir_fd=dir_fd).rpartition("/")[2]
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise


def _position(address: str) -> tuple[int, ...]:
    """Return an address as a sort key of numbers, because a domain may have five digits."""
    try:
        return tuple([int(part, 16) for part in address.replace(".", ":").split(":")])
    except ValueError:
        return ()
