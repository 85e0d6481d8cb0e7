"""Feeds: where the live view gets its tables from, one after another."""

from __future__ import annotations

import time
from typing import Protocol

from sriov_textfile.deadline import Task
from sriov_textfile.problems import Problem, ProblemError, shortage
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import HISTORY_SECONDS, Meter, Table
from sriov_textfile.top.recording import Recorder, Recording, RecordingError
from sriov_textfile.top.sample import Sample
from sriov_textfile.top.screen import Status


class Feed(Protocol):
    """A source of tables; `table` is the first."""

    table: Table
    status: Status

    def poll(self, paused: bool) -> Table | None:
        """Return the next table if it is time for it; never waits."""

    def press(self, key: str) -> Table | None:
        """Do what a key means, and return the table to show instead, if any."""


_INTERVALS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


def _change(interval: float, key: str) -> float:
    """Return the next longer interval for `+`, and the next shorter for `-`."""
    if key == "+":
        return min([longer for longer in _INTERVALS if longer > interval], default=interval)
    if key == "-":
        return max([shorter for shorter in _INTERVALS if shorter < interval], default=interval)
    return interval


def due(started: float, ended: float, interval: float) -> float:
    """Return when the next sample is due, by the times when the last one started and ended.

    No more than half of the time is spent on samples, however long they take.
    """
    return max(started + interval, 2 * ended - started)


class LiveFeed:
    """Takes a sample of the machine each interval, in a thread: it may take long or hang."""

    def __init__(self, source: Machine | Recorder, interval: float, first: Sample) -> None:
        self._recorder = source if isinstance(source, Recorder) else None
        self.status = Status(interval, is_recorded=self._is_recording)
        if self._recorder:
            self.status.message = self._recorder.notice
        self._take = source.sample
        self._meter = Meter()
        self.table = self._meter.update(first)
        self._taken: list[Sample] = []
        self._task: Task | None = None
        self._started = self._ended = time.monotonic()
        self.is_complete = True  # whether no sample is missing

    @property
    def _is_recording(self) -> bool:
        return bool(self._recorder and not self._recorder.failure)

    def poll(self, paused: bool) -> Table | None:
        """Return the rates since the last sample; the samples go on while the view is paused."""
        now = time.monotonic()
        if self._task is None:
            if now >= due(self._started, self._ended, self.status.interval):
                self._started = now
                try:
                    self._task = Task(lambda: self._taken.append(self._take()))
                except MemoryError as error:
                    self._fail(shortage(error))
            return None
        if not self._task.done:
            return None
        task, self._task, self._ended = self._task, None, now
        try:
            task.wait(0)
        except ProblemError as error:
            self._fail(error.problem)
            return None
        self.status.message = ""
        self.status.is_recorded = self._is_recording
        return self._meter.update(self._taken.pop())

    def _fail(self, problem: Problem) -> None:
        self.is_complete = False
        self.status.message = problem.text

    def press(self, key: str) -> None:
        """Change the interval."""
        self.status.interval = _change(self.status.interval, key)


class ReplayFeed:
    """Shows the samples of a recording, one each interval, or those that the keys ask for."""

    def __init__(self, recording: Recording, interval: float) -> None:
        """Go to the first sample. Raises RecordingError if all are damaged."""
        self.status = Status(interval)
        self._recording = recording
        self._meter = Meter()
        self._at = -1
        table = None
        while table is None:
            if self._at + 1 == len(recording):
                raise RecordingError(
                    Problem("no-recording", "", f"{recording.path} has no samples")
                )
            table = self._next()
        self.table = table
        self._due = time.monotonic() + interval

    def poll(self, paused: bool) -> Table | None:
        """Return the table of the next sample."""
        if paused or time.monotonic() < self._due or self._at + 1 >= len(self._recording):
            return None
        self._due = time.monotonic() + self.status.interval
        return self._next()

    def _next(self) -> Table | None:
        self._at += 1
        end = ", end" * (self._at + 1 == len(self._recording))
        self.status.replay = f"{self._at + 1} of {len(self._recording)}{end}"
        if self._recording.is_first(self._at):
            self._meter = Meter()
        sample = self._recording.sample(self._at)
        self.status.message = "" if sample else f"skipped {self._recording.damage}"
        return self._meter.update(sample) if sample else None

    def press(self, key: str) -> Table | None:
        """Change the pace, or go to another sample."""
        self.status.interval = _change(self.status.interval, key)
        steps = {",": -1, ".": 1}
        minutes = {"[": -HISTORY_SECONDS, "]": HISTORY_SECONDS}
        if key in steps:
            return self._go_to(min(max(self._at + steps[key], 0), len(self._recording) - 1))
        return self._go_to(self._away(self._at, minutes[key])) if key in minutes else None

    def _away(self, at: int, seconds: float) -> int:
        """Return the sample that is so many seconds after another, or before it if negative."""
        start = self._recording.sample(at)
        while 0 <= (following := at + (1 if seconds > 0 else -1)) < len(self._recording):
            at = following
            sample = self._recording.sample(at)
            start = start or sample
            if sample and start and abs(sample.time - start.time) >= abs(seconds):
                break
        return at

    def _go_to(self, at: int) -> Table | None:
        """Return the table of a sample, with the history of the minute before it."""
        self._meter = Meter()
        self._at = self._away(at, -HISTORY_SECONDS) - 1
        table = None
        while self._at < at:
            table = self._next() or table
        self._due = time.monotonic() + self.status.interval
        return table
