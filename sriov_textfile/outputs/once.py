"""One collection, delivered to a file or to standard output."""

from __future__ import annotations

import errno
import os

from sriov_textfile import exposition
from sriov_textfile.gather import Gatherer, GatherError
from sriov_textfile.outputs import textfile

_STDOUT = 1
_MENDS = {
    errno.ENOENT: "make the folder",
    errno.EACCES: "let this user write into the folder",
    errno.EROFS: "let this service write there (ReadWritePaths=), or choose another path",
    errno.ENOSPC: "free some space",
}


class DeliveryError(Exception):
    """Raised when the metrics could not be delivered; says what, where and what to do."""


def collect(gatherer: Gatherer, path: str) -> None:
    """Gather the metrics and write them to the file at `path`, or to standard output if "".

    The collection is over before anything is opened. Raises DeliveryError; a file from before
    is then as it was.
    """
    try:
        data = exposition.render(gatherer.gather())
    except GatherError as error:
        raise DeliveryError(f"{error}; {_left(path)}") from None
    if not path:
        print_all(data)
        return
    try:
        textfile.write(path, data)
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "choose another --textfile.path")
        raise DeliveryError(
            f"cannot write {path}: {error.strerror}; {_left(path)}; {mend}"
        ) from None


def _left(path: str) -> str:
    return f"{path} is as it was before" if os.path.lexists(path) else "nothing was written"


def print_all(data: bytes) -> None:
    """Write to standard output; raises DeliveryError."""
    try:
        textfile.write_all(_STDOUT, data)
    except OSError as error:
        raise DeliveryError(
            f"cannot write standard output: {error.strerror}; what was written is not whole"
        ) from None
