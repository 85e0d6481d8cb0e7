"""Recording: samples in a file, as lines of JSON, to be shown again later.

A recording has a line for each sample, and one before the first of each process that appends to it.
docs/top.md documents both. When the file would become larger than 128 MiB, it becomes FILE.1, and a
new one is begun: the newest samples are kept.
"""

from __future__ import annotations

import fcntl
import json
import os

from sriov_textfile import __version__
from sriov_textfile.problems import Problem, ProblemError, cause, counted
from sriov_textfile.top import sample
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.sample import Sample

_FORMAT = 1
_MAX_BYTES = 128 << 20  # bytes
_HEAD = b'{"recording":'


class RecordingError(ProblemError):
    """Raised if a recording cannot be written, or a file is no recording."""


class Recorder:
    """A machine whose samples are recorded as they are taken."""

    def __init__(self, machine: Machine, path: str) -> None:
        """Open the file, or create it. Raises RecordingError."""
        self._machine = machine
        self._path = path
        self.failure: Problem | None = None
        self.notice = ""  # that the file was a recording before
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = self._locked(os.open(path, flags, 0o644))
            self._size = os.fstat(self._file).st_size
            if self._size:
                _check_head(os.pread(self._file, 100, 0), path)
                self.notice = f"appending to the recording {path}"
                if os.pread(self._file, 1, self._size - 1) != b"\n":  # of a process that was killed
                    self._write(b"\n")
            self._begin(is_continued=False)
        except OSError as error:
            raise RecordingError(self._problem(error)) from None

    def sample(self) -> Sample:
        """Return a sample of the machine, and record it. Raises SnapshotError.

        If it cannot be recorded, nothing more is, and `failure` is why.
        """
        taken = self._machine.sample()
        if not self.failure:
            try:
                self._record(sample.encode(taken).encode("utf-8", "replace") + b"\n")
            except OSError as error:
                self.failure = self._problem(error)
            except RecordingError as error:
                self.failure = error.problem
        if self.failure:
            taken.problems.insert(0, self.failure)
        return taken

    def _record(self, line: bytes) -> None:
        if self._size + len(line) > _MAX_BYTES:
            older = f"{self._path}.1"
            if os.path.exists(older):
                with open(older, "rb") as file:
                    _check_head(file.read(100), older)
            os.rename(self._path, older)
            os.close(self._file)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file, self._size = self._locked(os.open(self._path, flags, 0o644)), 0
            self._begin(is_continued=True)
        self._write(line)

    def _locked(self, file: int) -> int:
        """Lock an open file for this process, and return it. Raises RecordingError."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(file)
            reason = f"another process records to {self._path}"
            problem = Problem("undelivered", self._path, reason, "choose another --record")
            raise RecordingError(problem) from None
        return file

    def _begin(self, is_continued: bool) -> None:
        head = {"recording": _FORMAT, "version": __version__, "continued": is_continued}
        self._write(json.dumps(head, separators=(",", ":")).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        """Write all of the data; a line that a full disk or a kill cuts off is skipped later."""
        while data:
            written = os.write(self._file, data)
            self._size += written
            data = data[written:]

    def _problem(self, error: OSError) -> Problem:
        reason = f"cannot record to {cause(error, self._path)}"
        return Problem("undelivered", self._path, reason, "choose another --record")


def _check_head(head: bytes, path: str) -> None:
    """Raise RecordingError unless a file begins as a recording does."""
    if not head.startswith(_HEAD):
        reason = f"{path} is not a recording of sriov-textfile top"
        raise RecordingError(Problem("no-recording", path, reason, "choose another file"))
    if head[len(_HEAD) :].partition(b",")[0] != str(_FORMAT).encode():
        reason = f"{path} was recorded by a sriov-textfile with another format"
        raise RecordingError(Problem("no-recording", path, reason, "replay it with that version"))


class Recording:
    """The samples in a file, and in FILE.1 before it."""

    def __init__(self, path: str) -> None:
        """Find the samples, without reading all of them. Raises RecordingError."""
        self.path = path
        self.damaged: set[int] = set()  # samples that were found to be damaged
        self._files: list[int] = []
        self._lines: list[tuple[int, int, int]] = []  # of samples: file, offset and length
        self._firsts: set[int] = set()  # the first samples of a process
        try:
            paths = [name for name in (f"{path}.1", path) if os.path.exists(name)] or [path]
            for name in paths:
                self._index(name)
        except OSError as error:
            reason = f"cannot read {cause(error, path)}"
            raise RecordingError(Problem("unreadable", path, reason)) from None
        if not self._lines:
            raise RecordingError(Problem("no-recording", path, f"{path} has no samples"))

    def _index(self, path: str) -> None:
        with open(path, "rb") as file:
            _check_head(file.read(100), path)
            file.seek(0)
            self._files.append(os.dup(file.fileno()))
            offset = 0
            for line in file:
                if not line.startswith(_HEAD):
                    self._lines.append((self._files[-1], offset, len(line)))
                elif b'"continued":false' in line:
                    self._firsts.add(len(self._lines))
                offset += len(line)

    def __len__(self) -> int:
        """Return the number of samples, including damaged ones."""
        return len(self._lines)

    @property
    def damage(self) -> str:
        """How many lines were found to be damaged, in words."""
        return counted(len(self.damaged), "damaged line")

    def is_first(self, number: int) -> bool:
        """Whether a sample is the first of its process, whose clock is not that of the others."""
        return number in self._firsts

    def sample(self, number: int) -> Sample | None:
        """Return a sample, or None if its line is damaged."""
        file, offset, length = self._lines[number]
        try:
            return sample.decode(json.loads(os.pread(file, length, offset)))
        except (OSError, ValueError, RecursionError):
            self.damaged.add(number)
            return None
