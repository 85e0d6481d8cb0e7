"""Logs to standard error, one line per event, as logfmt or JSON.

The standard library's logging is not used: importing it takes as long as a whole one-shot run
may take.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sriov_textfile.problems import Problem

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("logfmt", "json")

_STDERR = 2
_STDERR_TIMEOUT = 0.1  # seconds
_REPEAT_AFTER = 3600.0  # seconds after which an ongoing problem is logged again


class Log:
    """Writes events of `level` and above in a `format`, "logfmt" or "json"."""

    def __init__(
        self,
        level: str = "info",
        format: str = "logfmt",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = LEVELS.index(level)
        self._format = _json if format == "json" else _logfmt
        self._clock = clock
        # Ongoing problems by source, each with the time when it was last logged.
        self._ongoing: dict[str, dict[_Key, _Logged]] = {}

    def debug(self, message: str, **fields: object) -> None:
        """Log a detail for debugging."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Log something that an operator may want to know."""
        self._write("info", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Log a failure."""
        self._write("error", message, fields)

    def problems(
        self, source: str, found: Mapping[str, Iterable[Problem]], complete: bool = True
    ) -> None:
        """Log the problems that `source` found this time, by level.

        A problem is logged when it appears, when its text changes, when it is resolved, and every
        hour while it lasts. If `complete` is false, the search was cut short: a problem that it
        did not find is not logged as resolved.
        """
        now = self._clock()
        before = self._ongoing.get(source, {})
        ongoing: dict[_Key, _Logged] = {}
        for level, problems in found.items():
            for problem in problems:
                key = (problem.code, problem.subject, problem.text)
                if key in ongoing:
                    continue  # Two collectors may report the same problem.
                logged = before[key][0] if key in before else None
                if logged is None or now - logged >= _REPEAT_AFTER:
                    self._write(level, problem.text, _fields(problem.code, problem.subject))
                    logged = now
                ongoing[key] = (logged, problem.reason)
        if not complete:
            ongoing = {**before, **ongoing}
        self._ongoing[source] = ongoing
        present = {key[:2] for key in ongoing}
        for (code, subject, _), (_, reason) in before.items():
            if (code, subject) not in present:
                self._write("info", f"resolved: {reason}", _fields(code, subject))

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_line(self._format({"time": now, "level": level, "msg": message, **fields}))


_Key = tuple[str, str, str]  # a problem's code, subject and text
_Logged = tuple[float, str]  # when it was logged, and its reason


def _fields(code: str, subject: str) -> dict[str, object]:
    return {"code": code, "subject": subject} if subject else {"code": code}


def write_line(line: str) -> None:
    """Write one line to standard error, or drop it if standard error is closed or full.

    A full pipe without a reader must not delay a collection.
    """
    if sys.stderr is None:  # It was closed when Python started; 2 may be another file by now.
        return
    import select  # Imported here because most runs log nothing.

    # POSIX: a pipe that is ready accepts PIPE_BUF bytes at once, 4096 on Linux.
    data = printable(line).encode("utf-8", "replace")[:4095] + b"\n"
    try:
        if select.select([], [_STDERR], [], _STDERR_TIMEOUT)[1]:
            os.write(_STDERR, data)
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """Return a text with control and other unprintable characters as escape sequences."""
    return "".join([c if c.isprintable() else repr(c)[1:-1] for c in text])


def _logfmt(event: dict[str, object]) -> str:
    return " ".join([f"{key}={_quoted(str(value))}" for key, value in event.items()])


def _quoted(text: str) -> str:
    if text and text.isprintable() and not any(c in text for c in ' ="'):
        return text
    return _dumps(text)


def _json(event: dict[str, object]) -> str:
    numbers = (int, float)
    return _dumps({k: v if isinstance(v, numbers) else str(v) for k, v in event.items()})


def _dumps(value: object) -> str:
    import json  # It takes 7 ms to import, and most runs log nothing.

    return json.dumps(value)
