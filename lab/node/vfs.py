"""The node's VFs, as sysfs has them."""

from __future__ import annotations

from pathlib import Path

RESOURCE = "example.com/vfs"
VARIABLE = "PCIDEVICE_EXAMPLE_COM_VFS"
PFS = Path("/sys/bus/pci/drivers/igb")


def create() -> None:
    """Give each PF seven VFs."""
    for pf in PFS.glob("0000:*"):
        (pf / "sriov_numvfs").write_text("7")


def numa_nodes() -> dict[str, int]:
    """Return the NUMA node of each VF, by PCI address."""
    links = sorted(PFS.glob("0000:*/virtfn*"))
    return {link.readlink().name: int((link / "numa_node").read_text()) for link in links}
