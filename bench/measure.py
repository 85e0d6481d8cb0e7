"""Measures ways of doing the same thing, in turns, so that the machine's moods hit all alike."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
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
    """Return the CPU time that a call of each way takes in this process.

    Each is called in turn, several times over where one call is short, for `seconds` in all
    and `least` rounds.
    """
    repeats = {}
    for name, way in ways.items():
        way()  # imports, caches
        start = time.process_time()
        way()
        repeats[name] = max(1, int(0.005 / max(time.process_time() - start, 1e-6)))
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
    """What a whole process takes: CPU and wall time in seconds, peak memory in KiB."""

    cpu: Spread
    wall: Spread
    peak: Spread


def processes(ways: Mapping[str, Sequence[str]], rounds: int = 25) -> dict[str, Process]:
    """Return what each command takes as the operating system accounts for it (wait4)."""
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for round in range(rounds + 1):
        for name, command in ways.items():
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{name}: exit code {process.returncode}")
            if round:  # The first only warms up the caches.
                taken[name].append((usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss))
    return {
        name: Process(*[Spread.of(column) for column in zip(*rows, strict=True)])
        for name, rows in taken.items()
    }
