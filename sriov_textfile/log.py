"""One line per event on standard error, as logfmt or JSON.

The standard library's logging package takes as long to import as a whole one-shot run may
cost, so it is not used here.
"""

from __future__ import annotations

import sys
import time

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("logfmt", "json")


class Log:
    """Writes events of `level` and above, as `format` ("logfmt" or "json") says."""

    def __init__(self, level: str = "info", format: str = "logfmt") -> None:
        self._threshold = LEVELS.index(level)
        self._format = _json if format == "json" else _logfmt

    def debug(self, message: str, **fields: object) -> None:
        """Log what helps to follow the program step by step."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Log what an operator may want to know."""
        self._write("info", message, fields)

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
        line = self._format({"time": now, "level": level, "msg": message, **fields})
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # There is nowhere left to complain; the metrics matter more.


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
