"""A real kernel's replies about a PF with known counters."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
import pytest
from conftest import Run, Vfsim, request_link

from sriov_textfile.host.rtnetlink import decode_link

Collect = Callable[..., Run]
Load = Callable[[int], Vfsim]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load the module with one PF and some VFs."""
    loaded = []

    def load(vfs: int) -> Vfsim:
        loaded.append(Vfsim(tmp_path, [vfs]))
        return loaded[0]

    yield load
    loaded[0].remove()


def test_counters_above_2_to_the_63_are_exact(collect: Collect, load: Load) -> None:
    module = load(4)
    assert collect(*module.flags).counters("pf0")[1] == {
        "rx_packets": 0xFFFFFFFF00000001,
        "tx_packets": 0xFFFFFFFF00000002,
        "rx_bytes": 0xFFFFFFFF00000003,
        "tx_bytes": 0xFFFFFFFF00000004,
        "rx_broadcast": 0xFFFFFFFF00000005,
        "rx_multicast": 0xFFFFFFFF00000006,
        "rx_dropped": 0xFFFFFFFF00000007,
        "tx_dropped": 0xFFFFFFFF00000008,
    }


def test_the_next_collection_shows_the_increase(collect: Collect, load: Load) -> None:
    module = load(300)
    before = collect(*module.flags).counters("pf0")
    module.advance(12_345)
    after = collect(*module.flags).counters("pf0")
    assert after == {
        vf: {name: value + 12_345 for name, value in counters.items()}
        for vf, counters in before.items()
    }


def test_our_decoder_agrees_with_pyroute2(load: Load) -> None:
    load(221)
    reply = request_link("pf0")
    theirs = peers.by_pyroute2(reply)
    assert len(theirs) == 221
    assert peers.by_us(decode_link(reply)) == theirs


def test_the_length_of_the_vf_list_wraps(load: Load) -> None:
    """Confirms why decode_link walks the entries: on this kernel, each has 296 bytes."""
    load(256)
    reply = request_link("pf0")
    offset = 32
    while True:
        length, type = struct.unpack_from("=HH", reply, offset)
        if type == 22:
            break
        offset += (length + 3) & ~3
    assert length == (4 + 256 * 296) % 65536
    assert len(reply) > 4 + 256 * 296
