"""Discovery: which PFs and VFs there are, by which netdev and address."""

from __future__ import annotations

import os
import shutil

import pytest

from sriov_textfile.host import pci
from sriov_textfile.host.pci import Pf
from sriov_textfile.problems import Problem
from sriov_textfile.simulate.host import ETHERNET, INFINIBAND, OTHER_NETWORK, SimulatedPf
from tests.conftest import Host, MakeHost


def fail(problem: Problem) -> None:
    pytest.fail(problem.text)


def discover(host: Host) -> list[Pf]:
    return pci.discover(str(host.bus), fail)


def discover_one(host: Host) -> Pf:
    (pf,) = discover(host)
    return pf


def test_a_pf_as_sysfs_describes_it(make_host: MakeHost) -> None:
    pf = discover_one(make_host(SimulatedPf(vfs=2, total_vfs=64, driver="ice", numa_node=1)))
    assert pf.address == "0000:10:00.0"
    assert pf.netdev == "ens1f0"
    assert pf.driver == "ice"
    assert pf.numa_node == "1"
    assert (pf.num_vfs, pf.total_vfs) == (2, 64)
    assert pf.vfs == {0: "0000:11:00.0", 1: "0000:11:00.1"}
    assert pf.switchdev is False


@pytest.mark.parametrize("pci_class", [ETHERNET, INFINIBAND, OTHER_NETWORK])
def test_every_network_class_counts(make_host: MakeHost, pci_class: str) -> None:
    assert discover_one(make_host(SimulatedPf(pci_class=pci_class))).netdev == "ens1f0"


def test_other_devices_with_vfs_do_not(make_host: MakeHost) -> None:
    host = make_host()
    assert (host.device("0000:00:1d.0") / "sriov_totalvfs").exists()  # an NVMe drive
    assert discover(host) == []


def test_vfs_are_in_the_order_of_numbers(make_host: MakeHost) -> None:
    assert list(discover_one(make_host(SimulatedPf(vfs=12))).vfs) == list(range(12))


def test_pfs_are_in_the_order_of_addresses_domains_included(make_host: MakeHost) -> None:
    addresses = ["10000:01:00.0", "0000:b1:00.0", "0002:01:00.0", "0000:31:00.1", "0000:31:00.0"]
    host = make_host(
        *[SimulatedPf(address=a, netdev=f"p{n}", vfs=0) for n, a in enumerate(addresses)]
    )
    assert [pf.address for pf in discover(host)] == [
        "0000:31:00.0",
        "0000:31:00.1",
        "0000:b1:00.0",
        "0002:01:00.0",
        "10000:01:00.0",
    ]


def test_a_domain_of_five_digits(make_host: MakeHost) -> None:
    pf = discover_one(make_host(SimulatedPf(address="10000:01:00.0", vfs=1)))
    assert pf.vfs == {0: "10000:02:00.0"}


def test_an_unknown_numa_node_is_empty(make_host: MakeHost) -> None:
    assert discover_one(make_host(SimulatedPf(numa_node=-1))).numa_node == ""


def test_a_pf_without_netdev(make_host: MakeHost) -> None:
    pf = discover_one(make_host(SimulatedPf(netdev="", driver="vfio-pci", vfs=1)))
    assert (pf.netdev, pf.driver, len(pf.vfs)) == ("", "vfio-pci", 1)


def test_a_pf_without_driver(make_host: MakeHost) -> None:
    assert discover_one(make_host(SimulatedPf(driver=""))).driver == ""


# --- netdevs ----------------------------------------------------------------------------


@pytest.mark.parametrize("uplink", ["zz_uplink", "ens1f0np0"])
def test_in_switchdev_mode_the_uplink_is_the_pfs_netdev(make_host: MakeHost, uplink: str) -> None:
    host = make_host(SimulatedPf(netdev=uplink, vfs=3, switchdev=True))
    assert len(list((host.device("0000:10:00.0") / "net").iterdir())) == 4
    pf = discover_one(host)
    assert (pf.netdev, pf.switchdev) == (uplink, True)


@pytest.mark.parametrize("port_name", ["pf0vf1", "pf1sf88", "c1pf0vf2", "pf0"])
def test_a_representor_alone_is_not_taken_for_the_pf(make_host: MakeHost, port_name: str) -> None:
    """As when the uplink was moved to another network namespace."""
    host = make_host(SimulatedPf(vfs=1))
    (host.device("0000:10:00.0") / "net/ens1f0/phys_port_name").write_text(f"{port_name}\n")
    assert discover_one(host).netdev == ""


@pytest.mark.parametrize(("first", "second"), [("ens1", "ens1d1"), ("zz0", "aa1")])
def test_a_card_with_two_ports_on_one_address(make_host: MakeHost, first: str, second: str) -> None:
    host = make_host(SimulatedPf(netdev=first, second_port=second, vfs=1))
    assert [(pf.address, pf.netdev) for pf in discover(host)] == [
        ("0000:10:00.0", first),
        ("0000:10:00.0", second),
    ]


def test_an_infiniband_partitions_netdev_is_not_taken_for_a_port(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(netdev="ib0", pci_class=INFINIBAND, vfs=0))
    net = host.device("0000:10:00.0") / "net"
    shutil.copytree(net / "ib0", net / "a_child_8001", symlinks=True)
    (net / "a_child_8001/ifindex").write_text("77\n")
    assert discover_one(host).netdev == "ib0"


# --- devices that change while they are read --------------------------------------------


def test_a_vf_that_vanishes_between_two_reads_is_left_out(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=3))
    readlink = os.readlink

    def vanish(path: str, dir_fd: int | None = None) -> str:
        if path == "virtfn1":
            os.unlink(path, dir_fd=dir_fd)
        return readlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", vanish)
    assert list(discover_one(host).vfs) == [0, 2]


def test_a_pf_that_vanishes_between_two_reads_is_left_out(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=0), SimulatedPf(address="0000:20:00.0", netdev="b", vfs=0))
    listdir = os.listdir

    def vanish(path: str) -> list[str]:
        names = listdir(path)
        if path == str(host.bus):
            shutil.rmtree(host.device("0000:10:00.0").resolve())
        return names

    monkeypatch.setattr(os, "listdir", vanish)
    assert [pf.netdev for pf in discover(host)] == ["b"]


def test_a_device_that_cannot_be_read_is_skipped_and_the_others_are_found(
    make_host: MakeHost,
) -> None:
    host = make_host(SimulatedPf(vfs=1), SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1))
    total = host.device("0000:10:00.0") / "sriov_totalvfs"
    total.unlink()
    total.symlink_to("sriov_totalvfs")  # a loop: ELOOP does not mean absence
    skipped: list[Problem] = []
    assert [pf.netdev for pf in pci.discover(str(host.bus), skipped.append)] == ["b"]
    (problem,) = skipped
    assert (problem.code, problem.subject) == ("unreadable-device", "0000:10:00.0")
    assert str(total) in problem.reason


@pytest.mark.parametrize("name", ["sriov_numvfs", "numa_node", "net/ens1f0/phys_switch_id"])
def test_a_detail_that_cannot_be_read_costs_nothing_else(make_host: MakeHost, name: str) -> None:
    host = make_host(SimulatedPf(vfs=2))
    file = host.device("0000:10:00.0") / name
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)
    run = host.collect()
    assert len(run.vf_samples()) == 18
    assert f"code=unreadable subject={file}" in run.log


@pytest.mark.parametrize("text", ["-5", "1_0", "٣", "9" * 4000, "x", ""])
def test_a_device_whose_sriov_totalvfs_is_not_a_number_is_not_a_pf(
    make_host: MakeHost, text: str
) -> None:
    host = make_host(SimulatedPf(vfs=2))
    (host.device("0000:10:00.0") / "sriov_totalvfs").write_text(f"{text}\n")
    assert discover(host) == []


def test_a_missing_folder_is_an_error_that_names_it(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf())
    run = host.collect("--path.sysbuspci=/nowhere")
    assert run.code == 0
    assert "/nowhere" in run.log
    assert "--path.sysbuspci" in run.log
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"


def test_nothing_else_is_read_of_a_device_without_sriov(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    device_class = host.device("0000:00:1f.6") / "class"
    device_class.unlink()
    device_class.mkdir()  # reading it would fail, and be logged
    run = host.collect()
    assert (run.code, run.log) == (0, "")
