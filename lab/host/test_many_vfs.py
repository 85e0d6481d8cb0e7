"""PFs with 1 to 1024 VFs: the program exports exactly the counters in the kernel module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, Vfsim, ip_vfs, only_counters

# With more than 221 VFs the VF list outgrows its attribute's 16-bit length.
COUNTS = (1, 221, 222, 256)
MORE = [pytest.param(vfs, marks=pytest.mark.one_kernel) for vfs in (300, 1024)]


class Collected:
    """Two PFs, and one collection of their metrics."""

    def __init__(self, vfs: int, module: Vfsim, collect: Callable[..., Run]) -> None:
        self.vfs = vfs
        self.module = module
        before = {pf: module.queries(pf) for pf in ("pf0", "pf1")}
        self.run = collect(*module.flags)
        after = {pf: module.queries(pf) for pf in ("pf0", "pf1")}
        self.queries = [
            (after[pf][vf][0] - before[pf][vf][0], after[pf][vf][1] - before[pf][vf][1])
            for pf in before
            for vf in before[pf]
        ]


@pytest.fixture(scope="module", params=[*COUNTS, *MORE])
def collected(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    collect: Callable[..., Run],
) -> Iterator[Collected]:
    root: Path = tmp_path_factory.mktemp("vfsim")
    module = Vfsim(root, [request.param] * 2)
    yield Collected(request.param, module, collect)
    module.remove()


def test_every_counter_equals_the_one_in_the_module(collected: Collected) -> None:
    assert (collected.run.code, collected.run.log) == (0, "")
    for pf in ("pf0", "pf1"):
        expected = collected.module.counters(pf)
        assert len(expected) == collected.vfs
        assert collected.run.counters(pf) == expected


def test_the_driver_is_queried_exactly_once_per_vf(collected: Collected) -> None:
    assert collected.queries == [(1, 1)] * 2 * collected.vfs


def test_counters_match_ip_for_the_vfs_it_shows(collected: Collected) -> None:
    ours = collected.run.counters("pf0")
    shown = only_counters(ip_vfs("pf0"))
    assert shown == {vf: ours[vf] for vf in shown}
    assert len(shown) == collected.vfs or collected.vfs > 221
