"""One collection after another, each delivered to a file or to standard output."""

from __future__ import annotations

import errno
import os
import sys
import time

from sriov_textfile import exposition
from sriov_textfile.deadline import Task
from sriov_textfile.gather import Gatherer
from sriov_textfile.outputs import textfile
from sriov_textfile.problems import Problem, ProblemError, shortage
from sriov_textfile.snapshots import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sriov_textfile.config import Config

_STDOUT = 1
_LOCK_SHARE = 0.5  # of --timeout: what is left must do for the collection
_MIN_SECONDS = 0.2  # for the write, however long the collection took
_HINTS = {
    errno.EROFS: "allow the service to write there (ReadWritePaths=), or choose another path",
    errno.ENOSPC: "free disk space",
}


class DeliveryError(ProblemError):
    """Raised when the metrics could not be delivered; the old file is then unchanged."""


class OutputError(DeliveryError):
    """Raised when standard output cannot be written."""


class ClosedPipeError(OutputError):
    """Raised when the reader of standard output has gone."""


class Delivery:
    """Collects and delivers to the file at --textfile.path, or to standard output without one."""

    def __init__(self, gatherer: Gatherer, config: Config) -> None:
        self.path = config.textfile_path
        self._gatherer = gatherer
        self._timeout = config.timeout
        self._task: Task | None = None  # the last one that used the file
        self._old_file = False  # whether there was one before the collection

    def deliver(self) -> None:
        """Collect once and deliver the metrics. Raises DeliveryError.

        A file is written within --timeout. Standard output may take longer: a person may read it
        in a pager. Nothing but the lock file is opened before the collection has finished.
        """
        end = time.monotonic() + self._timeout
        if not self.path:
            print_all(self._page(end))
            return
        if self._task and not self._task.done:
            raise self._error("hangs", f"an earlier write to {self.path} still hangs", "see dmesg")
        try:
            self._deliver(end)
        except (KeyboardInterrupt, SystemExit):
            try:
                if self._task:
                    self._task.wait(_MIN_SECONDS)  # A write that goes well is over soon.
            except (ProblemError, OSError, MemoryError):
                pass
            raise

    def _deliver(self, end: float) -> None:
        lock = self._acquire(end)
        try:
            page = self._page(end)
            writing = self._start(lambda: _write(self.path, page, lock))
        except DeliveryError:  # An interrupt may come when the write has just started, and has it.
            self._release(lock)
            raise
        self._wait(writing, "writing", max(end - time.monotonic(), _MIN_SECONDS))

    def _page(self, end: float) -> bytes:
        try:
            return exposition.render(self._gatherer.gather(end - time.monotonic()))
        except SnapshotError as error:
            raise self._undelivered(error.problem) from None
        except MemoryError as error:
            problem = shortage(error)
        raise self._undelivered(problem)  # outside, because the error's frames keep the metrics

    def _acquire(self, end: float) -> int:
        """Return a lock for write(), which closes it."""
        locks: list[int] = []
        self._old_file = False

        def acquire() -> None:
            self._old_file = os.path.lexists(self.path)
            locks.append(textfile.acquire(self.path, self._timeout * _LOCK_SHARE))

        def late() -> None:
            for lock in locks:
                os.close(lock)

        self._wait(self._start(acquire, late), "locking", end - time.monotonic())
        return locks[0]

    def _release(self, lock: int) -> None:
        try:
            self._start(lambda: os.close(lock)).wait(_MIN_SECONDS)
        except DeliveryError:  # There is no thread.
            os.close(lock)

    def _start(self, call: Callable[[], object], late: Callable[[], object] | None = None) -> Task:
        """Start a call that uses the file, in a thread: a disk may hang as a driver does."""
        try:
            self._task = Task(call, late)
        except MemoryError as error:
            raise self._undelivered(shortage(error)) from None
        return self._task

    def _wait(self, task: Task, doing: str, seconds: float) -> None:
        try:
            finished = task.wait(seconds)
        except ProblemError as error:
            raise self._undelivered(error.problem) from None
        except MemoryError as error:
            raise self._undelivered(shortage(error)) from None
        except OSError as error:
            raise self._unwritable(error) from None
        if not finished:
            reason = f"{doing} {self.path} did not finish within {self._timeout:g} s (--timeout)"
            raise self._error("hangs", reason, "check its disk, and see dmesg")

    def _unwritable(self, error: OSError) -> DeliveryError:
        reason = f"cannot write {self.path}: {error.strerror}"
        return self._error("undelivered", reason, _hint(self.path, error))

    def _undelivered(self, problem: Problem) -> DeliveryError:
        return self._error(problem.code, problem.reason, problem.hint)

    def _error(self, code: str, reason: str, hint: str) -> DeliveryError:
        outcome = f"{self.path} is unchanged" if self._old_file else "nothing was written"
        return DeliveryError(Problem(code, self.path, reason, f"{outcome}; {hint}"))


def _write(path: str, page: bytes, lock: int) -> None:
    try:
        textfile.write(path, page, lock)
    finally:
        os.close(lock)


def _hint(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            return f"create the directory {folder}"
        return f"{folder} accepts no new files; choose another --textfile.path"
    if error.errno == errno.EACCES:
        return _permission(os.path.dirname(path) or ".")
    return _HINTS.get(error.errno or 0, "choose another --textfile.path")


def _permission(folder: str) -> str:
    """Return how to let this user write to a folder."""
    import pwd  # Only for this error.

    try:
        owner = os.stat(folder).st_uid
    except OSError:
        return f"give this user access to {folder}"
    if owner == os.geteuid():
        return f"give this user write permission on {folder}"
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # A container may lack the host's users.
        name = str(owner)
    if os.geteuid() == 0:
        return (
            f"{folder} belongs to the user {name}, and root without CAP_DAC_OVERRIDE cannot write"
            f" there: setfacl -m u:root:rwx {folder}, or chown root {folder}"
        )
    return f"give this user write permission on {folder}, which belongs to the user {name}"


def print_all(data: bytes) -> None:
    """Write all of `data` to standard output; raises OutputError."""
    try:
        if sys.stdout is None:  # It was closed when Python started; 1 may be another file by now.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        textfile.write_all(_STDOUT, data)
    except OSError as error:
        reason = f"cannot write to standard output: {error.strerror}; the output is incomplete"
        kind = ClosedPipeError if error.errno == errno.EPIPE else OutputError
        raise kind(Problem("undelivered", "", reason)) from None
