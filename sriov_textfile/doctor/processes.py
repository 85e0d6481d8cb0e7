"""Reads the command lines of processes, see /proc/pid/cmdline in proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterator

_MAX_LENGTH = 131_072  # bytes; the kernel's limit for one argument


def command_line(path: str) -> list[str]:
    """Return the words of a cmdline file, without empty ones; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            words = file.read(_MAX_LENGTH).rstrip(b"\0").split(b"\0")
    except OSError:  # The process has ended or is not visible.
        return []
    return [os.fsdecode(word) for word in words if word]


def running(proc: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the ID and command line of each visible process, in ascending order."""
    names = os.listdir(proc) if os.path.isdir(proc) else []
    for pid in sorted([int(name) for name in names if name.isdecimal()]):
        if words := command_line(f"{proc}/{pid}/cmdline"):
            yield pid, words
