"""doctor on a real kernel: its report matches ethtool, devlink and sysfs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from common import PROGRAM, sh
from conftest import Pf, Vfsim, ip_vfs


def doctor(*flags: str, wrapper: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    """Return doctor's exit code and its report."""
    command = [*wrapper, PROGRAM, "doctor", "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_igb_pfs_are_reported(igb: list[Pf]) -> None:
    _, report = doctor()
    assert [pf["netdev"] for pf in report["pfs"]] == [pf.netdev for pf in igb]
    for ours, pf in zip(report["pfs"], igb, strict=True):
        net = Path("/sys/class/net") / pf.netdev
        assert ours["address"] == pf.address
        assert ours["driver"] == "igb"
        assert ours["driver_version"] == os.uname().release
        assert ours["link_state"] == (net / "operstate").read_text().strip() == "up"
        assert ours["speed_mbps"] == int((net / "speed").read_text())
        assert (ours["num_vfs"], ours["total_vfs"]) == (7, 7)
        assert ours["numa_node"] == ""
        assert ours["eswitch_mode"] is None


def test_igb_vfs_are_reported_as_ip_shows_them(igb: list[Pf]) -> None:
    pf = igb[0]
    sh(f"ip link set {pf.netdev} vf 1 vlan 100 qos 3 && ip link set {pf.netdev} vf 3 trust on")
    try:
        theirs = ip_vfs(pf.netdev)
        _, report = doctor()
    finally:
        sh(f"ip link set {pf.netdev} vf 1 vlan 0 && ip link set {pf.netdev} vf 3 trust off")
    for vf in report["pfs"][0]["vfs"]:
        ip = theirs[vf["number"]]
        assert vf["address"] == pf.vf_address(vf["number"])
        assert vf["driver"] == "igbvf"
        assert (Path("/sys/class/net") / vf["netdev"]).exists()
        assert vf["mac"] == ip["mac"]
        assert (vf["vlan"] or 0, vf["qos"] or 0) == (ip["vlan"], ip["qos"])
        assert (vf["trust"], vf["spoofchk"]) == (ip["trust"], ip["spoofchk"])


@pytest.mark.one_kernel
def test_igb_counters_of_zero_are_explained(igb: list[Pf]) -> None:
    code, report = doctor()
    assert code == 1
    assert [finding["code"] for finding in report["findings"]] == ["only-zeros", "only-zeros"]
    for finding, pf in zip(report["findings"], igb, strict=True):
        assert finding["what"].startswith(f"all counters of the 7 VFs of {pf.netdev} are 0")
        assert finding["meaning"].startswith("driver igb has no VF counters")


@pytest.mark.one_kernel
def test_a_vf_with_traffic_proves_that_zeros_are_wrong(igb: list[Pf]) -> None:
    pf = igb[0]
    (netdev,) = os.listdir(pf.device / "virtfn0/net")
    sh(f"ip link set {netdev} up && ip address replace 198.51.100.1/24 dev {netdev}")
    try:
        _, report, text = _after_traffic(netdev)
    finally:
        sh(f"ip address flush dev {netdev} && ip link set {netdev} down")
    assert f"although {netdev} (VF 0) has itself counted " in report["findings"][0]["what"]
    assert "netlink reader  serves 7 VFs; all counters are 0\n" in text
    assert "driver igb has no VF counters in sysfs" in " ".join(text.split())


def _after_traffic(netdev: str) -> tuple[int, dict[str, Any], str]:
    """Send packets until a netdev has counted one; return doctor's exit code, report and text."""
    end = time.monotonic() + 30
    statistics = Path("/sys/class/net") / netdev / "statistics/tx_packets"
    while statistics.read_text() == "0\n" and time.monotonic() < end:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packet:
            packet.sendto(b"", ("198.51.100.2", 9))
        time.sleep(0.5)
    text = subprocess.run([PROGRAM, "doctor"], capture_output=True, text=True).stdout
    print(text)  # pytest shows it if the test fails
    return *doctor(), text


@pytest.mark.one_kernel
def test_a_pf_without_vfs_is_a_finding(igb: list[Pf]) -> None:
    try:
        igb[1].set_vfs(0)
        _, report = doctor()
        (finding,) = [found for found in report["findings"] if found["code"] == "no-vfs"]
        assert finding["what"] == f"{igb[1].netdev} has no VFs; it supports 7"
        assert f"/sys/bus/pci/devices/{igb[1].address}/sriov_numvfs" in finding["hint"]
    finally:
        igb[1].set_vfs(7)


@pytest.mark.one_kernel
def test_another_network_namespace(igb: list[Pf]) -> None:
    # /sys is the host's, as in a container that mounts it.
    code, report = doctor(wrapper=("unshare", "--net"))
    assert code == 1
    (finding,) = report["findings"]
    assert finding["code"] == "wrong-network-namespace"
    assert finding["about"] == f"{igb[0].netdev}, {igb[1].netdev}"


@pytest.mark.one_kernel
def test_another_network_namespace_with_its_own_sysfs(igb: list[Pf]) -> None:
    # As in a container without hostNetwork: sysfs lists PCI devices, but not their netdevs.
    command = 'mount -t sysfs sysfs /sys && exec "$@"'
    _, report = doctor(wrapper=("unshare", "--net", "--mount", "sh", "-c", command, "sh"))
    assert [finding["code"] for finding in report["findings"]] == ["no-netdev", "no-netdev"]
    assert "not in the network namespace" in report["findings"][0]["meaning"]


def test_ethtool_and_devlink_values_are_reported(tmp_path: Path) -> None:
    module = Vfsim(tmp_path, [2, 2])
    try:
        code, report = doctor(*module.flags)
        assert (code, report["findings"]) == (0, [])
        fields = ("driver_version", "firmware", "speed_mbps", "link_state", "eswitch_mode")
        assert [[pf[name] for name in fields] for pf in report["pfs"]] == [
            ["1.2.3", "4.5.6", 25000, "down", "legacy"],
            ["1.2.3", "4.5.6", 25000, "down", "switchdev"],
        ]
        for pf in report["pfs"]:
            theirs = module.counters(pf["netdev"])
            assert {vf["number"]: vf["counters"] for vf in pf["vfs"]} == theirs
    finally:
        module.remove()


def test_doctor_queries_the_driver_once_per_vf(tmp_path: Path) -> None:
    module = Vfsim(tmp_path, [300])
    try:
        before = module.queries("pf0")
        code, report = doctor(*module.flags)
        assert code == 1
        assert [finding["code"] for finding in report["findings"]] == [
            "more-vfs-than-other-tools-see"
        ]
        after = module.queries("pf0")
        for vf, (config, stats) in after.items():
            assert (config - before[vf][0], stats - before[vf][1]) == (1, 1)
    finally:
        module.remove()
