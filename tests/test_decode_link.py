"""decode_link: finds every VF in an rtnetlink reply, and rejects damaged replies."""

from __future__ import annotations

import json
import struct
import time
from random import Random

import pytest

from sriov_textfile.host.rtnetlink import (
    IFLA_VFINFO_LIST,
    Link,
    NetlinkDecodeError,
    decode_link,
)
from sriov_textfile.simulate.rtnetlink import LinkVf, encode_link
from tests import peers
from tests.conftest import CAPTURES

CAPTURED = sorted(path.stem for path in CAPTURES.glob("*.nl"))
# The VF list of the other is longer than 64 KiB, so its 16-bit length has wrapped.
UNWRAPPED = [name for name in CAPTURED if name != "vfsim-pf0-256vf"]


def capture(name: str) -> bytes:
    return (CAPTURES / f"{name}.nl").read_bytes()


def list_offset(reply: bytes) -> int:
    """Return the offset of the attribute IFLA_VFINFO_LIST."""
    offset = 32
    while True:
        length, type = struct.unpack_from("=HH", reply, offset)
        if type == IFLA_VFINFO_LIST:
            return offset
        offset += (length + 3) & ~3


def patched(reply: bytes, offset: int, format: str, value: int) -> bytes:
    changed = bytearray(reply)
    struct.pack_into(format, changed, offset, value)
    return bytes(changed)


# --- real replies -----------------------------------------------------------------------


def test_a_reply_of_igb_is_decoded() -> None:
    link = decode_link(capture("igb-enp1s0-7vf"))
    assert (link.name, link.num_vfs, list(link.vfs)) == ("enp1s0", 7, [0, 1, 2, 3, 4, 5, 6])
    assert link.vfs[0].mac == "02:11:22:33:44:00"
    assert (link.vfs[1].vlan, link.vfs[1].qos, link.vfs[1].vlan_proto) == (100, 3, "802.1Q")
    assert [vf.spoofchk for vf in link.vfs.values()] == [True, True, False, *[True] * 4]
    assert [vf.trust for vf in link.vfs.values()] == [False] * 3 + [True] + [False] * 3
    assert set(link.vfs[0].stats.values()) == {0}


@pytest.mark.parametrize("vfs", [1, 4, 128, 256])
def test_every_counter_of_vfsim_is_decoded(vfs: int) -> None:
    link = decode_link(capture(f"vfsim-pf0-{vfs}vf"))
    assert (link.name, link.num_vfs, list(link.vfs)) == ("pf0", vfs, list(range(vfs)))
    for number, vf in link.vfs.items():
        base = 0xFFFFFFFFFFFFF000 if number == 1 else 1000 * number
        assert vf.stats == {
            "rx_packets": base + 1,
            "tx_packets": base + 2,
            "rx_bytes": base + 3,
            "tx_bytes": base + 4,
            "rx_broadcast": base + 5,
            "rx_multicast": base + 6,
            "rx_dropped": base + 7,
            "tx_dropped": base + 8,
        }


# --- independent decoders: pyroute2 and ip ----------------------------------------------


@pytest.mark.parametrize("name", UNWRAPPED)
def test_pyroute2_agrees_attribute_by_attribute(name: str) -> None:
    reply = capture(name)
    assert peers.by_us(decode_link(reply)) == peers.by_pyroute2(reply)


def test_decode_link_keeps_the_vfs_that_pyroute2_loses_if_the_length_wraps() -> None:
    reply = capture("vfsim-pf0-256vf")
    assert len(peers.by_pyroute2(reply)) == 35
    assert len(decode_link(reply).vfs) == 256


@pytest.mark.parametrize("name", CAPTURED)
def test_ip_agrees_on_every_vf_that_it_prints(name: str) -> None:
    ours = peers.by_us(decode_link(capture(name)))
    (link,) = json.loads((CAPTURES / f"{name}.ip.json").read_text())
    theirs = peers.by_ip(link)
    assert {number: ours[number] for number in theirs} == theirs


# --- other kernels and drivers ----------------------------------------------------------


def reply_for(vfs: list[LinkVf], broadcast: bytes = b"\xff" * 6, num_vfs: int = -1) -> bytes:
    count = len(vfs) if num_vfs < 0 else num_vfs
    return encode_link("ens1f0", "0000:10:00.0", bytes(6), count, vfs, broadcast=broadcast)


@pytest.mark.parametrize("vfs", [251, 252, 1024])
def test_no_vf_is_lost_if_the_length_wraps_at_252_vfs_without_vf_broadcast(vfs: int) -> None:
    sent = [LinkVf(number, stats={"rx_bytes": number}) for number in range(vfs)]
    link = decode_link(reply_for(sent, broadcast=b""))
    assert {number: vf.stats["rx_bytes"] for number, vf in link.vfs.items()} == {
        number: number for number in range(vfs)
    }


def test_drop_counters_are_left_out_if_the_kernel_has_none() -> None:
    reply = reply_for([LinkVf(0), LinkVf(1)], broadcast=b"")
    for type in (7, 8):  # replaced by types that do not exist
        reply = reply.replace(struct.pack("=HH", 12, type), struct.pack("=HH", 12, 90 + type))
    for vf in decode_link(reply).vfs.values():
        assert set(vf.stats) == {
            "rx_packets",
            "tx_packets",
            "rx_bytes",
            "tx_bytes",
            "rx_broadcast",
            "rx_multicast",
        }


def test_an_attribute_that_the_driver_does_not_report_is_none() -> None:
    vf = decode_link(reply_for([LinkVf(0, spoofchk=-1, trust=-1)])).vfs[0]
    assert (vf.spoofchk, vf.trust) == (None, None)


def test_only_vfs_that_the_driver_describes_are_returned() -> None:
    link = decode_link(reply_for([LinkVf(0), LinkVf(3)], num_vfs=4))
    assert (link.num_vfs, list(link.vfs)) == (4, [0, 3])


def test_an_infiniband_address_keeps_its_20_bytes() -> None:
    address = bytes(range(20))
    reply = encode_link("ib0", "0000:10:00.0", address, 1, [LinkVf(0, mac=address)])
    assert decode_link(reply).vfs[0].mac == address.hex(":")


def test_the_older_rate_attribute_is_used_if_the_newer_is_missing() -> None:
    reply = reply_for([LinkVf(0, max_tx_rate=500)])
    reply = reply.replace(struct.pack("=HH", 16, 6), struct.pack("=HH", 16, 96))
    vf = decode_link(reply).vfs[0]
    assert (vf.min_tx_rate, vf.max_tx_rate) == (None, 500)


def test_entries_with_different_layouts_are_decoded() -> None:
    reply = reply_for([LinkVf(n, vlan=n + 1, stats={"rx_bytes": n}) for n in range(3)])
    second = list_offset(reply) + 4 + 296
    vlan = reply.index(struct.pack("=HHII", 16, 2, 1, 2), second)
    reply = patched(reply, vlan + 2, "=H", 99)  # VF 1 gets an unknown attribute instead of its VLAN
    link = decode_link(reply)
    assert [vf.vlan for vf in link.vfs.values()] == [1, None, 3]
    assert [vf.stats["rx_bytes"] for vf in link.vfs.values()] == [0, 1, 2]


def test_a_link_without_vfs_is_decoded() -> None:
    link = decode_link(reply_for([]))
    assert (link.name, link.num_vfs, link.vfs) == ("ens1f0", 0, {})


# --- damaged replies --------------------------------------------------------------------


def test_an_error_message_is_rejected() -> None:
    with pytest.raises(NetlinkDecodeError, match="type 2, not RTM_NEWLINK"):
        decode_link(struct.pack("=IHHII", 36, 2, 0, 1, 0) + bytes(20))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 31])
def test_a_reply_shorter_than_its_headers_is_rejected(length: int) -> None:
    with pytest.raises(NetlinkDecodeError):
        decode_link(capture("igb-enp1s0-7vf")[:length])


def test_a_truncated_reply_is_rejected() -> None:
    reply = capture("vfsim-pf0-256vf")
    with pytest.raises(NetlinkDecodeError, match="77240 bytes, but its header specifies 77244"):
        decode_link(reply[:-4])


def test_an_entry_of_length_zero_is_rejected() -> None:
    reply = capture("vfsim-pf0-4vf")
    with pytest.raises(NetlinkDecodeError, match="cannot have 0 bytes"):
        decode_link(patched(reply, list_offset(reply) + 4, "=H", 0))


def test_an_attribute_of_length_zero_is_rejected() -> None:
    with pytest.raises(NetlinkDecodeError, match="cannot have 0 bytes"):
        decode_link(patched(capture("vfsim-pf0-4vf"), 32, "=H", 0))


def test_an_entry_longer_than_the_message_is_rejected() -> None:
    reply = capture("vfsim-pf0-1vf")
    with pytest.raises(NetlinkDecodeError, match="cannot have 65532 bytes"):
        decode_link(patched(reply, list_offset(reply) + 4, "=H", 65532))


def test_a_list_whose_length_disagrees_with_its_entries_is_rejected() -> None:
    reply = capture("vfsim-pf0-4vf")
    with pytest.raises(NetlinkDecodeError, match="but should end at"):
        decode_link(patched(reply, list_offset(reply), "=H", 1000))


def test_a_vf_listed_twice_is_rejected() -> None:
    with pytest.raises(NetlinkDecodeError, match="VF 1 is described twice"):
        decode_link(reply_for([LinkVf(0), LinkVf(1), LinkVf(1)]))


def test_decoding_stops_at_the_end_of_the_list_if_num_vf_is_too_large() -> None:
    reply = capture("vfsim-pf0-4vf")
    num_vf = list_offset(reply) - 4
    assert sorted(decode_link(patched(reply, num_vf, "=I", 2**32 - 1)).vfs) == [0, 1, 2, 3]


def damaged(reply: bytes, random: Random) -> bytes:
    """Return a reply with flipped bits, overwritten lengths and types, or a missing end."""
    changed = bytearray(reply)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(0, len(changed) - 4, 4)
        match random.randrange(4):
            case 0:
                changed[place + random.randrange(4)] ^= 1 << random.randrange(8)
            case 1:
                changed[place : place + 4] = random.randbytes(4)
            case half:
                value = random.choice([0, 1, 3, 4, 5, 8, 12, 255, 296, 0x7FFF, 0xFFFF])
                struct.pack_into("=H", changed, place + 2 * (half - 2), value)
    if random.random() < 0.3:
        del changed[random.randrange(len(changed)) :]
        if len(changed) >= 4 and random.random() < 0.7:
            struct.pack_into("=I", changed, 0, len(changed))
    return bytes(changed)


@pytest.mark.parametrize("name", CAPTURED)
def test_a_damaged_reply_is_decoded_or_rejected(name: str) -> None:
    reply = capture(name)
    decoded = rejected = 0
    for seed in range(10_000):
        broken = damaged(reply, Random(seed))
        start = time.perf_counter()
        try:
            read_every_attribute(decode_link(broken))
            decoded += 1
        except NetlinkDecodeError:
            rejected += 1
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        assert time.perf_counter() - start < 5, f"seed {seed}"
    assert decoded > 100
    assert rejected > 100


def read_every_attribute(link: Link) -> None:
    for vf in list(link.vfs.values())[:8]:
        assert all(0 <= value < 2**64 for value in vf.stats.values())
        vf.mac, vf.vlan, vf.qos, vf.vlan_proto, vf.spoofchk, vf.trust  # noqa: B018
        vf.link_state, vf.min_tx_rate, vf.max_tx_rate  # noqa: B018
