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
_MAX_VALUE = 1000  # characters of a message or another value
# POSIX: a pipe that is ready accepts PIPE_BUF bytes at once, 4096 on Linux.
_MAX_LINE = 4095  # bytes without the newline
_MAX_LINES = 20  # about problems of one code, at a time
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
        hour while it lasts. Of one code there are at most 20 lines at a time, and then a count. If
        `complete` is false, the search was cut short: a problem that it did not find is not logged
        as resolved.
        """
        now = self._clock()
        before = self._ongoing.get(source, {})
        ongoing: dict[_Key, _Logged] = {}
        lines: list[tuple[str, str, str, str]] = []  # level, message, code, subject
        for level, problems in found.items():
            for problem in problems:
                key = (problem.code, problem.subject, problem.text)
                if key in ongoing:
                    continue  # Two collectors may report the same problem.
                logged = before[key][0] if key in before else None
                if logged is None or now - logged >= _REPEAT_AFTER:
                    lines.append((level, problem.text, problem.code, problem.subject))
                    logged = now
                ongoing[key] = (logged, problem.reason)
        if not complete:
            ongoing = {**before, **ongoing}
        self._ongoing[source] = ongoing
        present = {key[:2] for key in ongoing}
        for (code, subject, _), (_, reason) in before.items():
            if (code, subject) not in present:
                lines.append(("info", f"resolved: {reason}", code, subject))
        self._write_bounded(lines)

    def _write_bounded(self, lines: Iterable[tuple[str, str, str, str]]) -> None:
        """Write lines about problems; of one level and code at most 20, and then a count."""
        written: dict[tuple[str, str], int] = {}
        for level, message, code, subject in lines:
            count = written[level, code] = written.get((level, code), 0) + 1
            if count <= _MAX_LINES:
                self._write(level, message, _fields(code, subject))
        for (level, code), count in written.items():
            if count > _MAX_LINES:
                more = f"{count - _MAX_LINES} more problems of this kind"
                self._write(level, more, _fields(code, ""))

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {"time": now, "level": level, "msg": message, **fields}
        line, limit = self._format(_shortened(event, _MAX_VALUE)), _MAX_VALUE
        # A line that is cut off is not JSON, and JSON escapes a character as up to 12.
        while len(line.encode("utf-8", "replace")) > _MAX_LINE:
            limit //= 2
            line = self._format(_shortened(event, limit))
        write_line(line)


_Key = tuple[str, str, str]  # a problem's code, subject and text
_Logged = tuple[float, str]  # when it was logged, and its reason


def _shortened(event: dict[str, object], limit: int) -> dict[str, object]:
    return {k: v[:limit] if isinstance(v, str) else v for k, v in event.items()}


def _fields(code: str, subject: str) -> dict[str, object]:
    return {"code": code, "subject": subject} if subject else {"code": code}


_wait = [_STDERR_TIMEOUT]  # for standard error; nothing after a line that it did not accept


def write_line(line: str) -> None:
    """Write one line to standard error, or drop it if standard error is closed or full.

    A full pipe without a reader must not delay a collection: only the first line waits for it.
    """
    if sys.stderr is None:  # It was closed when Python started; 2 may be another file by now.
        return
    import select  # Imported here because most runs log nothing.

    data = printable(line).encode("utf-8", "replace")[:_MAX_LINE] + b"\n"
    try:
        ready = select.select([], [_STDERR], [], _wait[0])[1]
        _wait[0] = _STDERR_TIMEOUT if ready else 0.0
        if ready:
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
