"""vfinfo: the configuration of each VF, from rtnetlink and sysfs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sriov_textfile.simulate.host import SimulatedPf
from tests.conftest import MakeHost, Run


def info(run: Run) -> list[dict[str, str]]:
    """Return the labels of every VF."""
    found = []
    for line in run.out.splitlines():
        if line.startswith("sriov_vf_info{"):
            pairs = line.removeprefix("sriov_vf_info{").removesuffix("} 1").split(",")
            found.append(dict(pair.replace('"', "").split("=") for pair in pairs))
    return found


def test_output_for_a_host_with_two_pfs(
    make_host: MakeHost, golden: Callable[[str, str], None]
) -> None:
    run = make_host(
        SimulatedPf(vfs=4, vf_driver="iavf"),
        SimulatedPf(address="0000:20:00.0", netdev="", vfs=1, vf_driver="vfio-pci"),
    ).collect("--collector.vfinfo", "--no-collector.vfstats")
    assert (run.code, run.log) == (0, "")
    golden("vfinfo.prom", run.out)


def test_a_vf_has_every_label(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf(vfs=4)).collect("--collector.vfinfo")
    assert info(run)[3] == {
        "driver": "iavf",
        "link_state": "auto",
        "mac": info(run)[3]["mac"],
        "netdev": "ens1f0v3",
        "numa_node": "0",
        "pciAddr": "0000:11:00.3",
        "pf": "ens1f0",
        "qos": "3",
        "spoofchk": "true",
        "trust": "true",
        "vf": "3",
        "vlan": "103",
        "vlan_proto": "802.1Q",
    }
    assert info(run)[3]["mac"].endswith(":00:03")


def test_without_a_vlan_its_labels_are_empty(make_host: MakeHost) -> None:
    first = info(make_host(SimulatedPf(vfs=1)).collect("--collector.vfinfo"))[0]
    assert (first["vlan"], first["qos"], first["vlan_proto"]) == ("", "", "")


def test_only_configured_rates_are_exported(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf(vfs=4)).collect("--collector.vfinfo")
    rates = {name: value for name, value in run.samples.items() if "_tx_rate_mbps{" in name}
    labels = 'numa_node="0",pciAddr="0000:11:00.2",pf="ens1f0",vf="2"'
    assert rates == {f"sriov_vf_max_tx_rate_mbps{{{labels}}}": "10000"}


def test_a_vf_in_a_virtual_machine_has_no_netdev(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf(vfs=1, vf_driver="vfio-pci")).collect("--collector.vfinfo")
    assert (info(run)[0]["driver"], info(run)[0]["netdev"]) == ("vfio-pci", "")


@pytest.mark.parametrize("sysfs", ["folder", "none"])
def test_the_kernel_is_asked_once_for_counters_and_configuration(
    make_host: MakeHost, sysfs: str
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs=sysfs))  # type: ignore[arg-type]
    host.collect("--collector.vfinfo")
    assert host.server.requests == {"ens1f0": 1}


def test_without_a_link_the_labels_from_sysfs_are_kept(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    host.pfs.clear()
    run = host.collect("--collector.vfinfo")
    assert (info(run)[0]["driver"], info(run)[0]["mac"]) == ("iavf", "")
    assert "the kernel has no netdev ens1f0" in run.log
    assert run.value("sriov_scrape_collector_success", collector="vfinfo") == "0"
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "1"


def test_vfinfo_is_off_by_default(make_host: MakeHost) -> None:
    assert info(make_host(SimulatedPf(vfs=1)).collect()) == []
