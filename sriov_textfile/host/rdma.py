"""Reads the counters of RDMA devices (RoCE, InfiniBand) in sysfs.

They are in `infiniband/<device>/ports/<port>/` below the PCI device: those that InfiniBand defines
in `counters`, and those of the driver in `hw_counters`. The format: the kernel's
Documentation/ABI/stable/sysfs-class-infiniband.
"""

from __future__ import annotations

import os

from sriov_textfile.host.files import ABSENT, names, read, read_at, to_u64
from sriov_textfile.problems import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_WORDS = ("port_rcv_data", "port_xmit_data")  # InfiniBand counts them in words of four octets.


class Port:
    """A port of an RDMA device."""

    __slots__ = ("counters", "device", "number")

    def __init__(self, device: str, number: str, counters: dict[str, int]) -> None:
        self.device = device  # infiniband/<device>
        self.number = number  # ports/<number>, from 1 on
        # By their names in sysfs, but port_rcv_data and port_xmit_data in bytes.
        self.counters = counters


def ports(pci_device: str, skip: Callable[[Problem], None]) -> list[Port]:
    """Return the ports of the RDMA devices that this network namespace shows of a PCI device.

    A counter that the device lacks is left out. One that cannot be read, or is no number, is passed
    to `skip` and left out. Raises OSError.
    """
    found = []
    for device in devices(pci_device):
        folder = f"{pci_device}/infiniband/{device}/ports"
        for number in sorted(names(folder)):
            counters = _counters(f"{folder}/{number}/counters", skip)
            for name in _WORDS:
                if name in counters:
                    counters[name] *= 4
            counters.update(_counters(f"{folder}/{number}/hw_counters", skip))
            found.append(Port(device, number, counters))
    return found


def devices(pci_device: str) -> list[str]:
    """Return the RDMA devices that this network namespace shows of a PCI device; raises OSError."""
    return sorted(names(f"{pci_device}/infiniband"))


def shares_devices(sysfs: str) -> bool | None:
    """Return whether all network namespaces see all RDMA devices; None if unknown.

    If not, a device is visible only in the namespace that it was moved to: `rdma system` calls the
    modes shared and exclusive. The module's parameter follows them. Raises OSError.
    """
    return {"Y": True, "N": False}.get(read(f"{sysfs}/module/ib_core/parameters/netns_mode") or "")


def _counters(path: str, skip: Callable[[Problem], None]) -> dict[str, int]:
    try:
        folder = os.open(path, _FOLDER | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in ABSENT:
            return {}
        raise
    values = {}
    try:
        for name in sorted(os.listdir(folder)):
            try:
                text = read_at(name, folder, os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in ABSENT:
                    reason = f"cannot read {path}/{name}: {error.strerror}"
                    skip(Problem("unreadable", f"{path}/{name}", reason))
                continue
            value = to_u64(text)
            if not (name.isascii() and name.replace("_", "a").isalnum()):
                reason = f"{path}: {name!r} cannot be part of a metric name"
                skip(Problem("bad-counter", f"{path}/{name}", reason))
            elif value is not None:
                values[name] = value
            elif not text.startswith("N/A"):  # what older kernels write for a missing counter
                reason = f"{path}: {name} is not an unsigned 64-bit integer"
                skip(Problem("bad-counter", f"{path}/{name}", reason))
    finally:
        os.close(folder)
    return values
