"""Requests a PF's link from the kernel, and decodes the VFs in the reply.

One RTM_GETLINK request per PF, by name and with RTEXT_FILTER_VF, makes the driver fill in each
VF's configuration and counters once. If the kernel cannot do that, a dump of all links may have the
PF. The formats: the kernel's include/uapi/linux/netlink.h, rtnetlink.h and if_link.h, and
rtnl_fill_vfinfo() in net/core/rtnetlink.c.
"""

from __future__ import annotations

# The module socket, which wraps this one, imports enum and selectors: 8 ms, almost as long as
# starting Python takes.
import _socket
import errno
import os
import time
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

RTM_NEWLINK, RTM_GETLINK = 16, 18
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
RTEXT_FILTER_VF = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_NUM_VF, IFLA_VFINFO_LIST, IFLA_EXT_MASK = 1, 3, 21, 22, 29
IFLA_VF_INFO = 1
IFLA_VF_MAC, IFLA_VF_VLAN, IFLA_VF_TX_RATE, IFLA_VF_SPOOFCHK, IFLA_VF_LINK_STATE = 1, 2, 3, 4, 5
IFLA_VF_RATE, IFLA_VF_STATS, IFLA_VF_TRUST, IFLA_VF_VLAN_LIST = 6, 8, 9, 12
IFLA_VF_VLAN_INFO = 1

# The metric's suffix for each attribute in IFLA_VF_STATS; 6 is padding. Broadcast and multicast
# are received packets (struct ifla_vf_stats).
VF_STATS = {
    0: "rx_packets",
    1: "tx_packets",
    2: "rx_bytes",
    3: "tx_bytes",
    4: "rx_broadcast",
    5: "rx_multicast",
    7: "rx_dropped",
    8: "tx_dropped",
}
# The fields of the other attributes: each a u32, in this order, after the u32 number of the VF.
VF_FIELDS = {
    IFLA_VF_VLAN: ("vlan", "qos"),
    IFLA_VF_TX_RATE: ("tx_rate",),
    IFLA_VF_SPOOFCHK: ("spoofchk",),
    IFLA_VF_LINK_STATE: ("link_state",),
    IFLA_VF_RATE: ("min_tx_rate", "max_tx_rate"),
    IFLA_VF_TRUST: ("trust",),
}
LINK_STATES = {0: "auto", 1: "enable", 2: "disable"}
VLAN_PROTOCOLS = {0x8100: "802.1Q", 0x88A8: "802.1ad"}
NOT_SET = 0xFFFFFFFF  # spoofchk and trust, if the driver does not report them

NLMSGHDR = Struct("=IHHII")  # length, type, flags, sequence number, port
IFINFOMSG = Struct("=BxHiII")  # family, device type, index, flags, change
NLATTR = Struct("=HH")  # length with this header, type
_U32 = Struct("=I")
_unpack_header = NLATTR.unpack_from
_unpack_u32 = _U32.unpack_from
_I32 = Struct("=i")
_BE16 = Struct(">H")

EMSGSIZE_HINT = (
    'use a kernel with the commit 23f00807619d ("rtnetlink: Allocate vfinfo size for VF GUIDs when'
    ' supported"), or another number of VFs'
)

_HEADERS = NLMSGHDR.size + IFINFOMSG.size
_DUMP_BUFFER = 1 << 15  # the largest that the kernel takes into account
_TYPE_MASK = 0x3FFF  # an attribute's type without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class NetlinkDecodeError(ValueError):
    """Raised for a reply that is not an RTM_NEWLINK message, is cut off or contradicts itself."""


class NetlinkError(OSError):
    """Raised when the kernel refuses a request or does not answer; `hint` is what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class NoSuchNetdevError(NetlinkError):
    """Raised when this network namespace has no netdev of that name."""


class MessageSizeError(NetlinkError):
    """Raised when the kernel has reserved too little space to describe a netdev (EMSGSIZE)."""


class Link:
    """A netdev as the kernel describes it; `vfs` has the listed VFs by number.

    `wrapped` is whether the list is longer than its 16-bit length can express: programs that
    trust the length find fewer VFs, or none. `dumped` is whether it took a dump of all links.
    """

    __slots__ = ("dumped", "name", "num_vfs", "vfs", "wrapped")

    def __init__(self, name: str, num_vfs: int, vfs: dict[int, Vf], wrapped: bool) -> None:
        self.name = name  # IFLA_IFNAME
        self.num_vfs = num_vfs  # IFLA_NUM_VF; 0 if the kernel does not report it
        self.vfs = vfs  # IFLA_VFINFO_LIST
        self.wrapped = wrapped
        self.dumped = False


class Vf:
    """One VF as the PF's driver describes it.

    `stats` has the kernel's counters by the metric's suffix (`rx_bytes`). A property is None if
    the kernel or the driver does not report it.
    """

    __slots__ = ("_entry", "_layout", "stats")

    def __init__(self, layout: _Layout, entry: bytes) -> None:
        self._layout = layout
        self._entry = entry
        counters = layout.unpack_counters(entry)
        self.stats: dict[str, int] = dict(zip(layout.counters, counters))  # noqa: B905

    def _u32(self, field: str) -> int | None:
        offset = self._layout.fields.get(field)
        return None if offset is None else _u32(self._entry, offset)

    def _flag(self, field: str) -> bool | None:
        value = self._u32(field)
        return None if value in (None, NOT_SET) else bool(value)

    @property
    def mac(self) -> str | None:
        """The hardware address, as long as the PF's own: 6 bytes, or 20 on InfiniBand."""
        offset = self._layout.fields.get("mac")
        if offset is None:
            return None
        return self._entry[offset : offset + self._layout.address_length].hex(":")

    @property
    def vlan(self) -> int | None:
        """The VLAN that the PF puts the VF's packets in; 0 means none."""
        return self._u32("vlan")

    @property
    def qos(self) -> int | None:
        """The 802.1p priority of the VF's packets in that VLAN."""
        return self._u32("qos")

    @property
    def vlan_proto(self) -> str | None:
        """The VLAN's protocol, 802.1Q or 802.1ad."""
        offset = self._layout.fields.get("vlan_proto")
        if offset is None:
            return None
        proto: int = _BE16.unpack_from(self._entry, offset)[0]
        return VLAN_PROTOCOLS.get(proto, f"{proto:#06x}")

    @property
    def spoofchk(self) -> bool | None:
        """Whether the NIC drops packets that the VF sends from an address that is not its own."""
        return self._flag("spoofchk")

    @property
    def trust(self) -> bool | None:
        """Whether the VF may change its MAC address and enter promiscuous mode."""
        return self._flag("trust")

    @property
    def link_state(self) -> str | None:
        """The link that the VF sees: `auto` (the PF's), `enable` or `disable`."""
        state = self._u32("link_state")
        return None if state is None else LINK_STATES.get(state)

    @property
    def min_tx_rate(self) -> int | None:
        """The guaranteed rate in Mbit/s; 0 means none."""
        return self._u32("min_tx_rate")

    @property
    def max_tx_rate(self) -> int | None:
        """The rate limit in Mbit/s; 0 means none."""
        rate = self._u32("max_tx_rate")
        return self._u32("tx_rate") if rate is None else rate


class Rtnetlink:
    """A connection to the kernel's rtnetlink, open for one collection."""

    def __init__(self, path: str, deadline: float) -> None:
        """Connect to the kernel, or to the unix socket at `path` if one is given.

        `deadline` is when to stop waiting for replies, on the clock of time.monotonic().
        Raises NetlinkError.
        """
        self._deadline = deadline
        self._sequence = 0
        family = _socket.AF_UNIX if path else _socket.AF_NETLINK
        kind = _socket.SOCK_SEQPACKET if path else _socket.SOCK_RAW
        try:
            self._socket = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
        except OSError as error:
            raise _unavailable(error) from None
        try:
            # A connected socket receives messages only from the kernel (port 0).
            self._socket.connect(path or (0, 0))
        except OSError as error:
            self._socket.close()
            raise _unavailable(error) from None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def link(self, netdev: str) -> Link:
        """Return the netdev's link with its VFs, from one request to the kernel.

        Raises NetlinkError, NetlinkDecodeError.
        """
        self._sequence += 1
        reply = self._exchange(netdev, request(netdev, self._sequence))
        _raise_refusal(reply, netdev)
        link = decode_link(reply)
        if link.name != netdev:
            raise NetlinkDecodeError(f"the reply is about {link.name!r}, not {netdev}")
        return link

    def dump(self, netdevs: Collection[str]) -> tuple[dict[str, bytes], int]:
        """Return the RTM_NEWLINK messages about these netdevs from a dump of all links.

        The kernel fills in all VFs of all PFs, and writes as many links into a buffer as it has
        space for. The buffer has 32 KiB if the socket has received a message into one of that size
        before; otherwise it is as large as for a request by name. At a link that is too large for
        an empty buffer the dump ends, with an error that is returned too: EMSGSIZE, or else 0
        (rtnl_dump_ifinfo() in net/core/rtnetlink.c, netlink_dump() in net/netlink/af_netlink.c).
        Raises NetlinkError, NetlinkDecodeError.
        """
        what = "all links"
        self._sequence += 1
        self._exchange(what, _noop(self._sequence), _DUMP_BUFFER)  # without the RTNL lock
        self._sequence += 1
        part = self._exchange(what, request("", self._sequence))
        links: dict[str, bytes] = {}
        while True:
            for type, message in _messages(part):
                if type in (NLMSG_DONE, NLMSG_ERROR):
                    return links, _error_code(message)
                if (name := _name(message)) in netdevs:
                    links[name] = message
            part = self._exchange(what)

    def _exchange(self, what: str, request: bytes = b"", buffer: int = 0) -> bytes:
        """Return the reply to a request, or without one the next part of the last reply.

        It is received into a buffer of at least `buffer` bytes. Raises NetlinkError.
        """
        try:
            self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
            if request:
                self._socket.send(request)
            return self._receive(buffer)
        except TimeoutError:
            raise NetlinkError(
                f"the kernel did not answer the request for {what} in time",
                "see dmesg for messages of the driver",
            ) from None
        except OSError as error:
            raise NetlinkError(f"cannot request {what} via rtnetlink: {error.strerror}") from None

    def _receive(self, buffer: int = 0) -> bytes:
        """Return the reply to the last request, and skip late replies to earlier ones."""
        while True:
            # With MSG_TRUNC the kernel returns a message's whole length, however short the buffer
            # is, and MSG_PEEK leaves it queued. A buffer of fixed size would truncate replies.
            peek = _socket.MSG_PEEK | _socket.MSG_TRUNC
            length = self._socket.recv_into(bytearray(1), 1, peek)
            reply = self._socket.recv(max(length, buffer))
            if not reply:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if len(reply) < NLMSGHDR.size or NLMSGHDR.unpack_from(reply)[3] == self._sequence:
                return reply


def _unavailable(error: OSError) -> NetlinkError:
    return NetlinkError(
        f"cannot open an rtnetlink socket: {error.strerror}",
        "allow AF_NETLINK in the service's sandbox (RestrictAddressFamilies=)",
    )


def request(netdev: str, sequence: int) -> bytes:
    """Return the request for a netdev, or for all if it is ""."""
    body = IFINFOMSG.pack(0, 0, 0, 0, 0) + _attribute(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_VF))
    flags = NLM_F_REQUEST | NLM_F_DUMP
    if netdev:
        body += _attribute(IFLA_IFNAME, os.fsencode(netdev) + b"\0")
        flags = NLM_F_REQUEST
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), RTM_GETLINK, flags, sequence, 0) + body


def _noop(sequence: int) -> bytes:
    """Return a message that the kernel only acknowledges."""
    return NLMSGHDR.pack(NLMSGHDR.size, NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, sequence, 0)


def _attribute(type: int, payload: bytes) -> bytes:
    padding = b"\0" * (-len(payload) % 4)
    return NLATTR.pack(NLATTR.size + len(payload), type) + payload + padding


def _raise_refusal(reply: bytes, netdev: str) -> None:
    """Raise NetlinkError if the reply is an NLMSG_ERROR."""
    if len(reply) < NLMSGHDR.size + 4 or NLMSGHDR.unpack_from(reply)[1] != NLMSG_ERROR:
        return
    code = _error_code(reply)
    if code == errno.ENODEV:
        raise NoSuchNetdevError(
            f"the kernel has no netdev {netdev} in this network namespace",
            "run in the host's network namespace (in a pod: hostNetwork: true)",
        )
    reason = os.strerror(code) if 0 < code < 4096 else f"error {code}"  # MAX_ERRNO is 4095
    error = MessageSizeError if code == errno.EMSGSIZE else NetlinkError
    raise error(f"the kernel refused to describe {netdev}: {reason}")


def _error_code(message: bytes) -> int:
    """Return the errno in an NLMSG_ERROR or NLMSG_DONE, where it is negative; 0 means success."""
    code: int = _I32.unpack(message[NLMSGHDR.size : NLMSGHDR.size + 4].ljust(4, b"\0"))[0]
    return -code


def _messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes of each message in a part of a dump."""
    offset = 0
    while offset < len(part):
        header = part[offset : offset + NLMSGHDR.size].ljust(NLMSGHDR.size, b"\0")
        length, type, *_ = NLMSGHDR.unpack(header)
        if not NLMSGHDR.size <= length <= len(part) - offset:
            raise NetlinkDecodeError(f"the message at byte {offset} of a dump has a wrong length")
        yield type, part[offset : offset + length]
        offset += (length + 3) & ~3


def _name(message: bytes) -> str:
    """Return the netdev that a message of a dump is about, or "" if it has no name."""
    for type, start, stop in _attributes(message, _HEADERS, len(message)):
        if type == IFLA_IFNAME:  # The kernel writes it first.
            return os.fsdecode(message[start:stop].partition(b"\0")[0])
    return ""


def decode_link(reply: bytes) -> Link:
    """Return the link that one RTM_NEWLINK message describes.

    Raises NetlinkDecodeError.
    """
    if len(reply) < _HEADERS:
        raise NetlinkDecodeError(
            f"the reply has {len(reply)} bytes, fewer than the {_HEADERS} of its headers"
        )
    end, type, *_ = NLMSGHDR.unpack_from(reply)
    if type != RTM_NEWLINK:
        raise NetlinkDecodeError(f"the reply is of type {type}, not RTM_NEWLINK")
    if not _HEADERS <= end <= len(reply):
        raise NetlinkDecodeError(
            f"the reply has {len(reply)} bytes, but its header specifies {end}"
        )
    reply = reply[:end]
    name, address_length, num_vfs = "", 6, 0
    for type, start, stop in _attributes(reply, _HEADERS, end):
        if type == IFLA_IFNAME:
            name = os.fsdecode(reply[start:stop].partition(b"\0")[0])
        elif type == IFLA_ADDRESS:
            address_length = stop - start
        elif type == IFLA_NUM_VF and stop - start >= 4:
            num_vfs = _u32(reply, start)
        elif type == IFLA_VFINFO_LIST:
            # If the list's length has wrapped, the attributes after the list cannot be found. They
            # are not needed: the kernel writes the attributes above before the list.
            vfs, end_of_list = _vfs(reply, start, stop, num_vfs, address_length)
            return Link(name, num_vfs, vfs, wrapped=end_of_list > stop)
    return Link(name, num_vfs, {}, wrapped=False)


def _vfs(
    reply: bytes, start: int, stop: int, num_vfs: int, address_length: int
) -> tuple[dict[int, Vf], int]:
    """Return the VFs of an IFLA_VFINFO_LIST whose payload starts at `start`, and where it ends.

    An attribute's length has 16 bits. From 222 VFs on the list is longer than that; the kernel
    still writes it whole, but its length wraps, so `stop` is right only modulo 64 Ki. The entries
    are therefore walked one by one: at most `num_vfs` of them (the kernel leaves out VFs that the
    driver cannot describe), and never past the message.
    """
    vfs: dict[int, Vf] = {}
    offset, entry = start, _entry(reply, start)
    while entry and len(vfs) < num_vfs:
        layout = _Layout(entry, address_length)
        while layout.fits(entry) and len(vfs) < num_vfs:
            (number,) = _unpack_u32(entry, layout.number)
            if number in vfs:
                raise NetlinkDecodeError(f"VF {number} is described twice")
            vfs[number] = Vf(layout, entry)
            offset += layout.step
            entry = reply[offset : offset + layout.length]
        entry = _entry(reply, offset)
    if (offset - stop) & 0xFFFF:
        raise NetlinkDecodeError(f"the VF list ends at byte {offset}, but should end at {stop}")
    return vfs, offset


def _entry(reply: bytes, offset: int) -> bytes:
    """Return the IFLA_VF_INFO at an offset, or b"" if there is none."""
    if offset + NLATTR.size > len(reply):
        return b""
    length, type = _unpack_header(reply, offset)
    if type & _TYPE_MASK != IFLA_VF_INFO:
        return b""
    if not NLATTR.size <= length <= len(reply) - offset:
        raise NetlinkDecodeError(f"the VF entry at byte {offset} cannot have {length} bytes")
    return reply[offset : offset + length]


class _Layout:
    """Where each field is in an IFLA_VF_INFO entry.

    A kernel writes the same attributes at the same offsets in all entries, so only the first entry
    is walked. The headers of the others are compared with it.
    """

    __slots__ = (
        "_header_mask",
        "_headers",
        "address_length",
        "counters",
        "fields",
        "length",
        "number",
        "step",
        "unpack_counters",
    )

    def __init__(self, entry: bytes, address_length: int) -> None:
        self.length = len(entry)
        self.step = (len(entry) + 3) & ~3  # to the next entry
        self.address_length = min(address_length, 32)
        self.fields: dict[str, int] = {}  # offset of each field
        counters: dict[int, str] = {}  # counter at each offset
        numbers = []  # offsets of the VF's number
        headers = [0]
        for type, start, stop in _attributes(entry, NLATTR.size, len(entry)):
            headers.append(start - NLATTR.size)
            if type == IFLA_VF_STATS:
                for stat, place, after in _attributes(entry, start, stop):
                    headers.append(place - NLATTR.size)
                    if stat in VF_STATS and after - place >= 8:
                        counters[place] = VF_STATS[stat]
            elif type == IFLA_VF_VLAN_LIST:
                for info, place, after in _attributes(entry, start, stop):
                    headers.append(place - NLATTR.size)
                    if info == IFLA_VF_VLAN_INFO and after - place >= 14:
                        self.fields.setdefault("vlan_proto", place + 12)
            elif type == IFLA_VF_MAC and stop - start >= 36:
                numbers.append(start)
                self.fields["mac"] = start + 4
            elif type in VF_FIELDS and stop - start >= 4 + 4 * len(VF_FIELDS[type]):
                numbers.append(start)
                for place, field in enumerate(VF_FIELDS[type], 1):
                    self.fields[field] = start + 4 * place
        if not numbers:
            raise NetlinkDecodeError("a VF entry has no VF number")
        self.number = numbers[0]
        # Attribute headers as one long number: comparing all of them is one operation.
        self._header_mask = sum([0xFFFFFFFF << 8 * offset for offset in headers])
        self._headers = int.from_bytes(entry, "little") & self._header_mask
        # One struct unpacks all counters of an entry, in the order of their offsets.
        self.counters = tuple([counters[offset] for offset in sorted(counters)])
        format, position = "=", 0
        for offset in sorted(counters):
            format += f"{offset - position}xQ"
            position = offset + 8
        self.unpack_counters = Struct(format).unpack_from

    def fits(self, entry: bytes) -> bool:
        """Whether the entry has the same attributes in the same places."""
        headers = int.from_bytes(entry, "little") & self._header_mask
        return headers == self._headers and len(entry) == self.length


def _attributes(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and end of the payload of each attribute between two offsets."""
    while start + 4 <= end:
        length, type = _unpack_header(buffer, start)
        if not 4 <= length <= end - start:
            raise NetlinkDecodeError(f"the attribute at byte {start} cannot have {length} bytes")
        yield type & _TYPE_MASK, start + 4, start + length
        start += (length + 3) & ~3


def _u32(buffer: bytes, offset: int) -> int:
    value: int = _unpack_u32(buffer, offset)[0]
    return value
