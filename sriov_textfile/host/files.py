"""Reads one small kernel file, and decides which errors mean that a device lacks it."""

from __future__ import annotations

import errno
import os

# What the kernel answers for an attribute that this device or driver does not have, or that
# went away with its device between two reads.
ABSENT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,
        errno.ENXIO,
        errno.EINVAL,
        errno.EOPNOTSUPP,
    }
)

_U64_DIGITS = 20

# Where a regular file is expected, a FIFO must not stop the program.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read(path: str) -> str | None:
    """Return the text of a file without its last newline, or None where there is no such file.

    Raises OSError, with the path, for an error that does not mean absence.
    """
    try:
        return read_at(path)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise OSError(error.errno, error.strerror, path) from None


def read_int(path: str) -> int | None:
    """Return the number in a file, or None where there is none; raises OSError as read()."""
    return to_u64(read(path) or "")


def to_u64(text: str) -> int | None:
    """Return the unsigned 64-bit integer that a text is in decimal digits, or None."""
    if text.isascii() and text.isdecimal() and len(text) <= _U64_DIGITS and int(text) < 2**64:
        return int(text)
    return None


def read_at(path: str, dir_fd: int | None = None, flags: int = 0, most: int = 65536) -> str:
    """Return a file's text without the last newline.

    The path is relative to the directory `dir_fd`, if that is given; `flags` are added to
    those of open(2). Raises OSError, also for a file of `most` bytes or more, for half of it
    might pass for the whole.
    """
    fd = os.open(path, _FLAGS | flags, dir_fd=dir_fd)
    try:
        data = os.read(fd, most)
    finally:
        os.close(fd)
    if len(data) == most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data.removesuffix(b"\n").decode("utf-8", "replace")
