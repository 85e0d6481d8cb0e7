"""RDMA devices of VFs: the kernel's software RoCE (rdma_rxe) on the netdev of an igb VF."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from common import sh
from conftest import Pf, Run


@pytest.fixture
def rxe(igb: list[Pf]) -> Iterator[str]:
    (netdev,) = os.listdir(igb[0].device / "virtfn0/net")
    sh(
        f"modprobe rdma_rxe && ip link set {netdev} up && rdma link add rxe0 type rxe netdev {netdev}"
    )
    yield "rxe0"
    sh(f"rdma link delete rxe0 && ip link set {netdev} down")


def test_look(
    rxe: str, igb: list[Pf], collect: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(os.uname().release, os.path.realpath("/sys/class/infiniband/rxe0"))
        print(
            sh(
                "ls -l /sys/class/infiniband/rxe0/ /sys/class/infiniband/rxe0/ports/1/ /sys/class/infiniband/rxe0/ports/1/*counters; rdma system; cat /sys/module/ib_core/parameters/netns_mode; ls -l /sys/bus/pci/devices/*/infiniband || true; rdma -j statistic || true"
            )
        )
        run = collect("--collector.vfrdma")
        print(run.code, run.log, [s for s in run.samples if "rdma" in s[0]])
        print(
            sh(
                "rdma system set netns exclusive; cat /sys/module/ib_core/parameters/netns_mode; rdma system; rdma system set netns shared;  cat /sys/module/ib_core/parameters/netns_mode || true"
            )
        )
