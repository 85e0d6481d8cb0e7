"""Reads the VF counters that some drivers publish in sysfs.

The out-of-tree i40e and ice drivers give each VF a folder `device/sriov/<vf>/stats` below the
PF's netdev, with a file for each counter. NVIDIA's OFED gives it a file `device/sriov/<vf>/stats`
with a line `name : value` for each counter.
"""

from __future__ import annotations

import errno
import os

from sriov_textfile.host.files import ABSENT, read_at, to_u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


def counters(
    sysclassnet: str, netdev: str, vfs: Iterable[int], skip: Callable[[str], None]
) -> dict[int, dict[str, int]]:
    """Return the counters of a PF's VFs by VF number and name, such as `{0: {"rx_bytes": 1}}`.

    A VF that the driver publishes nothing for is left out. What cannot be read, is no counter
    or is a symbolic link is told to `skip` and left out. Raises OSError if the folder of the
    VFs cannot be opened.
    """
    path = f"{sysclassnet}/{netdev}/device/sriov"
    try:
        folder = os.open(path, _FOLDER)
    except OSError as error:
        if error.errno in ABSENT:
            return {}
        raise
    try:
        found = {}
        for vf in vfs:
            stats = f"{vf}/stats"
            found[vf] = _checked(_texts(folder, stats, path, skip), f"{path}/{stats}", skip)
        return {vf: values for vf, values in found.items() if values}
    finally:
        os.close(folder)


def _texts(
    parent: int, stats: str, path: str, skip: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Return the name and the text of each counter, whichever shape `stats` has."""
    try:
        try:
            folder = os.open(stats, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except NotADirectoryError:
            return _lines(read_at(stats, parent, os.O_NOFOLLOW))
    except OSError as error:
        if error.errno not in ABSENT:
            skip(f"cannot read {path}/{stats}: {error.strerror}")
        return []
    try:
        texts = []
        for name in sorted(os.listdir(folder)):
            try:
                texts.append((name, read_at(name, folder, os.O_NOFOLLOW)))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    skip(f"cannot read {path}/{stats}/{name}: {error.strerror}")
        return texts
    finally:
        os.close(folder)


def _lines(text: str) -> list[tuple[str, str]]:
    parts = [line.partition(":") for line in text.splitlines()]
    return [(name.strip(), value.strip()) for name, _, value in parts if name.strip()]


def _checked(
    texts: list[tuple[str, str]], path: str, skip: Callable[[str], None]
) -> dict[str, int]:
    values = {}
    for name, text in texts:
        if not (name.isascii() and name.replace("_", "a").isalnum()):
            skip(f"{path}: {name!r} cannot be part of a metric's name")
        elif (value := to_u64(text)) is None:
            skip(f"{path}: {name} is {text[:40]!r} and no counter of 64 bits")
        else:
            values[name] = value
    return values
