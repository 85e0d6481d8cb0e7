"""Writes a file for node_exporter's textfile collector, atomically.

At any moment a reader sees the whole old file or the whole new one. A run that is killed leaves
at most a temporary file, which the next run removes. Neither its name nor that of the lock file
ends in `.prom`, so node_exporter never reads them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from sriov_textfile.problems import Problem, ProblemError

_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_EXCL | _OPEN
_RANDOM_BYTES = 4
_POLL_SECONDS = 0.02
# Errors of opening a file that is not ours: of another user, a link, a socket or a directory.
_FOREIGN = (errno.EACCES, errno.ELOOP, errno.ENXIO, errno.EISDIR)


def acquire(path: str, seconds: float) -> int:
    """Return a descriptor that keeps other writers of the file away until it is closed.

    A writer keeps it from before its collection to the end of its write, so that older values
    never replace newer ones. It is the lock of a file next to the one at `path`, so it ends with
    its process, and works across containers that share the folder. Other users cannot open that
    file, and so cannot keep the program from writing. It is not removed: a process that waits for
    it and one that creates it again would both have a lock.

    If this user cannot open it, another user wrote the metrics before. It is replaced after
    `seconds`, and write() fails for a process that still has the old one. Raises ProblemError if
    another process has the lock for longer than `seconds`, and OSError.
    """
    name = _lock_name(path)
    end = time.monotonic() + seconds
    replaced = False
    while True:
        fd = _open_lock(name)
        if fd is not None:
            if _try_lock(fd) and _is_current(fd, name):
                return fd
            os.close(fd)
        if time.monotonic() >= end:
            if fd is not None or replaced:
                raise _locked(path)
            _discard(name, path)
            replaced = True
        else:
            time.sleep(_POLL_SECONDS)


def _lock_name(path: str) -> str:
    folder, prefix = _hidden(path)
    return f"{folder}/{prefix}lock"


def _hidden(path: str) -> tuple[str, str]:
    """Return the folder of a file, and the start of the names of its hidden files."""
    folder, name = os.path.split(path)
    # A file name has at most 255 bytes.
    return folder or ".", os.fsdecode(b"." + os.fsencode(name)[:200] + b".")


def _open_lock(name: str) -> int | None:
    """Open or create the lock file. Return None if there is a file that is not ours."""
    while True:
        try:
            fd = os.open(name, os.O_RDWR | _OPEN)  # For writing: NFS grants no lock otherwise.
        except FileNotFoundError:
            # Not O_CREAT for a file that exists: in a sticky folder, the kernel would refuse it to
            # root if the file belongs to another user.
            try:
                fd = os.open(name, os.O_RDWR | _CREATE, 0o600)
            except FileExistsError:
                continue  # Another run has just created it.
            os.fchmod(fd, 0o600)  # Regardless of the umask.
        except OSError as error:
            if error.errno in _FOREIGN and os.access(os.path.dirname(name), os.W_OK | os.X_OK):
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None


def _try_lock(fd: int) -> bool:
    """Return False if another process has the lock. Some file systems have no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _is_current(fd: int, name: str) -> bool:
    """Return whether the lock is on the file that the next writer will lock."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(name))
    except FileNotFoundError:
        return False


def _discard(name: str, path: str) -> None:
    """Remove a lock file that is not ours."""
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass
    except OSError:  # In a sticky folder, only its owner can. Or it is a folder.
        reason = f"cannot lock {path}: {name} is not a lock file of this user"
        raise ProblemError(Problem("locked", path, reason, "remove it")) from None


def _locked(path: str) -> ProblemError:
    reason = f"another process is writing {path}"
    hint = "run only one timer, cron job or loop for a file"
    return ProblemError(Problem("locked", path, reason, hint))


def write(path: str, data: bytes, lock: int | None = None) -> None:
    """Replace the file at `path` with `data`, readable by all users.

    A symbolic link is replaced, not followed. Raises OSError, and ProblemError if another user's
    process has replaced the lock; the old file is then unchanged, and no temporary file remains.
    """
    folder, prefix = _hidden(path)
    _remove_leftovers(folder, prefix)
    while True:
        # The name is chosen before the file exists, so that an interrupt at any point removes the
        # file.
        number = os.urandom(_RANDOM_BYTES).hex()
        temporary = f"{folder}/{prefix}{os.getpid()}.{number}.tmp"
        try:
            if _replace(temporary, path, data, lock):
                return
        except BaseException:
            _remove(temporary)
            raise


def _replace(temporary: str, path: str, data: bytes, lock: int | None) -> bool:
    """Write a temporary file and rename it; return False if another run removed it."""
    fd = os.open(temporary, os.O_WRONLY | _CREATE, 0o600)
    try:
        _lock(fd, fcntl.LOCK_EX)
        if not os.fstat(fd).st_nlink:
            return False  # Another run removed it before it was locked.
        os.fchmod(fd, 0o644)  # Regardless of the umask: node_exporter runs as its own user.
        write_all(fd, data)
        os.fsync(fd)
        if lock is not None and not _is_current(lock, _lock_name(path)):
            raise _locked(path)
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
            fd = os.open(temporary, os.O_RDONLY | _OPEN)
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
