"""vfstats: VF counters from sysfs and netlink, and which reader serves which VF."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from sriov_textfile.collectors import vfstats
from sriov_textfile.simulate.host import GROWTH, SimulatedPf
from sriov_textfile.simulate.rtnetlink import LinkVf, encode_error, encode_link
from tests.conftest import Host, MakeHost, Run

NETLINK_COUNTERS = set(GROWTH) - {"tx_errors"}


def stats(host: Host, vf: int) -> Path:
    return host.device(host.pfs[0].address) / f"sriov/{vf}/stats"


def rx_bytes(run: Run, pf: str = "ens1f0") -> dict[int, int]:
    """Return rx_bytes of each VF of a PF, by number."""
    return {
        int(name.partition('vf="')[2].partition('"')[0]): int(value)
        for name, value in run.samples.items()
        if name.startswith("sriov_vf_rx_bytes") and f'pf="{pf}"' in name
    }


def success(run: Run, collector: str = "vfstats") -> str | None:
    return run.value("sriov_scrape_collector_success", collector=collector)


def skipped(run: Run, collector: str = "vfstats") -> str | None:
    return run.value("sriov_scrape_collector_skipped", collector=collector)


# --- sysfs ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["folder", "file"])
def test_both_shapes_of_sysfs_statistics_have_the_same_output(
    make_host: MakeHost, shape: str
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs=shape))  # type: ignore[arg-type]
    run = host.collect("--collector.netlink=false")
    expected = [
        f'sriov_vf_{name}{{numa_node="0",pciAddr="0000:11:00.{vf}",pf="ens1f0",vf="{vf}"}}'
        f" {1000 * vf + order}"
        for order, name in enumerate(GROWTH, 1)
        for vf in (0, 1)
    ]
    assert sorted(run.vf_samples()) == sorted(expected)


def test_every_counter_that_the_driver_publishes_is_exported(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (stats(host, 0) / "tx_spoofed").write_text("77\n")
    run = host.collect()
    assert "# TYPE sriov_vf_tx_spoofed counter\n" in run.out
    labels = {"numa_node": "0", "pciAddr": "0000:11:00.0", "pf": "ens1f0", "vf": "0"}
    assert run.value("sriov_vf_tx_spoofed", **labels) == "77"


@pytest.mark.parametrize("name", ["info", "min_tx_rate_mbps", "max_tx_rate_mbps"])
@pytest.mark.parametrize("vfinfo", [True, False], ids=["with vfinfo", "without vfinfo"])
def test_a_counter_named_like_another_metric_is_skipped(
    make_host: MakeHost, name: str, vfinfo: bool
) -> None:
    host = make_host(SimulatedPf(vfs=4))
    for vf in (0, 2):
        (stats(host, vf) / name).write_text("77\n")
    run = host.collect(f"--collector.vfinfo={vfinfo}")
    types = [line.split()[2] for line in run.out.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "77" not in run.samples.values()
    assert "code=bad-counter" in run.log
    assert skipped(run) == "2"


def test_the_names_of_other_collectors_are_reserved(make_host: MakeHost) -> None:
    """If this fails: a new sriov_vf_ metric belongs in vfstats' list."""
    out = make_host(SimulatedPf(vfs=4)).collect("--collector.vfinfo", "--no-collector.vfstats").out
    others = re.findall(r"^# TYPE sriov_vf_(\w+)", out, re.MULTILINE)
    assert set(others) <= vfstats.RESERVED


@pytest.mark.parametrize("text", ["18446744073709551615", "9223372036854775808", "0", "007"])
def test_counters_are_exported_as_exact_integers(make_host: MakeHost, text: str) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (stats(host, 0) / "rx_bytes").write_text(f"{text}\n")
    assert rx_bytes(host.collect()) == {0: int(text)}


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1.5", "0x10", "1e3", "12 34", "1_0", "N/A", "٣", "18446744073709551616", "9" * 500],
)
def test_an_invalid_counter_is_skipped_logged_and_counted(make_host: MakeHost, text: str) -> None:
    host = make_host(SimulatedPf(vfs=2))
    (stats(host, 0) / "rx_bytes").write_text(f"{text}\n")
    run = host.collect()
    assert rx_bytes(run) == {1: 1003}
    assert len(run.log.splitlines()) == 1
    assert "/device/sriov/0/stats: rx_bytes is not an unsigned 64-bit integer" in run.log
    assert (success(run), skipped(run)) == ("1", "1")


def test_an_oversized_file_is_skipped(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="file"))
    padding = "x" * (65536 - len("rx_bytes : 123456"))
    stats(host, 0).write_text(f"{padding}\nrx_bytes : 123456789012345\n")
    run = host.collect("--collector.netlink=false")
    assert run.vf_samples() == []
    assert "/device/sriov/0/stats: File too large" in run.log
    assert skipped(run) == "1"


@pytest.mark.parametrize("name", ["rx-bytes", "rx bytes", "rx_bytes{a=1}", "größe"])
def test_a_counter_with_an_invalid_metric_name_is_skipped(make_host: MakeHost, name: str) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (stats(host, 0) / name).write_text("1\n")
    run = host.collect()
    assert len(run.vf_samples()) == len(GROWTH)
    assert "cannot be part of a metric name" in run.log
    assert skipped(run) == "1"


def test_a_symlink_among_the_counters_is_not_followed(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (tmp_path / "secret").write_text("42\n")
    (stats(host, 0) / "leak").symlink_to(tmp_path / "secret")
    run = host.collect()
    assert "leak" not in run.out
    assert "/stats/leak: Too many levels of symbolic links" in run.log
    assert skipped(run) == "1"


def test_a_symlink_in_place_of_the_statistics_is_not_followed(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(SimulatedPf(vfs=1))
    stats(host, 0).rename(tmp_path / "elsewhere")
    stats(host, 0).symlink_to(tmp_path / "elsewhere")
    run = host.collect("--collector.netlink=false")
    assert run.vf_samples() == []
    assert skipped(run) == "1"


def test_a_folder_or_a_pipe_among_the_counters_is_skipped(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (stats(host, 0) / "per_queue").mkdir()
    os.mkfifo(stats(host, 0) / "pipe")
    run = host.collect()
    assert len(run.vf_samples()) == len(GROWTH)
    assert "/stats/per_queue: Is a directory" in run.log
    assert skipped(run) == "2"


def test_malformed_lines_in_the_single_file_are_skipped(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="file"))
    stats(host, 0).write_text("tx_packets    : 5011\n\nrx_bytes:7\n  rx_packets : x\nheading\n")
    run = host.collect("--collector.netlink=false")
    labels = 'numa_node="0",pciAddr="0000:11:00.0",pf="ens1f0",vf="0"'
    assert run.vf_samples() == [
        f"sriov_vf_rx_bytes{{{labels}}} 7",
        f"sriov_vf_tx_packets{{{labels}}} 5011",
    ]
    assert skipped(run) == "2"


# --- netlink ----------------------------------------------------------------------------


def test_netlink_serves_all_counters_of_the_kernel(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf(vfs=1, sysfs="none")).collect()
    assert {line.split("{")[0] for line in run.vf_samples()} == {
        f"sriov_vf_{name}" for name in NETLINK_COUNTERS
    }


@pytest.mark.parametrize("vfs", [0, 1, 221, 222, 256, 1024])
def test_no_vf_is_lost_at_any_number_of_vfs(make_host: MakeHost, vfs: int) -> None:
    host = make_host(SimulatedPf(vfs=vfs, sysfs="none", vf_driver="vfio-pci"))
    assert rx_bytes(host.collect()) == {vf: 1000 * vf + 3 for vf in range(vfs)}


def test_the_kernel_is_asked_once_per_pf(make_host: MakeHost) -> None:
    host = make_host(
        SimulatedPf(vfs=4, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=4, sysfs="none"),
    )
    host.collect()
    assert host.server.requests == {"ens1f0": 1, "b": 1}


def test_counters_above_2_to_the_63_are_not_negative(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf(vfs=1, sysfs="none", first_count=2**64 - 100)).collect()
    assert rx_bytes(run) == {0: 2**64 - 97}


def test_an_unknown_netdev_points_to_the_network_namespace(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    host.pfs.clear()  # sysfs still has the PF, rtnetlink does not
    run = host.collect()
    assert run.code == 0
    assert run.vf_samples() == []
    assert "the kernel has no netdev ens1f0 in this network namespace; run in the host's" in run.log
    assert "code=unknown-netdev subject=ens1f0" in run.log
    assert (success(run), success(run, "pfinfo")) == ("0", "1")


def test_a_pf_without_a_link_does_not_affect_the_others(make_host: MakeHost) -> None:
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none"),
    )
    del host.pfs[0]
    run = host.collect()
    assert rx_bytes(run, "b") == {0: 3}
    assert success(run) == "0"


def test_an_undecodable_reply_is_logged_and_fails_the_collector(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=4, sysfs="none"))
    describe = host.server.describe
    host.server.describe = lambda netdev, number: (describe(netdev, number) or b"")[:-8]
    run = host.collect()
    assert "cannot decode the reply about ens1f0: the reply has" in run.log
    assert "code=rtnetlink subject=ens1f0" in run.log
    assert success(run) == "0"


def test_a_reply_about_another_netdev_is_rejected(make_host: MakeHost) -> None:
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none", first_count=500),
    )
    describe = host.server.describe
    host.server.describe = lambda netdev, number: describe("b", number)
    run = host.collect()
    assert rx_bytes(run) == {}
    assert rx_bytes(run, "b") == {0: 503}
    assert "the reply is about 'b', not ens1f0" in run.log


@pytest.mark.parametrize("code", [0, 5, 4096, 2**31])
def test_an_error_from_the_kernel_affects_only_its_pf(make_host: MakeHost, code: int) -> None:
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none"),
    )
    answer = host.server.answer
    host.server.answer = lambda request: (  # type: ignore[method-assign]
        encode_error(code, request) if b"ens1f0" in request else answer(request)
    )
    run = host.collect()
    assert "the kernel refused to describe ens1f0: " in run.log
    assert "code=rtnetlink subject=ens1f0" in run.log
    assert rx_bytes(run, "b") == {0: 3}


def test_a_late_reply_to_an_earlier_request_is_ignored(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    host.server.stray = encode_link("ens1f0", "0000:10:00.0", bytes(6), 1, [LinkVf(0)], sequence=99)
    assert rx_bytes(host.collect()) == {0: 3, 1: 1003}


# --- reader priority --------------------------------------------------------------------


def test_netlink_is_not_asked_if_sysfs_has_all_counters(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2))
    run = host.collect()
    assert host.server.requests == {}
    assert 'reader="sysfs"' in run.out


def test_a_vf_without_sysfs_counters_is_read_by_netlink(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=3))
    shutil.rmtree(stats(host, 1))
    run = host.collect()
    assert rx_bytes(run) == {0: 3, 1: 1003, 2: 2003}
    errors = [line for line in run.vf_samples() if line.startswith("sriov_vf_tx_errors")]
    assert len(errors) == 2  # netlink has none, and absent is not zero
    assert 'reader="sysfs,netlink"' in run.out
    assert host.server.requests == {"ens1f0": 1}


def test_the_priority_can_be_reversed(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2))
    run = host.collect("--collector.vfstatspriority=netlink,sysfs")
    assert "sriov_vf_tx_errors" not in run.out
    assert 'reader="netlink"' in run.out


def test_without_readers_there_are_no_counters(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2))
    run = host.collect("--collector.sysfs=false", "--collector.netlink=false")
    assert run.vf_samples() == []
    assert 'reader=""' in run.out
    assert success(run) == "1"


def test_with_vfstats_off_no_counters_are_read(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    run = host.collect("--no-collector.vfstats")
    assert host.server.requests == {}
    assert run.vf_samples() == []
    assert success(run) is None
    assert 'sriov_pf_num_vfs{numa_node="0",pciAddr="0000:10:00.0",pf="ens1f0"} 2\n' in run.out


@pytest.mark.parametrize(
    ("flag", "netdevs"),
    [
        ("--collector.pf-include=^ens", ["ens1f0", "ens2f0"]),
        ("--collector.pf-include=2f", ["ens2f0"]),
        ("--collector.pf-exclude=^ib", ["ens1f0", "ens2f0"]),
        ("--collector.pf-include=nothing", []),
    ],
)
def test_pfs_are_selected_by_regular_expressions(
    make_host: MakeHost, flag: str, netdevs: list[str]
) -> None:
    names = ("ens1f0", "ens2f0", "ib0")
    host = make_host(
        *[
            SimulatedPf(address=f"0000:{16 + n:02x}:00.0", netdev=name, vfs=0)
            for n, name in enumerate(names)
        ]
    )
    run = host.collect(flag)
    assert [
        line.split('pf="')[1].split('"')[0]
        for line in run.out.splitlines()
        if line.startswith("sriov_pf_info")
    ] == netdevs


# --- successive collections -------------------------------------------------------------


@pytest.mark.parametrize("sysfs", ["folder", "file", "none"])
def test_counters_grow_from_one_collection_to_the_next(make_host: MakeHost, sysfs: str) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs=sysfs))  # type: ignore[arg-type]
    assert rx_bytes(host.collect()) == {0: 3, 1: 1003}
    host.now = 10
    host.refresh()
    assert rx_bytes(host.collect()) == {0: 3 + 90_000_000, 1: 1003 + 180_000_000}


@pytest.mark.parametrize("sysfs", ["folder", "file", "none"])
def test_created_and_removed_vfs_show_in_the_next_collection(
    make_host: MakeHost, sysfs: str
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs=sysfs))  # type: ignore[arg-type]
    assert list(rx_bytes(host.collect())) == [0, 1]
    host.set_vfs(host.pfs[0], 5)
    assert list(rx_bytes(host.collect())) == [0, 1, 2, 3, 4]
    host.set_vfs(host.pfs[0], 1)
    assert list(rx_bytes(host.collect())) == [0]
