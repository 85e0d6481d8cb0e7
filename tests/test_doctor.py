"""doctor: its report about a host, and a finding for every cause of missing metrics."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sriov_textfile.collectors import pfinfo
from sriov_textfile.doctor import drivers, examine, node_exporter
from sriov_textfile.doctor import findings as conclusions
from sriov_textfile.doctor.report import NodeExporter, Report, Textfile
from sriov_textfile.host import nic, rtnetlink
from sriov_textfile.host.rtnetlink import NLMSGHDR
from sriov_textfile.inventory import Cpus, Inventory, Kubelet
from sriov_textfile.kubelet import podresources_pb2
from sriov_textfile.problems import Problem
from sriov_textfile.simulate import demo, kubelet
from sriov_textfile.simulate.host import INFINIBAND, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from sriov_textfile.simulate.rtnetlink import encode_link
from tests.conftest import WITHOUT_PRIVILEGE, Host, MakeHost, documented

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs/doctor.md"

# doctor finds any node_exporter on the host, so only one test at a time may run one.
one_at_a_time = pytest.mark.usefixtures("node_exporter_lock")

WITH_COUNTERS = SimulatedPf(vfs=2)
WITHOUT_COUNTERS = SimulatedPf(vfs=2, driver="newnic", sysfs="none", counts=False, vf_driver="")


def findings(host: Host, *flags: str) -> list[dict[str, str]]:
    """Return doctor's findings, and check that exit code, JSON and text agree."""
    run = host.collect("doctor", "--json", *flags)
    report = json.loads(run.out)
    found: list[dict[str, str]] = report["findings"]
    assert run.code == (1 if found else 0)
    assert report["healthy"] is (run.code == 0)
    assert run.log == ""
    text = " ".join(host.collect("doctor", *flags).out.split())
    for number, finding in enumerate(found, 1):
        head = f"{number}. {finding['code']}: {finding['what']}"
        printed = f"{head} meaning {finding['meaning']} to do {finding['hint']}"
        assert " ".join(printed.split()) in text
        assert all(finding[key] for key in ("code", "what", "meaning", "hint"))
    return found


def only_finding(host: Host, *flags: str) -> dict[str, str]:
    (found,) = findings(host, *flags)
    return found


def finding_without_privilege(flag: str) -> dict[str, str]:
    """Return doctor's only finding on a simulated host, for a user without root's capabilities."""
    demo = [sys.executable, "-m", "sriov_textfile", "demo", "doctor", "--pfs=1"]
    command = [*demo, "--json", flag]
    done = subprocess.run([*WITHOUT_PRIVILEGE, *command], capture_output=True, text=True)
    found: dict[str, str]
    (found,) = json.loads(done.stdout)["findings"]
    return found


def cpu_flags(node: SimulatedNode) -> list[str]:
    """Return the flags that enable kubepodcpu but not kubepoddevice."""
    return [flag for flag in node.flags if "kubepoddevice" not in flag]


def make_slow(host: Host, seconds: float) -> None:
    """Delay each of the kernel's answers."""
    describe = host.server.describe

    def describe_later(netdev: str, sequence: int) -> bytes | None:
        time.sleep(seconds)
        return describe(netdev, sequence)

    host.server.describe = describe_later


def report(host: Host, *flags: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(host.collect("doctor", "--json", *flags).out)
    return parsed


@contextmanager
def demo_node(root: Path, pfs: list[SimulatedPf]) -> Iterator[SimulatedNode]:
    node = SimulatedNode(root, demo.pods(pfs))
    with node.running():
        yield node


# --- the whole report -------------------------------------------------------------------


def normalized(out: str) -> str:
    """Replace what depends on host and time in the output of doctor."""
    out = re.sub(r"(/tmp/sriov-|/dev/shm/s-).{8}/", "/tmp/sriov-12345678/", out)
    out = re.sub(r"^.*, Linux .*Z: ", "node-1, Linux 6.12.48, 2026-11-22T12:00:00Z: ", out)
    for name, value in (
        ("host", "node-1"),
        ("kernel", "Linux 6.12.48"),
        ("time", "2026-11-22T12:00:00Z"),
        ("user", "root"),
    ):
        out = re.sub(f'"{name}": "[^"]+"', f'"{name}": "{value}"', out)
    out = re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0.001', out)
    return re.sub(r"(run by    )[^,]+,", r"\1root,", out)


def test_the_text_report_matches_the_golden_file(
    make_host: MakeHost, golden: Callable[[str, str], None], tmp_path: Path
) -> None:
    host = make_host(*[demo.pf(number, vfs=4) for number in range(6)])
    with demo_node(tmp_path, host.pfs) as node:
        run = host.collect("doctor", *node.flags)
    assert (run.code, run.log) == (1, "")
    golden("doctor.txt", normalized(run.out))


def test_the_json_report_matches_the_golden_file(
    make_host: MakeHost, golden: Callable[[str, str], None], tmp_path: Path
) -> None:
    host = make_host(demo.pf(0, vfs=2), demo.pf(2, vfs=1))
    with demo_node(tmp_path, host.pfs) as node:
        run = host.collect("doctor", "--json", *node.flags)
    assert (run.code, run.log) == (1, "")
    golden("doctor.json", normalized(run.out))


def test_a_healthy_host_has_no_findings(make_host: MakeHost) -> None:
    run = make_host(WITH_COUNTERS).collect("doctor")
    assert run.code == 0
    assert run.out.endswith("\nNo findings. Not checked: pods, CPUs, textfile.\n")


def test_doctor_shows_the_counters_that_collect_writes(make_host: MakeHost) -> None:
    host = make_host(demo.pf(0, vfs=3), demo.pf(1, vfs=3))
    run = host.collect()
    pfs = report(host)["pfs"]
    assert [len(pf["vfs"]) for pf in pfs] == [3, 3]
    for pf in pfs:
        for vf in pf["vfs"]:
            labels = f'{{numa_node="{pf["numa_node"]}",pciAddr="{vf["address"]}"'
            labels += f',pf="{pf["netdev"]}",vf="{vf["number"]}"}}'
            written = {
                name.removeprefix("sriov_vf_").partition("{")[0]: int(value)
                for name, value in run.samples.items()
                if name.startswith("sriov_vf_") and name.endswith(labels)
            }
            assert vf["counters"] == written != {}


def test_the_kernel_is_asked_once_per_pf(make_host: MakeHost) -> None:
    host = make_host(demo.pf(0, vfs=3), demo.pf(1, vfs=3))
    host.collect("doctor")
    assert host.server.requests == {"ens1f0": 1, "ens2f0np0": 1}


def test_pods_are_shown_even_with_kubepoddevice_off(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(demo.pf(0, vfs=2))
    with demo_node(tmp_path, host.pfs) as node:
        out = host.collect("doctor", f"--path.kubeletSocket={node.socket}").out
    assert out.count("core/upf-0\n") == 2


def test_scalable_functions_are_not_counted_as_pci_devices(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(WITH_COUNTERS)
    devices = {
        "nvidia.com/sf": ["mlx5_core.sf.4", "mlx5_core.sf.5"],
        "intel.com/sriov": [host.pfs[0].vf_address(0)],
    }
    container = SimulatedContainer("app", "a" * 64, devices=devices)
    node = SimulatedNode(tmp_path, [SimulatedPod("p", "core", "1" * 32, [container])])
    flag = f"--path.kubeletSocket={node.socket}"
    with node.running():
        assert report(host, flag)["kubelet"]["devices"] == 1
        assert "pods      use 1 PCI device (from" in host.collect("doctor", flag).out


def reader(host: Host, name: str, *flags: str) -> tuple[int, str]:
    """Return how many VFs of the only PF a reader serves, and why it does not serve the rest."""
    (pf,) = report(host, *flags)["pfs"]
    (entry,) = [reader for reader in pf["readers"] if reader["name"] == name]
    return entry["vfs"], entry["why_not"]


def test_a_reader_that_serves_every_vf_has_no_reason(make_host: MakeHost) -> None:
    assert reader(make_host(WITH_COUNTERS), "sysfs") == (2, "")


def test_a_reader_is_not_needed_if_another_served_every_vf(make_host: MakeHost) -> None:
    assert reader(make_host(WITH_COUNTERS), "netlink") == (0, "not used: sysfs served every VF")


def test_a_disabled_reader_is_shown_with_its_flags(make_host: MakeHost) -> None:
    vfs, why_not = reader(make_host(WITH_COUNTERS), "sysfs", "--collector.sysfs=false")
    assert vfs == 0
    assert why_not == "switched off by --collector.sysfs or --collector.vfstatspriority"


def test_a_driver_without_counters_in_sysfs_is_shown_with_the_missing_folder(
    make_host: MakeHost,
) -> None:
    host = make_host(SimulatedPf(vfs=2, driver="mlx5_core", sysfs="none"))
    vfs, why_not = reader(host, "sysfs")
    folder = f"{host.net}/ens1f0/device/sriov"
    assert vfs == 0
    assert why_not == f"driver mlx5_core has no VF counters in sysfs: {folder} does not exist"


def test_each_reader_has_a_reason_for_the_vfs_it_does_not_serve(make_host: MakeHost) -> None:
    host = make_host(WITH_COUNTERS)
    stats = host.device(WITH_COUNTERS.address) / "sriov/1/stats"
    for file in stats.iterdir():
        file.unlink()
    assert reader(host, "sysfs") == (
        1,
        f"{host.net}/ens1f0/device/sriov has no statistics for them",
    )
    assert reader(host, "netlink") == (1, "sysfs served the others")


# --- findings: PFs and VFs ---------------------------------------------------------------


def test_a_host_without_pfs_is_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host())
    assert found["code"] == "no-pf"
    assert "none has sriov_totalvfs" in found["what"]
    assert "enable SR-IOV in the firmware" in found["hint"]


def test_flags_that_exclude_every_pf_are_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host(WITH_COUNTERS), "--collector.pf-exclude=ens1")
    assert found["code"] == "no-pf"
    assert found["what"].endswith("leaves out every PF (1)")


def test_a_pf_without_vfs_is_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host(SimulatedPf(vfs=0, total_vfs=63)))
    assert found["code"] == "no-vfs"
    assert found["what"] == "ens1f0 has no VFs; it supports 63"
    assert "echo N > /sys/bus/pci/devices/0000:10:00.0/sriov_numvfs" in found["hint"]


def test_a_pf_that_supports_no_vfs_is_a_finding_about_its_firmware(make_host: MakeHost) -> None:
    found = only_finding(make_host(SimulatedPf(vfs=0, total_vfs=0)))
    assert found["what"] == "ens1f0 has no VFs; it supports 0"
    assert found["hint"].startswith("enable SR-IOV in the NIC's firmware")


def leave_out_flag(finding: dict[str, str]) -> str:
    """Return the flag in a finding's hint, as the shell passes it on."""
    (quoted,) = re.findall(r"--collector\.pf-exclude=[^ ;]+", finding["hint"])
    (flag,) = shlex.split(quoted)
    return flag


NO_VFS = (
    WITH_COUNTERS,
    SimulatedPf(netdev="ens2f0", address="0000:20:00.0", vfs=0),
    SimulatedPf(netdev="ens3f0", address="0000:30:00.0", vfs=0),
)


def test_a_hint_leaves_out_every_pf_for_which_it_is_given(make_host: MakeHost) -> None:
    """Of two --collector.pf-exclude the last one wins, so each hint has the whole pattern."""
    host = make_host(*NO_VFS)
    found = findings(host)
    assert [finding["about"] for finding in found] == ["ens2f0", "ens3f0"]
    for finding in found:
        assert finding["hint"].endswith(
            "If it should have none: --collector.pf-exclude='^ens2f0$|^ens3f0$'; remove from it"
            " the PFs that you want to keep"
        )
        assert findings(host, leave_out_flag(finding)) == []


def test_a_hint_keeps_the_pattern_of_the_flags(make_host: MakeHost) -> None:
    host = make_host(*NO_VFS)
    found = only_finding(host, "--collector.pf-exclude=2f")
    assert found["about"] == "ens3f0"
    assert found["hint"].endswith("--collector.pf-exclude='2f|^ens3f0$'")
    assert findings(host, leave_out_flag(found)) == []


def test_a_hint_leaves_out_pfs_without_netdev_without_vfs_and_with_zeros(
    make_host: MakeHost,
) -> None:
    host = make_host(
        *NO_VFS[:2],
        SimulatedPf(netdev="", address="0000:40:00.0", vfs=1, driver="vfio-pci", sysfs="none"),
        SimulatedPf(
            netdev="ens5f0",
            address="0000:50:00.0",
            vfs=1,
            driver="igb",
            sysfs="none",
            counts=False,
            vf_driver="",
        ),
    )
    found = findings(host)
    assert [finding["code"] for finding in found] == ["no-netdev", "no-vfs", "only-zeros"]
    for finding in found:
        assert findings(host, leave_out_flag(finding)) == []


def test_an_unreadable_pf_is_not_reported_as_no_pf(make_host: MakeHost) -> None:
    host = make_host(WITH_COUNTERS)
    device_class = host.device(WITH_COUNTERS.address) / "class"
    device_class.unlink()
    device_class.mkdir()
    found = only_finding(host)
    assert (found["code"], found["about"]) == ("unreadable-device", "0000:10:00.0")
    assert found["what"].startswith("cannot read PCI device 0000:10:00.0: ")


def test_an_unreadable_cpuset_does_not_hide_that_there_is_no_pf(
    make_host: MakeHost, tmp_path: Path
) -> None:
    node = SimulatedNode(tmp_path, pods := demo.pods([demo.pf(0, vfs=2)]))
    (node.container(pods[0], pods[0].containers[0]) / "cpuset.cpus").write_text("all\n")
    flags = cpu_flags(node)
    assert [finding["code"] for finding in findings(make_host(), *flags)] == ["no-pf", "unreadable"]


def test_disabled_vf_counters_are_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host(WITH_COUNTERS), "--no-collector.vfstats")
    assert (found["code"], found["about"]) == ("collector-off", "vfstats")
    assert found["meaning"] == "there are no sriov_vf_* counters"


def test_zeros_are_a_finding_if_the_netdev_of_a_vf_has_counted_packets(make_host: MakeHost) -> None:
    pf = SimulatedPf(vfs=2, driver="newnic", sysfs="none", counts=False, vf_driver="newvf")
    found = only_finding(make_host(pf))
    assert found["code"] == "only-zeros"
    assert found["what"] == (
        "all counters of the 2 VFs of ens1f0 are 0,"
        " although ens1f0v0 (VF 0) has itself counted 3 packets"
    )
    assert found["meaning"].startswith(
        "either all of them are idle, or driver newnic has no VF counters; "
    )
    assert found["hint"].endswith("--collector.pf-exclude='^ens1f0$'")


def test_zeros_are_a_finding_if_a_pod_uses_a_vf(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(WITHOUT_COUNTERS)
    with demo_node(tmp_path, host.pfs) as node:
        flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}"]
        found = only_finding(host, *flags, f"--path.nodecpuinfo={node.nodes}")
    assert found["what"].endswith("are 0, although pod core/upf-0 uses VF 0")


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci", "igb_uio"])
def test_zeros_are_a_finding_if_a_virtual_machine_uses_a_vf(
    make_host: MakeHost, driver: str
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none", counts=False, vf_driver=driver))
    for vf in range(2):
        shutil.rmtree(host.device(host.pfs[0].vf_address(vf)) / "net", ignore_errors=True)
    assert only_finding(host)["what"].endswith(
        f"although VF 0 is bound to {driver} for a virtual machine or DPDK"
    )


def test_zeros_are_a_finding_if_the_driver_has_no_vf_counters(make_host: MakeHost) -> None:
    pf = SimulatedPf(vfs=2, driver="igb", sysfs="none", counts=False, vf_driver="")
    found = only_finding(make_host(pf))
    assert found["what"] == "all counters of the 2 VFs of ens1f0 are 0"
    assert found["meaning"].startswith("driver igb has no VF counters; ")


@pytest.mark.parametrize("driver", ["mlx5_core", "ixgbe"])
def test_zeros_of_a_driver_with_counters_are_those_of_idle_vfs_or_an_old_kernel(
    make_host: MakeHost, driver: str
) -> None:
    pf = SimulatedPf(vfs=2, driver=driver, sysfs="none", counts=False, vf_driver="vfio-pci")
    meaning = only_finding(make_host(pf))["meaning"]
    assert meaning.startswith("either all of them are idle, or the NIC is resetting, or driver ")
    assert f"driver {driver}, which has VF counters in current kernels" in meaning


def test_a_driver_that_does_not_list_its_vfs_is_named(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, driver="idpf", sysfs="none", vf_driver=""))
    host.server.describe = lambda netdev, sequence: encode_link(
        netdev, "0000:10:00.0", bytes(6), 0, [], sequence=sequence
    )
    found = only_finding(host)
    assert found["code"] == "no-counters"
    assert found["hint"].startswith("driver idpf does not describe its VFs to the kernel")


def test_a_pf_in_infiniband_mode_has_a_row_of_its_own() -> None:
    pf = types.SimpleNamespace(driver="mlx5_core", kind="InfiniBand")
    assert drivers.row(pf) == drivers.IPOIB  # type: ignore[arg-type]
    pf.kind = "Ethernet"
    assert drivers.row(pf) == drivers.ROWS[0]  # type: ignore[arg-type]


def test_zeros_of_unused_vfs_are_not_a_finding(make_host: MakeHost) -> None:
    assert findings(make_host(WITHOUT_COUNTERS)) == []


def test_zeros_from_sysfs_are_not_a_finding(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1, vf_driver="vfio-pci"))
    for file in (host.device("0000:10:00.0") / "sriov/0/stats").iterdir():
        file.write_text("0\n")
    assert findings(host) == []


def test_another_network_namespace_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(demo.pf(1, vfs=2), demo.pf(4, vfs=2))
    host.server.describe = lambda netdev, sequence: None
    found = only_finding(host)
    assert found["code"] == "wrong-network-namespace"
    assert found["about"] == "ens2f0np0, ens5f1"
    assert "hostNetwork: true" in found["hint"]


def test_another_network_namespace_is_not_a_finding_if_sysfs_has_all_counters(
    make_host: MakeHost,
) -> None:
    host = make_host(WITH_COUNTERS)
    host.server.describe = lambda netdev, sequence: None
    assert findings(host) == []
    assert "the kernel has no netdev ens1f0" in host.collect("doctor").out
    assert only_finding(host, "--collector.vfinfo")["code"] == "wrong-network-namespace"


def test_another_network_namespace_is_a_finding_if_sysfs_has_some_counters(
    make_host: MakeHost,
) -> None:
    host = make_host(WITH_COUNTERS, demo.pf(1, vfs=2))
    host.server.describe = lambda netdev, sequence: None
    found = only_finding(host)
    assert (found["code"], found["about"]) == ("wrong-network-namespace", "ens1f0, ens2f0np0")


def test_the_kernel_is_not_asked_about_a_pf_without_vfs(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=0))
    host.server.describe = lambda netdev, sequence: None
    assert only_finding(host, "--collector.vfinfo")["code"] == "no-vfs"


def test_a_netdev_that_disappeared_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(demo.pf(1, vfs=2), demo.pf(4, vfs=2))
    describe = host.server.describe
    host.server.describe = lambda netdev, sequence: (
        None if netdev == "ens5f1" else describe(netdev, sequence)
    )
    found = only_finding(host)
    assert (found["code"], found["about"]) == ("netdev-gone", "ens5f1")
    assert found["hint"] == "run doctor again"


@pytest.mark.parametrize(
    ("driver", "pci_class", "meaning", "hint"),
    [
        (
            "vfio-pci",
            "0x020000",
            "assigned to a virtual machine",
            "bind the PF to its network driver",
        ),
        ("igb_uio", "0x020000", "a program in userspace", "bind the PF to its network driver"),
        ("", "0x020000", "the PF has no driver", "load its driver"),
        ("mlx5_core", INFINIBAND, "only with IP over InfiniBand", "modprobe ib_ipoib"),
        ("ice", "0x020000", "not in the network namespace", "hostNetwork: true"),
    ],
)
def test_a_pf_without_netdev_is_a_finding_with_the_likely_cause(
    make_host: MakeHost, driver: str, pci_class: str, meaning: str, hint: str
) -> None:
    pf = SimulatedPf(netdev="", vfs=2, driver=driver, pci_class=pci_class, sysfs="none")
    found = only_finding(make_host(pf))
    assert found["code"] == "no-netdev"
    assert found["what"] == f"PF 0000:10:00.0 (driver {driver or 'none'}) has no netdev"
    assert meaning in found["meaning"]
    assert hint in found["hint"]


def test_a_pf_that_no_reader_serves_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, driver="mlx5_core", sysfs="none"))
    found = only_finding(host, "--collector.netlink=false")
    assert found["code"] == "no-counters"
    assert found["what"] == "no reader has counters for 2 of 2 VFs of ens1f0"
    assert "sysfs: driver mlx5_core has no VF counters in sysfs" in found["meaning"]
    assert "netlink: switched off by --collector.netlink" in found["meaning"]
    assert "switch on a reader" in found["hint"]


def test_a_failed_reader_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    host.server.describe = lambda netdev, sequence: NLMSGHDR.pack(40, 0, 0, sequence, 0) + bytes(24)
    found = only_finding(host)
    assert (found["code"], found["about"]) == ("rtnetlink", "ens1f0")
    assert "the reply is of type 0, not RTM_NEWLINK" in found["what"]


def test_a_failed_reader_is_a_finding_even_if_another_serves(make_host: MakeHost) -> None:
    host = make_host(WITH_COUNTERS)
    stats = host.device(WITH_COUNTERS.address) / "sriov"
    shutil.rmtree(stats)
    stats.symlink_to(stats)
    found = only_finding(host)
    assert found["code"] == "reader-failed"
    assert found["what"].startswith("the sysfs reader failed for ens1f0: ")
    assert reader(host, "netlink") == (2, "")


def test_an_undecodable_link_is_a_finding_only_if_it_is_needed(make_host: MakeHost) -> None:
    host = make_host(WITH_COUNTERS)
    host.server.describe = lambda netdev, sequence: NLMSGHDR.pack(40, 0, 0, sequence, 0) + bytes(24)
    assert findings(host) == []
    assert only_finding(host, "--collector.vfinfo")["code"] == "rtnetlink"


def test_collectors_slower_than_the_timeout_are_a_finding(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    host = make_host(SimulatedPf(vfs=2))
    threading.Timer(1, hanging_sysfs.set).start()
    run = host.collect("doctor", "--json", "--timeout=200ms")
    (found,) = json.loads(run.out)["findings"]
    assert found["code"] == "too-slow"
    assert re.fullmatch(
        r"the collectors took \d+\.\d s \(vfstats \d+\.\d s, pfinfo \d+\.\d s\);"
        r" --timeout is 0\.2 s",
        found["what"],
    )
    assert findings(host) == []


def test_netdevs_of_another_namespace_do_not_explain_missing_counters(make_host: MakeHost) -> None:
    host = make_host(demo.pf(1, vfs=2))
    host.server.describe = lambda netdev, sequence: None
    assert only_finding(host, "--no-collector.netlink")["code"] == "no-counters"


def test_doctor_reports_an_unexpected_error_with_everything_else(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reply: bytes) -> None:
        raise IndexError("no such byte")

    monkeypatch.setattr(rtnetlink, "decode_link", fail)
    found = only_finding(make_host(demo.pf(1, vfs=2)))
    assert found["code"] == "unexpected"
    assert "IndexError: no such byte" in found["what"]


def test_a_kernel_that_does_not_answer_in_time_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    make_slow(host, 3)
    assert only_finding(host, "--timeout=2s")["code"] == "rtnetlink"
    assert findings(host, "--timeout=1h") == []


def test_a_slow_kernel_is_not_a_finding_if_no_collector_asks_it(make_host: MakeHost) -> None:
    host = make_host(WITH_COUNTERS)
    make_slow(host, 0.3)
    assert findings(host, "--timeout=200ms") == []


def test_a_wrong_web_configuration_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(WITH_COUNTERS)
    path = tmp_path / "web.yml"
    path.write_text("basic_auth_users: {}")
    assert findings(host, f"--web.config.file={path}") == []
    path.write_text("basic_auth_user: {}")
    found = only_finding(host, f"--web.config.file={path}")
    assert (found["code"], found["about"]) == ("web-config", str(path))


def test_a_hung_driver_exits_1_with_a_one_line_message(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(WITH_COUNTERS)
    over = threading.Event()
    monkeypatch.setattr(host, "nic", lambda pf: over.wait())
    monkeypatch.setattr(examine, "_GRACE_SECONDS", 0.2)
    run = host.collect("doctor", "--timeout=100ms")
    over.set()
    assert (run.code, run.out) == (1, "")
    assert run.log == (
        "sriov-textfile: doctor did not finish within 0.4 s: still reading the NIC of ens1f0;"
        " see dmesg, or set a longer --timeout\n"
    )


@pytest.mark.parametrize("vfs", [221, 222])
def test_more_vfs_than_other_tools_show_is_a_finding(make_host: MakeHost, vfs: int) -> None:
    found = findings(make_host(SimulatedPf(vfs=vfs, total_vfs=256, sysfs="none", vf_driver="")))
    assert [finding["code"] for finding in found] == ["more-vfs-than-other-tools-see"] * (
        vfs == 222
    )
    for finding in found:
        assert finding["what"].startswith(
            "the kernel's list of the 222 VFs of ens1f0 is longer than"
        )
        assert "ip, pyroute2 and exporters" in finding["meaning"]


def test_an_unexpected_error_exits_1_with_a_one_line_message(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(WITH_COUNTERS)
    monkeypatch.setattr(host, "nic", lambda pf: 1 // 0)
    run = host.collect("doctor")
    assert (run.code, run.out) == (1, "")
    assert re.fullmatch(
        r"sriov-textfile: .*: ZeroDivisionError: .* \(last read: the NIC of ens1f0\); .*\n", run.log
    )


def test_more_than_20_findings_with_one_code_are_summarized(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=30))
    for file in host.device("0000:10:00.0").glob("sriov/*/stats/rx_bytes"):
        file.write_text("many\n")
    found = findings(host)
    assert [finding["code"] for finding in found] == ["bad-counter"] * 21
    assert found[-1]["what"] == "10 more problems of this kind"


def test_an_invalid_counter_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2))
    stats = host.device("0000:10:00.0") / "sriov/1/stats"
    (stats / "rx_bytes").write_text("many\n")
    found = only_finding(host)
    assert found["code"] == "bad-counter"
    assert found["about"].endswith("1/stats/rx_bytes")


# --- findings: mounts, the kubelet and CPUs ----------------------------------------------


def test_a_missing_mount_of_the_pci_devices_is_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host(WITH_COUNTERS), "--path.sysbuspci=/host/sys/bus/pci/devices")
    assert (found["code"], found["about"]) == ("missing-mount", "--path.sysbuspci")
    assert found["what"] == (
        "cannot list PCI devices in /host/sys/bus/pci/devices: No such file or directory"
    )
    assert "mount it from the host" in found["hint"]


def test_a_missing_mount_of_the_netdevs_is_a_finding(make_host: MakeHost) -> None:
    found = only_finding(make_host(WITH_COUNTERS), "--path.sysclassnet=/host/sys/class/net")
    assert (found["code"], found["about"]) == ("missing-mount", "--path.sysclassnet")
    assert "ens1f0" in found["what"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("path.cpucheckpoint", "cannot read /host/nothing: No such file or directory"),
        ("path.kubecgroup", "there are no pod cgroups at /host/nothing/kubepods.slice or"),
        ("path.nodecpuinfo", "cannot read the NUMA nodes in /host/nothing: No such file"),
    ],
)
def test_a_missing_mount_for_kubepodcpu_is_a_finding(
    make_host: MakeHost, tmp_path: Path, flag: str, message: str
) -> None:
    host = make_host(WITH_COUNTERS)
    flags = cpu_flags(SimulatedNode(tmp_path, []))
    assert findings(host, *flags) == []
    found = only_finding(host, *flags, f"--{flag}=/host/nothing")
    assert (found["code"], found["about"]) == ("missing-mount", f"--{flag}")
    assert message in found["what"]
    assert f"--{flag}" in found["hint"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "[" * 100_000, "9" * 5000])
def test_an_invalid_checkpoint_is_a_finding(
    make_host: MakeHost, tmp_path: Path, content: str
) -> None:
    node = SimulatedNode(tmp_path, [])
    node.checkpoint.write_text(content)
    flags = cpu_flags(node)
    found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert (found["code"], found["about"]) == ("missing-mount", "--path.cpucheckpoint")
    assert f"{node.checkpoint}: it is not a complete checkpoint" in found["what"]
    assert "the shared pool is unknown" in found["meaning"]


def test_an_invalid_kubepods_cpuset_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path, [])
    (node.cgroups / "cpuset.cpus.effective").write_text("all\n")
    flags = cpu_flags(node)
    found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert (found["code"], found["about"]) == ("unreadable", str(node.cgroups))
    assert found["what"].endswith("'all' is not a range of CPUs")


def test_an_unexpected_exception_of_a_collector_is_a_finding(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(snapshot: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(pfinfo, "collect", fail)
    found = only_finding(make_host(WITH_COUNTERS))
    assert (found["code"], found["about"]) == ("unexpected", "pfinfo")
    assert "RuntimeError: no luck" in found["what"]


@pytest.mark.parametrize(("cpus", "misaligned"), [("2-3", False), ("3-4", False), ("4-5", True)])
def test_cpus_on_another_numa_node_than_the_devices_are_a_finding(
    make_host: MakeHost, tmp_path: Path, cpus: str, misaligned: bool
) -> None:
    host = make_host(WITH_COUNTERS)  # on NUMA node 0, as the CPUs 0 to 3
    vf = host.pfs[0].vf_address(0)
    container = SimulatedContainer("app", "a" * 64, cpus, {"vendor/vf": [vf]})
    node = SimulatedNode(tmp_path, [SimulatedPod("p", "core", "1" * 32, [container])])
    flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}"]
    flags.append(f"--path.nodecpuinfo={node.nodes}")
    with node.running():
        found = findings(host, *flags)
    assert [finding["code"] for finding in found] == ["numa-misaligned"] * misaligned
    assert [finding["about"] for finding in found] == ["core/p/app"] * misaligned


@pytest.mark.parametrize(
    ("local_to", "cpus", "misaligned"),
    [((0, 1), "2-3", False), ((0, 1), "4-5", False), ((0, 2), "4-5", True)],
)
def test_a_device_that_is_local_to_two_numa_nodes_needs_cpus_on_one_of_them(
    make_host: MakeHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    local_to: tuple[int, ...],
    cpus: str,
    misaligned: bool,
) -> None:
    topology = podresources_pb2.TopologyInfo(
        nodes=[podresources_pb2.NUMANode(ID=node) for node in local_to]
    )
    monkeypatch.setattr(kubelet, "_topology", lambda node: topology)
    host = make_host(WITH_COUNTERS)
    container = SimulatedContainer("app", "a" * 64, cpus, {"vendor/vf": ["0000:11:00.0"]})
    node = SimulatedNode(tmp_path, [SimulatedPod("p", "core", "1" * 32, [container])])
    flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}"]
    flags.append(f"--path.nodecpuinfo={node.nodes}")
    with node.running():
        found = findings(host, *flags)
    assert [finding["what"] for finding in found] == [
        "core/p/app has devices on NUMA node 0, 2, but its exclusive CPUs are on node 1"
    ] * misaligned


def test_a_series_of_two_pods_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(demo.pf(0, vfs=2))
    pods = demo.pods(host.pfs)
    node = SimulatedNode(tmp_path, [*pods, *pods])
    flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}"]
    flags.append(f"--path.nodecpuinfo={node.nodes}")
    with node.running():
        found = findings(host, *flags)
    # Two devices and two CPUs.
    assert [finding["code"] for finding in found] == ["repeated-series"] * 4
    assert all("two pods with the same name (crictl pods)" in finding["hint"] for finding in found)


def test_a_vf_of_two_pfs_is_a_finding_with_the_command_that_shows_both(
    make_host: MakeHost,
) -> None:
    pfs = [SimulatedPf(vfs=1), SimulatedPf(address="0000:10:01.0", netdev="other", vfs=0)]
    host = make_host(*pfs)
    second = host.device("0000:10:01.0").resolve()
    (second / "net/other").rename(second / "net/ens1f0")
    (second / "virtfn0").symlink_to("../0000:11:00.0")
    found = findings(host)
    assert {finding["code"] for finding in found} == {"repeated-series"}
    assert "ls -l /sys/bus/pci/devices/*/virtfn*" in found[0]["hint"]
    shown = sorted(str(link.readlink()) for link in host.bus.glob("*/virtfn*"))
    assert shown == ["../0000:11:00.0"] * 2


def test_doctor_does_not_log_what_a_collection_logs(make_host: MakeHost, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path, [])
    elsewhere = f"--path.kubecgroup={node.cgroups.parent}/cpuset/kubepods"
    run = make_host(WITH_COUNTERS).collect("doctor", *cpu_flags(node), elsewhere)
    assert (run.code, run.log) == (0, "")


def test_an_invalid_cpuset_of_a_container_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    pods = demo.pods([demo.pf(0, vfs=2)])
    node = SimulatedNode(tmp_path, pods)
    flags = cpu_flags(node)
    scope = node.container(pods[0], pods[0].containers[0])
    (scope / "cpuset.cpus").write_text("all\n")
    found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert (found["code"], found["about"]) == ("unreadable", str(scope))


def test_a_missing_kubelet_socket_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={tmp_path}/none"]
    found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert found["code"] == "kubelet"
    assert found["what"] == f"there is no kubelet socket at {tmp_path}/none"
    assert found["hint"] == (
        "set --path.kubeletSocket; in a container, mount its directory from the host"
    )


def test_a_kubelet_socket_without_permission_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "pod-resources"
    with demo_node(folder, []) as node:
        folder.chmod(0)
        try:
            found = finding_without_privilege(f"--path.kubeletSocket={node.socket}")
        finally:
            folder.chmod(0o755)
    assert (found["code"], found["about"]) == ("kubelet", str(node.socket))
    assert "no permission" in found["what"]


def test_a_hung_kubelet_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path, [])
    flags = ["--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}", "--timeout=2s"]
    with node.running("hangs"):
        found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert "did not answer in time" in found["what"]
    assert "journalctl -u kubelet" in found["hint"]


def test_a_cpu_manager_policy_without_exclusive_cpus_is_a_finding(
    make_host: MakeHost, tmp_path: Path
) -> None:
    node = SimulatedNode(tmp_path, [])
    node.checkpoint.write_text('{"policyName":"none","defaultCpuSet":"","checksum":1}\n')
    flags = cpu_flags(node)
    found = only_finding(make_host(WITH_COUNTERS), *flags)
    assert found["code"] == "cpu-manager-policy"
    assert found["what"].endswith("policy of the kubelet's CPU manager is none")
    assert "cpuManagerPolicy: static" in found["hint"]


# --- findings: the textfile --------------------------------------------------------------


@contextmanager
def running_node_exporter(folder: Path) -> Iterator[int]:
    """Run a process that doctor takes for a node_exporter because of its name."""
    words = ["node_exporter", "-c", "import time; time.sleep(60)"]
    words.append(f"--collector.textfile.directory={folder}")
    process = subprocess.Popen(words, executable=sys.executable)
    try:
        while b"node_exporter" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert process.poll() is None
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@one_at_a_time
def test_a_healthy_textfile_has_no_findings(make_host: MakeHost, tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    host = make_host(WITH_COUNTERS)
    host.collect(f"--textfile.path={path}")
    with running_node_exporter(tmp_path) as pid:
        assert findings(host, f"--textfile.path={path}") == []
        out = " ".join(host.collect("doctor", f"--textfile.path={path}").out.split())
    line = rf"{path}: written \d s ago; node_exporter \(process {pid}\) reads its directory"
    assert re.search(line, out)


@one_at_a_time
def test_a_missing_textfile_folder_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    found = only_finding(make_host(WITH_COUNTERS), f"--textfile.path={tmp_path}/none/sriov.prom")
    assert found["code"] == "textfile-folder-missing"
    assert found["about"] == f"{tmp_path}/none"
    assert found["hint"].startswith("create the directory")


@one_at_a_time
def test_an_unwritable_textfile_folder_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    (folder / "sriov.prom").write_text("")
    folder.chmod(0o555)
    with running_node_exporter(folder):
        found = finding_without_privilege(f"--textfile.path={folder}/sriov.prom")
    assert found["code"] == "textfile-not-writable"
    assert found["what"].endswith(f" cannot write to {folder}")
    assert f"chmod g+w {folder}" in found["hint"]


@one_at_a_time
def test_a_textfile_folder_that_node_exporter_does_not_read_is_a_finding(
    make_host: MakeHost, tmp_path: Path
) -> None:
    path = tmp_path / "sriov.prom"
    path.touch()
    other = tmp_path / "other"
    with running_node_exporter(other) as pid:
        found = only_finding(make_host(WITH_COUNTERS), f"--textfile.path={path}")
    assert found["code"] == "textfile-not-read"
    assert found["what"].startswith(f"no node_exporter reads {tmp_path}: ")
    assert f"process {pid} reads {other}" in found["what"]
    assert f"--collector.textfile.directory={tmp_path}" in found["hint"]


@one_at_a_time
def test_a_missing_textfile_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    with running_node_exporter(tmp_path):
        found = only_finding(make_host(WITH_COUNTERS), f"--textfile.path={tmp_path}/sriov.prom")
    assert (found["code"], found["about"]) == ("textfile-missing", f"{tmp_path}/sriov.prom")


@one_at_a_time
@pytest.mark.parametrize(("age", "interval", "stale"), [(200, "", 0), (400, "", 1), (400, "3m", 0)])
def test_a_stale_textfile_is_a_finding(
    make_host: MakeHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: int,
    interval: str,
    stale: int,
) -> None:
    path = tmp_path / "sriov.prom"
    path.touch()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    os.utime(path, (now - age, now - age))
    flags = [f"--textfile.path={path}", f"--interval={interval}"]
    with running_node_exporter(tmp_path):
        found = findings(make_host(WITH_COUNTERS), *flags)
    assert [finding["code"] for finding in found] == ["textfile-stale"] * stale
    for finding in found:
        assert finding["what"] == f"{path} was written 400 s ago"
        assert "systemctl status 'sriov-textfile*'" in finding["hint"]


@one_at_a_time
def test_a_textfile_path_that_is_a_folder_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "sriov.prom").mkdir()
    with running_node_exporter(tmp_path):
        found = only_finding(make_host(WITH_COUNTERS), f"--textfile.path={tmp_path}/sriov.prom")
    assert found["code"] == "textfile-path"
    assert found["what"] == f"{tmp_path}/sriov.prom is a directory, not a file"


@one_at_a_time
def test_a_textfile_folder_that_is_a_file_is_a_finding(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "textfile").touch()
    found = findings(make_host(WITH_COUNTERS), f"--textfile.path={tmp_path}/textfile/sriov.prom")
    assert found[0]["code"] == "textfile-path"
    assert found[0]["what"] == f"{tmp_path}/textfile is not a directory"


@one_at_a_time
def test_a_textfile_path_through_a_symlink_is_resolved(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "other/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("other/inner")
    path = f"{tmp_path}/link/../sriov.prom"
    host = make_host(WITH_COUNTERS)
    assert host.collect(f"--textfile.path={path}").code == 0
    with running_node_exporter(tmp_path / "other"):
        assert findings(host, f"--textfile.path={path}") == []


@one_at_a_time
def test_an_inaccessible_textfile_path_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "closed/textfile"
    folder.mkdir(parents=True)
    (folder / "sriov.prom").touch()
    folder.parent.chmod(0)
    try:
        with running_node_exporter(folder):
            found = finding_without_privilege(f"--textfile.path={folder}/sriov.prom")
    finally:
        folder.parent.chmod(0o755)
    assert found["code"] == "textfile-path"
    assert found["what"] == f"{folder}: Permission denied"


@one_at_a_time
def test_a_relative_textfile_path_is_shown_in_full(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_node_exporter(tmp_path):
        found = only_finding(make_host(WITH_COUNTERS), "--textfile.path=sriov.prom")
    assert found["about"] == f"{tmp_path}/sriov.prom"


def textfile_codes(node_exporters: list[NodeExporter], sees_processes: bool) -> list[str]:
    """Return the codes of the findings about a textfile that has no other problems."""
    textfile = Textfile(
        path="/a/sriov.prom",
        folder="/a",
        folder_exists=True,
        writable=True,
        problem="",
        age_seconds=1.0,
        stale_after_seconds=300.0,
        node_exporters=node_exporters,
        sees_processes=sees_processes,
    )
    inventory = Inventory([], 0, None, "", Kubelet(False, ""), Cpus(False), None)
    facts = Report("", "", "", "", "", 10.0, "", [], [], [], inventory, textfile)
    found = [finding.code for finding in conclusions.findings(facts)]
    return [code for code in found if code.startswith("textfile")]


def test_a_host_without_node_exporter_is_a_finding() -> None:
    assert textfile_codes([], sees_processes=True) == ["textfile-not-read"]


def test_an_unread_textfile_is_not_a_finding_if_processes_are_hidden() -> None:
    assert textfile_codes([], sees_processes=False) == []


def test_a_node_exporter_that_cannot_be_inspected_is_not_a_finding() -> None:
    assert textfile_codes([NodeExporter(1, ["/textfile"], None)], sees_processes=True) == []
    assert textfile_codes([NodeExporter(1, ["/textfile"], False)], sees_processes=True) != []


# --- node_exporter's command line --------------------------------------------------------

FOLDER = "--collector.textfile.directory"


def process(proc: Path, words: list[str], pid: int = 123) -> Path:
    """Create a process in a fake /proc; return its root folder."""
    folder = proc / str(pid)
    (folder / "root/work").mkdir(parents=True)
    (folder / "cwd").symlink_to("/work")
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    return folder / "root"


@pytest.mark.parametrize(
    ("words", "folders"),
    [
        (["/usr/bin/node_exporter"], []),
        (["/usr/bin/prometheus-node-exporter"], ["/var/lib/prometheus/node-exporter"]),
        (["node_exporter", f"{FOLDER}=/a"], ["/a"]),
        (["node_exporter", FOLDER, "/a"], ["/a"]),
        (["node_exporter", f"{FOLDER}=/b", f"{FOLDER}=/a"], ["/b", "/a"]),
        (["node_exporter", f"{FOLDER}=/a", "--no-collector.textfile"], []),
        (["node_exporter", f"{FOLDER}=/a", "--collector.disable-defaults"], []),
    ],
)
def test_textfile_folders_are_found_on_the_command_line_of_node_exporter(
    tmp_path: Path, words: list[str], folders: list[str]
) -> None:
    ours = process(tmp_path, words) / "a"
    ours.mkdir()
    (tmp_path / "self").mkdir()
    (found,) = node_exporter.running(str(ours), str(tmp_path))
    assert (found.pid, found.folders, found.reads_ours) == (123, folders, "/a" in folders)


def test_a_node_exporter_without_the_mount_does_not_read_our_folder(tmp_path: Path) -> None:
    process(tmp_path, ["node_exporter", f"{FOLDER}=/textfile"])
    (found,) = node_exporter.running("/textfile", str(tmp_path))
    assert found.reads_ours is False


def test_a_relative_folder_is_resolved_from_node_exporters_working_directory(
    tmp_path: Path,
) -> None:
    ours = process(tmp_path, ["node_exporter", f"{FOLDER}=textfile"]) / "work/textfile"
    ours.mkdir()
    assert node_exporter.running(str(ours), str(tmp_path))[0].reads_ours is True
    assert node_exporter.running(str(tmp_path), str(tmp_path))[0].reads_ours is False


def test_a_folder_may_be_a_glob_pattern(tmp_path: Path) -> None:
    process(tmp_path, ["node_exporter", f"{FOLDER}=/var/lib/*/textfile"])
    assert node_exporter.running("/var/lib/x/textfile", str(tmp_path))[0].reads_ours is True
    assert node_exporter.running("/var/lib/x/other", str(tmp_path))[0].reads_ours is False


def test_other_processes_are_not_node_exporters(tmp_path: Path) -> None:
    process(tmp_path, ["/sbin/init"], pid=1)
    assert node_exporter.running("/a", str(tmp_path)) == []


@pytest.mark.parametrize(
    ("namespace", "init", "visible"),
    [(4026531836, True, True), (4026532777, True, False), (4026531836, False, False)],
)
def test_processes_are_visible_in_the_hosts_pid_namespace_without_hidepid(
    tmp_path: Path, namespace: int, init: bool, visible: bool
) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to(f"pid:[{namespace}]")
    if init:  # with hidepid, PID 1 is hidden
        process(tmp_path, ["/sbin/init"], pid=1)
    assert node_exporter.sees_processes(str(tmp_path)) is visible


# --- the terminal, and missing packages --------------------------------------------------


def on_a_terminal(**environment: str) -> bytes:
    """Return what doctor writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sriov_textfile", "demo", "--vfs=0", "doctor"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    ):
        os.close(theirs)
        out = b""
        try:
            while more := os.read(ours, 65536):
                out += more
        except OSError:  # Linux returns EIO once the other side is closed.
            pass
    os.close(ours)
    assert b"3 findings" in out
    return out


def test_only_a_terminal_gets_colours(make_host: MakeHost) -> None:
    assert b"\x1b[31m3 findings\x1b[0m" in on_a_terminal(NO_COLOR="", TERM="xterm")
    assert "\x1b" not in make_host().collect("doctor").out


def test_no_color_disables_colours() -> None:
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1", TERM="xterm")


def test_a_dumb_terminal_gets_no_colours() -> None:
    assert b"\x1b" not in on_a_terminal(NO_COLOR="", TERM="dumb")


@pytest.mark.parametrize("name", [b"en\x1b[31m", b"en\xff"])
def test_unprintable_characters_in_a_netdev_name_are_escaped(
    make_host: MakeHost, name: bytes
) -> None:
    host = make_host(SimulatedPf(netdev=os.fsdecode(name), vfs=1, vf_driver="vfio-pci"))
    run = host.collect("doctor")
    assert run.code == 0
    assert "\x1b" not in run.out
    assert re.search(r"^PF en(\\x1b\[31m|\\udcff)  0000:10:00.0", run.out, re.MULTILINE)
    assert json.loads(host.collect("doctor", "--json").out)["healthy"] is True


def test_a_closed_standard_output_exits_1_with_a_one_line_message() -> None:
    command = f"{sys.executable} -m sriov_textfile doctor >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"sriov-textfile: cannot write to standard output: .*\n", done.stderr)


def test_text_is_wrapped_at_the_terminal_width() -> None:
    assert max(map(len, on_a_terminal(NO_COLOR="1", COLUMNS="70").splitlines())) <= 70


def test_without_pyroute2_only_the_nic_details_are_missing(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    host = make_host(WITH_COUNTERS)
    monkeypatch.setattr(host, "nic", nic.describe)
    run = host.collect("doctor")
    assert run.code == 0
    out = " ".join(run.out.split())
    reason = "doctor needs Python packages: pyroute2 is not installed"
    assert f"NICs driver versions, firmware and links are unknown: {reason}" in out


@pytest.mark.parametrize(("netdev", "states"), [("lo", ["unknown", "down"]), ("none", [None])])
def test_a_netdev_without_a_nic_has_no_details(netdev: str, states: list[str | None]) -> None:
    # In a separate process: pyroute2 leaves sockets open if the kernel has no devlink.
    code = (
        "import dataclasses, json; from sriov_textfile.host import nic, pci;"
        f"pf = pci.Pf('0000:99:00.0'); pf.netdev = {netdev!r};"
        "print(json.dumps(dataclasses.asdict(nic.describe(pf))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    facts = json.loads(done.stdout)
    assert facts.pop("link_state") in states
    assert set(facts.values()) == {None}


# --- the documentation -------------------------------------------------------------------


def test_the_documentation_shows_the_current_output(
    make_host: MakeHost, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    host = make_host(demo.pf(0, vfs=2), demo.pf(2, vfs=2))
    host.now = 3600
    host.refresh()
    with demo_node(tmp_path, host.pfs) as node:
        out = host.collect("doctor", *node.flags).out
    # Lines are wrapped at spaces, so no path is split.
    out = re.sub(r"/tmp/sriov-12345678/(host/)?", "/", normalized(out))
    block = f"<!-- doctor -->\n```text\n{out}```\n"
    before, rest = DOCS.read_text().split("<!-- doctor -->\n")
    shown, after = rest.split("<!-- end of doctor -->")
    if request.config.getoption("--update-golden"):
        DOCS.write_text(f"{before}{block}<!-- end of doctor -->{after}")
    assert block == f"<!-- doctor -->\n{shown}"


def test_the_documentation_lists_every_code() -> None:
    """Codes of findings, and of problems in the log and in `--json`."""
    sources = (PROJECT / "sriov_textfile").rglob("*.py")
    codes: set[str] = set()
    for source in sources:
        codes |= set(re.findall(r'(?:Finding|Problem|_error)\(\s*"([a-z-]+)"', source.read_text()))
    assert len(codes) > 25
    listed = [
        row[0].strip("`") for row in documented(DOCS, "Findings") + documented(DOCS, "Other codes")
    ]
    assert sorted(listed) == sorted(codes)


def schema(of: type, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and JSON type of each field of a dataclass."""
    for name, hint in typing.get_type_hints(of).items():
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        optional = type(None) in typing.get_args(hint)
        inner = kinds[0] if optional else hint
        if typing.get_origin(inner) is list:
            (item,) = typing.get_args(inner)
            yield path + name, f"array of {JSON_TYPES.get(item, 'object')}s"
            if item not in JSON_TYPES:
                yield from schema(item, f"{path}{name}[].")
        elif inner in JSON_TYPES or typing.get_origin(inner) is dict:
            kind = JSON_TYPES.get(inner, "object of numbers")
            yield path + name, kind + (" or null" if optional else "")
        elif inner is Inventory:  # its fields are inlined into the report
            yield from schema(inner, path)
        else:
            yield path + name, "object" + (" or null" if optional else "")
            yield from schema(inner, f"{path}{name}.")


JSON_TYPES = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    Problem: "problem",
}


def test_the_documented_json_schema_matches_the_report() -> None:
    expected = {"healthy": "boolean", **dict(schema(Report))}
    listed = {row[0].strip("`"): row[1] for row in documented(DOCS, "JSON")}
    assert listed == expected


@one_at_a_time
def test_every_json_field_is_documented(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(demo.pf(0, vfs=2))
    (host.device(host.pfs[0].address) / "sriov/0/stats/rx_bytes").write_text("many\n")
    fields = {row[0].strip("`") for row in documented(DOCS, "JSON")}
    with demo_node(tmp_path, host.pfs) as node:
        parsed = report(host, *node.flags, f"--textfile.path={tmp_path}/sriov.prom")

    def check(value: object, path: str) -> None:
        if isinstance(value, list):
            for item in value:
                check(item, f"{path}[]")
        elif isinstance(value, dict) and "reason" in value:
            assert list(value) == ["code", "subject", "reason", "hint"]
        elif isinstance(value, dict) and not path.endswith("counters"):
            for name, inner in value.items():
                field = f"{path}.{name}" if path else name
                assert field in fields
                check(inner, field)

    check(parsed, "")
    assert parsed["skipped"]
