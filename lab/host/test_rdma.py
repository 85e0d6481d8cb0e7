"""RDMA devices of VFs: those of the kernel module rdmasim, and the kernel's own software RoCE."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from common import PROGRAM, parse, sh
from conftest import Pf
from test_doctor import doctor

Counters = dict[str, int | float]

# The counters of rdmasim, by the end of the metric's name.
NAMES = (
    "np_cnp_packets_sent_total",
    "out_of_sequence_packets_received_total",
    "rnr_nak_retry_packets_received_total",
)


def expected(vfs: range) -> dict[tuple[str, str], Counters]:
    """Return the counters of VFs by VF number and device; the PF has device 0."""
    return {
        (str(vf), f"rdmasim{vf + 1}"): {name: 1000 * (vf + 2) + i for i, name in enumerate(NAMES)}
        for vf in vfs
    }


def exported(text: str) -> dict[tuple[str, str], Counters]:
    """Return the counters on a page by VF number and device."""
    found: dict[tuple[str, str], Counters] = {}
    for name, labels, value in parse(text):
        if name.startswith("sriov_vf_rdma_") and name.endswith("_total"):
            device = labels["vf"], labels["device"]
            found.setdefault(device, {})[name[len("sriov_vf_rdma_") :]] = value
    return found


def page(*wrapper: str) -> str:
    command = [*wrapper, PROGRAM, "--collector.vfrdma", "--no-collector.vfstats"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def load(pf: Pf, mode: str) -> None:
    """Load rdmasim with a device of a PF and one of each of its VFs."""
    # `rdma system set` can change the mode only while there is no other network namespace.
    sh(f"modprobe ib_core netns_mode={1 if mode == 'shared' else 0}")
    assert sh("rdma system show").startswith(f"netns {mode}")
    parents = [pf.address, *(pf.vf_address(vf) for vf in range(7))]
    sh(f"insmod /lab/rdmasim.ko parents={','.join(parents)}")


def unload() -> None:
    sh("rmmod rdmasim && modprobe -r ib_core")


@pytest.fixture(params=["shared", "exclusive"])
def mode(request: pytest.FixtureRequest, igb: list[Pf]) -> Iterator[str]:
    """The RDMA subsystem's mode, with devices that are all in the host's network namespace."""
    load(igb[0], request.param)
    yield request.param
    unload()


@pytest.fixture
def pod(igb: list[Pf]) -> Iterator[str]:
    """A network namespace that the device of VF 3 was moved to, which takes exclusive mode."""
    load(igb[0], "exclusive")
    sh("ip netns add pod && rdma dev set rdmasim4 netns pod")
    yield "pod"
    sh("ip netns delete pod")
    unload()


def test_every_vf_has_the_counters_of_its_device(mode: str) -> None:
    assert exported(page()) == expected(range(7))
    _, report = doctor("--collector.vfrdma")
    assert report["rdma_shared"] == (mode == "shared")
    assert "rdma" not in " ".join([finding["code"] for finding in report["findings"]])


def test_the_device_of_a_pod_is_absent_from_the_host(pod: str, igb: list[Pf]) -> None:
    visible = expected(range(7))
    pods = {device: visible.pop(device) for device in [("3", "rdmasim4")]}
    assert exported(page()) == visible
    assert exported(page("ip", "netns", "exec", pod)) == pods
    _, report = doctor("--collector.vfrdma")
    (finding,) = [found for found in report["findings"] if "rdma" in found["code"]]
    assert (finding["code"], finding["about"]) == ("rdma-exclusive", igb[0].netdev)
    assert finding["what"].startswith("1 of 7 VFs ")


@pytest.fixture
def software_device(igb: list[Pf]) -> Iterator[Path]:
    """Create the kernel's software RoCE on the netdev of VF 0; yield its directory in sysfs."""
    (netdev,) = os.listdir(igb[0].device / "virtfn0/net")
    sh(f"modprobe rdma_rxe && ip link set {netdev} up")
    sh(f"rdma link add rxe0 type rxe netdev {netdev}")
    yield Path("/sys/class/infiniband/rxe0").resolve()
    sh(f"rdma link delete rxe0 && ip link set {netdev} down && modprobe -r rdma_rxe")


def test_a_software_device_belongs_to_no_vf(software_device: Path) -> None:
    assert software_device == Path("/sys/devices/virtual/infiniband/rxe0")
    assert exported(page()) == {}
    _, report = doctor("--collector.vfrdma")
    assert "no-rdma" in [finding["code"] for finding in report["findings"]]
