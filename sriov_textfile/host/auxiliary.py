"""Reads devices on the kernel's auxiliary bus, such as the scalable functions of a PF.

The bus: Documentation/driver-api/auxiliary_bus.rst in the kernel's source.
"""

from __future__ import annotations

import os


def function(root: str, name: str) -> tuple[str, str]:
    """Return the PCI address of a device's PF, and its netdev, "" if it has none here.

    `root` is /sys/bus/auxiliary/devices, whose links lead to folders below the PF's. A pod takes
    the netdev into its own network namespace. Raises OSError.
    """
    target = os.readlink(f"{root}/{name}")
    address = os.path.basename(os.path.dirname(target))
    try:
        netdevs = sorted(os.listdir(f"{root}/{name}/net"))
    except FileNotFoundError:
        netdevs = []
    return address, netdevs[0] if netdevs else ""
