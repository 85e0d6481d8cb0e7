"""Reads details of a NIC that no metric has: driver version, firmware, link, eswitch mode.

The formats: the kernel's include/uapi/linux/if.h, ethtool.h and devlink.h. pyroute2 handles
rtnetlink, ethtool and devlink, but has no request for the driver's version and firmware.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from sriov_textfile.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sriov_textfile.host.pci import Pf

    Fact = TypeVar("Fact")

_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
_IFREQ = struct.Struct("16sP16x")  # name, address of the data
# struct ethtool_drvinfo: command, driver, version, fw_version, and unused fields
_DRVINFO = struct.Struct("=I32s32s32s96x")
_SPEED_UNKNOWN = (0, 0xFFFF, 0xFFFFFFFF)
_ESWITCH_MODES = {0: "legacy", 1: "switchdev"}  # enum devlink_eswitch_mode


@dataclass
class Nic:
    """A PF's NIC as its driver describes it; None means unknown."""

    driver_version: str | None = None  # an in-tree driver reports the kernel's version
    firmware: str | None = None
    link_state: str | None = None  # up, down and the other values of IFLA_OPERSTATE
    speed: int | None = None  # Mbit/s; None while there is no link
    eswitch_mode: str | None = None  # legacy, switchdev; devlink reports it to root only


def link_speed(sysclassnet: str, netdev: str) -> int | None:
    """Return the speed of a netdev's link in Mbit/s; None if it is down or unknown.

    The file: the kernel's Documentation/ABI/testing/sysfs-class-net.
    """
    try:
        speed = files.read_int(f"{sysclassnet}/{netdev}/speed")
    except OSError:
        return None
    return None if speed in _SPEED_UNKNOWN else speed


def describe(pf: Pf) -> Nic:
    """Return the details of a PF's NIC; raises ImportError if pyroute2 is not installed."""
    import pyroute2  # noqa: F401 - it takes 110 ms to import

    if not pf.netdev:
        return Nic(eswitch_mode=_or_none(_eswitch_mode, pf.address))
    driver_version, firmware = _or_none(_driver_and_firmware, pf.netdev) or (None, None)
    return Nic(
        driver_version=driver_version,
        firmware=firmware,
        link_state=_or_none(_link_state, pf.netdev),
        speed=_or_none(_speed, pf.netdev),
        eswitch_mode=_or_none(_eswitch_mode, pf.address),
    )


def _or_none(read: Callable[[str], Fact | None], name: str) -> Fact | None:
    """Return what `read` returns for a netdev or PCI address, or None if it fails.

    Many drivers lack some of the details, the errors differ by kernel and pyroute2 version, and
    no metric depends on them.
    """
    try:
        return read(name)
    except Exception:
        return None


def _driver_and_firmware(netdev: str) -> tuple[str | None, str | None]:
    info = array.array("B", _DRVINFO.pack(_ETHTOOL_GDRVINFO, b"", b"", b""))
    request = _IFREQ.pack(os.fsencode(netdev), info.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    _, _, version, firmware = _DRVINFO.unpack(info.tobytes())
    return _text(version), _text(firmware)


def _text(field: bytes) -> str | None:
    text = field.partition(b"\0")[0].decode("utf-8", "replace").strip()
    return None if text in ("", "N/A") else text


def _link_state(netdev: str) -> str:
    from pyroute2 import IPRoute

    with IPRoute() as rtnetlink:
        # Without RTEXT_FILTER_VF, because the VFs have already been read.
        (link,) = rtnetlink.link("get", ifname=netdev, ext_mask=0)
    state: str = link.get("operstate")
    return state.lower()


def _speed(netdev: str) -> int | None:
    from pyroute2.ethtool.ioctl import IoctlEthtool

    ethtool = IoctlEthtool(netdev)
    try:
        speed = int(ethtool.get_link_settings().speed)
    finally:
        ethtool.close()
    return None if speed in _SPEED_UNKNOWN else speed


def _eswitch_mode(address: str) -> str | None:
    from pyroute2 import DL
    from pyroute2.netlink import NLM_F_REQUEST
    from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd

    with DL() as devlink:
        for device in devlink.list():
            if device.get("dev_name") != address:
                continue
            request = devlinkcmd()
            request["cmd"] = DEVLINK_NAMES["DEVLINK_CMD_ESWITCH_GET"]
            for name in ("DEVLINK_ATTR_BUS_NAME", "DEVLINK_ATTR_DEV_NAME"):
                request["attrs"].append((name, device.get_attr(name)))
            (answer,) = devlink.nlm_request(request, msg_type=devlink.prid, msg_flags=NLM_F_REQUEST)
            return _ESWITCH_MODES.get(answer.get_attr("DEVLINK_ATTR_ESWITCH_MODE"))
    return None
