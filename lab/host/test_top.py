"""The rates of `top` on a real kernel agree with traffic that is known."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from common import PROGRAM, sh
from conftest import COUNTERS, Pf, Vfsim

from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf

pytestmark = pytest.mark.one_kernel

TOP = [PROGRAM, "top", "--json", "--count=3", "--interval=5s"]
GROWTH = 1_000_000  # of each of vfsim's counters, per second
SENDER = """
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic()
for number in range(10**9):
    sender.sendto(bytes(1000), ("10.9.8.2", 9))
    time.sleep(max(start + number / 200 - time.monotonic(), 0))
"""


def rates(arguments: list[str]) -> list[dict[int, dict[str, float]]]:
    """Run top, and return the rates of the only PF's VFs in each sample."""
    done = subprocess.run([*TOP, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    samples: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(samples) == 3
    return [{vf["number"]: vf for vf in sample["pfs"][0]["vfs"]} for sample in samples]


def report(what: str, samples: list[list[float]], capsys: pytest.CaptureFixture[str]) -> None:
    """Check the ratios of each sample to what is known."""
    ratios = [ratio for sample in samples for ratio in sample]
    with capsys.disabled():
        print(f"\n  {what}: {min(ratios):.4f} to {max(ratios):.4f} of the known growth")
    # On a busy machine, counters may be half a second late. The next rate is then as much too high.
    assert min(ratios) > 0.9
    assert max(ratios) < 1.1
    means = [sum(series) / len(samples) for series in zip(*samples, strict=True)]
    assert min(means) > 0.98
    assert max(means) < 1.02


def test_the_rates_of_netlink_counters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Vfsim(tmp_path, [8])
    try:
        with module.growing(GROWTH):
            samples = rates(module.flags)
    finally:
        module.remove()
    found = [
        [
            vf[f"{name}_per_second"] / GROWTH
            for vf in sample.values()
            for name in COUNTERS
            if name not in ("rx_broadcast", "rx_multicast")
        ]
        for sample in samples
    ]
    assert [len(ratios) for ratios in found] == 3 * [8 * 6]
    report("netlink counters of vfsim", found, capsys)


def test_the_rates_of_traffic_between_two_vfs(
    igb: list[Pf], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real packets from VF 0 to VF 1 of an igb NIC, each in a network namespace.

    The driver igb has no VF counters. So the counters of the VFs' own netdevs are mounted where
    drivers with counters in sysfs have them.
    """
    pf = SimulatedPf(vfs=2, sysfs="folder", vf_driver="vfio-pci")
    host = SimulatedHost(tmp_path / "host", [pf])
    statistics = []
    with ExitStack() as stack:
        for vf in (0, 1):
            (netdev,) = (igb[0].device / f"virtfn{vf}/net").iterdir()
            sh(f"ip netns add vf{vf} && ip link set {netdev.name} netns vf{vf}")
            stack.callback(sh, f"ip netns delete vf{vf} && udevadm settle")
            inside = f"ip netns exec vf{vf}"
            sh(f"{inside} ip addr add 10.9.8.{vf + 1}/24 dev {netdev.name}")
            sh(f"{inside} ip link set {netdev.name} up")
            sysfs = tmp_path / f"sysfs{vf}"
            sysfs.mkdir()
            sh(f"nsenter --net=/run/netns/vf{vf} mount -t sysfs sysfs {sysfs}")
            stack.callback(sh, f"umount {sysfs}")
            counters = host.device(pf.address) / f"sriov/{vf}/stats"
            sh(f"mount --bind {sysfs}/class/net/{netdev.name}/statistics {counters}")
            stack.callback(sh, f"umount {counters}")
            statistics.append(counters)
        sender = subprocess.Popen(["ip", "netns", "exec", "vf0", "python3", "-c", SENDER])
        stack.callback(sender.wait)
        stack.callback(sender.kill)
        # After a reset of the NIC, it takes some seconds until a VF passes packets.
        end = time.monotonic() + 60
        while read(statistics)[1]["rx_packets"] < 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        before, start = read(statistics), time.monotonic()
        samples = rates(host.flags)
        after, end = read(statistics), time.monotonic()
    found: list[list[float]] = [[], [], []]
    for vf, name in ((0, "tx_bytes"), (0, "tx_packets"), (1, "rx_bytes"), (1, "rx_packets")):
        known = (after[vf][name] - before[vf][name]) / (end - start)
        assert known > 100
        for ratios, sample in zip(found, samples, strict=True):
            ratios.append(sample[vf][f"{name}_per_second"] / known)
    report("traffic between two igb VFs", found, capsys)


def read(statistics: list[Path]) -> list[dict[str, int]]:
    names = ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets")
    return [{name: int((each / name).read_text()) for name in names} for each in statistics]
