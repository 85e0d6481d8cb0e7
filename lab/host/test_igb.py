"""Emulated SR-IOV NICs under their real driver: QEMU's igb, in sysfs and rtnetlink."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import peers
import pytest
from common import sh
from conftest import Pf, Run, ip_vfs, only_counters, request_link

from sriov_textfile.host.pci import Pf as Discovered
from sriov_textfile.host.pci import discover
from sriov_textfile.host.rtnetlink import decode_link
from sriov_textfile.problems import Problem
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.rtnetlink import encode_vf

Collect = Callable[..., Run]


def test_all_14_vfs_are_found_with_their_addresses(collect: Collect, igb: list[Pf]) -> None:
    run = collect()
    assert (run.code, run.log) == (0, "")
    found = [
        (labels["pf"], labels["vf"], labels["pciAddr"])
        for labels, _ in run.values("sriov_vf_rx_bytes")
    ]
    assert found == [(pf.netdev, str(vf), pf.vf_address(vf)) for pf in igb for vf in range(7)]


def test_every_counter_matches_ip(collect: Collect, igb: list[Pf]) -> None:
    run = collect()
    for pf in igb:
        theirs = only_counters(ip_vfs(pf.netdev))
        assert len(theirs) == 7
        assert run.counters(pf.netdev) == theirs


def test_every_vfs_configuration_matches_ip_and_pyroute2(igb: list[Pf]) -> None:
    pf = igb[0].netdev
    sh(f"ip link set {pf} vf 0 mac 02:11:22:33:44:00 && ip link set {pf} vf 1 vlan 100 qos 3")
    sh(f"ip link set {pf} vf 2 spoofchk off && ip link set {pf} vf 3 trust on")
    sh(f"ip link set {pf} vf 4 max_tx_rate 500")
    reply = request_link(pf)
    link = decode_link(reply)
    assert (link.name, link.num_vfs) == (pf, 7)
    assert peers.by_us(link) == peers.by_pyroute2(reply) == ip_vfs(pf)


def test_pf_info_describes_both_pfs(collect: Collect, igb: list[Pf]) -> None:
    run = collect()
    assert run.values("sriov_pf_info") == [
        (
            {
                "driver": "igb",
                "eswitch_mode": "",
                "numa_node": "",
                "pciAddr": pf.address,
                "pf": pf.netdev,
                "reader": "netlink",
            },
            1,
        )
        for pf in igb
    ]
    assert [value for _, value in run.values("sriov_pf_total_vfs")] == [7, 7]
    assert [value for _, value in run.values("sriov_pf_num_vfs")] == [7, 7]


def test_created_and_removed_vfs_show_in_the_next_collection(
    collect: Collect, igb: list[Pf]
) -> None:
    try:
        igb[0].set_vfs(3)
        assert sorted(collect().counters(igb[0].netdev)) == [0, 1, 2]
        igb[0].set_vfs(0)
        run = collect()
        assert (run.code, run.log) == (0, "")
        assert run.counters(igb[0].netdev) == {}
        assert sorted(run.counters(igb[1].netdev)) == list(range(7))
        igb[0].set_vfs(5)
        assert sorted(collect().counters(igb[0].netdev)) == list(range(5))
    finally:
        igb[0].set_vfs(7)


def test_a_renamed_pf_shows_in_the_next_collection(collect: Collect, igb: list[Pf]) -> None:
    old = igb[0].netdev
    before = collect().counters(old)
    sh(f"ip link set {old} down && ip link set {old} name uplink0 && ip link set uplink0 up")
    try:
        run = collect()
        assert run.counters(old) == {}
        assert run.counters("uplink0") == before
    finally:
        sh(f"ip link set uplink0 down && ip link set uplink0 name {old} && ip link set {old} up")


def test_no_privilege_is_needed(collect: Collect, igb: list[Pf]) -> None:
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    run = collect(wrapper=as_nobody)
    assert (run.code, run.log) == (0, "")
    assert len(run.values("sriov_vf_rx_bytes")) == 14


def test_the_file_is_world_readable_with_any_umask(
    collect: Collect, folder: Path, igb: list[Pf]
) -> None:
    collect(wrapper=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    assert sorted(os.listdir(folder)) == [".sriov.prom.lock", "sriov.prom"]
    assert stat.filemode((folder / "sriov.prom").stat().st_mode) == "-rw-r--r--"


def test_the_log_names_another_network_namespace_as_the_cause(
    collect: Collect, igb: list[Pf], tmp_path: Path
) -> None:
    # sysfs still lists the host's netdevs, as in a container that mounts the host's /sys.
    run = collect(wrapper=("unshare", "--net"))
    assert run.code == 0
    assert ({"collector": "vfstats"}, 0) in run.values("sriov_scrape_collector_success")
    assert run.values("sriov_vf_rx_bytes") == []
    assert f"the kernel has no netdev {igb[0].netdev} in this network namespace" in run.log
    assert "hostNetwork" in run.log


def test_the_simulator_encodes_vfs_like_this_kernel(igb: list[Pf]) -> None:
    for pf in igb:
        reply = request_link(pf.netdev)
        vfs = peers.as_said(decode_link(reply))
        assert len(vfs) == 7
        # Linux 5.10 sends bytes of its stack after the 6 of the address in IFLA_VF_BROADCAST.
        broadcast = b"\x24\0\x0d\0" + b"\xff" * 6
        leaked = re.escape(broadcast) + b".{26}"
        reply = re.sub(leaked, broadcast + bytes(26), reply, flags=re.DOTALL)
        assert b"".join([encode_vf(vf) for vf in vfs]) in reply


def fail(problem: Problem) -> None:
    pytest.fail(problem.text)


def test_the_simulators_sysfs_matches_the_real_one(igb: list[Pf], tmp_path: Path) -> None:
    simulated = [
        SimulatedPf(
            address=pf.address,
            netdev=pf.netdev,
            vfs=7,
            total_vfs=7,
            driver="igb",
            speed=1000,
            vf_driver="igbvf",
            vf_offset=int((pf.device / "sriov_offset").read_text()),
            vf_stride=int((pf.device / "sriov_stride").read_text()),
            numa_node=-1,
            sysfs="none",
        )
        for pf in igb
    ]
    host = SimulatedHost(tmp_path / "host", simulated)
    ours = discover(str(host.bus), fail)
    theirs = discover("/sys/bus/pci/devices", fail)
    for our_pf, their_pf in zip(ours, theirs, strict=True):
        for field in Discovered.__slots__:
            assert getattr(our_pf, field) == getattr(their_pf, field)
    for pf in simulated:
        _assert_real_has(host.device(pf.address), Path("/sys/bus/pci/devices") / pf.address)
        _assert_real_has(
            host.device(pf.vf_address(3)), Path("/sys/bus/pci/devices") / pf.vf_address(3)
        )


def _assert_real_has(simulated: Path, real: Path) -> None:
    """Check that all files and links in a simulated folder exist, alike, in the real one."""
    for path in sorted(simulated.rglob("*")):
        other = real / path.relative_to(simulated)
        if path.name == "driver":  # a real device is deeper in the tree, below a bridge
            assert path.readlink().parts[-4:] == other.readlink().parts[-4:]
        elif path.is_symlink():
            assert path.readlink() == other.readlink()
        elif path.name == "ifindex" or path.parent.name in ("power", "statistics"):
            assert other.read_text().strip().isdecimal()
        elif path.is_file():
            assert path.read_text() == other.read_text(), other
