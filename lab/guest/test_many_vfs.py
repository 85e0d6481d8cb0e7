"""Any number of VFs on a PF: what the kernel counted is what the program writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, Vfsim, ip_vfs, only_counters

# 221 is the last number of VFs whose list's length fits into the attribute's 16 bits.
COUNTS = (1, 221, 222, 256, 300, 1024)


class Counted:
    """Two PFs, and one collection of them."""

    def __init__(self, vfs: int, module: Vfsim, collect: Callable[..., Run]) -> None:
        self.vfs = vfs
        self.module = module
        before = {pf: module.asked(pf) for pf in ("pf0", "pf1")}
        self.run = collect(*module.flags)
        after = {pf: module.asked(pf) for pf in ("pf0", "pf1")}
        self.times_asked = [
            (after[pf][vf][0] - before[pf][vf][0], after[pf][vf][1] - before[pf][vf][1])
            for pf in before
            for vf in before[pf]
        ]


@pytest.fixture(scope="module", params=COUNTS)
def counted(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    collect: Callable[..., Run],
) -> Iterator[Counted]:
    root: Path = tmp_path_factory.mktemp("vfsim")
    module = Vfsim(root, pfs=2, vfs=request.param)
    yield Counted(request.param, module, collect)
    module.remove()


def test_every_counter_of_every_vf_equals_what_the_module_holds(counted: Counted) -> None:
    assert (counted.run.code, counted.run.log) == (0, "")
    for pf in ("pf0", "pf1"):
        held = counted.module.counters(pf)
        assert len(held) == counted.vfs
        assert counted.run.counters(pf) == held


def test_the_driver_is_asked_exactly_once_for_each_vf(counted: Counted) -> None:
    assert counted.times_asked == [(1, 1)] * 2 * counted.vfs


def test_ip_agrees_about_every_vf_that_it_sees(counted: Counted) -> None:
    ours = counted.run.counters("pf0")
    seen = only_counters(ip_vfs("pf0"))
    assert seen == {vf: ours[vf] for vf in seen}
    assert len(seen) == counted.vfs or counted.vfs > 221
