"""Measures alternatives in turn, so that noise on the machine affects all of them alike."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


def cpu_seconds(
    ways: Mapping[str, Callable[[], object]], seconds: float = 2.0, least: int = 7
) -> dict[str, Spread]:
    """Return the CPU time that one call of each way takes in this process.

    Calls them in turn for at least `seconds` in total and at least `least` rounds. A round repeats
    short calls.
    """
    repeats = {}
    for name, way in ways.items():
        way()  # imports, caches
        start = time.process_time()
        way()
        repeats[name] = max(1, int(0.005 / max(time.process_time() - start, 1e-6)))
    # Keep the garbage collector from scanning everything loaded so far.
    gc.collect()
    gc.freeze()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while len(next(iter(taken.values()))) < least or time.monotonic() < end:
        for name, way in ways.items():
            gc.collect()
            start = time.process_time()
            for _ in range(repeats[name]):
                way()
            taken[name].append((time.process_time() - start) / repeats[name])
    return {name: Spread.of(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Process:
    """What a whole process used: CPU and wall time in seconds, peak memory in KiB."""

    cpu: Spread
    wall: Spread
    peak: Spread


# A small launcher: a child's peak memory starts at its parent's resident size.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - start
sys.stderr.write(f"{status} {usage.ru_utime + usage.ru_stime} {wall} {usage.ru_maxrss}")
"""


def processes(ways: Mapping[str, Sequence[str]], rounds: int = 25) -> dict[str, Process]:
    """Return what each command used, as accounted by the operating system (wait4)."""
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for round in range(rounds + 1):
        for name, command in ways.items():
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
                capture_output=True,
                text=True,
                check=True,
            )
            status, cpu, wall, peak = (float(word) for word in done.stderr.split()[-4:])
            if status:
                raise SystemExit(f"{name} failed: {done.stderr}")
            if round:  # the first warms up the caches
                taken[name].append((cpu, wall, peak))
    return {
        name: Process(*[Spread.of(column) for column in zip(*rows, strict=True)])
        for name, rows in taken.items()
    }
