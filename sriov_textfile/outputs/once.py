"""One collection, delivered to a file or to standard output."""

from __future__ import annotations

import errno
import os
import sys

from sriov_textfile import exposition
from sriov_textfile.gather import Gatherer, GatherError
from sriov_textfile.outputs import textfile
from sriov_textfile.problems import Problem, ProblemError

_STDOUT = 1
_HINTS = {
    errno.EACCES: "give this user write permission on the directory",
    errno.EROFS: "allow the service to write there (ReadWritePaths=), or choose another path",
    errno.ENOSPC: "free disk space",
}


class DeliveryError(ProblemError):
    """Raised when the metrics could not be delivered."""


def collect(gatherer: Gatherer, path: str) -> None:
    """Gather the metrics and write them to the file at `path`, or to standard output if "".

    Nothing is opened before the collection has finished. Raises DeliveryError; the old file is
    then unchanged.
    """
    try:
        data = exposition.render(gatherer.gather())
    except GatherError as error:
        problem = error.problem
        hint = f"{_outcome(path)}; {problem.hint}"
        raise DeliveryError(Problem(problem.code, path, problem.reason, hint)) from None
    if not path:
        print_all(data)
        return
    try:
        textfile.write(path, data)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror}"
        hint = f"{_outcome(path)}; {_hint(path, error)}"
        raise DeliveryError(Problem("undelivered", path, reason, hint)) from None


def _outcome(path: str) -> str:
    return f"{path} is unchanged" if os.path.lexists(path) else "nothing was written"


def _hint(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            return f"create the directory {folder}"
        return f"{folder} accepts no new files; choose another --textfile.path"
    return _HINTS.get(error.errno or 0, "choose another --textfile.path")


def print_all(data: bytes) -> None:
    """Write all of `data` to standard output; raises DeliveryError."""
    try:
        if sys.stdout is None:  # It was closed when Python started; 1 may be another file by now.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        textfile.write_all(_STDOUT, data)
    except OSError as error:
        reason = f"cannot write to standard output: {error.strerror}; the output is incomplete"
        raise DeliveryError(Problem("undelivered", "", reason)) from None
