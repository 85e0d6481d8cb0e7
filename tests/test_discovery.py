"""Discovery: PFs and VFs in sysfs, with their netdevs and PCI addresses."""

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


def discover_only_pf(host: Host) -> Pf:
    (pf,) = discover(host)
    return pf


def test_a_pf_has_the_attributes_that_sysfs_shows(make_host: MakeHost) -> None:
    pf = discover_only_pf(make_host(SimulatedPf(vfs=2, total_vfs=64, driver="ice", numa_node=1)))
    assert pf.address == "0000:10:00.0"
    assert pf.netdev == "ens1f0"
    assert pf.driver == "ice"
    assert pf.numa_node == "1"
    assert (pf.num_vfs, pf.total_vfs) == (2, 64)
    assert pf.vfs == {0: "0000:11:00.0", 1: "0000:11:00.1"}
    assert pf.switchdev is False


@pytest.mark.parametrize("pci_class", [ETHERNET, INFINIBAND, OTHER_NETWORK])
def test_devices_of_every_network_class_are_pfs(make_host: MakeHost, pci_class: str) -> None:
    assert discover_only_pf(make_host(SimulatedPf(pci_class=pci_class))).netdev == "ens1f0"


def test_an_nvme_drive_with_sriov_is_not_a_pf(make_host: MakeHost) -> None:
    host = make_host()
    assert (host.device("0000:00:1d.0") / "sriov_totalvfs").exists()  # an NVMe drive
    assert discover(host) == []


def test_vfs_are_sorted_by_number(make_host: MakeHost) -> None:
    assert list(discover_only_pf(make_host(SimulatedPf(vfs=12))).vfs) == list(range(12))


def test_pfs_are_sorted_by_pci_domain_and_address(make_host: MakeHost) -> None:
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


def test_a_pci_domain_may_have_five_digits(make_host: MakeHost) -> None:
    pf = discover_only_pf(make_host(SimulatedPf(address="10000:01:00.0", vfs=1)))
    assert pf.vfs == {0: "10000:02:00.0"}


def test_an_unknown_numa_node_is_empty(make_host: MakeHost) -> None:
    assert discover_only_pf(make_host(SimulatedPf(numa_node=-1))).numa_node == ""


def test_a_pf_without_netdev_keeps_its_driver_and_vfs(make_host: MakeHost) -> None:
    pf = discover_only_pf(make_host(SimulatedPf(netdev="", driver="vfio-pci", vfs=1)))
    assert (pf.netdev, pf.driver, len(pf.vfs)) == ("", "vfio-pci", 1)


def test_a_pf_without_driver_has_an_empty_driver(make_host: MakeHost) -> None:
    assert discover_only_pf(make_host(SimulatedPf(driver=""))).driver == ""


# --- netdevs ----------------------------------------------------------------------------


@pytest.mark.parametrize("uplink", ["zz_uplink", "ens1f0np0"])
def test_in_switchdev_mode_the_uplink_is_the_pfs_netdev(make_host: MakeHost, uplink: str) -> None:
    host = make_host(SimulatedPf(netdev=uplink, vfs=3, switchdev=True))
    assert len(list((host.device("0000:10:00.0") / "net").iterdir())) == 4
    pf = discover_only_pf(host)
    assert (pf.netdev, pf.switchdev) == (uplink, True)


@pytest.mark.parametrize("port_name", ["pf0vf1", "pf1sf88", "c1pf0vf2", "pf0"])
def test_a_representor_is_not_the_pfs_netdev(make_host: MakeHost, port_name: str) -> None:
    """If the uplink is in another network namespace, sysfs shows only representors."""
    host = make_host(SimulatedPf(vfs=1))
    (host.device("0000:10:00.0") / "net/ens1f0/phys_port_name").write_text(f"{port_name}\n")
    assert discover_only_pf(host).netdev == ""


@pytest.mark.parametrize(("first", "second"), [("ens1", "ens1d1"), ("zz0", "aa1")])
def test_two_ports_on_one_pci_address_are_two_pfs(
    make_host: MakeHost, first: str, second: str
) -> None:
    host = make_host(SimulatedPf(netdev=first, second_port=second, vfs=1))
    assert [(pf.address, pf.netdev) for pf in discover(host)] == [
        ("0000:10:00.0", first),
        ("0000:10:00.0", second),
    ]


def test_an_ipoib_child_interface_is_not_a_port(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(netdev="ib0", pci_class=INFINIBAND, vfs=0))
    net = host.device("0000:10:00.0") / "net"
    shutil.copytree(net / "ib0", net / "a_child_8001", symlinks=True)
    (net / "a_child_8001/ifindex").write_text("77\n")
    assert discover_only_pf(host).netdev == "ib0"


# --- devices that disappear or cannot be read -------------------------------------------


def test_a_vf_removed_during_discovery_is_left_out(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=3))
    readlink = os.readlink

    def vanish(path: str, dir_fd: int | None = None) -> str:
        if path == "virtfn1":
            os.unlink(path, dir_fd=dir_fd)
        return readlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", vanish)
    assert list(discover_only_pf(host).vfs) == [0, 2]


def test_a_pf_removed_during_discovery_is_left_out(
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


def test_an_unreadable_device_is_skipped_and_the_others_are_found(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1), SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1))
    total = host.device("0000:10:00.0") / "sriov_totalvfs"
    total.unlink()
    total.symlink_to("sriov_totalvfs")  # a loop: ELOOP does not mean that the file is absent
    skipped: list[Problem] = []
    assert [pf.netdev for pf in pci.discover(str(host.bus), skipped.append)] == ["b"]
    (problem,) = skipped
    assert (problem.code, problem.subject) == ("unreadable-device", "0000:10:00.0")
    assert str(total) in problem.reason


@pytest.mark.parametrize("name", ["sriov_numvfs", "numa_node", "net/ens1f0/phys_switch_id"])
def test_an_unreadable_attribute_is_logged_and_the_counters_are_kept(
    make_host: MakeHost, name: str
) -> None:
    host = make_host(SimulatedPf(vfs=2))
    file = host.device("0000:10:00.0") / name
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)
    run = host.collect()
    assert len(run.vf_samples()) == 18
    assert f"code=unreadable subject={file}" in run.log


@pytest.mark.parametrize("text", ["-5", "1_0", "٣", "9" * 4000, "x", ""])
def test_a_device_with_an_invalid_sriov_totalvfs_is_not_a_pf(
    make_host: MakeHost, text: str
) -> None:
    host = make_host(SimulatedPf(vfs=2))
    (host.device("0000:10:00.0") / "sriov_totalvfs").write_text(f"{text}\n")
    assert discover(host) == []


def test_a_missing_sysbuspci_folder_is_logged_with_its_flag(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf())
    run = host.collect("--path.sysbuspci=/nowhere")
    assert run.code == 0
    assert "/nowhere" in run.log
    assert "--path.sysbuspci" in run.log
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"


def test_the_class_of_a_device_without_sriov_is_not_read(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    device_class = host.device("0000:00:1f.6") / "class"
    device_class.unlink()
    device_class.mkdir()  # reading it would fail and be logged
    run = host.collect()
    assert (run.code, run.log) == (0, "")


# --- drivers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("vfio-pci", True),
        ("mlx5_vfio_pci", True),
        ("igb_uio", True),
        ("uio_pci_generic", True),
        ("pci-stub", True),
        ("mlx5_core", False),
        ("iavf", False),
        ("", False),
    ],
)
def test_the_drivers_of_virtual_machines_and_of_userspace_are_known(
    driver: str, expected: bool
) -> None:
    assert pci.is_userspace(driver) is expected
