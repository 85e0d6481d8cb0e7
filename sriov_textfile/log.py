"""One line per event on standard error, as logfmt or JSON.

The standard library's logging package takes as long to import as a whole one-shot run may
cost, so it is not used here.
"""

from __future__ import annotations

import os
import sys
import time

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("logfmt", "json")

_STDERR = 2
_PATIENCE = 0.1  # seconds


class Log:
    """Writes events of `level` and above, as `format` ("logfmt" or "json") says."""

    def __init__(self, level: str = "info", format: str = "logfmt") -> None:
        self._threshold = LEVELS.index(level)
        self._said: set[str] = set()
        self._format = _json if format == "json" else _logfmt

    def debug(self, message: str, **fields: object) -> None:
        """Log what helps to follow the program step by step."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Log what an operator may want to know."""
        self._write("info", message, fields)

    def info_once(self, message: str, **fields: object) -> None:
        """Log what does not change, the first time that it is said."""
        if (said := f"{message} {fields}") not in self._said:
            self._said.add(said)
            self.info(message, **fields)

    def warn(self, message: str, **fields: object) -> None:
        """Log what was left out."""
        self._write("warn", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Log what failed."""
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._threshold:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        say(self._format({"time": now, "level": level, "msg": message, **fields}))


def say(line: str) -> None:
    """Write one line to standard error, if it is there and takes it: the metrics matter more.

    A pipe that nobody reads must not hold up a collection, nor its deadline, so the line is
    dropped where the pipe is full.
    """
    if sys.stderr is None:  # It was closed when Python started, and 2 may be any file by now.
        return
    import select  # Most runs say nothing.

    # POSIX: a pipe that is ready takes PIPE_BUF bytes, of which Linux has 4096, at once.
    data = printable(line).encode("utf-8", "replace")[:4095] + b"\n"
    try:
        if select.select([], [_STDERR], [], _PATIENCE)[1]:
            os.write(_STDERR, data)
    except (OSError, ValueError):
        pass


def printable(text: str) -> str:
    """Return a text with what a terminal would obey, or cannot show, as an escape sequence."""
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
    import json  # Costs 7 ms, and most runs log nothing.

    return json.dumps(value)
