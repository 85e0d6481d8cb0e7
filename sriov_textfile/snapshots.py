"""Reads one snapshot after another, each until a deadline, and none beside one that hangs."""

from __future__ import annotations

import time

from sriov_textfile.deadline import Task
from sriov_textfile.problems import Problem, ProblemError, shortage, unexpected
from sriov_textfile.snapshot import Memory, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sriov_textfile.config import Config
    from sriov_textfile.log import Log

    Value = TypeVar("Value")


class SnapshotError(ProblemError):
    """Raised when a snapshot was not read in time, or could not be read at all."""


class Snapshots:
    """The snapshots of a process."""

    def __init__(
        self, config: Config, log: Log, what: str, limit: float, memory: Memory | None = None
    ) -> None:
        """Set what messages call a read, such as "the collection", and its limit in seconds.

        `memory` is what the process keeps from one snapshot to the next.
        """
        self._config = config
        self._log = log
        self._what = what
        self._limit = limit
        self._task: Task | None = None
        self._snapshot: Snapshot | None = None  # of that task
        self._memory = memory or Memory()

    def new(self, seconds: float) -> Snapshot:
        """Return a snapshot whose requests to the kernel and the kubelet end after `seconds`."""
        return Snapshot(self._config, self._log, time.monotonic() + seconds, self._memory)

    def read(self, snapshot: Snapshot, read: Callable[[], Value], seconds: float) -> Value:
        """Return what `read` returns, which uses the snapshot, and close the snapshot.

        Raises SnapshotError after `seconds`, or immediately while an earlier read hangs: a hang
        costs one thread, not one per attempt.
        """
        if self._task and self._snapshot and not self._task.done:
            reading = self._snapshot.reading
            reason = (
                f"{self._what} cannot start: the one before still hangs while reading {reading}"
            )
            raise SnapshotError(Problem("hangs", "", reason, "see dmesg"))
        values: list[Value] = []

        def task() -> None:
            try:
                values.append(read())
            finally:
                snapshot.close()

        try:
            self._task, self._snapshot = Task(task), snapshot
            finished = self._task.wait(seconds)
        except MemoryError as error:
            raise SnapshotError(shortage(error)) from None
        except ProblemError as error:
            raise SnapshotError(error.problem) from None
        except Exception as error:
            raise SnapshotError(unexpected(self._what, error, snapshot.reading)) from None
        if not finished:
            reason = (
                f"{self._what} did not finish within {self._limit:g} s:"
                f" still reading {snapshot.reading}"
            )
            hint = "see dmesg, or set a longer --timeout"
            raise SnapshotError(Problem("hangs", "", reason, hint))
        return values[0]
