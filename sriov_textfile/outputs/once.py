"""One collection, delivered to a file or to standard output."""

from __future__ import annotations

from sriov_textfile import exposition
from sriov_textfile.gather import Gatherer, GatherTimeoutError
from sriov_textfile.outputs import textfile

_STDOUT = 1


class DeliveryError(Exception):
    """Raised when the metrics could not be delivered; says what, where and what to do."""


def collect(gatherer: Gatherer, path: str) -> None:
    """Gather the metrics and write them to the file at `path`, or to standard output if "".

    The collection is over before anything is opened. Raises DeliveryError; a file from before
    is then as it was.
    """
    try:
        data = exposition.render(gatherer.gather())
    except GatherTimeoutError as error:
        raise DeliveryError(f"{error}; {_unchanged(path)}") from None
    try:
        if path:
            textfile.write(path, data)
        else:
            textfile.write_all(_STDOUT, data)
    except OSError as error:
        target = path or "standard output"
        raise DeliveryError(
            f"cannot write {target}: {error.strerror}; {_unchanged(path)}"
        ) from None


def _unchanged(path: str) -> str:
    return f"{path} is as it was before" if path else "nothing was written"
