"""Zeros of VFs that had counted are held back until they are to be believed."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sriov_textfile import exposition, flags
from sriov_textfile.collectors import vfstats
from sriov_textfile.gather import Gatherer
from sriov_textfile.held_back import BELIEVED_AFTER
from sriov_textfile.log import Log
from sriov_textfile.simulate.host import GROWTH, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from sriov_textfile.simulate.rtnetlink import encode_error, encode_link
from tests.conftest import Host, MakeHost
from tests.test_architecture import counted_opens

HELD_BACK = f"sriov_vf_{vfstats.HELD_BACK}"


class Page:
    """What one collection exports."""

    def __init__(self, text: str, log: str = "") -> None:
        self.text = text
        self.log = log

    def vfs(self, metric: str, pf: str = "ens1f0") -> dict[int, int]:
        """Return a metric of each VF of a PF, by number."""
        return {
            int(line.partition('vf="')[2].partition('"')[0]): int(line.rpartition(" ")[2])
            for line in self.text.splitlines()
            if line.startswith(f"{metric}{{") and f'pf="{pf}"' in line
        }

    @property
    def skipped(self) -> bool:
        return 'sriov_scrape_collector_skipped{collector="vfstats"} 0\n' not in self.text


Collect = Callable[..., Page]


def timer(host: Host, folder: Path, *flags: str) -> Collect:
    """Return a collection by a process of its own, which replaces the file of the last one."""
    path = folder / "sriov.prom"

    def collect(*arguments: str) -> Page:
        run = host.collect(f"--textfile.path={path}", *flags, *arguments)
        assert run.code == 0
        return Page(path.read_text(), run.log)

    return collect


def process(host: Host, folder: Path, *arguments: str) -> Collect:
    """Return the next collection of one process, as of a loop or of serve."""
    config = flags.config(flags.parse([*host.flags, *arguments])[1], host.rtnetlink)
    gatherer = Gatherer(config, Log())
    return lambda: Page(exposition.render(gatherer.gather()).decode())


both = pytest.mark.parametrize("mode", [timer, process])
Mode = Callable[..., Collect]


# --- what is held back ------------------------------------------------------------------


@both
@pytest.mark.parametrize("sysfs", ["none", "folder", "file"])
def test_a_vf_that_had_counted_is_left_out_while_it_reads_0(
    make_host: MakeHost, tmp_path: Path, mode: Mode, sysfs: Any
) -> None:
    host = make_host(SimulatedPf(vfs=3, sysfs=sysfs))
    collect = mode(host, tmp_path)
    assert collect().vfs(HELD_BACK) == {}
    host.pfs[0].busy = {0, 2}
    start = int(time.time())
    for seconds in (10, 20, 30):
        host.now = seconds
        host.refresh()
        page = collect()
        assert list(page.vfs("sriov_vf_rx_bytes")) == [1]
        since = page.vfs(HELD_BACK)
        assert list(since) == [0, 2]
        assert all(start <= value <= start + 5 for value in since.values())
        assert page.skipped
    host.pfs[0].busy = ()
    host.refresh()
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {
        vf: 1000 * vf + 3 + 30 * (vf + 1) * GROWTH["rx_bytes"] for vf in range(3)
    }
    assert page.vfs(HELD_BACK) == {}
    assert not page.skipped


@both
def test_vfs_that_never_counted_are_written_as_they_are(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none", counts=False))
    collect = mode(host, tmp_path)
    for _ in range(3):
        page = collect()
        assert page.vfs("sriov_vf_rx_bytes") == {0: 0, 1: 0}
        assert page.vfs(HELD_BACK) == {}


def test_idle_vfs_of_pods_are_written_as_they_are(make_host: MakeHost, tmp_path: Path) -> None:
    """The file also has the same PCI addresses with the value 1: the pods' devices."""
    host = make_host(SimulatedPf(vfs=2, sysfs="none", counts=False))
    devices = {"vendor.example/vf": [host.pfs[0].vf_address(vf) for vf in (0, 1)]}
    container = SimulatedContainer("upf", "c" * 64, devices=devices)
    uid = "12345678-9abc-def0-1234-56789abcdef0"
    node = SimulatedNode(tmp_path / "node", [SimulatedPod("upf-0", "core", uid, [container])])
    collect = timer(host, tmp_path)
    with node.running():
        for _ in range(3):
            page = collect("--collector.kubepoddevice", f"--path.kubeletSocket={node.socket}")
            assert page.text.count("sriov_kubepoddevice{") == 2
            assert page.vfs("sriov_vf_rx_bytes") == {0: 0, 1: 0}
            assert page.vfs(HELD_BACK) == {}


@both
def test_an_idle_vf_beside_vfs_that_are_held_back_is_written(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=3, sysfs="none", busy={1}))
    collect = mode(host, tmp_path)
    collect()
    host.pfs[0].busy = {0, 1}
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {1: 0, 2: 2003}
    assert list(page.vfs(HELD_BACK)) == [0]


@both
def test_a_counter_that_is_0_beside_others_that_are_not_is_written(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=1))
    collect = mode(host, tmp_path)
    collect()
    (host.device(host.pfs[0].address) / "sriov/0/stats/rx_bytes").write_text("0\n")
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 0}


@both
def test_a_vf_that_restarts_from_0_is_written_as_soon_as_it_counts(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none", first_count=10**12))
    collect = mode(host, tmp_path)
    collect()
    host.pfs[0].busy = {0}
    collect()
    host.pfs[0].busy, host.pfs[0].first_count = (), 0
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 3}


@both
@pytest.mark.parametrize("counted", [True, False])
def test_each_port_of_a_card_is_held_back_by_itself(
    make_host: MakeHost, tmp_path: Path, mode: Mode, counted: bool
) -> None:
    """A reset may begin after the first port was read, and one port may always be idle."""
    host = make_host(SimulatedPf(vfs=1, sysfs="none", second_port="second"))
    describe, silent = host.server.describe, set() if counted else {"second"}

    def describe_ports(netdev: str, sequence: int) -> bytes | None:
        host.pfs[0].busy = {0} if netdev in silent else ()
        return describe(netdev, sequence)

    host.server.describe = describe_ports
    collect = mode(host, tmp_path)
    for _ in range(2):
        page = collect()
        assert page.vfs("sriov_vf_rx_bytes") == {0: 3}
        assert page.vfs("sriov_vf_rx_bytes", "second") == {0: 3 if counted else 0}
    silent.add("second")
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {0: 3}
    assert page.vfs("sriov_vf_rx_bytes", "second") == ({} if counted else {0: 0})
    assert list(page.vfs(HELD_BACK, "second")) == ([0] if counted else [])
    silent.add("ens1f0")
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {}
    assert page.vfs("sriov_vf_rx_bytes", "second") == ({} if counted else {0: 0})
    assert list(page.vfs(HELD_BACK)) == [0]
    silent.clear()
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {0: 3}
    assert not page.vfs(HELD_BACK)


@both
def test_a_vf_is_known_after_its_pf_was_renamed(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    net = host.device(host.pfs[0].address) / "net"
    (net / "ens1f0").rename(net / "renamed")
    host.pfs[0].netdev, host.pfs[0].busy = "renamed", {0}
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes", "renamed") == {}
    assert list(page.vfs(HELD_BACK, "renamed")) == [0]


def without_netdevs(host: Host, *netdevs: str) -> Callable[[], None]:
    """Take netdevs of the first PF away; return a function that brings them back."""
    net = host.device(host.pfs[0].address) / "net"
    for netdev in netdevs:
        (net / netdev).rename(net.parent / netdev)

    def restore() -> None:
        for netdev in netdevs:
            (net.parent / netdev).rename(net / netdev)

    return restore


@both
@pytest.mark.parametrize(
    "flags", [(), ("--collector.pf-include=^ens",), ("--collector.pf-exclude=^$",)]
)
def test_zeros_after_the_netdev_was_gone_are_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode, flags: tuple[str, ...]
) -> None:
    """Also if the flags leave out a PF without a netdev, be it the only one or not."""
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="ens2", vfs=1, sysfs="none"),
    )
    collect = mode(host, tmp_path, *flags)
    collect()
    restore = without_netdevs(host, "ens1f0")
    for _ in range(2):
        page = collect()
        assert list(page.vfs(HELD_BACK, "")) == [0]
        assert list(page.vfs("sriov_vf_rx_bytes", "ens2")) == [0]
        assert page.skipped
    restore()
    host.pfs[0].busy = {0}
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {}
    assert list(page.vfs(HELD_BACK)) == [0]
    host.pfs[0].busy = ()
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 3}


@both
def test_zeros_after_the_only_pf_had_no_netdev_are_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path, "--collector.pf-include=^ens")
    collect()
    restore = without_netdevs(host, "ens1f0")
    assert list(collect().vfs(HELD_BACK, "")) == [0]
    restore()
    host.pfs[0].busy = {0}
    assert list(collect().vfs(HELD_BACK)) == [0]


@both
@pytest.mark.parametrize("flag", ["--collector.pf-include=^other", "--collector.pf-exclude=^ens"])
def test_vfs_of_a_pf_that_is_always_left_out_are_not_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode, flag: str
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path, flag)
    collect()
    without_netdevs(host, "ens1f0")
    assert HELD_BACK + "{" not in collect().text


@both
@pytest.mark.parametrize("gone", [("second",), ("ens1f0",), ("ens1f0", "second")])
def test_zeros_of_a_port_after_its_netdev_was_gone_are_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode, gone: tuple[str, ...]
) -> None:
    if mode is timer and len(gone) == 1:
        pytest.skip("the file has nothing of a port that the collection before did not see")
    host = make_host(SimulatedPf(vfs=1, sysfs="none", second_port="second"))
    collect = mode(host, tmp_path)
    collect()
    restore = without_netdevs(host, *gone)
    for netdev in {"ens1f0", "second"} - set(gone):
        assert collect().vfs("sriov_vf_rx_bytes", netdev) == {0: 3}
    host.pfs[0].busy = {0}
    page = collect()  # The port that is left now, too, begins to read 0.
    assert page.vfs("sriov_vf_rx_bytes") == page.vfs("sriov_vf_rx_bytes", "second") == {}
    restore()
    for _ in range(2):
        page = collect()
        assert page.vfs("sriov_vf_rx_bytes") == page.vfs("sriov_vf_rx_bytes", "second") == {}
        assert list(page.vfs(HELD_BACK)) == list(page.vfs(HELD_BACK, "second")) == [0]
    host.pfs[0].busy = ()
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == page.vfs("sriov_vf_rx_bytes", "second") == {0: 3}


@pytest.mark.parametrize("minutes", [1, 6])
def test_a_process_remembers_the_vfs_of_a_pf_that_it_could_not_read(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none"),
    )
    collect = process(host, tmp_path)
    collect()
    total_vfs = host.device(host.pfs[0].address) / "sriov_totalvfs"
    number = total_vfs.read_text()
    total_vfs.unlink()
    total_vfs.mkdir()  # Reading it is an error.
    assert list(collect().vfs("sriov_vf_rx_bytes", "b")) == [0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60 * minutes)
    collect()
    total_vfs.rmdir()
    total_vfs.write_text(number)
    host.pfs[0].busy = {0}
    page = collect()
    assert list(page.vfs(HELD_BACK)) == ([0] if minutes == 1 else [])


def test_a_process_remembers_the_vfs_of_a_pf_in_whose_place_another_was_found(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none"),
    )
    first, second = [host.device(pf.address) / "sriov_totalvfs" for pf in host.pfs]
    hidden = [path.with_name("hidden") for path in (first, second)]

    def hide(path: Path, hidden: Path) -> None:
        path.rename(hidden)
        path.mkdir()  # Reading it is an error.

    def show(path: Path, hidden: Path) -> None:
        path.rmdir()
        hidden.rename(path)

    hide(second, hidden[1])
    collect = process(host, tmp_path)
    assert list(collect().vfs("sriov_vf_rx_bytes")) == [0]
    hide(first, hidden[0])
    show(second, hidden[1])
    assert list(collect().vfs("sriov_vf_rx_bytes", "b")) == [0]
    show(first, hidden[0])
    host.pfs[0].busy = {0}
    page = collect()
    assert list(page.vfs(HELD_BACK)) == [0]
    assert list(page.vfs("sriov_vf_rx_bytes")) == []


@both
def test_zeros_after_a_failure_are_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    """A driver in trouble may fail first, and report zeros then."""
    host = make_host(
        SimulatedPf(vfs=1, sysfs="none"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=1, sysfs="none"),
    )
    collect = mode(host, tmp_path)
    collect()
    with pytest.MonkeyPatch.context() as patched:
        answer = host.server.answer

        def refuse(request: bytes) -> bytes:
            return encode_error(5, request) if b"ens1f0" in request else answer(request)

        patched.setattr(host.server, "answer", refuse)
        for _ in range(2):
            page = collect()
            assert list(page.vfs("sriov_vf_rx_bytes", "b")) == [0]
            assert list(page.vfs(HELD_BACK)) == [0]
            assert not page.skipped  # It is a failure, and reported as one.
    host.pfs[0].busy = {0}
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {}
    assert list(page.vfs(HELD_BACK)) == [0]


@both
def test_zeros_after_counters_were_missing_are_held_back(
    make_host: MakeHost, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel leaves out a VF whose configuration the driver does not return."""
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    link_vf = SimulatedPf.link_vf
    monkeypatch.setattr(host.pfs[0], "link_vf", lambda vf, now: link_vf(host.pfs[0], 1, now))
    monkeypatch.setattr(host.pfs[0], "vfs", 1)
    page = collect()
    assert list(page.vfs("sriov_vf_rx_bytes")) == [1]
    assert list(page.vfs(HELD_BACK)) == [0]
    assert page.skipped
    monkeypatch.undo()
    host.pfs[0].busy = {0}
    page = collect()
    assert list(page.vfs("sriov_vf_rx_bytes")) == [1]
    assert list(page.vfs(HELD_BACK)) == [0]


@both
def test_vfs_whose_counters_stay_missing_are_forgotten(
    make_host: MakeHost, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    host.server.describe = lambda netdev, sequence: encode_link(
        netdev, "0000:10:00.0", bytes(6), 0, [], sequence=sequence
    )
    assert list(collect().vfs(HELD_BACK)) == [0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + BELIEVED_AFTER)
    assert collect().vfs(HELD_BACK) == {}


# --- when zeros are believed ------------------------------------------------------------


@both
def test_vfs_that_were_removed_and_created_are_written(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    host.set_vfs(host.pfs[0], 0)
    host.set_vfs(host.pfs[0], 2)
    host.pfs[0].busy = {0, 1}
    page = collect()
    assert page.vfs("sriov_vf_rx_bytes") == {0: 0, 1: 0}
    assert page.vfs(HELD_BACK) == {}


@both
def test_vfs_that_were_created_while_they_were_held_back_are_written(
    make_host: MakeHost, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    host.pfs[0].busy = {0}
    assert list(collect().vfs(HELD_BACK)) == [0]
    host.set_vfs(host.pfs[0], 0)
    host.set_vfs(host.pfs[0], 1)
    at = time.time() + 2
    monkeypatch.setattr(time, "time", lambda: at)
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 0}


@both
def test_zeros_that_last_longer_than_a_reset_are_written(
    make_host: MakeHost, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    host.pfs[0].busy = {0}
    (since,) = collect().vfs(HELD_BACK).values()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + BELIEVED_AFTER - 2)
    assert collect().vfs(HELD_BACK) == {0: since}
    monkeypatch.setattr(time, "time", lambda: now + BELIEVED_AFTER)
    page = collect()
    assert page.vfs(HELD_BACK) == {}
    assert page.vfs("sriov_vf_rx_bytes") == {0: 0}
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 0}


@both
def test_an_age_that_the_kernel_does_not_report_is_no_reason_to_believe(
    make_host: MakeHost, tmp_path: Path, mode: Mode
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    (host.device("0000:11:00.0") / "power/runtime_suspended_time").unlink()
    (host.device("0000:11:00.0") / "power/runtime_active_time").write_text("1\n")
    host.pfs[0].busy = {0}
    assert list(collect().vfs(HELD_BACK)) == [0]


@both
def test_a_clock_that_was_set_back_does_not_prolong_it(
    make_host: MakeHost, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = mode(host, tmp_path)
    collect()
    host.pfs[0].busy = {0}
    collect()
    past = int(time.time()) - 10**6
    monkeypatch.setattr(time, "time", lambda: past)
    assert collect().vfs(HELD_BACK) == {0: past}


# --- the file that a run replaces -------------------------------------------------------


def test_a_process_that_starts_recalls_the_file(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    timer(host, tmp_path)()
    host.pfs[0].busy = {0}
    flag = f"--textfile.path={tmp_path}/sriov.prom"
    assert list(process(host, tmp_path, flag)().vfs(HELD_BACK)) == [0]
    assert process(host, tmp_path)().vfs("sriov_vf_rx_bytes") == {0: 0}


def test_the_file_is_read_only_if_a_vf_reads_0(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    collect = timer(host, tmp_path)
    collect()
    for busy, reads in ((), 0), ({0}, 1):
        host.pfs[0].busy = busy
        with counted_opens(tmp_path, monkeypatch) as opened:
            collect()
        assert opened["sriov.prom"] == reads


def test_a_process_reads_the_file_once(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none", busy={0}))
    timer(host, tmp_path)()
    collect = process(host, tmp_path, f"--textfile.path={tmp_path}/sriov.prom")
    with counted_opens(tmp_path, monkeypatch) as opened:
        for _ in range(3):
            collect()
    assert opened["sriov.prom"] == 1


def test_a_file_from_before_the_vfs_were_created_says_nothing(
    make_host: MakeHost, tmp_path: Path
) -> None:
    """As after a reboot."""
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = timer(host, tmp_path)
    collect()
    before = time.time() - 2 * 86_400
    os.utime(tmp_path / "sriov.prom", (before, before))
    host.pfs[0].busy = {0}
    assert collect().vfs("sriov_vf_rx_bytes") == {0: 0}


GOOD = b"""\
# HELP sriov_vf_rx_bytes Bytes that the VF received.
# TYPE sriov_vf_rx_bytes counter
sriov_vf_rx_bytes{numa_node="0",pciAddr="0000:11:00.0",pf="ens1f0",vf="0"} 3
"""
INFO = GOOD.replace(b"rx_bytes", b"info").replace(b"counter", b"gauge")
SINCE = GOOD.replace(b"rx_bytes", vfstats.HELD_BACK.encode()).replace(b"counter", b"gauge")


@pytest.mark.parametrize(
    ("text", "recalled"),
    [
        (GOOD, True),
        (GOOD.replace(b" 3\n", b" 0\n"), False),
        (GOOD.replace(b"11:00.0", b"11:00.1"), False),
        (GOOD.replace(b" 3\n", b""), True),  # cut off
        (GOOD.replace(b'.0",pf="ens1f0",vf="0"} 3\n', b""), False),
        (b"\0\xff" * 5000 + GOOD, True),
        (random.Random(1).randbytes(5000), False),
        (b"", False),
        (INFO, False),
        (SINCE, False),  # in 1970: the zeros are believed
        (SINCE.replace(b" 3\n", b" 9" + b"9" * 4999), False),
        (SINCE.replace(b" 3\n", b" 1e999"), False),
        (SINCE.replace(b" 3\n", b" 9999999999"), True),  # by a clock that was wrong
    ],
)
def test_a_damaged_file_is_read_as_far_as_it_is_one(
    make_host: MakeHost, tmp_path: Path, text: bytes, recalled: bool
) -> None:
    (tmp_path / "sriov.prom").write_bytes(text)
    host = make_host(SimulatedPf(vfs=1, sysfs="none", busy={0}))
    page = timer(host, tmp_path)()
    assert page.vfs("sriov_vf_rx_bytes") == ({} if recalled else {0: 0})
    assert list(page.vfs(HELD_BACK)) == ([0] if recalled else [])


@pytest.mark.parametrize("kind", ["none", "symlink", "fifo", "huge"])
def test_a_path_that_is_no_file_of_metrics_says_nothing(
    make_host: MakeHost, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "sriov.prom"
    if kind == "symlink":
        (tmp_path / "good").write_bytes(GOOD)
        path.symlink_to("good")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(GOOD)
        os.truncate(path, 1 << 40)
    host = make_host(SimulatedPf(vfs=1, sysfs="none", busy={0}))
    assert timer(host, tmp_path)().vfs("sriov_vf_rx_bytes") == {0: 0}


def test_a_run_that_is_not_delivered_forgets_nothing(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none"))
    collect = timer(host, tmp_path)
    collect()
    host.pfs[0].busy = {0}

    def fail(families: object) -> bytes:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exposition, "render", fail)
        assert host.collect(f"--textfile.path={tmp_path}/sriov.prom").code == 1
    assert list(collect().vfs(HELD_BACK)) == [0]


# --- what people see --------------------------------------------------------------------


def test_the_log_names_the_pf_and_how_many_vfs(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(SimulatedPf(vfs=3, sysfs="none"))
    collect = timer(host, tmp_path)
    collect()
    host.pfs[0].busy = {0, 1}
    log = collect().log
    assert len(log.splitlines()) == 1
    assert "all counters of 2 VFs of ens1f0 fell to 0" in log
    assert "code=held-back subject=ens1f0" in log


def test_doctor_does_not_take_the_driver_for_one_without_counters(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(SimulatedPf(vfs=1, sysfs="none", driver="ice", vf_driver="iavf"))
    timer(host, tmp_path)()
    host.set_vfs(host.pfs[0], 2)
    host.pfs[0].busy = {0, 1}  # VF 1 has never counted.
    run = host.collect("doctor", "--json", f"--textfile.path={tmp_path}/sriov.prom")
    codes = [finding["code"] for finding in json.loads(run.out)["findings"]]
    assert "held-back" in codes
    assert "only-zeros" not in codes


def test_doctor_without_the_file_says_that_the_nic_may_be_resetting(make_host: MakeHost) -> None:
    """As on a host where serve remembers which VFs had counted."""
    pf = SimulatedPf(vfs=2, sysfs="none", driver="ice", vf_driver="vfio-pci", busy={0, 1})
    report = json.loads(make_host(pf).collect("doctor", "--json").out)
    (finding,) = [each for each in report["findings"] if each["code"] == "only-zeros"]
    assert "the NIC is resetting" in finding["meaning"]
    assert "pf-exclude" not in finding["hint"]


def test_doctor_reports_them_if_it_has_the_file(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(SimulatedPf(vfs=2, sysfs="none"))
    timer(host, tmp_path)()
    host.pfs[0].busy = {0, 1}
    flag = f"--textfile.path={tmp_path}/sriov.prom"
    report = json.loads(host.collect("doctor", "--json", flag).out)
    codes = {finding["code"]: finding["about"] for finding in report["findings"]}
    assert codes.pop("held-back") == "ens1f0"
    assert all(code.startswith("textfile") for code in codes)  # and neither only-zeros
    (pf,) = report["pfs"]
    assert [vf["counters"] for vf in pf["vfs"]] == [{}, {}]
    assert all(vf["held_back_since"] > time.time() - 10 for vf in pf["vfs"])
    assert "held-back" not in host.collect("doctor", "--json").out
