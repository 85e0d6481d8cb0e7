"""RDMA devices of VFs: the kernel's software RoCE (rdma_rxe) on the netdev of an igb VF."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import sh
from conftest import Pf, Run

DEVICE = "rxe0"


@pytest.fixture
def rxe(igb: list[Pf]) -> Iterator[Path]:
    """Create the device, and yield its directory below the VF's PCI device."""
    vf = igb[0].device / "virtfn0"
    (netdev,) = os.listdir(vf / "net")
    sh(f"modprobe rdma_rxe && ip link set {netdev} up")
    sh(f"rdma link add {DEVICE} type rxe netdev {netdev}")
    yield vf / "infiniband" / DEVICE
    sh(f"rdma link delete {DEVICE} && ip link set {netdev} down")


def test_an_rdma_device_is_exported_if_the_kernel_lists_it_below_the_vf(
    rxe: Path, igb: list[Pf], collect: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only some kernels take the VF for the parent of the device."""
    run = collect("--collector.vfrdma")
    assert (run.code, run.log) == (0, "")
    found = [labels for name, labels, _ in run.samples if name.startswith("sriov_vf_rdma_")]
    with capsys.disabled():
        print(f"\n  {rxe} exists: {rxe.exists()}; it has {len(found)} series")
    assert bool(found) == rxe.exists()
    for labels in found:
        assert labels["device"] == DEVICE
        assert (labels["pf"], labels["vf"], labels["port"]) == (igb[0].netdev, "0", "1")
