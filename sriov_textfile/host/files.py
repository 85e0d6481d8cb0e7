"""Reads small kernel files, and decides which errors mean that a device does not have it."""

from __future__ import annotations

import errno
import os

# What the kernel returns for an attribute that this device or driver does not have, or that
# disappeared with its device between two reads.
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

# Without O_NONBLOCK, a FIFO in place of a regular file would block the program.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read(path: str) -> str | None:
    """Return the text of a file without its last newline, or None if it does not exist.

    Raises OSError, with the path, for an error that does not mean absence.
    """
    try:
        # The kernel's attributes are never links. Text of a file elsewhere must not reach the log.
        return read_at(path, flags=os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise OSError(error.errno, error.strerror, path) from None


def read_int(path: str) -> int | None:
    """Return the number in a file, or None if there is none; raises OSError as read() does."""
    return to_u64(read(path) or "")


def names(folder: str) -> list[str]:
    """Return the names in a directory, in no order; [] if it does not exist. Raises OSError."""
    try:
        return os.listdir(folder)
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise


def to_u64(text: str | bytes) -> int | None:
    """Return a text of decimal digits as an unsigned 64-bit integer, or None if it is not one."""
    if text.isascii() and text.isdigit() and len(text) <= _U64_DIGITS:
        number = int(text)
        if number < 2**64:
            return number
    return None


def read_at(path: str, dir_fd: int | None = None, flags: int = 0, limit: int = 65536) -> str:
    """Return a file's text without the last newline; path and flags are as of read_bytes_at().

    Raises OSError, also for a file of `limit` bytes or more, because a truncated text could be
    mistaken for the whole.
    """
    data = read_bytes_at(path, dir_fd, flags, limit)
    if len(data) == limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data.removesuffix(b"\n").decode("utf-8", "replace")


def read_bytes_at(path: str, dir_fd: int | None, flags: int, limit: int) -> bytes:
    """Return the first `limit` bytes of a file.

    The path is relative to the directory `dir_fd`, if that is given; `flags` are added to
    those of open(2). Raises OSError.
    """
    fd = os.open(path, _FLAGS | flags, dir_fd=dir_fd)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)
