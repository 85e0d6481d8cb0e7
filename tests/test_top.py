"""top: rates between two samples of the counters, plain lines, JSON, and recordings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sriov_textfile import flags
from sriov_textfile.problems import Problem
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from sriov_textfile.snapshots import SnapshotError
from sriov_textfile.top import batch, recording, sample
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import Meter, Row, Table
from sriov_textfile.top.sample import COUNTERS, Pf, Sample, Vf
from tests.conftest import WITHOUT_PRIVILEGE, Host, MakeHost, documented
from tests.test_command_line import imports

DOCS = Path(__file__).parent.parent / "docs/top.md"
MODULE = [sys.executable, "-m", "sriov_textfile"]

# By netlink: without errors, and without files that have to be refreshed.
BUSY = SimulatedPf(vfs=4, sysfs="none", vf_driver="vfio-pci")


def take(host: Host, *arguments: str) -> Sample:
    """Return a sample of a host that is read at the host's own time."""
    _, values = flags.parse([*host.flags, *arguments])
    taken = Machine(flags.config(values, host.rtnetlink), "node-1", host.refresh).sample()
    taken.time = 1_795_780_800 + host.now
    for pf in taken.pfs:
        pf.read_at = host.now
    return taken


def table_after(host: Host, seconds: float, *arguments: str) -> Table:
    """Return the rates of a host from now until some seconds later."""
    meter = Meter()
    meter.update(take(host, *arguments))
    host.now += seconds
    return meter.update(take(host, *arguments))


def one_vf(read_at: float, address: str = "0000:11:00.0", **counters: int) -> Sample:
    """Return a sample of a PF with one VF, whose counters are given without defaults."""
    vf = Vf(0, address, "free", [], [], counters)
    pf = Pf("0000:10:00.0", "ens1f0", "ice", "0", 25_000, read_at, [vf])
    return Sample(0.0, "node-1", False, [pf], [])


def rates_of(*samples: Sample) -> list[dict[str, float]]:
    """Return the known rates of the only VF after each sample but the first."""
    meter = Meter()
    meter.update(samples[0])
    found = []
    for each in samples[1:]:
        (row,) = meter.update(each).vfs
        known = zip(COUNTERS, row.rates, strict=True)
        found.append({name: rate for name, rate in known if rate is not None})
    return found


# --- rates ------------------------------------------------------------------------------


def test_a_rate_is_the_growth_of_the_counter_by_the_time_between_the_two_reads() -> None:
    assert rates_of(one_vf(10.0, rx_bytes=1000), one_vf(12.5, rx_bytes=6000)) == [
        {"rx_bytes": 2000.0}
    ]


def test_each_pf_has_the_time_of_its_own_reads(make_host: MakeHost) -> None:
    host = make_host(BUSY, replace(BUSY, address="0000:20:00.0", netdev="b"))
    meter = Meter()
    meter.update(take(host))
    host.now = 10
    later = take(host)
    later.pfs[1].read_at = 20
    table = meter.update(later)
    first, second = ([vf.rates[0] for vf in pf.children] for pf in table.pfs)
    assert first == [9e6, 18e6, 27e6, 36e6]
    assert second == [4.5e6, 9e6, 13.5e6, 18e6]


def test_the_machine_reads_the_time_when_it_reads_the_counters(make_host: MakeHost) -> None:
    host = make_host(BUSY, replace(BUSY, address="0000:20:00.0", netdev="slow"))
    describe = host.server.describe

    def describe_later(netdev: str, sequence: int) -> bytes | None:
        time.sleep(0.3 if netdev == "slow" else 0)
        return describe(netdev, sequence)

    host.server.describe = describe_later
    _, values = flags.parse(host.flags)
    before = time.monotonic()
    first, second = Machine(flags.config(values, host.rtnetlink)).sample().pfs
    assert before < first.read_at < second.read_at < time.monotonic()
    assert second.read_at - first.read_at >= 0.3


def test_the_first_sample_has_no_rates() -> None:
    table = Meter().update(one_vf(1.0, rx_bytes=1000))
    (vf,) = table.vfs
    assert (table.seconds, set(vf.rates), vf.unknown) == (0, {None}, 1)


def test_a_counter_that_falls_is_unknown_once() -> None:
    """As after the driver was loaded again, or when a counter of 64 bits wraps."""
    assert rates_of(
        one_vf(0.0, rx_bytes=2**64 - 10, tx_bytes=5),
        one_vf(1.0, rx_bytes=90, tx_bytes=6),
        one_vf(2.0, rx_bytes=100, tx_bytes=7),
    ) == [{"tx_bytes": 1.0}, {"rx_bytes": 10.0, "tx_bytes": 1.0}]


def test_a_counter_that_comes_back_after_a_fall_is_not_a_spike() -> None:
    """As while a NIC resets: the driver reports 0, and then the old values again."""
    assert rates_of(
        one_vf(0.0, rx_bytes=10**12, tx_bytes=1),
        one_vf(1.0, rx_bytes=0, tx_bytes=2),
        one_vf(2.0, rx_bytes=0, tx_bytes=3),
        one_vf(3.0, rx_bytes=10**12 + 300, tx_bytes=4),
        one_vf(4.0, rx_bytes=10**12 + 400, tx_bytes=5),
    ) == [
        {"tx_bytes": 1.0},
        {"rx_bytes": 0.0, "tx_bytes": 1.0},
        {"tx_bytes": 1.0},
        {"rx_bytes": 100.0, "tx_bytes": 1.0},
    ]


def test_a_counter_that_falls_twice_is_not_a_spike_either() -> None:
    values = [10**12, 10**6, 10, 10**6 + 5, 10**12 + 7, 10**12 + 9]
    samples = [one_vf(float(at), rx_bytes=value) for at, value in enumerate(values)]
    assert [found.get("rx_bytes") for found in rates_of(*samples)] == [
        None,
        None,
        10**6 - 5,
        None,
        2,
    ]


def test_a_counter_that_is_missing_for_a_while_is_unknown_until_the_second_sample_after() -> None:
    assert rates_of(
        one_vf(0.0, rx_bytes=100),
        one_vf(1.0),
        one_vf(2.0, rx_bytes=10**9),
        one_vf(3.0, rx_bytes=10**9 + 5),
    ) == [{}, {}, {"rx_bytes": 5.0}]


def test_a_vf_that_appears_is_unknown_at_first_and_one_that_goes_is_gone(
    make_host: MakeHost,
) -> None:
    host = make_host(replace(BUSY, vfs=2))
    meter = Meter()
    meter.update(take(host))
    known = []
    for vfs in (3, 3, 1):
        host.set_vfs(host.pfs[0], vfs)
        host.now += 1
        known.append([vf.rates[0] for vf in meter.update(take(host)).vfs])
    assert known == [[9e6, 18e6, None], [9e6, 18e6, 27e6], [9e6]]


def test_a_pf_whose_counters_are_all_0_has_no_rates(make_host: MakeHost) -> None:
    """As without VF counters in the driver, which is indistinguishable from idle VFs."""
    (pf,) = table_after(make_host(demo.pf(2, vfs=2)), 1).pfs
    assert (pf.no_counters, pf.driver, pf.unknown) == (True, "igb", 2)
    assert [set(vf.rates) for vf in pf.children] == [{None}, {None}]


def test_the_first_traffic_of_a_vf_is_unknown() -> None:
    """The zeros may be those of a NIC that resets, and what follows the old values."""
    assert rates_of(
        one_vf(0.0, rx_bytes=0, tx_bytes=0),
        one_vf(1.0, rx_bytes=10**12, tx_bytes=0),
        one_vf(2.0, rx_bytes=10**12 + 7, tx_bytes=3),
    ) == [{}, {"rx_bytes": 7.0, "tx_bytes": 3.0}]


def test_counters_that_are_held_back_are_unknown_and_no_spike_follows(make_host: MakeHost) -> None:
    host = make_host(BUSY, replace(BUSY, address="0000:20:00.0", netdev="b"))
    _, values = flags.parse(host.flags)
    machine = Machine(flags.config(values, host.rtnetlink), "node-1", host.refresh)
    meter = Meter()
    shown = []
    for second, busy in enumerate([(), (), (0, 2), (0, 2), (), (), ()]):
        host.now, host.pfs[0].busy = second, busy
        taken = machine.sample()
        for pf in taken.pfs:
            pf.read_at = second
        table = meter.update(taken)
        assert {vf.number for vf in taken.pfs[0].vfs if vf.held_back} == set(busy)
        assert {problem.code for problem in taken.problems} == ({"held-back"} if busy else set())
        shown.append([vf.rates[0] for vf in table.pfs[0].children])
        if busy:
            assert table.pfs[0].unknown == 2
            assert re.search(r"ens1f0 +>432M ", batch.as_text(table, "pf"))
            facts = json.loads(batch.as_json(table))["pfs"][0]["vfs"]
            assert [vf["held_back"] for vf in facts] == [True, False, True, False]
            assert [vf["rx_bytes_per_second"] is None for vf in facts] == [True, False, True, False]
        if second:
            assert table.pfs[1].rates[0] == 90e6
    known, held_back = [9e6, 18e6, 27e6, 36e6], [None, 18e6, None, 36e6]
    assert shown == [[None] * 4, known, *[held_back] * 3, known, known]


def test_a_pf_is_not_said_to_lack_counters_while_it_resets(make_host: MakeHost) -> None:
    host = make_host(replace(BUSY, vfs=1))
    machine = Machine(flags.config(flags.parse(host.flags)[1], host.rtnetlink))
    meter = Meter()
    meter.update(machine.sample())
    host.pfs[0].busy = {0}
    (pf,) = meter.update(machine.sample()).pfs
    assert (pf.no_counters, pf.unknown) == (False, 1)
    assert "are all 0" not in batch.as_text(meter.update(machine.sample()), "pf")


def test_a_pf_has_the_sum_of_its_vfs_and_the_share_of_its_link(make_host: MakeHost) -> None:
    (pf,) = table_after(make_host(replace(BUSY, speed=1000)), 10).pfs
    assert pf.rates[:2] == [90e6, 50e6]
    assert pf.share == pytest.approx(90e6 * 8 / 1e9)


def test_a_sum_names_the_vfs_that_it_lacks() -> None:
    def both(read_at: float, first: int, second: dict[str, int]) -> Sample:
        taken = one_vf(read_at, rx_bytes=first, tx_bytes=first)
        taken.pfs[0].vfs.append(Vf(1, "0000:11:00.1", "free", [], [], second))
        return taken

    meter = Meter()
    meter.update(both(0.0, 100, {"rx_bytes": 900, "tx_bytes": 900}))
    (pf,) = meter.update(both(1.0, 110, {})).pfs
    assert (pf.rates[0], pf.unknown) == (10.0, 1)
    assert " >80.0 " in batch.as_text(meter.update(both(2.0, 120, {})), "pf")


def test_a_sum_that_lacks_a_direction_does_not_look_certain() -> None:
    """Many drivers count errors in one direction only."""

    def errors(tx_errors: int) -> str:
        meter = Meter()
        meter.update(one_vf(0.0, rx_bytes=100, tx_bytes=100, tx_errors=0))
        table = meter.update(one_vf(1.0, rx_bytes=100, tx_bytes=100, tx_errors=tx_errors))
        lines = batch.as_text(table, "pf").splitlines()
        return lines[1].split()[lines[0].split().index("error/s")]

    assert (errors(0), errors(5)) == ("-", ">5.00")


@pytest.mark.parametrize(("rate", "shown"), [(0, "-"), (1000, ">")])
def test_no_known_traffic_is_not_the_absence_of_traffic(rate: int, shown: str) -> None:
    names = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_dropped", "tx_dropped")
    meter = Meter()
    for moment in (0, 1):
        taken = one_vf(float(moment))
        taken.pfs[0].vfs[0].counters = dict.fromkeys(names, 1 + rate * moment)
        taken.pfs[0].vfs.append(Vf(1, "0000:11:00.1", "free", [], [], {}))
        table = meter.update(taken)
    (row,) = table.pods
    cells = batch.as_text(table, "pod").splitlines()[1].split()[3:12]
    assert [cell[0] for cell in cells] == [*[shown] * 6, "-", shown, "0"]
    assert (row.traffic is None) == (rate == 0)
    assert not row.is_idle  # It may have traffic.


def test_a_link_that_is_down_has_no_share(make_host: MakeHost) -> None:
    (pf,) = table_after(make_host(replace(BUSY, speed=None)), 1).pfs
    assert (pf.speed_mbps, pf.share) == (None, None)


# --- pods -------------------------------------------------------------------------------


@contextmanager
def node_with(root: Path, *pods: SimulatedPod) -> Iterator[list[str]]:
    """Run the kubelet of a node, and yield its flags."""
    node = SimulatedNode(root, list(pods))
    with node.running():
        yield node.flags


def pod(name: str, devices: list[str], cpus: str = "") -> SimulatedPod:
    container = SimulatedContainer("c", "a" * 64, cpus, {"vendor/vf": devices})
    return SimulatedPod(name, "core", "1" * 32, [container])


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_a_pod_has_the_sum_of_its_vfs_and_its_share_of_the_fullest_link(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(BUSY, replace(BUSY, address="0000:20:00.0", netdev="b", speed=100))
    devices = [host.pfs[0].vf_address(3), host.pfs[1].vf_address(0), host.pfs[1].vf_address(1)]
    with node_with(tmp_path, pod("upf-0", devices)) as arguments:
        upf = by_name(table_after(host, 10, *arguments).pods)["core/upf-0"]
    assert upf.pfs == ["ens1f0", "b"]
    assert upf.rates[0] == 36e6 + 9e6 + 18e6
    assert upf.share == pytest.approx((9e6 + 18e6) * 8 / 100e6)


def test_a_vf_of_several_pods_counts_for_each(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(BUSY)
    devices = [BUSY.vf_address(0)]
    with node_with(tmp_path, pod("a", devices), pod("b", devices)) as arguments:
        table = table_after(host, 10, *arguments)
    assert table.vfs[0].vfs[0].pods == ["core/a", "core/b"]
    pods = by_name(table.pods)
    assert pods["core/a"].rates[0] == pods["core/b"].rates[0] == 9e6


@pytest.mark.parametrize(
    ("vf_driver", "user"),
    [
        ("vfio-pci", "vfio"),
        ("mlx5_vfio_pci", "vfio"),
        ("pci-stub", "vfio"),
        ("iavf", "host"),
        ("", "free"),
    ],
)
def test_a_vf_without_a_pod_is_the_hosts_or_vfios_or_free(
    make_host: MakeHost, vf_driver: str, user: str
) -> None:
    (row,) = table_after(make_host(replace(BUSY, vfs=1, vf_driver=vf_driver)), 1).pods
    assert (row.name, row.vfs[0].user) == (f"({user})", user)


def test_a_pod_is_marked_if_the_cpus_of_one_vf_are_elsewhere() -> None:
    """Two VFs on different nodes, each used by a container with CPUs on the node of the other."""
    meter = Meter()
    vfs = [
        Vf(0, f"0000:{bus}:00.0", "pod", ["core/a"], [cpus], {})
        for bus, cpus in ((11, "1"), (21, "0"))
    ]
    pfs = [
        Pf("0000:10:00.0", "ens1f0", "ice", "0", None, 0.0, vfs[:1]),
        Pf("0000:20:00.0", "ens2f0", "ice", "1", None, 0.0, vfs[1:]),
    ]
    (row,) = meter.update(Sample(0.0, "node-1", True, pfs, [])).pods
    assert row.cpus_elsewhere == ["0", "1"]


def test_a_pf_without_netdev_has_a_time_too(make_host: MakeHost) -> None:
    host = make_host(replace(BUSY, vfs=1, netdev=""))
    machine = Machine(flags.config(flags.parse(host.flags)[1], host.rtnetlink))
    (pf,) = machine.sample().pfs
    assert pf.read_at > 0


def test_the_ports_of_a_card_share_their_vfs(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(replace(BUSY, vfs=2, second_port="second"))
    with node_with(tmp_path, pod("a", [BUSY.vf_address(0)])) as arguments:
        table = table_after(host, 1, *arguments)
    (found,) = [
        each for each in json.loads(batch.as_json(table))["pods"] if each["name"] == "core/a"
    ]
    assert found["vfs"] == [BUSY.vf_address(0)]


def test_a_sum_without_an_unknown_part_is_not_0_in_json(
    make_host: MakeHost, tmp_path: Path
) -> None:
    """Via netlink there are no errors. A pod has a VF of such a PF and one of another."""
    netlink = replace(BUSY, address="0000:20:00.0", netdev="b", sysfs="none")
    pfs = [replace(BUSY, sysfs="folder"), netlink]
    host = make_host(*pfs)
    vfs = [pf.vf_address(0) for pf in pfs]
    with node_with(tmp_path, pod("a", vfs)) as arguments:
        found = json.loads(batch.as_json(table_after(host, 1, *arguments)))
    errors = [pf["vfs"][0]["tx_errors_per_second"] for pf in found["pfs"]]
    assert errors == [0, None]
    (of_pod,) = [each for each in found["pods"] if each["name"] == "core/a"]
    assert of_pod["tx_errors_per_second"] is None
    assert of_pod["rx_bytes_per_second"] > 0


def test_a_vf_whose_netdev_is_in_another_network_namespace(make_host: MakeHost) -> None:
    host = make_host(replace(BUSY, vfs=1, vf_driver="iavf"))
    (netdev,) = (host.device(BUSY.vf_address(0)) / "net").iterdir()
    netdev.rename(netdev.parent.parent / "moved")
    (row,) = table_after(host, 1).pods
    assert row.name == "(netns)"


def test_a_pod_whose_cpus_are_not_on_the_node_of_its_nic_is_marked(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(replace(BUSY, numa_node=0))
    far, near = pod("far", [BUSY.vf_address(0)], "4-5"), pod("near", [BUSY.vf_address(1)], "2-3")
    with node_with(tmp_path, far, near) as arguments:
        table = table_after(host, 1, *arguments)
    pods = by_name(table.pods)
    assert pods["core/far"].cpus_elsewhere == ["1"]
    assert pods["core/near"].cpus_elsewhere == []
    assert re.search(r"core/far .* 0!=1\n", batch.as_text(table, "pod"))


def test_pods_that_are_unknown_are_a_problem_and_not_an_error(
    make_host: MakeHost, tmp_path: Path
) -> None:
    taken = take(make_host(BUSY), f"--path.kubeletSocket={tmp_path}")
    assert not taken.pods_known
    assert [problem.code for problem in taken.problems] == ["kubelet"]
    assert len(taken.pfs[0].vfs) == 4


@pytest.mark.parametrize("view", ["top", "doctor"])
def test_a_user_who_may_not_see_the_kubelets_socket_is_told_so(
    make_host: MakeHost, tmp_path: Path, view: str
) -> None:
    """On a node, /var/lib/kubelet is closed to users."""
    closed = tmp_path / "kubelet"
    closed.mkdir(mode=0)
    command = [*WITHOUT_PRIVILEGE, *MODULE, view, *make_host(replace(BUSY, sysfs="folder")).flags]
    command += [f"--path.kubeletSocket={closed}/pod-resources/kubelet.sock"]
    command += ["--count=1", "--interval=100ms"] if view == "top" else []
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    said = done.stderr if view == "top" else done.stdout
    assert f"no permission to use the kubelet socket at {closed}/" in " ".join(said.split())
    assert view == "top" or done.stdout.endswith("Not checked: pods, CPUs, textfile.\n")


# --- reading the machine ----------------------------------------------------------------


def test_a_sample_asks_the_kernel_once_for_each_pf_and_not_at_all_for_counters_in_sysfs(
    make_host: MakeHost,
) -> None:
    host = make_host(demo.pf(0, vfs=2), demo.pf(1, vfs=2))
    take(host)
    assert host.server.requests == {"ens2f0np0": 1}


def test_what_rarely_changes_is_not_read_each_time(make_host: MakeHost) -> None:
    host = make_host(replace(BUSY, vf_driver="iavf"))
    _, values = flags.parse(host.flags)
    machine = Machine(flags.config(values, host.rtnetlink))
    first = machine.sample().pfs[0]
    driver = host.device(BUSY.vf_address(0)) / "driver"
    driver.unlink()
    (host.net / "ens1f0/speed").write_text("-1\n")
    later = machine.sample().pfs[0]
    assert (later.vfs[0].user, later.speed_mbps) == (first.vfs[0].user, first.speed_mbps)
    assert (first.vfs[0].user, first.speed_mbps) == ("host", 25_000)
    machine._details_until = 0.0
    changed = machine.sample().pfs[0]
    assert (changed.vfs[0].user, changed.speed_mbps) == ("free", None)


def test_a_sample_that_hangs_is_given_up_and_not_repeated(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    host = make_host(SimulatedPf(vfs=2))
    _, values = flags.parse([*host.flags, "--timeout=100ms"])
    machine = Machine(flags.config(values, host.rtnetlink))
    for message in ("did not finish within 0.1 s", "one before still hangs"):
        with pytest.raises(SnapshotError, match=message):
            machine.sample()


# --- plain lines ------------------------------------------------------------------------


def demo_table(make_host: MakeHost, tmp_path: Path) -> Table:
    host = make_host(*[demo.pf(number, vfs=4) for number in range(3)])
    with node_with(tmp_path, *demo.pods(host.pfs)) as arguments:
        return table_after(host, 10, *arguments)


@pytest.mark.parametrize("by", ["pod", "vf", "pf"])
def test_the_lines_match_the_golden_file(
    make_host: MakeHost, golden: Callable[[str, str], None], tmp_path: Path, by: str
) -> None:
    golden(f"top_{by}.txt", batch.as_text(demo_table(make_host, tmp_path), by))


@pytest.mark.parametrize("by", ["pod", "vf", "pf"])
def test_the_lines_of_pfs_are_sorted_by_traffic_as_the_rows_are(
    make_host: MakeHost, tmp_path: Path, by: str
) -> None:
    text = batch.as_text(demo_table(make_host, tmp_path), by)
    lines = text.rpartition("time ")[2].splitlines()[1:]
    assert [line.split()[1] for line in lines[:3]] == ["ens2f0np0", "ens1f0", "ens3f2"]


def test_the_json_matches_the_golden_file(
    make_host: MakeHost, golden: Callable[[str, str], None], tmp_path: Path
) -> None:
    line = batch.as_json(demo_table(make_host, tmp_path))
    assert line.count("\n") == 1
    golden("top.json", json.dumps(json.loads(line), indent=1) + "\n")


def kinds_of(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the JSON type of each field of a parsed JSON value."""
    names = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    if isinstance(value, dict) and "reason" not in value and not path.endswith("counters."):
        for name, inner in value.items():
            field = path + name
            if isinstance(inner, dict):
                yield field, "object of numbers"
            elif isinstance(inner, list):
                yield field, "array"
                for item in inner:
                    yield from kinds_of(item, f"{field}[].")
            else:
                yield field, names[type(inner)]


def check_fields(value: object, heading: str) -> None:
    """Check that exactly the documented fields are there, each of its documented type."""
    types = {row[0].strip("`"): row[1] for row in documented(DOCS, heading)}
    found = list(kinds_of(value))
    assert {field for field, _ in found} == set(types)
    for field, kind in found:
        assert any(each.startswith(kind) for each in types[field].split(" or ")), (field, kind)


def test_the_documented_json_fields_match_the_output(make_host: MakeHost, tmp_path: Path) -> None:
    check_fields(json.loads(batch.as_json(demo_table(make_host, tmp_path))), "JSON")


# --- the command ------------------------------------------------------------------------


def demo_top(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*MODULE, "demo", "top", "--pfs=2", "--vfs=2", "--interval=100ms", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_count_prints_so_many_tables() -> None:
    done = demo_top("--batch", "--count=3", "--by=vf")
    assert done.returncode == 0
    assert len(re.findall(r"^time .* used by ", done.stdout, re.MULTILINE)) == 3
    assert len(re.findall(r"^\S+Z  ens1f0 +0  0000:11:00.0  core/upf-0 ", done.stdout, re.M)) == 3


def test_plain_lines_need_only_the_standard_library(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2, vf_driver="vfio-pci")])
    socket = f"--path.kubeletSocket={tmp_path}/none"
    modules = imports("top", "--count=1", "--interval=100ms", *host.flags, socket)
    assert "sriov_textfile.top.batch" in modules
    # The standard library looks for a module of Jython.
    own = sys.stdlib_module_names | {"sriov_textfile", "org"}
    assert {name for name in modules if name.split(".")[0] not in own} == set()
    assert not {"curses", "_curses"} & modules


def test_json_prints_an_object_for_each_sample() -> None:
    done = demo_top("--json", "--count=2")
    assert done.returncode == 0
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["time"] < second["time"]
    assert first["pfs"][0]["vfs"][0]["rx_bytes_per_second"] > 0


def test_json_with_by_is_an_error() -> None:
    done = demo_top("--json", "--by=pod", "--count=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json has the rows of pods, VFs and PFs; leave out --by" in done.stderr


def test_without_a_terminal_it_prints_lines_until_it_is_stopped() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The tests themselves may run with nohup.
        command = ["env", "--default-signal=HUP", *MODULE]
        command += ["demo", "top", "--pfs=1", "--vfs=2", "--interval=100ms"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout
            assert program.stderr
            assert program.stdout.readline().startswith("time ")
            program.send_signal(number)
            assert program.wait(20) == 0
            assert len(program.stderr.read().splitlines()) == 1  # about the simulated host


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_not_recorded_is_exit_code_1_however_it_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    limit = f"ulimit -f 1; exec {' '.join(MODULE)} demo top --pfs=1 --vfs=2 --interval=100ms"
    with subprocess.Popen(
        ["bash", "-c", f"{limit} --record={tmp_path}/recording"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr
        while "cannot record" not in program.stderr.readline():
            assert program.poll() is None
        program.send_signal(number)
        program.communicate(timeout=20)
    assert program.returncode == 1


def test_with_nohup_it_outlives_the_connection() -> None:
    command = ["nohup", *MODULE, "demo", "top", "--pfs=1", "--vfs=2", "--interval=100ms"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout
        assert program.stdout.readline().startswith("time ")
        program.send_signal(signal.SIGHUP)
        for _ in range(100):
            assert program.stdout.readline()
        program.terminate()
        assert program.wait(20) == 0


def test_a_reader_that_goes_ends_it_without_a_message() -> None:
    command = f"{' '.join(MODULE)} demo top --pfs=1 --vfs=2 --interval=100ms | head -n 3"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert len(done.stdout.splitlines()) == 4
    assert len(done.stderr.splitlines()) == 1  # about the simulated host


def test_a_full_disk_ends_it_with_exit_code_1() -> None:
    with open("/dev/full", "w") as full:
        command = [*MODULE, "demo", "top", "--pfs=1", "--count=1", "--interval=100ms"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "cannot write to standard output: No space left" in done.stderr.splitlines()[-1]


def test_a_host_without_pfs_ends_it_with_exit_code_1(make_host: MakeHost) -> None:
    run = make_host().collect("top", "--count=1")
    assert (run.code, run.out) == (1, "")
    assert run.log == "sriov-textfile: found no PF; run sriov-textfile doctor to see why\n"


def test_a_machine_that_cannot_be_read_ends_it_with_exit_code_1(make_host: MakeHost) -> None:
    run = make_host().collect("top", "--count=1", "--path.sysbuspci=/nowhere")
    assert (run.code, run.out) == (1, "")
    assert run.log.startswith("sriov-textfile: cannot list PCI devices in /nowhere")
    assert len(run.log.splitlines()) == 1


def test_a_sample_that_fails_is_logged_and_the_next_one_printed(make_host: MakeHost) -> None:
    host = make_host(BUSY)
    listing, hidden = host.root / "listing", host.root / "hidden"
    listing.symlink_to(host.bus)
    before_samples = iter(
        [None, None, lambda: listing.rename(hidden), lambda: hidden.rename(listing)]
    )

    def before() -> None:
        if act := next(before_samples, None):
            act()

    host.refresh_without_rdma = before  # type: ignore[method-assign]
    run = host.collect(
        "top", "--count=4", "--interval=20ms", "--json", f"--path.sysbuspci={listing}"
    )
    assert run.code == 1
    assert len(run.out.splitlines()) == 3
    assert "level=error" in run.log
    assert "code=missing-mount" in run.log


def test_problems_are_logged_and_in_the_json(make_host: MakeHost) -> None:
    host = make_host(replace(BUSY, netdev="gone"), replace(BUSY, address="0000:20:00.0"))
    describe = host.server.describe
    host.server.describe = lambda netdev, sequence: (
        None if netdev == "gone" else describe(netdev, sequence)
    )
    run = host.collect("top", "--count=1", "--interval=100ms", "--json")
    assert run.code == 0
    parsed = json.loads(run.out)
    assert [problem["code"] for problem in parsed["problems"]] == ["unknown-netdev"]
    assert [pf["unknown_vfs"] for pf in parsed["pfs"]] == [4, 0]
    assert "code=unknown-netdev" in run.log


# --- recordings -------------------------------------------------------------------------


def record(host: Host, path: Path, count: int = 2, *arguments: str) -> None:
    notice = f"sriov-textfile: appending to the recording {path}\n" if path.exists() else ""
    run = host.collect(
        "top", "--interval=100ms", f"--count={count}", f"--record={path}", *arguments
    )
    assert (run.code, run.log) == (0, notice)


def replay(host: Host, path: Path, *arguments: str) -> list[dict[str, Any]]:
    run = host.collect("top", f"--replay={path}", "--json", *arguments)
    assert (run.code, run.log) == (0, "")
    return [json.loads(line) for line in run.out.splitlines()]


def test_a_replay_prints_what_was_recorded(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(replace(BUSY, first_count=7))
    path = tmp_path / "recording"
    run = host.collect("top", "--interval=100ms", "--count=3", f"--record={path}", "--json")
    shown = [json.loads(line) for line in run.out.splitlines()]
    assert len(shown) == 3
    assert replay(host, path) == shown
    assert replay(host, path, "--count=1") == shown[:1]


def test_a_recording_has_the_documented_fields(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(BUSY, SimulatedPf(address="0000:20:00.0", netdev="b", speed=None, vfs=1))
    (host.device("0000:20:00.0") / "sriov/0/stats/rx_bytes").write_text("many\n")
    path = tmp_path / "recording"
    run = host.collect("top", "--interval=100ms", "--count=1", f"--record={path}")
    assert run.code == 0
    head, first, _ = map(json.loads, path.read_text().splitlines())
    assert head == {"recording": 1, "version": head["version"], "continued": False}
    check_fields(first, "Recordings")


def test_a_recording_goes_on_in_the_same_file(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(BUSY)
    path = tmp_path / "recording"
    record(host, path)
    record(host, path)
    assert len(replay(host, path)) == 4  # of 6 samples: the clocks of the processes may differ


def test_a_line_that_was_cut_off_is_skipped_and_the_next_recording_is_not(
    make_host: MakeHost, tmp_path: Path
) -> None:
    """As after the process was killed while it wrote, or the disk was full."""
    host = make_host(BUSY)
    path = tmp_path / "recording"
    record(host, path, 3)
    path.write_bytes(path.read_bytes()[:-100])
    record(host, path)
    run = host.collect("top", f"--replay={path}", "--json")
    assert len(run.out.splitlines()) == 2 + 2
    assert run.code == 1
    assert run.log == f"sriov-textfile: skipped 1 damaged line of {path}\n"


def test_two_processes_cannot_record_to_one_file(make_host: MakeHost, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    command = [*MODULE, "demo", "top", "--pfs=1", "--interval=100ms", f"--record={path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout
        assert program.stdout.readline()
        run = make_host(BUSY).collect("top", "--count=1", f"--record={path}")
        program.terminate()
    assert (run.code, run.out) == (1, "")
    assert f"another process records to {path}; choose another --record" in run.log


def test_another_file_is_not_replaced_by_the_older_half(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_MAX_BYTES", 3000)
    path, other = tmp_path / "recording", tmp_path / "recording.1"
    other.write_text("precious\n")
    run = make_host(BUSY).collect("top", "--interval=100ms", "--count=3", f"--record={path}")
    assert run.code == 1
    assert f"{other} is not a recording" in run.log
    assert other.read_text() == "precious\n"


def test_a_single_sample_has_no_rates_to_show(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(BUSY)
    path = tmp_path / "recording"
    record(host, path, 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    run = host.collect("top", f"--replay={path}")
    assert (run.code, run.out) == (1, "")
    assert run.log == (
        f"sriov-textfile: {path} has no two samples of one process to compare; record for longer\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"time":1.0}',
        b'{"time":NaN,"host":"","pods_known":false,"pfs":[],"problems":[]}',
        b'{"time":1e300,"host":"","pods_known":false,"pfs":[],"problems":[]}',
        b'{"time":1.0,"host":"","pods_known":false,"pfs":[{}],"problems":[]}',
        b'{"time":1.0,"host":"","pods_known":false,"pfs":[],"problems":[1]}',
    ],
)
def test_a_damaged_line_is_skipped(make_host: MakeHost, tmp_path: Path, line: bytes) -> None:
    host = make_host(BUSY)
    path = tmp_path / "recording"
    record(host, path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], line + b"\n", *lines[3:]]))
    run = host.collect("top", f"--replay={path}", "--json")
    assert len(run.out.splitlines()) == 3
    assert (run.code, run.log) == (1, f"sriov-textfile: skipped 1 damaged line of {path}\n")


def test_random_damage_never_ends_a_replay_with_an_unexpected_error(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(replace(BUSY, vfs=1))
    path = tmp_path / "recording"
    record(host, path, 2)
    head, *lines = path.read_bytes().splitlines(keepends=True)
    values = [b"-1", b"null", b"1e999", b'"x"', b"[]", b"{}", b"9" * 400, b"true"]
    fields = sorted(set(re.findall(rb'"\w+":', lines[1])))
    for field in fields:
        for value in values:
            damaged = re.sub(re.escape(field) + rb"[^,\[{}\]]+", field + value, lines[1])
            path.write_bytes(head + lines[0] + damaged + lines[2])
            for arguments in (["--json"], ["--by=vf"]):
                run = host.collect("top", f"--replay={path}", *arguments)
                assert "unexpected" not in run.log
                assert run.out, (field, value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {}: No such file or directory"),
        (b"", "{} is not a recording of sriov-textfile top; choose another file"),
        (b"root:x:0:0:", "{} is not a recording of sriov-textfile top; choose another file"),
        (b'{"recording":1,"version":"0","continued":false}\n', "{} has no samples"),
        (
            b'{"recording":2,"version":"9"}\n',
            "{} was recorded by a sriov-textfile with another format; replay it with that version",
        ),
    ],
)
def test_another_file_cannot_be_replayed(
    make_host: MakeHost, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    run = make_host(BUSY).collect("top", f"--replay={path}")
    assert (run.code, run.out) == (1, "")
    assert run.log == f"sriov-textfile: {message.format(path)}\n"


def test_another_file_is_not_recorded_to(make_host: MakeHost, tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0:\n")
    run = make_host(BUSY).collect("top", "--count=1", f"--record={path}")
    assert (run.code, run.out) == (1, "")
    assert "is not a recording" in run.log
    assert path.read_text() == "root:x:0:0:\n"


def test_a_recording_keeps_the_newest_samples_in_two_files(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(BUSY)
    path = tmp_path / "recording"
    record(host, path, 1)
    size = path.stat().st_size // 2  # of a sample, and a little more
    monkeypatch.setattr(recording, "_MAX_BYTES", 4 * size)
    record(host, path, 12)
    older = path.with_name("recording.1")
    assert older.stat().st_size <= 4 * size
    assert path.stat().st_size <= 4 * size
    shown = replay(host, path)
    samples = sum(len(file.read_text().splitlines()) - 1 for file in (older, path))
    assert len(shown) == samples - 1  # nothing is missing where the second file begins
    assert {round(pf["vfs"][0]["rx_bytes_per_second"]) for one in shown for pf in one["pfs"]} == {0}


def test_a_recording_that_cannot_be_written_is_reported_and_the_tables_go_on(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(BUSY)
    path = tmp_path / "recording"
    write, calls = os.write, []

    def fill(file: int, data: bytes) -> int:
        if bytes(data).startswith(b'{"time"'):
            calls.append(file)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", fill)
    run = host.collect("top", "--interval=100ms", "--count=3", f"--record={path}", "--by=pf")
    assert run.code == 1
    assert run.out.count("time ") == 3
    assert f"cannot record to {path}: No space left on device" in run.log
    assert len(run.log.splitlines()) == 1
    assert len(calls) == 2


def test_a_replay_cannot_be_recorded() -> None:
    done = subprocess.run([*MODULE, "top", "--record=a", "--replay=b"], capture_output=True)
    assert done.returncode == 2


def test_encoding_and_decoding_keep_a_sample(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(demo.pf(0, vfs=2), demo.pf(5, vfs=1))
    with node_with(tmp_path, *demo.pods(host.pfs)) as arguments:
        taken = take(host, *arguments)
    taken.problems = [Problem("code", "subject", "reason", "hint")]
    read = sample.decode(json.loads(sample.encode(taken)))
    assert sample.encode(read) == sample.encode(taken)
    assert read.pfs == taken.pfs
