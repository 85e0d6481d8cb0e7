"""A PF whose driver does not describe its VFs, as idpf, ena and enetc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import Run, Vfsim
from test_doctor import doctor


def test_the_pf_has_no_vf_metrics_and_others_are_complete(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    module = Vfsim(tmp_path, [4, 4], ["no-list"])
    try:
        run = collect(*module.flags, "--collector.vfinfo")
        code, report = doctor(*module.flags)
        expected = module.counters("pf1")
    finally:
        module.remove()
    assert run.code == 0
    # Driver and netdev of a VF are in sysfs.
    assert run.counters("pf0") == {vf: {"info": 1} for vf in range(4)}
    macs = {labels["mac"] for labels, _ in run.values("sriov_vf_info") if labels["pf"] == "pf0"}
    assert macs == {""}
    found = {
        vf: {name: value for name, value in counters.items() if name in expected[vf]}
        for vf, counters in run.counters("pf1").items()
    }
    assert found == expected
    numbers = {labels["pf"]: value for labels, value in run.values("sriov_pf_num_vfs")}
    readers = {labels["pf"]: labels["reader"] for labels, _ in run.values("sriov_pf_info")}
    assert (numbers, readers) == ({"pf0": 4, "pf1": 4}, {"pf0": "", "pf1": "netlink"})
    assert code == 1
    (finding,) = report["findings"]
    assert (finding["code"], finding["about"]) == ("no-counters", "pf0")
