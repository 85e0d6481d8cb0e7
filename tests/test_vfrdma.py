"""vfrdma: the counters of the VFs' RDMA devices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sriov_textfile import flags
from sriov_textfile.collectors import vfrdma
from sriov_textfile.exposition import render
from sriov_textfile.gather import Gatherer
from sriov_textfile.host import rdma
from sriov_textfile.log import Log
from sriov_textfile.problems import Problem
from sriov_textfile.simulate.host import SimulatedPf
from sriov_textfile.simulate.rdma import COUNTERS, HW_COUNTERS, values
from tests.conftest import Host, MakeHost, Run
from tests.test_doctor import findings, report

ON = ("--collector.vfrdma", "--no-collector.vfstats", "--no-collector.pfinfo")


def roce(**settings: object) -> SimulatedPf:
    """Return a PF of mlx5_core whose VFs have RDMA devices."""
    return SimulatedPf(
        netdev="ens2f0np0",
        driver="mlx5_core",
        vf_driver="mlx5_core",
        sysfs="none",
        rdma=True,
        **settings,  # type: ignore[arg-type]
    )


def port(host: Host, vf: int, device: str) -> Path:
    return host.device(host.pfs[0].vf_address(vf)) / f"infiniband/{device}/ports/1"


def value(run: Run, name: str, vf: int = 0, device: str = "mlx5_1", pf: str = "ens2f0np0") -> str:
    labels = {"device": device, "numa_node": "0", "pciAddr": f"0000:11:00.{vf}", "pf": pf}
    found = run.value(f"sriov_vf_rdma_{name}", **labels, port="1", vf=str(vf))
    assert found is not None
    return found


def test_output_for_a_host_with_rdma(
    make_host: MakeHost, golden: Callable[[str, str], None]
) -> None:
    run = make_host(roce(vfs=2), SimulatedPf(address="0000:20:00.0", vfs=1)).collect(*ON)
    assert (run.code, run.log) == (0, "")
    golden("vfrdma.prom", run.out)


def test_the_collector_is_off_by_default(make_host: MakeHost) -> None:
    assert "rdma" not in make_host(roce(vfs=1)).collect().out


def test_every_counter_of_the_tree_is_exported_with_its_value(make_host: MakeHost) -> None:
    host = make_host(roce(vfs=2))
    host.now = 10
    host.refresh()
    run = host.collect(*ON)
    for growth in (COUNTERS, HW_COUNTERS):
        for name, expected in values(growth, 1, 10).items():
            words = 4 if name in ("port_rcv_data", "port_xmit_data") else 1
            metric = f"{vfrdma.COUNTERS[name][0]}_total"
            assert value(run, metric, vf=1, device="mlx5_2") == str(words * expected)


def test_data_is_exported_in_bytes(make_host: MakeHost) -> None:
    host = make_host(roce(vfs=1))
    (port(host, 0, "mlx5_1") / "counters/port_rcv_data").write_text(f"{2**64 - 1}\n")
    run = host.collect(*ON)
    assert value(run, "port_data_received_bytes_total") == str(4 * (2**64 - 1))


def test_lifespan_is_a_gauge_in_seconds(make_host: MakeHost) -> None:
    run = make_host(roce(vfs=1)).collect(*ON)
    assert "# TYPE sriov_vf_rdma_lifespan_seconds gauge\n" in run.out
    assert value(run, "lifespan_seconds") == "0.01"


@pytest.mark.parametrize(
    ("name", "metric", "type"),
    [
        ("rcvd_pkts", "rcvd_pkts_total", "counter"),  # rxe
        ("ip4InReceives", "ip4InReceives_total", "counter"),  # irdma
        ("tx_cnp", "tx_cnp_total", "counter"),  # bnxt_re
        ("active_qps", "active_qps", "gauge"),
        ("watermark_qps", "watermark_qps", "gauge"),
    ],
)
def test_counters_of_other_drivers_keep_their_names(
    make_host: MakeHost, name: str, metric: str, type: str
) -> None:
    host = make_host(roce(vfs=1))
    (port(host, 0, "mlx5_1") / "hw_counters" / name).write_text("77\n")
    run = host.collect(*ON)
    assert f"# TYPE sriov_vf_rdma_{metric} {type}\n" in run.out
    assert value(run, metric) == "77"


@pytest.mark.parametrize("text", ["N/A (no PMA)", "N/A"])
def test_a_counter_that_the_device_lacks_is_absent(make_host: MakeHost, text: str) -> None:
    host = make_host(roce(vfs=1))
    (port(host, 0, "mlx5_1") / "counters/port_xmit_wait").write_text(f"{text}\n")
    run = host.collect(*ON)
    assert run.log == ""
    assert "port_transmit_wait" not in run.out


@pytest.mark.parametrize(
    ("name", "text"), [("port_xmit_wait", "-1"), ("port_xmit_wait", ""), ("port-wait", "1")]
)
def test_a_bad_counter_is_skipped_logged_and_counted(
    make_host: MakeHost, name: str, text: str
) -> None:
    host = make_host(roce(vfs=1))
    (port(host, 0, "mlx5_1") / "counters" / name).write_text(f"{text}\n")
    run = host.collect(*ON)
    assert "code=bad-counter" in run.log
    assert run.value("sriov_scrape_collector_skipped", collector="vfrdma") == "1"
    assert run.value("sriov_scrape_collector_success", collector="vfrdma") == "1"


def test_a_symlink_among_the_counters_is_not_followed(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(roce(vfs=1))
    (tmp_path / "secret").write_text("42\n")
    (port(host, 0, "mlx5_1") / "counters/leak").symlink_to(tmp_path / "secret")
    run = host.collect(*ON)
    assert "leak_total" not in run.out
    assert "/counters/leak: Too many levels of symbolic links" in run.log


def test_the_ports_of_a_card_with_two_netdevs_belong_to_one_each(make_host: MakeHost) -> None:
    host = make_host(roce(vfs=1, second_port="ens2f0np1"))
    second = port(host, 0, "mlx5_1").parent / "2/counters"
    second.mkdir(parents=True)
    (second / "port_rcv_data").write_text("5\n")
    run = host.collect(*ON)
    series = [name for name in run.samples if "port_data_received_bytes" in name]
    assert [name.partition(",pf=")[2] for name in series] == [
        '"ens2f0np0",port="1",vf="0"}',
        '"ens2f0np1",port="2",vf="0"}',
    ]


def test_a_port_that_the_flags_leave_out_is_absent(make_host: MakeHost) -> None:
    host = make_host(roce(vfs=1, second_port="ens2f0np1"))
    second = port(host, 0, "mlx5_1").parent / "2/counters"
    second.mkdir(parents=True)
    (second / "port_rcv_data").write_text("5\n")
    run = host.collect(*ON, "--collector.pf-exclude=^ens2f0np0$")
    series = [name for name in run.samples if "port_data_received_bytes" in name]
    assert [name.partition(",pf=")[2] for name in series] == ['"ens2f0np1",port="2",vf="0"}']


def test_counters_in_sysfs_cannot_have_the_names_of_rdma_metrics(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    stats = host.device(host.pfs[0].address) / "sriov/0/stats"
    (stats / "rdma_lifespan_seconds").write_text("77\n")
    run = host.collect()
    assert "rdma_lifespan_seconds" not in run.out
    assert "code=bad-counter" in run.log


# --- network namespaces -----------------------------------------------------------------


def test_a_device_in_another_namespace_is_absent_and_a_finding(make_host: MakeHost) -> None:
    """In exclusive mode, a pod has the device of VF 1."""
    host = make_host(roce(vfs=2, rdma_elsewhere={1}))
    host.set_rdma_mode(shared=False)
    run = host.collect(*ON)
    assert run.log == ""
    assert {name.partition("pciAddr=")[2][:14] for name in run.samples if "vf=" in name} == {
        '"0000:11:00.0"'
    }
    (finding,) = findings(host, "--collector.vfrdma")
    assert (finding["code"], finding["about"]) == ("rdma-exclusive", "ens2f0np0")
    assert finding["what"].startswith("1 of 2 VFs of ens2f0np0 have no RDMA device")
    facts = report(host, "--collector.vfrdma")
    assert facts["rdma_shared"] is False
    (pf,) = facts["pfs"]
    assert pf["rdma_devices"] == ["mlx5_0"]
    assert [vf["rdma_devices"] for vf in pf["vfs"]] == [["mlx5_1"], []]
    assert findings(host) == []


# --- a driver that hangs ----------------------------------------------------------------


@pytest.fixture
def firmware(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let reads of VF 0's counters of the first PF hang until the event is set."""
    answers = threading.Event()
    ports = rdma.ports

    def hang(pci_device: str, skip: Callable[[Problem], None]) -> list[rdma.Port]:
        if pci_device.endswith("/0000:11:00.0"):
            answers.wait(60)
        return ports(pci_device, skip)

    monkeypatch.setattr(rdma, "ports", hang)
    yield answers
    answers.set()


def test_a_driver_that_hangs_costs_only_the_rdma_counters_of_its_pf(
    make_host: MakeHost, firmware: threading.Event
) -> None:
    other = replace(roce(vfs=1), address="0000:20:00.0", netdev="other")
    run = make_host(roce(vfs=2), other).collect("--collector.vfrdma", "--timeout=3s")
    assert run.code == 0
    assert "code=hangs subject=ens2f0np0" in run.log
    assert len(run.log.splitlines()) == 1
    assert run.value("sriov_scrape_collector_success", collector="vfrdma") == "0"
    names = [name for name in run.samples if name.startswith("sriov_vf_rdma_")]
    assert {name.partition(',pf="')[2].partition('"')[0] for name in names} == {"other"}
    assert len([name for name in run.samples if name.startswith("sriov_vf_rx_bytes{")]) == 3


def test_a_process_does_not_ask_a_driver_that_hangs_again(
    make_host: MakeHost, firmware: threading.Event
) -> None:
    host = make_host(roce(vfs=1))
    config = flags.config(flags.parse([*host.flags, *ON, "--timeout=1s"])[1], host.rtnetlink)
    gatherer = Gatherer(config, Log())

    def has_rdma() -> bool:
        return "sriov_vf_rdma_out_of_buffer_drops_total{" in render(gatherer.gather()).decode()

    assert not has_rdma()
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        assert not has_rdma()
    assert len(os.listdir("/proc/self/task")) == threads
    firmware.set()
    end = time.monotonic() + 20
    while not has_rdma():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- hosts without ----------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci", ""])
def test_a_vf_without_kernel_driver_needs_no_rdma_device(make_host: MakeHost, driver: str) -> None:
    pf = roce(vfs=1, rdma_elsewhere={0})
    pf.vf_driver = driver
    host = make_host(pf)
    host.set_rdma_mode(shared=False)
    assert findings(host, "--collector.vfrdma", "--no-collector.pfinfo") == []


def test_a_host_without_rdma_is_a_finding_if_the_collector_is_on(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (finding,) = findings(host, "--collector.vfrdma")
    assert finding["code"] == "no-rdma"
    assert findings(host) == []
