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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    NLMSGHDR,
    RTEXT_FILTER_VF,
    RTM_GETLINK,
    RTM_NEWLINK,
    VF_STATS,
)

IFLA_BROADCAST, IFLA_MTU, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_STATS64 = 2, 4, 13, 16, 23
IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME = 56, 57
IFLA_VF_RSS_QUERY_EN, IFLA_VF_IB_NODE_GUID, IFLA_VF_IB_PORT_GUID, IFLA_VF_BROADCAST = 7, 10, 11, 13
NLM_F_MULTI = 2
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
    guid: int | None = None  # node and port GUID, from a driver with ndo_get_vf_guid
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
    guids = b""
    if vf.guid is not None:
        guid = struct.pack("=I4xQ", vf.number, vf.guid)
        guids = _attribute(IFLA_VF_IB_NODE_GUID, guid) + _attribute(IFLA_VF_IB_PORT_GUID, guid)
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
        + guids
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


# Linux 5.10 forgets the GUIDs when it reserves space. In bytes: what it reserves for a link and for
# each VF, what they need, and what a buffer has beside its data. It allocates powers of two. With
# these numbers, EMSGSIZE comes for the same numbers of VFs as in the lab.
_RESERVED, _RESERVED_VF = 1900, 296
_NEEDED, _NEEDED_VF, _NEEDED_VF_WITH_GUIDS = 1400, 296, 336
_OVERHEAD = 320
_DUMP, _LARGE_DUMP = 4096 - _OVERHEAD, 32768 - _OVERHEAD


@dataclass(frozen=True)
class LinkSize:
    """How many VFs a link has, and whether its driver has GUIDs for them."""

    vfs: int = 0
    guids: bool = False

    @property
    def reserved(self) -> int:
        """The bytes that the kernel computes for a message about the link."""
        return _RESERVED + _RESERVED_VF * self.vfs

    @property
    def needed(self) -> int:
        """The bytes that the message has."""
        return _NEEDED + (_NEEDED_VF_WITH_GUIDS if self.guids else _NEEDED_VF) * self.vfs

    @property
    def fits(self) -> bool:
        """Whether the kernel can describe the link in one message."""
        return self.needed <= (1 << (self.reserved + _OVERHEAD - 1).bit_length()) - _OVERHEAD


class RtnetlinkServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers rtnetlink requests on the unix socket at `path`, in a thread of its own.

    `describe(netdev, sequence)` returns the reply about a netdev, or None if it does not
    exist; `links` returns all netdevs. `requests` counts the requests for each netdev, and those
    for all as "". While `mute` is set, requests are accepted and never answered. `stray` is sent
    before each answer, if it is set.
    """

    socket_type = socket.SOCK_SEQPACKET
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        path: str,
        describe: Callable[[str, int], bytes | None],
        links: Callable[[], Mapping[str, LinkSize]] = dict,
    ) -> None:
        super().__init__(path, _Connection)
        self.describe = describe
        self.links = links
        self.requests: dict[str, int] = {}
        self.mute = False
        self.stray = b""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: bytes) -> bytes:
        """Return the kernel's answer to a request that is not for a dump."""
        netdev, ext_mask = _asked(request)
        _, type, _, sequence, _ = NLMSGHDR.unpack_from(request)
        if type == NLMSG_NOOP:
            return encode_error(0, request)
        if type != RTM_GETLINK or not ext_mask & RTEXT_FILTER_VF:
            return encode_error(errno.EOPNOTSUPP, request)
        self.requests[netdev] = self.requests.get(netdev, 0) + 1
        if not self.links().get(netdev, LinkSize()).fits:
            return encode_error(errno.EMSGSIZE, request)
        return self.describe(netdev, sequence) or encode_error(errno.ENODEV, request)

    def dump(self, request: bytes, large: bool) -> Iterator[bytes]:
        """Yield the parts of the kernel's answer to a request for all links.

        `large` is whether the connection has received a message into a large buffer before.
        """
        self.requests[""] = self.requests.get("", 0) + 1
        sequence = NLMSGHDR.unpack_from(request)[3]
        sizes = {"lo": LinkSize(), **self.links()}
        space = max(_DUMP, *[size.reserved for size in sizes.values()])
        space = max(space, _LARGE_DUMP) if large else space
        part, left, error = b"", space, 0
        for netdev, size in sizes.items():
            if size.needed > left:
                if part:
                    yield part
                part, left = b"", space
            if size.needed > left:
                error = errno.EMSGSIZE
                break
            message = self.describe(netdev, sequence) or encode_link(
                netdev, "", bytes(6), 0, [], sequence
            )
            length, type, _, _, _ = NLMSGHDR.unpack_from(message)
            header = NLMSGHDR.pack(length, type, NLM_F_MULTI, sequence, 0)
            part += header + message[NLMSGHDR.size :]
            left -= size.needed
        if part:
            yield part
        done = NLMSGHDR.size + 4
        yield NLMSGHDR.pack(done, NLMSG_DONE, NLM_F_MULTI, sequence, 0) + struct.pack("=i", -error)


def _asked(request: bytes) -> tuple[str, int]:
    """Return the netdev and the mask in a request."""
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
    return netdev, ext_mask


class _Connection(socketserver.BaseRequestHandler):
    server: RtnetlinkServer
    request: socket.socket

    def handle(self) -> None:
        # A unix socket accepts a message only up to its buffer size; 1024 VFs have 300 KiB.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        # The kernel makes a dump's parts as large as the client's buffers; of a unix socket only
        # whether the client has received is known.
        received = False
        with contextlib.suppress(ConnectionError):  # The client may exit at any moment.
            while request := self.request.recv(4096):
                if NLMSGHDR.unpack_from(request)[2] & NLM_F_DUMP:
                    for part in self.server.dump(request, large=received):
                        self._answer(part)
                else:
                    self._answer(self.server.answer(request))
                received = True

    def _answer(self, answer: bytes) -> None:
        if self.server.stray:
            self.request.send(self.server.stray)
        if not self.server.mute:
            self.request.send(answer)
