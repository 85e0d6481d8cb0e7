"""Logs to standard error, one line per event, as logfmt or JSON.

The standard library's logging package takes as long to import as a whole one-shot run may
cost, so it is not used here.
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
_PATIENCE = 0.1  # seconds
_REMINDER = 3600.0  # seconds until a problem that lasts is logged again


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
        # The problems that last, by source, each with the time of its last line.
        self._lasting: dict[str, dict[_Key, float]] = {}

    def debug(self, message: str, **fields: object) -> None:
        """Log a detail that helps to follow the program step by step."""
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
        """Log the problems that a round of `source` found, by level.

        A problem is logged when it appears, when its text changes, when it is over, and every
        hour while it lasts. Without `complete` the round was cut short, so what it did not find
        may still be there.
        """
        now = self._clock()
        before = self._lasting.get(source, {})
        lasting: dict[_Key, float] = {}
        for level, problems in found.items():
            for problem in problems:
                key = (problem.code, problem.subject, problem.text)
                if key in lasting:
                    continue  # Two collectors may meet the same problem.
                logged = before.get(key)
                if logged is None or now - logged >= _REMINDER:
                    self._write(level, problem.text, _fields(problem.code, problem.subject))
                    logged = now
                lasting[key] = logged
        if not complete:
            lasting = {**before, **lasting}
        self._lasting[source] = lasting
        present = {key[:2] for key in lasting}
        for code, subject, text in before:
            if (code, subject) not in present:
                self._write("info", f"resolved: {text}", _fields(code, subject))

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        say(self._format({"time": now, "level": level, "msg": message, **fields}))


_Key = tuple[str, str, str]  # a problem's code, subject and text


def _fields(code: str, subject: str) -> dict[str, object]:
    return {"code": code, "subject": subject} if subject else {"code": code}


def say(line: str) -> None:
    """Write one line to standard error, unless it is closed or full: the metrics matter more.

    A pipe that nobody reads must not hold up a collection or its deadline, so the line is
    dropped where the pipe is full.
    """
    if sys.stderr is None:  # It was closed when Python started, and 2 may be any file by now.
        return
    import select  # Most runs log nothing.

    # POSIX: a pipe that is ready takes PIPE_BUF bytes at once, 4096 on Linux.
    data = printable(line).encode("utf-8", "replace")[:4095] + b"\n"
    try:
        if select.select([], [_STDERR], [], _PATIENCE)[1]:
            os.write(_STDERR, data)
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """Return a text with control and unprintable characters as escape sequences."""
    return "".join([c if c.isprintable() else repr(c)[1:-1] for c in text])


def _logfmt(event: dict[str, object]) -> str:
    return " ".join([f"{key}={_quoted(str(value))}" for key, value in event.items()])


def _quoted(text: str) -> str:
    if text and text.isprintable() and not any(c in text for c in ' ="'):
        return text
    return _dumps(text)


def _json(event: dict[str, object]) -> str:
    return _dumps({key: str(value) for key, value in event.items()})


def _dumps(value: object) -> str:
    import json  # It takes 7 ms to import, and most runs log nothing.

    return json.dumps(value)
