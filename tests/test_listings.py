"""Listings: which counters a VF has, without listing its directory at every collection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sriov_textfile import exposition, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.simulate.host import GROWTH, SimulatedPf
from tests.conftest import Host, MakeHost


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host(SimulatedPf(vfs=2))


@pytest.fixture
def counters(host: Host) -> Callable[[], set[str]]:
    """Return a function that collects and returns the names of VF 1's counters."""
    config = flags.config(flags.parse(host.flags)[1], host.rtnetlink)
    gatherer = Gatherer(config, Log())

    def collect() -> set[str]:
        lines = exposition.render(gatherer.gather()).decode().splitlines()
        samples = [line for line in lines if line.startswith("sriov_vf_") and 'vf="1"' in line]
        return {line.partition("{")[0].removeprefix("sriov_vf_") for line in samples}

    return collect


@pytest.fixture
def stats(host: Host) -> Path:
    return host.device(host.pfs[0].address) / "sriov/1/stats"


def add_as_sysfs_does(file: Path) -> None:
    """Create a file and leave the time of its directory as it was."""
    status = file.parent.stat()
    file.write_text("77\n")
    os.utime(file.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_directory_that_has_not_changed_is_listed_once(
    counters: Callable[[], set[str]], stats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    listdir = os.listdir

    def record(path: str | int) -> list[str]:
        if isinstance(path, int):
            listed.append(os.readlink(f"/proc/self/fd/{path}"))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", record)
    for _ in range(3):
        assert counters() == set(GROWTH)
    assert listed.count(str(stats.resolve())) == 1


def test_a_counter_that_appears_is_exported(counters: Callable[[], set[str]], stats: Path) -> None:
    assert counters() == set(GROWTH)
    (stats / "tx_spoofed").write_text("77\n")
    assert counters() == {*GROWTH, "tx_spoofed"}


def test_a_counter_that_appears_in_sysfs_is_exported_after_five_minutes(
    counters: Callable[[], set[str]], stats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counters() == set(GROWTH)
    add_as_sysfs_does(stats / "tx_spoofed")
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 300)
    assert counters() == {*GROWTH, "tx_spoofed"}


def test_a_counter_that_disappears_is_absent(counters: Callable[[], set[str]], stats: Path) -> None:
    assert counters() == set(GROWTH)
    (stats / "tx_errors").unlink()
    assert counters() == set(GROWTH) - {"tx_errors"}


def test_the_counters_of_a_vf_that_was_created_again_are_those_that_it_has_now(
    counters: Callable[[], set[str]], stats: Path
) -> None:
    assert counters() == set(GROWTH)
    status = stats.stat()
    stats.rename(stats.with_name("old"))
    stats.mkdir()
    (stats / "rx_bytes").write_text("1\n")
    (stats / "tx_spoofed").write_text("77\n")
    os.utime(stats, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counters() == {"rx_bytes", "tx_spoofed"}
