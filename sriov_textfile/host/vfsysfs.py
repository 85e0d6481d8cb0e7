"""Reads the VF counters that some drivers publish in sysfs.

They are in `device/sriov/<vf>/stats` below the PF's netdev. With the out-of-tree i40e and ice
drivers this is a directory with a file for each counter, with NVIDIA's OFED a file with a line
`name : value` for each counter.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from sriov_textfile.host.files import ABSENT, read_at, read_bytes_at, to_u64
from sriov_textfile.problems import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Skip = Callable[[Problem], None]

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
# A longer text is no number. With more, Python would not take the buffer from its own memory pools.
_COUNTER_BYTES = 256
_LIST_AGAIN_SECONDS = 300


class Listings:
    """The names of each VF's counters, from one collection to the next.

    Listing a VF's directory takes a tenth of a collection. It is listed again if it was changed or
    replaced. In sysfs, a new file does not change the time of its directory (kernfs_add_one() in
    the kernel's fs/kernfs/dir.c). A driver creates all counters of a VF together, but to be safe,
    all directories are listed again every five minutes.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, list[str]]] = {}

    def names(self, path: str, folder: int) -> list[str]:
        """Return the sorted names in the directory at `path`, open as `folder`; raises OSError."""
        status = os.fstat(folder)
        version = time.monotonic() // _LIST_AGAIN_SECONDS, status.st_ino, status.st_mtime_ns
        known, names = self._known.get(path, (None, []))
        if known != version:
            # VFs have the same counters: interned, their names are in memory once.
            names = [sys.intern(name) for name in sorted(os.listdir(folder))]
            self._known[path] = version, names
        return names


def folder(sysclassnet: str, netdev: str) -> str:
    """Return the path below which a driver publishes the counters of a PF's VFs."""
    return f"{sysclassnet.rstrip('/')}/{netdev}/device/sriov"


def counters(
    sysclassnet: str, netdev: str, vfs: Iterable[int], listings: Listings, skip: Skip
) -> dict[int, dict[str, int]]:
    """Return the counters of a PF's VFs by VF number and name, such as `{0: {"rx_bytes": 1}}`.

    A VF without counters in sysfs is left out. A counter that cannot be read, is not a number
    or is a symbolic link is passed to `skip` and left out. Raises OSError if the directory of
    the VFs cannot be opened.
    """
    path = folder(sysclassnet, netdev)
    try:
        parent = os.open(path, _FOLDER)
    except OSError as error:
        if error.errno in ABSENT:
            return {}
        raise
    try:
        found = {}
        for vf in vfs:
            stats = f"{vf}/stats"
            texts = _texts(parent, stats, path, listings, skip)
            found[vf] = _checked(texts, f"{path}/{stats}", skip)
        return {vf: values for vf, values in found.items() if values}
    finally:
        os.close(parent)


def _texts(
    parent: int, stats: str, path: str, listings: Listings, skip: Skip
) -> Sequence[tuple[str, str | bytes]]:
    """Return the name and the text of each counter, whether `stats` is a directory or a file."""
    try:
        try:
            opened = os.open(stats, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except NotADirectoryError:
            return _lines(read_at(stats, parent, os.O_NOFOLLOW))
    except OSError as error:
        if error.errno not in ABSENT:
            skip(_unreadable(f"{path}/{stats}", error))
        return []
    try:
        texts = []
        for name in listings.names(f"{path}/{stats}", opened):
            try:
                text = read_bytes_at(name, opened, os.O_NOFOLLOW, _COUNTER_BYTES)
                texts.append((name, text.removesuffix(b"\n")))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    skip(_unreadable(f"{path}/{stats}/{name}", error))
        return texts
    finally:
        os.close(opened)


def _unreadable(path: str, error: OSError) -> Problem:
    return Problem("unreadable", path, f"cannot read {path}: {error.strerror}")


def _lines(text: str) -> list[tuple[str, str]]:
    parts = [line.partition(":") for line in text.splitlines()]
    return [(name.strip(), value.strip()) for name, _, value in parts if name.strip()]


def _checked(texts: Sequence[tuple[str, str | bytes]], path: str, skip: Skip) -> dict[str, int]:
    values = {}
    for name, text in texts:
        if not (name.isascii() and name.replace("_", "a").isalnum()):
            reason = f"{path}: {name!r} cannot be part of a metric name"
            skip(Problem("bad-counter", f"{path}/{name}", reason))
        elif (value := to_u64(text)) is None:
            reason = f"{path}: {name} is not an unsigned 64-bit integer"
            skip(Problem("bad-counter", f"{path}/{name}", reason))
        else:
            values[name] = value
    return values
