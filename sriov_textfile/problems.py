"""Problem: a failure or a skipped input, as data for the log and for doctor."""

from __future__ import annotations


class Problem:
    """An input that could not be read or used.

    `code` is the kind of problem (docs/doctor.md lists them), and `subject` what it is about: a
    PF's netdev, a PCI address, a path or a flag. `reason` is what happened and why; the problem is
    logged again whenever it changes, so it contains no value that changes all the time. `hint` is
    what to do, or "" if there is no specific advice.
    """

    __slots__ = ("code", "hint", "reason", "subject")

    def __init__(self, code: str, subject: str, reason: str, hint: str = "") -> None:
        self.code = code
        self.subject = subject
        self.reason = reason
        self.hint = hint

    @property
    def text(self) -> str:
        """Reason and hint in one line."""
        return f"{self.reason}; {self.hint}" if self.hint else self.reason

    def as_dict(self) -> dict[str, str]:
        """Return the fields, for JSON."""
        return {name: getattr(self, name) for name in ("code", "subject", "reason", "hint")}


class ProblemError(Exception):
    """Raised if something cannot be read at all; `problem` is the reason and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


class NoThreadError(MemoryError):
    """Raised if no thread can be started."""


# They end the whole collection: the next PF would lack memory too, and a page without most of its
# metrics must not replace a complete one. Where Python itself runs out of memory, it may raise
# SystemError.
OUT_OF_MEMORY = (MemoryError, SystemError)


def shortage(error: MemoryError) -> Problem:
    """Return the problem of a process that lacks memory or threads."""
    if isinstance(error, NoThreadError):
        hint = "allow more tasks (TasksMax=, ulimit -u) or memory"
        return Problem("no-thread", "", str(error), hint)
    return Problem("no-memory", "", "out of memory", "allow more memory (MemoryMax=, ulimit -v)")


def cause(error: Exception, path: str = "") -> str:
    """Return the reason of an error, with the path in front if it is known."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
        path = path or str(error.filename or "")
    return f"{path}: {reason}" if path else reason


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `no VFs`, `1 VF`, `2 VFs`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def unexpected(subject: str, error: Exception, last_read: str = "") -> Problem:
    """Return the problem of an error that the program does not handle, in reading `subject`."""
    reason = f"{subject} failed unexpectedly: {type(error).__name__}: {error}"
    if last_read:
        reason += f" (last read: {last_read})"
    return Problem("unexpected", subject, reason, "please report this")
