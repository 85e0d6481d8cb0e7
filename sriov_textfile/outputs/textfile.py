"""Writes a file for node_exporter's textfile collector, atomically.

At any moment a reader sees the whole old file or the whole new one. A run that is killed leaves
at most a temporary file, which the next run removes. Its name does not end in `.prom`, so
node_exporter never reads it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RANDOM_BYTES = 4
_POLL_SECONDS = 0.02


def acquire(path: str, seconds: float) -> int | None:
    """Return a descriptor that keeps other writers of the file away until it is closed.

    A writer holds it from before its collection to the end of its write, so that older values
    never replace newer ones. It is a lock on the file, which each writer replaces, or on its
    folder while there is no file: it ends with its process, works across containers that share
    the folder, and leaves nothing behind. Returns None where there is nothing to lock. Raises
    TimeoutError if another writer has it for longer than `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        fd = _open_lockable(path)
        if fd is None:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "another process is writing it") from None
            time.sleep(_POLL_SECONDS)
            continue
        except OSError:
            return fd  # The file system has no locks.
        if _is_current(fd, path):
            return fd
        os.close(fd)  # Another writer replaced the file in the meantime.


def _open_lockable(path: str) -> int | None:
    """Open the file, or its folder if there is no file, or return None if there is neither."""
    folder = os.path.dirname(path) or "."
    for place, flag in ((path, os.O_NOFOLLOW), (folder, os.O_DIRECTORY)):
        try:
            return os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flag)
        except OSError:
            continue
    return None


def _is_current(fd: int, path: str) -> bool:
    """Return whether the lock is on what a new writer would lock."""
    again = _open_lockable(path)
    if again is None:
        return True
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(again))
    finally:
        os.close(again)


def write(path: str, data: bytes) -> None:
    """Replace the file at `path` with `data`, readable by all users.

    A symbolic link is replaced, not followed. Raises OSError; the old file is then unchanged, and
    no temporary file remains.
    """
    folder, name = os.path.split(path)
    folder = folder or "."
    # A file name has at most 255 bytes.
    prefix = os.fsdecode(b"." + os.fsencode(name)[:60] + b".")
    _remove_leftovers(folder, prefix)
    while True:
        # The name is chosen before the file exists, so that an interrupt at any point removes the
        # file.
        number = os.urandom(_RANDOM_BYTES).hex()
        temporary = f"{folder}/{prefix}{os.getpid()}.{number}.tmp"
        try:
            if _replace(temporary, path, data):
                return
        except BaseException:
            _remove(temporary)
            raise


def _replace(temporary: str, path: str, data: bytes) -> bool:
    """Write a temporary file and rename it; return False if another run removed it."""
    fd = os.open(temporary, _CREATE, 0o600)
    try:
        _lock(fd, fcntl.LOCK_EX)
        if not os.fstat(fd).st_nlink:
            return False  # Another run removed it before it was locked.
        os.fchmod(fd, 0o644)  # Regardless of the umask: node_exporter runs as its own user.
        write_all(fd, data)
        os.fsync(fd)
        os.rename(temporary, path)
    finally:
        os.close(fd)
    return True


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a descriptor that may accept it only in parts, or late.

    Raises OSError.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            import select  # Only for a pipe that another process made non-blocking.

            select.select([], [fd], [])


def _remove_leftovers(folder: str, prefix: str) -> None:
    """Remove the temporary files of killed runs: those that no process has locked."""
    try:
        names = os.listdir(folder)
    except OSError:
        return  # Creating the new one will fail for the same reason, and report it.
    for name in names:
        if not _is_temporary(name, prefix):
            continue
        temporary = f"{folder}/{name}"
        try:
            fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _remove(temporary)
        finally:
            os.close(fd)


def _is_temporary(name: str, prefix: str) -> bool:
    process, _, number = name.removeprefix(prefix).removesuffix(".tmp").partition(".")
    ours = name.startswith(prefix) and name.endswith(".tmp")
    return ours and process.isdecimal() and len(number) == _RANDOM_BYTES * 2


def _lock(fd: int, operation: int) -> bool:
    """Return whether the lock was acquired. Some file systems have no locks."""
    try:
        fcntl.flock(fd, operation)
    except OSError:
        return False
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # It is already gone, or the next run tries again.
