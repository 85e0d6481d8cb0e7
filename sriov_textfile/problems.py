"""Problem: something that was skipped or failed, as data; logs and reports are made from it."""

from __future__ import annotations


class Problem:
    """An input that could not be read or used.

    `code` is the kind of problem (docs/doctor.md lists them) and `subject` what it happened to:
    a PF's netdev, a PCI address, a path, a flag. `reason` says what happened, and `hint` what to
    do about it; "" where there is nothing better than to look.
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


class ProblemError(Exception):
    """Raised where something cannot be read at all; `problem` says what, why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def cause(error: Exception, path: str = "") -> str:
    """Return what went wrong in a few words, after the path if one is known."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
        path = path or str(error.filename or "")
    return f"{path}: {reason}" if path else reason
