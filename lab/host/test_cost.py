"""CPU time of a collection on a real kernel: prints figures, enforces no limits.

The implementations compared are those of `make bench`. Here the figures include the kernel's own
work per VF.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Pf, Vfsim

from bench import measure, ways
from sriov_textfile.simulate.host import SimulatedHost

pytestmark = pytest.mark.one_kernel

RESULTS = Path("/lab/cost.json")


class RealIgb:
    """The real igb PFs, with the attributes of a SimulatedHost that `bench.ways` uses."""

    def __init__(self, igb: list[Pf]) -> None:
        self.bus = Path("/sys/bus/pci/devices")
        self.net = Path("/sys/class/net")
        self.flags: list[str] = []
        self.rtnetlink = ""
        self.pfs = igb


def report(
    name: str, spreads: dict[str, measure.Spread], capsys: pytest.CaptureFixture[str]
) -> None:
    """Print a line of figures and add them to cost.json."""
    figures = {way: round(spread.median * 1e3, 3) for way, spread in spreads.items()}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, name: figures}, indent=1))
    with capsys.disabled():
        line = "  ".join([f"{way} {milliseconds} ms" for way, milliseconds in figures.items()])
        print(f"\n  CPU of a collection, {name}: {line}")


@pytest.mark.parametrize(("pfs", "vfs"), [(4, 64), (1, 1024)])
def test_netlink_with_vfsim(
    pfs: int, vfs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Vfsim(tmp_path, [vfs] * pfs)
    try:
        host: SimulatedHost = module.host
        host.rtnetlink = ""  # the kernel
        ours = ways.Ours(host, "netlink")
        before = module.queries("pf0")
        page = ours()
        after = module.queries("pf0")
        assert page.count(b"sriov_vf_rx_bytes{") == pfs * vfs
        assert {(after[vf][0] - before[vf][0], after[vf][1] - before[vf][1]) for vf in after} == {
            (1, 1)
        }
        candidates = {"ours": ours, "floor": ways.Floor(host, "netlink")}
        if vfs <= 221:
            candidates["obvious"] = ways.Obvious(host, "netlink")
        report(f"netlink {pfs}x{vfs}", measure.cpu_seconds(candidates, 3, 5), capsys)
    finally:
        module.remove()


def test_igb(igb: list[Pf], capsys: pytest.CaptureFixture[str]) -> None:
    host = RealIgb(igb)
    ours = ways.Ours(host, "netlink")
    assert ours().count(b"sriov_vf_rx_bytes{") == 14
    candidates = {"ours": ours, "obvious": ways.Obvious(host, "netlink")}
    report("igb 2x7, real sysfs", measure.cpu_seconds(candidates, 3, 5), capsys)
