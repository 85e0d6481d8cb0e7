"""Whole outputs, compared with golden files.

`pytest --update-golden` rewrites the files; review the diff before you commit it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sriov_textfile.simulate.host import INFINIBAND, OTHER_NETWORK, SimulatedPf
from tests.conftest import GOLDEN, MakeHost

Golden = Callable[[str, str], None]


def test_output_for_a_host_with_counters_in_sysfs(make_host: MakeHost, golden: Golden) -> None:
    run = make_host(SimulatedPf(vfs=3)).collect()
    assert (run.code, run.log) == (0, "")
    golden("sysfs.prom", run.out)


def test_output_for_a_host_with_every_kind_of_pf(make_host: MakeHost, golden: Golden) -> None:
    run = make_host(
        SimulatedPf(vfs=2),
        SimulatedPf(
            address="0000:18:00.0",
            netdev="ens2f0np0",
            vfs=2,
            driver="mlx5_core",
            numa_node=1,
            sysfs="none",
            first_count=2**63,
            switchdev=True,
            vf_driver="vfio-pci",
        ),
        SimulatedPf(
            address="0000:20:00.0",
            netdev="ibs3",
            vfs=2,
            driver="mlx5_core",
            pci_class=INFINIBAND,
            sysfs="file",
        ),
        SimulatedPf(address="0000:28:00.0", netdev="", vfs=2, driver="vfio-pci"),
        SimulatedPf(
            address="10000:01:00.0",
            netdev="ens5",
            second_port="ens5d1",
            vfs=2,
            driver="mlx4_core",
            pci_class=OTHER_NETWORK,
            numa_node=-1,
            sysfs="none",
        ),
    ).collect()
    assert (run.code, run.log) == (0, "")
    golden("mixed.prom", run.out)


def test_output_for_a_host_without_pfs(make_host: MakeHost, golden: Golden) -> None:
    run = make_host().collect()
    assert run.code == 0
    golden("empty.prom", run.out)


def test_names_and_labels_are_those_of_the_go_exporter(make_host: MakeHost) -> None:
    out = make_host(SimulatedPf(vfs=2)).collect().out
    assert (
        'sriov_vf_rx_bytes{numa_node="0",pciAddr="0000:11:00.1",pf="ens1f0",vf="1"} 1003\n' in out
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.prom")), ids=lambda path: path.name)
def test_the_prometheus_parser_reads_every_golden_file(path: Path) -> None:
    text = path.read_text()
    families = list(text_string_to_metric_families(text))
    written = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert sum(len(family.samples) for family in families) == len(written)
    assert {family.type for family in families} <= {"counter", "gauge"}
    assert all(family.documentation for family in families)
