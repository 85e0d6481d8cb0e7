"""Increases over a NIC's reset, computed by Prometheus, are what the VFs have really counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.conftest import Prometheus, background, free_port, prometheus_reading, started
from sriov_textfile.simulate.host import GROWTH, SimulatedHost, SimulatedPf
from tests.conftest import PROGRAM

INTERVAL = 1.0  # of the collections, in seconds
EPISODES = {"one": 1, "three": 3, "ten": 10}  # for how many collections a PF's VFs read 0
LIFETIME = 10**13  # what a VF has counted before
SPEED = 10  # of the host's clock, so that counters grow ten times a second
PER_SECOND = SPEED * GROWTH["rx_bytes"]
MODES = ("timer", "loop", "serve")
HELD_BACK = "sriov_vf_held_back_since_timestamp_seconds"


@dataclass
class RestartingPf(SimulatedPf):
    """A PF whose counters start from 0 at some time of the host."""

    origin: int = 0

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        return super().counters(vf, seconds - self.origin)


def simulated(root: Path) -> SimulatedHost:
    """Return a host with a PF for each episode, one to reset, one idle and one without counters."""
    names = [*EPISODES, "recreated", "idle", "igb"]
    pfs = [
        RestartingPf(
            address=f"0000:{16 + 8 * number:02x}:00.0",
            netdev=name,
            vfs=2,
            sysfs="none",
            vf_driver="vfio-pci",
            first_count=LIFETIME,
            counts=name != "igb",
            busy={0} if name == "idle" else (),
        )
        for number, name in enumerate(names)
    ]
    return SimulatedHost(root, pfs, clock=lambda: SPEED * time.monotonic())


@contextmanager
def timer(command: list[str], file: Path, stdout: bool) -> Iterator[None]:
    """Run a command at each interval; it writes the file itself, or prints what belongs in it."""

    def run(over: threading.Event) -> None:
        while not over.is_set():
            start = time.monotonic()
            page = subprocess.run(command, capture_output=True, check=True).stdout
            if stdout:
                new = file.with_suffix(".new")
                new.write_bytes(page)
                new.rename(file)
            over.wait(max(0, start + INTERVAL - time.monotonic()))

    with background(run):
        yield


@dataclass
class Result:
    """The increases from `start` to `end` and what there was in between."""

    prometheus: Prometheus
    start: float
    end: float

    def query(self, expression: str) -> dict[tuple[str, str, str], float]:
        """Return the value for each mode, PF and VF, at the end; [range] is the whole time."""
        seconds = f"{self.end - self.start:.3f}".replace(".", "s") + "ms"
        found = self.prometheus.get(
            "query", query=expression.replace("[range]", f"[{seconds}]"), time=self.end
        )
        return {
            (_mode(labels), labels["pf"], labels["vf"]): float(series["value"][1])
            for series in found["result"]
            for labels in [series["metric"]]
        }


def _mode(labels: dict[str, str]) -> str:
    return "serve" if labels["job"] == "serve" else labels["instance"]


@pytest.fixture(scope="module")
def result(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    """Let Prometheus read the program in each mode, and a program without memory, over a reset."""
    work = tmp_path_factory.mktemp("z")
    os.sync()  # What other tests wrote must not make the program's fsync slow.
    host = simulated(work / "host")
    pfs = {pf.netdev: pf for pf in host.pfs if isinstance(pf, RestartingPf)}
    program = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags]
    folders = {name: work / name for name in ("timer", "loop", "naive")}
    files = {name: folder / "sriov.prom" for name, folder in folders.items()}
    for folder in folders.values():
        folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    serve = ["serve", f"--web.listen-address={address}", "--web.rate-limit=100"]
    with host.running(), ExitStack() as stack:
        write = [*program, f"--textfile.path={files['timer']}"]
        stack.enter_context(timer(write, files["timer"], stdout=False))
        stack.enter_context(timer(program, files["naive"], stdout=True))
        loop = [*program, f"--textfile.path={files['loop']}", f"--interval={INTERVAL}s"]
        running = subprocess.Popen(loop)
        stack.callback(running.wait)
        stack.callback(running.terminate)
        url = f"http://{address}/metrics"
        stack.enter_context(started([*program[:4], *serve, *program[4:]], work / "serve.log", url))
        prometheus = stack.enter_context(
            prometheus_reading([*folders.values()], debian, work, serve=address)
        )
        prometheus.wait_for("count(sriov_vf_rx_bytes) == 48")
        fresh = 'count(changes(sriov_vf_rx_bytes{pf="idle",vf="1"}[6s]) >= 3) == 4'
        prometheus.wait_for(fresh)
        start = time.time()
        time.sleep(3 * INTERVAL)
        for name in EPISODES:
            pfs[name].busy = {0, 1}
        host.set_vfs(pfs["recreated"], 0)
        host.set_vfs(pfs["recreated"], 2)
        pfs["recreated"].busy = {0, 1}
        began = time.monotonic()
        for name, collections in EPISODES.items():
            time.sleep(max(0, began + (collections + 0.2) * INTERVAL - time.monotonic()))
            pfs[name].busy = ()
        pfs["recreated"].origin, pfs["recreated"].first_count = host.seconds, 0
        pfs["recreated"].busy = ()
        time.sleep(4 * INTERVAL)
        prometheus.wait_for('count(sriov_vf_rx_bytes{pf="ten"}) == 8')
        prometheus.wait_for(f"absent({HELD_BACK})")
        prometheus.wait_for(fresh)
        yield Result(prometheus, start, time.time())


def test_increases_are_the_true_growth_within_one_interval(result: Result) -> None:
    increases = result.query("increase(sriov_vf_rx_bytes[range])")
    least = result.query("min_over_time(sriov_vf_rx_bytes[range])")
    seconds = result.end - result.start
    for name in EPISODES:
        for vf in (0, 1):
            growth = (vf + 1) * PER_SECOND
            for mode in MODES:
                # An idle PF's other VF is never reset. The first and the last sample are as old.
                true = increases[mode, "idle", "1"] * (vf + 1) / 2
                assert true == pytest.approx(growth * seconds, rel=0.2)
                error = increases[mode, name, str(vf)] - true
                print(f"{mode} {name} VF {vf}: {error / growth:+.2f} s of traffic")
                assert abs(error) <= INTERVAL * growth
            naive = increases["naive", name, str(vf)]
            print(f"without memory {name} VF {vf}: {naive / growth / seconds:.0f} times the growth")
            # On a busy machine, Prometheus may miss the shorter ones.
            if name == "ten" or least["naive", name, str(vf)] == 0:
                assert naive > LIFETIME


def test_held_back_vfs_show_in_a_metric_while_they_are(result: Result) -> None:
    expected = {(mode, pf, vf) for mode in MODES for pf in EPISODES for vf in "01"}
    # A collection that began before VFs were removed may hold them back: it finds no age of theirs.
    found = result.query(f'count_over_time({HELD_BACK}{{pf!="recreated"}}[range])').keys()
    # On a busy machine, Prometheus may miss the shorter ones.
    assert {series for series in expected if series[1] == "ten"} <= found <= expected
    assert result.query(HELD_BACK) == {}
    first = result.query(f"min_over_time({HELD_BACK}[range])")
    last = result.query(f"max_over_time({HELD_BACK}[range])")
    assert first == last
    assert all(result.start < since < result.end for since in first.values())


def test_vfs_that_are_removed_and_created_are_reset(result: Result) -> None:
    zeros = result.query('min_over_time(sriov_vf_rx_bytes{pf="recreated"}[range])')
    resets = result.query('resets(sriov_vf_rx_bytes{pf="recreated"}[range])')
    for mode in MODES:
        for vf in "01":
            assert zeros[mode, "recreated", vf] == 0
            assert resets[mode, "recreated", vf] == 1


def test_zeros_of_idle_vfs_and_of_drivers_without_counters_are_there_all_the_time(
    result: Result,
) -> None:
    scrapes = "on (job, instance) group_left sum_over_time(up[range])"
    counts = result.query(
        f'count_over_time(sriov_vf_rx_bytes{{pf=~"idle|igb"}}[range]) / {scrapes}'
    )
    values = result.query('sriov_vf_rx_bytes{pf=~"idle|igb"}')
    for mode in MODES:
        for pf, vf in (("idle", "0"), ("igb", "0"), ("igb", "1")):
            assert values[mode, pf, vf] == 0
            assert counts[mode, pf, vf] == 1  # of the scrapes
