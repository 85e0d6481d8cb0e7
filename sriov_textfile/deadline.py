"""Runs a call that may hang, and stops waiting for it at a deadline."""

from __future__ import annotations

# The module threading is not needed for a few threads, and takes 3 ms to import.
from _thread import allocate_lock, start_new_thread

from sriov_textfile.problems import NoThreadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Task:
    """A call in a thread of its own, started when the task is created.

    A system call that waits for a driver cannot be interrupted, not even by a signal, but the
    caller can stop waiting for the thread.

    A call must not be the first to import the module threading: until Python 3.12, that makes its
    thread the main one, and the interpreter waits for it at exit.
    """

    def __init__(
        self, call: Callable[[], object], late: Callable[[], object] | None = None
    ) -> None:
        """Start the call. Raises NoThreadError.

        `late` is called if the call ends after wait() has given up, to close what it used.
        """
        self.done = False
        self._call = call
        self._late = late
        self._given_up = False
        self._error: BaseException | None = None
        self._lock = allocate_lock()
        self._ended = allocate_lock()
        self._ended.acquire()
        try:
            worker = _idle.pop()
        except IndexError:
            worker = _Worker()
        worker.begin(self)

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds`; return whether the call has ended. Raises what it raised.

        Less than 0 seconds, as after a deadline, are none.
        """
        if not self._ended.acquire(timeout=max(seconds, 0)):
            with self._lock:
                if not self.done:
                    self._given_up = True
                    return False
        if self._error:
            raise self._error
        return True

    def run(self, worker: _Worker) -> None:
        """Run the call; its thread does this."""
        try:
            self._call()
        except MemoryError as error:
            self._error = error.with_traceback(None)  # Its frames keep what was read.
        except BaseException as error:
            self._error = error
        with self._lock:
            self.done = True
        if self._given_up and self._late:
            self._late()
        _idle.append(worker)  # before the end is seen, so that the next task finds it
        self._ended.release()


class _Worker:
    """A thread that runs tasks, one after another.

    Starting a thread takes a third as long as a small collection, so threads are kept. One that
    hangs is not idle, and so gets no further task.
    """

    def __init__(self) -> None:
        """Start the thread. Raises NoThreadError."""
        self._task: Task | None = None
        self._begun = allocate_lock()
        self._begun.acquire()
        try:
            start_new_thread(self._run, ())
        except RuntimeError as error:
            raise NoThreadError(str(error)) from None

    def begin(self, task: Task) -> None:
        """Run a task in this thread, which must be idle."""
        self._task = task
        self._begun.release()

    def _run(self) -> None:
        while True:
            self._begun.acquire()
            task, self._task = self._task, None
            if task:
                task.run(self)
            del task


_idle: list[_Worker] = []
