"""Simulator: the same sysfs links and the same netlink bytes as a real host."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from sriov_textfile.host import rtnetlink
from sriov_textfile.host.rtnetlink import decode_link
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.rtnetlink import encode_link
from tests import peers
from tests.conftest import CAPTURES, MakeHost
from tests.test_decode_link import CAPTURED, capture, list_offset


@pytest.mark.parametrize("name", CAPTURED)
def test_the_vf_list_equals_the_kernels_byte_by_byte(name: str) -> None:
    reply = capture(name)
    vfs = peers.as_said(decode_link(reply))
    simulated = encode_link("x", "0000:10:00.0", bytes(6), len(vfs), vfs)
    start, ours, length = list_offset(reply), list_offset(simulated), 4 + 296 * len(vfs)
    assert simulated[ours : ours + length] == reply[start : start + length]


def test_sysfs_matches_a_real_host(tmp_path: Path) -> None:
    """Every simulated file and link exists in the capture, with the same content or target."""
    real = json.loads((CAPTURES / "igb-host-sysfs.json").read_text())
    pfs = [
        SimulatedPf(
            address=f"0000:0{n}:00.0",
            netdev=f"enp{n}s0",
            vfs=7,
            total_vfs=7,
            driver="igb",
            vf_driver="igbvf",
            vf_offset=0x80,
            vf_stride=2,
            numa_node=-1,
            sysfs="none",
        )
        for n in (1, 2)
    ]
    host = SimulatedHost(tmp_path, pfs)
    for pf in pfs:
        device = host.device(pf.address)
        folder = next(
            path
            for path in real
            if path.startswith("/sys/devices/") and path.endswith(f"/{pf.address}/class")
        ).removesuffix("/class")
        for path in sorted(device.rglob("*")):
            name = f"{folder}/{path.relative_to(device)}"
            if path.name == "driver":  # a real device is deeper in the tree, below a bridge
                assert real[name].endswith(f"/bus/pci/drivers/{path.readlink().name}")
            elif path.is_symlink():
                assert real[name] == f"-> {path.readlink()}"
            elif path.is_file() and path.name not in (
                "ifindex",
                "speed",
            ):  # the capture lacks speed
                assert real[name] == path.read_text(), name
        assert real[f"/sys/class/net/{pf.netdev}"].endswith(f"/{pf.address}/net/{pf.netdev}")
        assert str((host.net / pf.netdev).readlink()).endswith(f"/{pf.address}/net/{pf.netdev}")


def test_an_unknown_netdev_gets_the_same_error_as_from_the_kernel(make_host: MakeHost) -> None:
    host = make_host()
    request = rtnetlink.request("nosuch", 7)
    ours = host.server.answer(request)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as kernel:
        kernel.connect((0, 0))
        kernel.send(request)
        theirs = kernel.recv(4096)
    # Bytes 12 to 15 are the port number of the socket; an echo of the request follows byte 19.
    assert ours[:12] == theirs[:12]
    assert ours[16:20] == theirs[16:20]
    assert struct.unpack_from("=i", theirs, 16) == (-19,)


def test_counters_grow_with_time_and_faster_for_a_higher_vf() -> None:
    pf = SimulatedPf()
    first, second = (
        pf.counters(vf, 10)["rx_bytes"] - pf.counters(vf, 0)["rx_bytes"] for vf in (0, 1)
    )
    assert 0 < first < second
