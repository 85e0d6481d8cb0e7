"""Damage to the kernel's replies about PFs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

from e2e.fuzz.damage.files import ODD_NAMES
from e2e.fuzz.machine import Machine
from sriov_textfile.host.rtnetlink import IFLA_NUM_VF, NLATTR, NLMSG_ERROR, NLMSGHDR
from sriov_textfile.simulate.rtnetlink import LinkVf, RtnetlinkServer, encode_link
from tests.test_decode_link import damaged

Reply = Callable[[RtnetlinkServer, bytes], bytes | None]


def _sequence(reply: bytes) -> int:
    sequence: int = NLMSGHDR.unpack_from(reply)[3]
    return sequence


def _with_length(reply: bytes) -> bytes:
    return struct.pack("=I", len(reply)) + reply[4:]


def flipped_bits(machine: Machine, netdev: str) -> Reply:
    seed = machine.random.getrandbits(32)
    _any_counters(machine, netdev)

    def flip(server: RtnetlinkServer, reply: bytes) -> bytes:
        # With another sequence number, it would be the reply to another request.
        flipped = damaged(reply, Random(seed))
        return flipped[:8] + reply[8:12] + flipped[12:]

    return flip


def truncated(machine: Machine, netdev: str) -> Reply:
    share, patched = machine.random.random(), machine.random.random() < 0.7
    _no_counters(machine, netdev)

    def cut(server: RtnetlinkServer, reply: bytes) -> bytes:
        short = reply[: max(16, int(share * len(reply)))]
        return _with_length(short) if patched else short

    return cut


def wrong_type(machine: Machine, netdev: str) -> Reply:
    type = machine.random.choice((0, 1, NLMSG_ERROR, 3, 17, 18, 0xFFFF))
    _no_counters(machine, netdev)
    return lambda server, reply: reply[:4] + struct.pack("=H", type) + reply[6:]


def refused(machine: Machine, netdev: str) -> Reply:
    code = machine.random.choice((-1, -12, -16, -19, -95, 0, 1, -5000, 2**31 - 1, -(2**31)))
    _no_counters(machine, netdev)
    body = struct.pack("=i", code) + bytes(16)
    header = (NLMSGHDR.size + len(body), NLMSG_ERROR, 0)
    return lambda server, reply: NLMSGHDR.pack(*header, _sequence(reply), 0) + body


def too_short(machine: Machine, netdev: str) -> Reply:
    length = machine.random.randint(1, 31)
    _no_counters(machine, netdev)
    return lambda server, reply: reply[:length]


def garbage(machine: Machine, netdev: str) -> Reply:
    bytes_ = machine.random.randbytes(machine.random.choice((16, 32, 1000, 60_000)))
    _no_counters(machine, netdev)
    return lambda server, reply: bytes_[:8] + reply[8:12] + bytes_[12:]


def other_name(machine: Machine, netdev: str) -> Reply:
    name = machine.random.choice(("", "lo", "x" * 30_000, "\udcff", netdev + "x", *ODD_NAMES))
    _no_counters(machine, netdev)
    return lambda server, reply: encode_link(name, "", bytes(6), 0, [], _sequence(reply))


def of_another_pf(machine: Machine, netdev: str) -> Reply:
    other = machine.random.choice(list(machine.counters) or [(netdev, 0)])[0]
    if other != netdev:
        _no_counters(machine, netdev)
    return lambda server, reply: machine.host.describe(other, _sequence(reply))


def unknown(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    return lambda server, reply: None


def number_of_vfs(machine: Machine, netdev: str) -> Reply:
    number = machine.random.choice((0, 1, 2, 255, 2**32 - 1))
    _no_counters(machine, netdev)

    def patch(server: RtnetlinkServer, reply: bytes) -> bytes:
        place = reply.index(NLATTR.pack(8, IFLA_NUM_VF)) + NLATTR.size
        return reply[:place] + struct.pack("=I", number) + reply[place + 4 :]

    return patch


def missing_or_repeated_vf(machine: Machine, netdev: str) -> Reply:
    pf = next(pf for pf in machine.pfs if netdev in pf.ports)
    vfs = [pf.link_vf(vf, 0) for vf in range(pf.vfs)]
    if vfs:
        vf = machine.random.choice(vfs)
        if machine.random.random() < 0.5:
            vfs.remove(vf)
            machine.counters[netdev, vf.number]["netlink"].lose()
        else:
            vfs.append(vf)
            _no_counters(machine, netdev)
    return lambda server, reply: encode_link(
        netdev, pf.address, pf.hardware_address, pf.vfs, vfs, _sequence(reply)
    )


def unknown_vf(machine: Machine, netdev: str) -> Reply:
    pf = next(pf for pf in machine.pfs if netdev in pf.ports)
    number = machine.random.choice((pf.vfs, 2**32 - 1))
    vfs = [*[pf.link_vf(vf, 0) for vf in range(pf.vfs)], LinkVf(number, stats={"rx_bytes": 1})]
    return lambda server, reply: encode_link(
        netdev, pf.address, pf.hardware_address, len(vfs), vfs, _sequence(reply)
    )


def unknown_attributes(machine: Machine, netdev: str) -> Reply:
    extra = b"".join([NLATTR.pack(8, type) + b"abcd" for type in (0, 999, 0x3FFF, 0x8000 | 60)])
    return lambda server, reply: _with_length(reply[:32] + extra + reply[32:])


def trailing_bytes(machine: Machine, netdev: str) -> Reply:
    trail = machine.random.randbytes(machine.random.choice((1, 4, 60_000)))
    return lambda server, reply: reply + trail


def duplicated(machine: Machine, netdev: str) -> Reply:
    def twice(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = reply
        return reply

    return twice


def late(machine: Machine, netdev: str) -> Reply:
    trail = machine.random.randbytes(machine.random.choice((0, 4, 1000)))

    def stray(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = NLMSGHDR.pack(99, 16, 0, _sequence(reply) + 7, 0) + trail
        return reply

    return stray


def short_stray(machine: Machine, netdev: str) -> Reply:
    bytes_ = machine.random.randbytes(machine.random.randint(1, 15))
    _no_counters(machine, netdev)

    def stray(server: RtnetlinkServer, reply: bytes) -> bytes:
        server.stray = bytes_
        return reply

    return stray


def closed(machine: Machine, netdev: str) -> Reply:
    for each, _ in machine.counters:  # The connection is for all PFs.
        _no_counters(machine, each)

    def close(server: RtnetlinkServer, reply: bytes) -> bytes:
        raise ConnectionError

    return close


def silent(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    machine.hang()

    def hang(server: RtnetlinkServer, reply: bytes) -> bytes:
        machine.over.wait()
        raise ConnectionError

    return hang


def wrong_sequence(machine: Machine, netdev: str) -> Reply:
    _no_counters(machine, netdev)
    machine.hang()
    return lambda server, reply: reply[:8] + struct.pack("=I", 2**32 - 1) + reply[12:]


def _no_counters(machine: Machine, netdev: str) -> None:
    for (each, _), readers in machine.counters.items():
        if each == netdev:
            readers["netlink"].lose()


def _any_counters(machine: Machine, netdev: str) -> None:
    for (each, _), readers in machine.counters.items():
        if each == netdev:
            readers["netlink"].anything = True


REPLIES: tuple[Callable[[Machine, str], Reply], ...] = (
    flipped_bits, flipped_bits, flipped_bits, truncated, truncated, wrong_type, refused, too_short,
    garbage, other_name, of_another_pf, unknown, number_of_vfs, missing_or_repeated_vf, unknown_vf,
    unknown_attributes, trailing_bytes, duplicated, late, short_stray,
)  # fmt: skip


def reply(machine: Machine) -> str:
    """Damage the reply about a PF."""
    return _damage_reply(machine, REPLIES)


def no_reply(machine: Machine) -> str:
    """Let the kernel not reply about a PF, or close the connection."""
    return _damage_reply(machine, (closed, silent, wrong_sequence))


def _damage_reply(machine: Machine, kinds: Sequence[Callable[[Machine, str], Reply]]) -> str:
    pf = machine.some_pf()
    if not pf or not pf.netdev or "netlink" not in machine.readers:
        return ""
    netdev = machine.random.choice(pf.ports)
    if netdev in machine.replies:
        return ""
    kind = machine.random.choice(kinds)
    machine.replies[netdev] = kind(machine, netdev)
    return f"netlink: {kind.__name__.replace('_', ' ')}"


def no_rtnetlink(machine: Machine) -> str:
    """Let rtnetlink be unavailable."""
    machine.rtnetlink = machine.random.choice(
        ("/nowhere", "/dev/null", machine.paths["path.kubeletsocket"])
    )
    for netdev, _ in machine.counters:
        _no_counters(machine, netdev)
    return "netlink: unavailable"
