"""Runs top: on the machine or a recording, as plain lines or as the live view."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sriov_textfile.config import Config
from sriov_textfile.log import Log, write_line
from sriov_textfile.problems import Problem, ProblemError
from sriov_textfile.top import batch, feeds
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import Meter
from sriov_textfile.top.recording import Recorder, Recording
from sriov_textfile.top.sample import Sample
from sriov_textfile.top.view import View

_INTERVAL = 1.0

Write = Callable[[bytes], None]


@dataclass(frozen=True)
class Options:
    """The flags of top."""

    batch: bool
    json: bool
    count: int  # of tables; 0 is no limit
    by: str  # one of view.GROUPS; "" is pods where they are known, and otherwise VFs
    record: str  # path; "" is no recording
    replay: str  # path; "" is this machine

    @property
    def is_live(self) -> bool:
        """Whether to show the live view."""
        is_plain = self.batch or self.json or self.count > 0
        return not is_plain and os.isatty(0) and os.isatty(1)


def run(config: Config, options: Options, machine: Machine, write: Write) -> int:
    """Run until the user ends it, and return the exit code; `write` prints to standard output.

    1 means that a sample is missing, damaged or was not recorded, however the run ended. Raises
    ProblemError if nothing can be shown, and what `write` raises.
    """
    result = _Result()
    with _ending_on_signals():
        try:
            if options.replay:
                _replay(config, options, write, result)
            else:
                _follow(config, options, machine, write, result)
        except KeyboardInterrupt:
            pass
    return int(not result.is_complete)


@dataclass
class _Result:
    """What a run has achieved so far."""

    is_complete: bool = True  # whether no sample is missing, damaged or was not recorded


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """End like with `q` when asked to, or when the terminal's connection is lost."""

    def end(*_unused: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as with nohup
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(
    config: Config, options: Options, machine: Machine, write: Write, result: _Result
) -> None:
    interval = config.interval or _INTERVAL
    recorder = Recorder(machine, options.record) if options.record else None
    if recorder and recorder.notice:
        write_line(f"sriov-textfile: {recorder.notice}")
    source = recorder or machine
    first = source.sample()
    if not first.pfs:
        hint = "run sriov-textfile doctor to see why"
        raise ProblemError(Problem("no-pf", "", "found no PF", hint))
    feed = feeds.LiveFeed(source, interval, first) if options.is_live else None
    try:
        if feed:
            _show(feed, options, first)
        else:
            lines = _Lines(options, write)
            lines.print(first)
            _print(config, options, source.sample, interval, lines, result)
    finally:
        is_recorded = not (recorder and recorder.failure)
        is_taken = feed.is_complete if feed else result.is_complete
        result.is_complete = is_taken and is_recorded


def _print(
    config: Config,
    options: Options,
    take: Callable[[], Sample],
    interval: float,
    lines: _Lines,
    result: _Result,
) -> None:
    """Print a table each interval."""
    log = Log(config.log_level, config.log_format)
    started = ended = time.monotonic()
    samples = 0
    while not options.count or samples < options.count:
        time.sleep(max(feeds.due(started, ended, interval) - time.monotonic(), 0))
        samples += 1
        started = time.monotonic()
        try:
            sample = take()
        except ProblemError as error:
            log.problems("top", {"error": [error.problem]}, complete=False)
            result.is_complete = False
        else:
            log.problems("top", {"warn": sample.problems})
            lines.print(sample)
        ended = time.monotonic()


def _replay(config: Config, options: Options, write: Write, result: _Result) -> None:
    recording = Recording(options.replay)
    if options.is_live:
        feed = feeds.ReplayFeed(recording, config.interval or _INTERVAL)
        _show(feed, options, feed.table.sample)
        return
    lines = _Lines(options, write)
    for number in range(len(recording)):
        if recording.is_first(number):
            lines.restart()
        if sample := recording.sample(number):
            lines.print(sample)
        if options.count and lines.printed == options.count:
            break
    if recording.damaged:
        write_line(f"sriov-textfile: skipped {recording.damage} of {options.replay}")
        result.is_complete = False
    if not lines.printed:
        reason = f"{options.replay} has no two samples of one process to compare"
        raise ProblemError(Problem("no-recording", options.replay, reason, "record for longer"))


class _Lines:
    """Prints the rates from one sample to the next."""

    def __init__(self, options: Options, write: Write) -> None:
        self.printed = 0
        self._options = options
        self._by = ""
        self._write = write
        self._meter: Meter | None = None

    def restart(self) -> None:
        """Do not compare the next sample with the last one."""
        self._meter = None

    def print(self, sample: Sample) -> None:
        """Print the rates since the last sample, unless this one is the first."""
        self._by = self._by or _group(self._options, sample)
        if self._meter is None:
            self._meter = Meter()
            self._meter.update(sample)
            return
        table = self._meter.update(sample)
        text = batch.as_json(table) if self._options.json else batch.as_text(table, self._by)
        self._write(text.encode("utf-8", "backslashreplace"))
        self.printed += 1


def _group(options: Options, sample: Sample) -> str:
    has_pods = any(vf.pods for pf in sample.pfs for vf in pf.vfs)
    return options.by or ("pod" if has_pods else "vf")


def _show(feed: feeds.Feed, options: Options, first: Sample) -> None:
    """Show the live view. Raises ProblemError if the terminal or Python cannot."""
    try:
        from sriov_textfile.top import live
    except ImportError as error:  # Some builds of Python lack curses.
        reason = f"the live view needs Python's module curses: {error}"
        raise ProblemError(Problem("missing-package", "top", reason, "use --batch")) from None
    view = View("pod")
    view.group(_group(options, first))
    live.run(feed, view)
