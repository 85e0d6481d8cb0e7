"""A collection: one failed collector does not affect the others, and the deadline is kept."""

from __future__ import annotations

import _thread
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sriov_textfile import deadline, flags, gather, snapshot
from sriov_textfile.collectors import vfstats
from sriov_textfile.gather import Gatherer
from sriov_textfile.host import rtnetlink
from sriov_textfile.log import Log
from sriov_textfile.simulate.host import SimulatedPf
from sriov_textfile.snapshots import SnapshotError
from tests.conftest import Host, MakeHost


def gatherer(host: Host, *arguments: str) -> Gatherer:
    return Gatherer(
        flags.config(flags.parse([*host.flags, *arguments])[1], host.rtnetlink), Log("error")
    )


def test_each_enabled_collector_has_success_duration_and_skipped(make_host: MakeHost) -> None:
    run = make_host(SimulatedPf()).collect("--no-collector.pfinfo")
    names = [name for name in run.samples if name.startswith("sriov_scrape_collector_")]
    assert names == [
        'sriov_scrape_collector_success{collector="vfstats"}',
        'sriov_scrape_collector_duration_seconds{collector="vfstats"}',
        'sriov_scrape_collector_skipped{collector="vfstats"}',
    ]
    duration = run.value("sriov_scrape_collector_duration_seconds", collector="vfstats")
    assert 0 < float(duration or 0) < 10


def test_a_failed_collector_does_not_affect_the_others(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(snapshot: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(vfstats, "collect", fail)
    run = make_host(SimulatedPf()).collect()
    assert run.code == 0
    assert "sriov_pf_info" in run.out
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"
    assert run.value("sriov_scrape_collector_success", collector="pfinfo") == "1"
    assert len(run.log.splitlines()) == 1
    assert "vfstats failed unexpectedly: RuntimeError: no such luck" in run.log
    assert "code=unexpected subject=vfstats" in run.log


def test_counters_that_cannot_be_had_are_read_once(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def fail(*arguments: object) -> None:
        reads.append(arguments)
        raise RuntimeError("no such luck")

    monkeypatch.setattr(snapshot, "judge", fail)
    run = make_host(SimulatedPf(vfs=2)).collect()
    assert len(reads) == 1
    assert (run.code, len(run.log.splitlines())) == (0, 1)
    assert "code=unexpected" in run.log
    for collector in ("vfstats", "pfinfo"):
        assert run.value("sriov_scrape_collector_success", collector=collector) == "0"


def test_a_series_is_written_once_if_two_pfs_have_the_same_vf(make_host: MakeHost) -> None:
    """Two PFs with the same netdev name and the same VF have identical series."""
    host = make_host(SimulatedPf(vfs=1), SimulatedPf(address="0000:10:01.0", netdev="other", vfs=0))
    second = host.device("0000:10:01.0").resolve()
    (second / "net/other").rename(second / "net/ens1f0")
    link = second / "virtfn0"
    link.symlink_to("../0000:11:00.0")
    run = host.collect()
    assert len(run.samples) > 0  # `samples` asserts that no series is repeated
    assert run.log.count("code=repeated-series") == 9
    assert run.value("sriov_scrape_collector_skipped", collector="vfstats") == "9"
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "1"


def wait_for_threads(count: int) -> None:
    """Wait until no more than `count` threads are left: one that has ended goes a little later."""
    end = time.monotonic() + 5
    while len(os.listdir("/proc/self/task")) > count:
        assert time.monotonic() < end
        time.sleep(0.01)


# --- the deadline -----------------------------------------------------------------------


def test_hung_sysfs_exits_1_after_the_timeout_and_keeps_the_old_file(
    make_host: MakeHost, tmp_path: Path, hanging_sysfs: threading.Event
) -> None:
    path = tmp_path / "sriov.prom"
    path.write_text("# the old file\n")
    start = time.monotonic()
    run = make_host(SimulatedPf()).collect("--timeout=300ms", f"--textfile.path={path}")
    assert 0.3 <= time.monotonic() - start < 5
    assert run.code == 1
    assert len(run.log.splitlines()) == 1
    assert "did not finish within 0." in run.log
    assert "still reading VF counters of ens1f0" in run.log
    assert f"{path} is unchanged" in run.log
    assert "code=hangs" in run.log
    assert path.read_text() == "# the old file\n"


def test_a_pf_whose_kernel_does_not_answer_costs_only_its_own_metrics(make_host: MakeHost) -> None:
    host = make_host(
        SimulatedPf(sysfs="none", vfs=2),
        SimulatedPf(address="0000:20:00.0", netdev="b", sysfs="none", vfs=2),
    )
    answer = host.server.answer

    def silent_about_the_first(request: bytes) -> bytes:
        if b"ens1f0" in request:
            time.sleep(5)
        return answer(request)

    host.server.answer = silent_about_the_first  # type: ignore[method-assign]
    start = time.monotonic()
    run = host.collect("--timeout=1s")
    assert time.monotonic() - start < 2
    assert run.code == 0
    assert {line.split('pf="')[1][:2] for line in run.vf_samples()} == {'b"'}
    assert len(run.vf_samples()) == 16
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"
    assert len(run.log.splitlines()) == 1
    assert "the kernel does not answer about ens1f0" in run.log


def test_a_request_that_hangs_for_good_is_not_repeated(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(SimulatedPf(sysfs="none"))
    over = threading.Event()
    # Sending waits for the RTNL lock, so a socket's timeout does not end it.
    monkeypatch.setattr(rtnetlink.Rtnetlink, "link", lambda self, netdev: over.wait(60))
    collect = gatherer(host, "--timeout=200ms").gather
    collect()
    threads = len(os.listdir("/proc/self/task"))
    start = time.monotonic()
    for _ in range(20):
        collect()
    over.set()
    assert time.monotonic() - start < 1
    wait_for_threads(threads)


def test_later_collections_use_the_threads_of_the_first(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "_idle", [])
    started = []

    def start(*call: Any) -> None:
        started.append(call)
        _thread.start_new_thread(*call)

    monkeypatch.setattr(deadline, "start_new_thread", start)
    collect = gatherer(make_host(SimulatedPf(sysfs="none"))).gather
    for _ in range(20):
        collect()
    assert len(started) == 2  # for the collection, and for its request to the kernel


def test_a_collection_whose_time_is_over_before_it_begins_is_late_and_no_defect(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    collect = gatherer(make_host(SimulatedPf())).gather
    with pytest.raises(SnapshotError) as failure:
        collect(-0.001)
    assert failure.value.problem.code == "hangs"


def test_no_collection_starts_while_an_earlier_one_hangs(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    collect = gatherer(make_host(SimulatedPf()), "--timeout=100ms").gather
    with pytest.raises(SnapshotError, match="the collection did not finish within"):
        collect()
    threads = len(os.listdir("/proc/self/task"))
    start = time.monotonic()
    for _ in range(50):
        with pytest.raises(SnapshotError, match="one before still hangs while reading VF"):
            collect()
    assert time.monotonic() - start < 0.5
    wait_for_threads(threads)


def test_a_collection_whose_thread_cannot_start_exits_1_with_a_hint(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*unused: object) -> None:
        raise RuntimeError("can't start new thread")  # as _thread does

    class NoWorkers(list[object]):
        def append(self, worker: object) -> None:
            """Ignore a thread that an earlier test has left hanging."""

    monkeypatch.setattr(deadline, "start_new_thread", refuse)
    monkeypatch.setattr(deadline, "_idle", NoWorkers())
    run = make_host(SimulatedPf()).collect()
    assert (run.code, run.out) == (1, "")
    assert "can't start new thread; nothing was written; allow more tasks (TasksMax=" in run.log


def test_collections_resume_when_sysfs_answers_again(
    make_host: MakeHost, hanging_sysfs: threading.Event
) -> None:
    collect = gatherer(make_host(SimulatedPf()), "--timeout=100ms").gather
    with pytest.raises(SnapshotError):
        collect()
    hanging_sysfs.set()
    for _ in range(100):
        try:
            families = collect()
            break
        except SnapshotError:
            time.sleep(0.1)
    else:
        pytest.fail("the collection that hung never ended")
    assert "sriov_vf_rx_bytes" in [family.name for family in families]


def test_an_error_outside_the_collectors_is_not_an_empty_page(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "sriov.prom"
    path.write_text("# the old file\n")

    def fail(*unused: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gather, "_build_info", fail)
    run = make_host(SimulatedPf()).collect(f"--textfile.path={path}")
    assert run.code == 1
    assert "collection failed unexpectedly: ZeroDivisionError" in run.log
    assert path.read_text() == "# the old file\n"


@pytest.mark.parametrize(
    "place",
    [
        "host.rtnetlink.decode_link",
        "host.pci.discover",
        "collectors.vfstats.labels",
        "exposition.render",
        "outputs.textfile.write",
    ],
)
def test_a_lack_of_memory_ends_the_run_and_keeps_the_old_file(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    path = tmp_path / "sriov.prom"
    path.write_text("# the old file\n")

    def fail(*unused: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"sriov_textfile.{place}", fail)
    run = make_host(SimulatedPf(sysfs="none")).collect(f"--textfile.path={path}")
    assert run.code == 1
    assert len(run.log.splitlines()) == 1
    assert f"out of memory; {path} is unchanged; allow more memory (MemoryMax=," in run.log
    assert path.read_text() == "# the old file\n"


def test_counting_reports_what_cannot_be_read(make_host: MakeHost) -> None:
    with pytest.raises(SnapshotError) as raised:
        gatherer(make_host(), "--path.sysbuspci=/nowhere").count()
    assert raised.value.problem.code == "missing-mount"
