"""Writes a file for node_exporter's textfile collector, atomically.

At any moment a reader sees the whole old file or the whole new one. A run that is killed leaves
at most a temporary file, which the next run removes. Its name does not end in `.prom`, so
node_exporter never reads it.
"""

from __future__ import annotations

import fcntl
import os

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RANDOM_BYTES = 4


def write(path: str, data: bytes) -> None:
    """Replace the file at `path` with `data`, readable by all users.

    A symbolic link is replaced, not followed. Raises OSError; the old file is then unchanged, and
    no temporary file remains.
    """
    folder, name = os.path.split(path)
    folder = folder or "."
    prefix = f".{name[:60]}."  # A file name has at most 255 bytes.
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
