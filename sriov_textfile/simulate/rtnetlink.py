"""Answers rtnetlink requests on a unix socket, in the layout of the kernel's replies.

The layout is that of rtnl_fill_ifinfo() and rtnl_fill_vfinfo() in the kernel's
net/core/rtnetlink.c. The tests and the lab compare its bytes with replies of real kernels.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sriov_textfile.host.rtnetlink import (
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_EXT_MASK,
    IFLA_IFNAME,
    IFLA_NUM_VF,
    IFLA_VF_INFO,
    IFLA_VF_LINK_STATE,
    IFLA_VF_MAC,
    IFLA_VF_RATE,
    IFLA_VF_SPOOFCHK,
    IFLA_VF_STATS,
    IFLA_VF_TRUST,
    IFLA_VF_TX_RATE,
    IFLA_VF_VLAN,
    IFLA_VF_VLAN_INFO,
    IFLA_VF_VLAN_LIST,
    IFLA_VFINFO_LIST,
    NLATTR,
    NLMSG_ERROR,
    NLMSGHDR,
    RTEXT_FILTER_VF,
    RTM_GETLINK,
    RTM_NEWLINK,
    VF_STATS,
)

IFLA_BROADCAST, IFLA_MTU, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_STATS64 = 2, 4, 13, 16, 23
IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME = 56, 57
IFLA_VF_RSS_QUERY_EN, IFLA_VF_BROADCAST = 7, 13
_RTNL_LINK_STATS64_SIZE = 200


@dataclass(frozen=True)
class LinkVf:
    """A VF as its driver describes it; -1 means not reported."""

    number: int
    mac: bytes = bytes(6)
    vlan: int = 0
    qos: int = 0
    vlan_proto: int = 0x8100
    spoofchk: int = 1
    link_state: int = 0
    min_tx_rate: int = 0
    max_tx_rate: int = 0
    rss_query_en: int = -1
    trust: int = 0
    stats: Mapping[str, int] = field(default_factory=dict)  # by suffix; a missing counter is 0


def encode_vf(vf: LinkVf, broadcast: bytes = b"\xff" * 6) -> bytes:
    """Return a VF's IFLA_VF_INFO; broadcast=b"" is for kernels without IFLA_VF_BROADCAST."""

    def fields(*values: int) -> bytes:
        return b"".join([struct.pack("=I", value & 0xFFFFFFFF) for value in (vf.number, *values)])

    vlan_info = fields(vf.vlan, vf.qos) + struct.pack(">H2x", vf.vlan_proto)
    stats = [
        _attribute(type, struct.pack("=Q", vf.stats.get(name, 0)))
        for type, name in VF_STATS.items()
    ]
    return _attribute(
        IFLA_VF_INFO,
        _attribute(IFLA_VF_MAC, fields() + vf.mac.ljust(32, b"\0"))
        + (_attribute(IFLA_VF_BROADCAST, broadcast.ljust(32, b"\0")) if broadcast else b"")
        + _attribute(IFLA_VF_VLAN, fields(vf.vlan, vf.qos))
        + _attribute(IFLA_VF_RATE, fields(vf.min_tx_rate, vf.max_tx_rate))
        + _attribute(IFLA_VF_TX_RATE, fields(vf.max_tx_rate))
        + _attribute(IFLA_VF_SPOOFCHK, fields(vf.spoofchk))
        + _attribute(IFLA_VF_LINK_STATE, fields(vf.link_state))
        + _attribute(IFLA_VF_RSS_QUERY_EN, fields(vf.rss_query_en))
        + _attribute(IFLA_VF_TRUST, fields(vf.trust))
        + _attribute(IFLA_VF_VLAN_LIST, _attribute(IFLA_VF_VLAN_INFO, vlan_info))
        + _attribute(IFLA_VF_STATS, b"".join(stats)),
    )


def encode_link(
    name: str,
    parent: str,
    address: bytes,
    num_vfs: int,
    vfs: Sequence[LinkVf],
    sequence: int = 0,
    broadcast: bytes = b"\xff" * 6,
) -> bytes:
    """Return the RTM_NEWLINK message that describes a PF's netdev with its VFs."""
    attributes = (
        _attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")
        + _attribute(IFLA_TXQLEN, struct.pack("=I", 1000))
        + _attribute(IFLA_OPERSTATE, b"\6")
        + _attribute(IFLA_MTU, struct.pack("=I", 1500))
        + _attribute(IFLA_ADDRESS, address)
        + _attribute(IFLA_BROADCAST, b"\xff" * len(address))
        + _attribute(IFLA_STATS64, bytes(_RTNL_LINK_STATS64_SIZE))
        + _attribute(IFLA_NUM_VF, struct.pack("=I", num_vfs))
    )
    if num_vfs:
        entries = b"".join([encode_vf(vf, broadcast) for vf in vfs])
        attributes += _attribute(IFLA_VFINFO_LIST, entries)
    attributes += _attribute(IFLA_PARENT_DEV_NAME, parent.encode() + b"\0")
    attributes += _attribute(IFLA_PARENT_DEV_BUS_NAME, b"pci\0")
    body = IFINFOMSG.pack(0, 1, 2, 0x11043, 0) + attributes
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), RTM_NEWLINK, 0, sequence, 0) + body


def _attribute(type: int, payload: bytes) -> bytes:
    """Return one attribute; as in the kernel, a length of more than 16 bits wraps."""
    length = (NLATTR.size + len(payload)) & 0xFFFF
    return NLATTR.pack(length, type) + payload + b"\0" * (-len(payload) % 4)


def encode_error(code: int, request: bytes) -> bytes:
    """Return the NLMSG_ERROR with which the kernel refuses a request."""
    sequence = NLMSGHDR.unpack_from(request)[3]
    body = struct.pack("=i", -code) + request
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), NLMSG_ERROR, 0, sequence, 0) + body


class RtnetlinkServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers rtnetlink requests on the unix socket at `path`, in a thread of its own.

    `describe(netdev, sequence)` returns the reply about a netdev, or None if it does not
    exist. `requests` counts the requests for each netdev. While `mute` is set, requests are
    accepted and never answered. `stray` is sent before each answer, if it is set.
    """

    socket_type = socket.SOCK_SEQPACKET
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, describe: Callable[[str, int], bytes | None]) -> None:
        super().__init__(path, _Connection)
        self.describe = describe
        self.requests: dict[str, int] = {}
        self.mute = False
        self.stray = b""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: bytes) -> bytes:
        """Return the kernel's answer to a request."""
        netdev, ext_mask = "", 0
        offset = NLMSGHDR.size + IFINFOMSG.size
        while offset < len(request):
            length, type = NLATTR.unpack_from(request, offset)
            payload = request[offset + NLATTR.size : offset + length]
            if type == IFLA_IFNAME:
                netdev = os.fsdecode(payload.rstrip(b"\0"))
            elif type == IFLA_EXT_MASK:
                ext_mask = struct.unpack("=I", payload)[0]
            offset += (length + 3) & ~3
        _, type, _, sequence, _ = NLMSGHDR.unpack_from(request)
        if type != RTM_GETLINK or not ext_mask & RTEXT_FILTER_VF:
            return encode_error(errno.EOPNOTSUPP, request)
        self.requests[netdev] = self.requests.get(netdev, 0) + 1
        return self.describe(netdev, sequence) or encode_error(errno.ENODEV, request)


class _Connection(socketserver.BaseRequestHandler):
    server: RtnetlinkServer
    request: socket.socket

    def handle(self) -> None:
        # A unix socket accepts a message only up to its buffer size; 1024 VFs have 300 KiB.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with contextlib.suppress(ConnectionError):  # The client may exit at any moment.
            while request := self.request.recv(4096):
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        answer = self.server.answer(request)
        if self.server.stray:
            self.request.send(self.server.stray)
        if not self.server.mute:
            self.request.send(answer)
