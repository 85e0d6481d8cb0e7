"""A driver that cannot read its VFs' counters for a while: the kernel then reports zeros."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import sh
from conftest import COUNTERS, Pf, Run, Vfsim

from sriov_textfile.host import age

Collect = Callable[..., Run]

ZEROS = dict.fromkeys(COUNTERS, 0)
HELD_BACK = "held_back_since_timestamp_seconds"


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Vfsim]:
    module = Vfsim(tmp_path, [2])
    yield module
    module.remove()


def test_the_kernel_reports_zeros_while_the_driver_is_busy(collect: Collect, module: Vfsim) -> None:
    """Confirms why counters are held back. Without the file of an earlier run they are not."""
    module.busy(1)
    assert collect(*module.flags).counters("pf0") == {0: ZEROS, 1: ZEROS}
    assert collect(*module.flags).counters("pf0") == module.counters("pf0")


def test_counters_are_absent_while_the_driver_is_busy(collect: Collect, module: Vfsim) -> None:
    collect(*module.flags)
    module.busy(3)
    since = set()
    for _ in range(3):
        module.advance(1000)
        run = collect(*module.flags, again=True)
        assert run.code == 0
        assert "code=held-back subject=pf0" in run.log
        found = run.counters("pf0")
        assert [list(vf) for vf in found.values()] == [[HELD_BACK], [HELD_BACK]]
        since |= {vf[HELD_BACK] for vf in found.values()}
    assert len(since) == 1
    run = collect(*module.flags, again=True)
    assert (run.log, run.counters("pf0")) == ("", module.counters("pf0"))


def test_vfs_that_were_created_again_start_from_zero(collect: Collect, module: Vfsim) -> None:
    collect(*module.flags)
    pf = module.host.pfs[0]
    module.host.set_vfs(pf, 0)
    module.host.set_vfs(pf, 2)
    module.set(0)
    run = collect(*module.flags, again=True)
    assert (run.log, run.counters("pf0")) == ("", {0: ZEROS, 1: ZEROS})


def test_zeros_of_idle_vfs_are_exported(collect: Collect, module: Vfsim) -> None:
    module.set(0)
    for again in (False, True):
        run = collect(*module.flags, again=again)
        assert (run.log, run.counters("pf0")) == ("", {0: ZEROS, 1: ZEROS})


def test_zeros_of_a_driver_without_counters_are_exported(collect: Collect, igb: list[Pf]) -> None:
    for again in (False, True):
        run = collect(again=again)
        assert run.log == ""
        assert run.counters(igb[0].netdev) == dict.fromkeys(range(7), ZEROS)


def created(device: Path) -> float:
    """Return when a device was created, by its age."""
    seconds = age.seconds(str(device))
    assert seconds is not None
    return time.time() - seconds


def test_a_vfs_age_is_the_time_since_it_was_created(igb: list[Pf]) -> None:
    """It does not restart when the VF gets another driver, or when the kernel drops its caches."""
    driver = "/sys/bus/pci/drivers/igbvf"
    igb[0].set_vfs(0)
    removed = time.time()
    igb[0].set_vfs(7)
    vf = igb[0].device.resolve().parent / igb[0].vf_address(0)
    first = created(vf)
    assert first > removed
    sh(f"echo {vf.name} >{driver}/unbind && echo {vf.name} >{driver}/bind")
    sh("echo 2 >/proc/sys/vm/drop_caches")
    assert created(vf) == pytest.approx(first, abs=1)
    igb[0].set_vfs(0)
    removed = time.time()
    igb[0].set_vfs(7)
    assert created(vf) > removed > first + 1
