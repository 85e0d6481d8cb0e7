"""Increases that Prometheus computes, while a driver cannot read its VFs' counters for a while."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from common import PROGRAM
from conftest import Vfsim

pytestmark = pytest.mark.one_kernel

INTERVAL = 4.0  # of the collections, in seconds
LIFETIME = 10**13  # what a VF has counted before
RATE = 1_000_000  # what its counters grow by per second

# Each mode has a PF of its own, so that exactly so many of its collections find the driver busy.
# The last is for comparison: a run that writes to standard output has no memory.
MODES = ("timer", "loop", "serve", "without memory")
EPISODES = (1, 3, 10)  # for how many collections the driver is busy

PROMETHEUS = "127.0.0.1:19090"
SERVE = "127.0.0.1:19808"


class Program:
    """The program in all modes, read by Prometheus."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.module = Vfsim(root, [2] * len(MODES))
        self.stack = ExitStack()
        self.stack.callback(self.module.remove)
        self.longest_run = 0.0  # in seconds

    def __enter__(self) -> Program:
        try:
            self._start_all()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _start_all(self) -> None:
        self.module.set(LIFETIME)
        self.stack.enter_context(self.module.growing(RATE))
        folders = {mode: self.root / mode for mode in MODES if mode != "serve"}
        for folder in folders.values():
            folder.mkdir()
        self.stack.enter_context(self._timer(folders["timer"], stdout=False))
        self.stack.enter_context(self._timer(folders["without memory"], stdout=True))
        file = folders["loop"] / "sriov.prom"
        self._start(*self._command("loop"), f"--textfile.path={file}", f"--interval={INTERVAL:g}s")
        address = f"--web.listen-address={SERVE}"
        self._start(*self._command("serve", "serve"), address, "--web.rate-limit=100")
        self._start_prometheus(folders)

    def _command(self, mode: str, *command: str) -> list[str]:
        pf = f"--collector.pf-include=^pf{MODES.index(mode)}$"
        return [PROGRAM, *command, pf, *self.module.flags]

    def _start(self, *command: str) -> None:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)

    @contextmanager
    def _timer(self, folder: Path, stdout: bool) -> Iterator[None]:
        """Run the program at each interval; it writes the file itself or prints what belongs in."""
        file = folder / "sriov.prom"
        command = self._command(folder.name)
        if not stdout:
            command.append(f"--textfile.path={file}")
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                start = time.monotonic()
                page = subprocess.run(command, capture_output=True, check=True).stdout
                self.longest_run = max(self.longest_run, time.monotonic() - start)
                if stdout:
                    new = file.with_suffix(".new")
                    new.write_bytes(page)
                    new.rename(file)
                over.wait(max(0, start + INTERVAL - time.monotonic()))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _start_prometheus(self, folders: dict[str, Path]) -> None:
        targets = {"serve": SERVE}
        for number, (mode, folder) in enumerate(folders.items()):
            targets[mode] = f"127.0.0.1:{19100 + number}"
            self._start(
                "prometheus-node-exporter",
                f"--web.listen-address={targets[mode]}",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={folder}",
            )
        jobs = [
            {"job_name": mode, "static_configs": [{"targets": [address]}]}
            for mode, address in targets.items()
        ]
        # serve collects at each scrape.
        scrapes = {"scrape_interval": f"{INTERVAL / 2:g}s"}
        for job in jobs:
            if job["job_name"] == "serve":
                job["scrape_interval"] = f"{INTERVAL:g}s"
        config = self.root / "prometheus.yml"
        config.write_text(json.dumps({"global": scrapes, "scrape_configs": jobs}))  # JSON is YAML
        self._start(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self.root / 'tsdb'}",
            f"--web.listen-address={PROMETHEUS}",
        )
        self.wait_for(lambda: len(self.query("sriov_vf_rx_bytes", time.time())) == 2 * len(MODES))

    def query(self, expression: str, at: float) -> dict[tuple[str, str], float]:
        """Return the value for each mode and VF at a time."""
        return {series: float(found["value"][1]) for series, found in self._ask(expression, at)}

    def _ask(self, expression: str, at: float) -> list[tuple[tuple[str, str], dict[str, Any]]]:
        parameters = urllib.parse.urlencode({"query": expression, "time": f"{at:.3f}"})
        try:
            with urllib.request.urlopen(f"http://{PROMETHEUS}/api/v1/query?{parameters}") as reply:
                result: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        except OSError:  # not started yet
            return []
        return [((found["metric"]["job"], found["metric"]["vf"]), found) for found in result]

    def increases(self, start: float, end: float) -> dict[tuple[str, str], tuple[float, float]]:
        """Return the increase for each mode and VF, and in how many seconds.

        They are those from the first sample between two times to the last one: Prometheus
        extrapolates, and on a busy machine the samples nearest to the two times may be late.
        """
        metric = "sriov_vf_rx_bytes"
        found = {}
        for series, samples in self._ask(f"{metric}[{round((end - start) * 1000)}ms]", end):
            times = [time for time, _ in samples["values"]]
            increase = self.over(f"increase({metric}[range])", times[0] - 0.001, times[-1])
            found[series] = increase[series], times[-1] - times[0]
        return found

    def scraped_since(self, start: float) -> bool:
        """Whether all series have been scraped after a time."""
        scraped = self.query("timestamp(sriov_vf_rx_bytes)", time.time())
        return len(scraped) == 2 * len(MODES) and min(scraped.values()) > start

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.2)

    def over(self, expression: str, start: float, end: float) -> dict[tuple[str, str], float]:
        """Return the value of a query in which [range] is the time from start to end."""
        milliseconds = round((end - start) * 1000)
        return self.query(expression.replace("[range]", f"[{milliseconds}ms]"), end)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    # In memory: the program flushes its file, which takes seconds on the disk of a busy machine.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Program(Path(folder)) as program:
        yield program


@pytest.mark.parametrize("collections", EPISODES)
def test_the_increase_is_the_true_growth(
    program: Program, collections: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pfs = [f"pf{number}" for number in range(len(MODES))]

    def queries() -> int:
        return min(program.module.queries(pf)[0][1] for pf in pfs)

    start = time.time()
    time.sleep(2 * INTERVAL)
    target = queries() + collections
    program.module.busy(collections)
    program.wait_for(lambda: queries() >= target)
    back = time.time() + 2 * INTERVAL
    program.wait_for(lambda: program.scraped_since(back))
    end = time.time()
    increases = program.increases(start, end)
    least = program.over("min_over_time(sriov_vf_rx_bytes[range])", start, end)
    held_back = program.over(
        "count_over_time(sriov_vf_held_back_since_timestamp_seconds[range])", start, end
    )
    errors = {
        series: increase - RATE * seconds for series, (increase, seconds) in increases.items()
    }
    with capsys.disabled():
        print(f"\n  FIGURE busy for {collections} collections; a run takes up to", end="")
        print(f" {program.longest_run:.1f} s; increases:")
        for mode in MODES:
            increase, seconds = increases[mode, "0"]
            error = errors[mode, "0"] / (RATE * INTERVAL)
            print(
                f"  FIGURE {mode}: {increase:.0f} in {seconds:.0f} s, {error:+.2f} intervals' worth"
            )
    # A file is written a run after its values were read, and replaced an interval later: by so much
    # the values of two samples can differ in age.
    longest = max(INTERVAL, program.longest_run) + program.longest_run
    for vf in ("0", "1"):
        for mode in MODES[:-1]:
            assert abs(errors[mode, vf]) <= RATE * longest
            assert least[mode, vf] >= LIFETIME
        if collections == max(EPISODES):  # On a busy machine, Prometheus may miss shorter ones.
            assert all(held_back[mode, vf] for mode in MODES[:-1])
            assert errors["without memory", vf] > LIFETIME / 2


def test_vfs_that_are_removed_and_created_are_reset(program: Program) -> None:
    start = time.time()
    program.wait_for(lambda: program.scraped_since(start))
    for pf in program.module.host.pfs:
        program.module.host.set_vfs(pf, 0)
        program.module.host.set_vfs(pf, 2)
    program.module.set(0)

    def last() -> dict[tuple[str, str], float]:
        return program.query("sriov_vf_rx_bytes", time.time())

    program.wait_for(
        lambda: len(last()) == 2 * len(MODES) and max(last().values()) < LIFETIME,
    )
    resets = program.over("resets(sriov_vf_rx_bytes[range])", start, time.time())
    assert resets == {(mode, vf): 1 for mode in MODES for vf in ("0", "1")}
