"""Runs the enabled collectors until a deadline, and adds the metrics about the run."""

from __future__ import annotations

import sys
import time

from sriov_textfile import __version__
from sriov_textfile.collectors import COLLECTORS
from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import OUT_OF_MEMORY, Problem, ProblemError, unexpected
from sriov_textfile.snapshot import Memory
from sriov_textfile.snapshots import Snapshots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sriov_textfile.collectors import Collector
    from sriov_textfile.config import Config
    from sriov_textfile.held_back import Past
    from sriov_textfile.log import Log
    from sriov_textfile.snapshot import Snapshot


class Gatherer:
    """Gathers all metrics, one collection at a time."""

    def __init__(self, config: Config, log: Log) -> None:
        if "kubepoddevice" in config.collectors:
            import threading  # noqa: F401  # before grpc does so in a task; see deadline.Task
        self._config = config
        self._log = log
        limit = config.timeout
        self._snapshots = Snapshots(config, log, "the collection", limit, memory(config))

    def gather(self, seconds: float | None = None) -> list[Family]:
        """Return the families of all collectors and of the run itself.

        Failures and skipped inputs are logged, and exported as `sriov_scrape_collector_*`. Raises
        SnapshotError after `seconds` (by default --timeout), or immediately while an earlier
        collection hangs.
        """
        seconds = self._config.timeout if seconds is None else seconds
        snapshot = self._snapshots.new(seconds)
        finished = False
        try:
            families = self._snapshots.read(snapshot, lambda: _collect(snapshot), seconds)
            finished = True
        finally:
            found = {"error": list(snapshot.failed), "warn": list(snapshot.skipped)}
            self._log.problems("collection", found, complete=finished)
        self._log.debug("collected", families=len(families))
        return families

    def count(self) -> tuple[int, int]:
        """Return the number of PFs and of VFs; raises SnapshotError as gather() does."""
        seconds = self._config.timeout
        snapshot = self._snapshots.new(seconds)
        # Two ports may share an address and its VFs.
        pfs = self._snapshots.read(
            snapshot, lambda: {pf.address: len(pf.vfs) for pf in snapshot.pfs}, seconds
        )
        return len(pfs), sum(pfs.values())


def memory(config: Config) -> Memory:
    """Return an empty memory that recalls, if need be, what the file of the metrics has."""

    def recall() -> Past:
        from sriov_textfile.recall import recall

        return recall(config.textfile_path)

    return Memory(recall) if config.textfile_path else Memory()


class CollectorRun:
    """The result of running one collector."""

    __slots__ = ("failed", "families", "name", "seconds", "skips")

    def __init__(self, name: str) -> None:
        self.name = name
        self.families: list[Family] = []
        self.failed: list[Problem] = []
        self.skips = 0  # inputs that it left out
        self.seconds = 0.0


def run(collector: Collector, snapshot: Snapshot, names: set[str]) -> CollectorRun:
    """Run one collector; failures and skipped inputs are recorded in the snapshot too.

    `names` has the families of the collectors before it, and gets its own: a page with two
    families of one name is rejected as a whole, so the second one is left out.
    """
    done = CollectorRun(collector.name)
    failed, skips, start = len(snapshot.failed), snapshot.skips, time.perf_counter()
    try:
        for family in collector.collect(snapshot):
            if family.name in names:
                reason = f"{family.name} of {collector.name} is a metric already"
                snapshot.skip(Problem("repeated-series", family.name, reason))
                continue
            names.add(family.name)
            done.families.append(family)
            for series, count in family.repeated.items():
                name = family.name + series
                problem = Problem("repeated-series", name, f"{name} has more than one value")
                snapshot.skip(problem, count)
    except ProblemError as error:
        snapshot.fail(error.problem)
    except OUT_OF_MEMORY:
        raise
    except Exception as error:
        snapshot.fail(unexpected(collector.name, error))
    done.seconds = time.perf_counter() - start
    done.failed = snapshot.failed[failed:]
    done.skips = snapshot.skips - skips
    return done


def _collect(snapshot: Snapshot) -> list[Family]:
    """Run the enabled collectors; return their families and those about the run."""
    families: list[Family] = []
    names: set[str] = set()
    success = _about_run("success", "Whether the collector did all of its work.")
    duration = _about_run("duration_seconds", "How long the collector took.")
    skipped = _about_run("skipped", "Inputs that the collector left out; the log names each.")
    for collector in COLLECTORS:
        if collector.name in snapshot.config.collectors:
            done = run(collector, snapshot, names)
            series = labels(collector=done.name)
            families += done.families
            success.add(series, int(not done.failed))
            duration.add(series, done.seconds)
            skipped.add(series, done.skips)
    return [*families, success, duration, skipped, _build_info()]


def _about_run(name: str, help: str) -> Family:
    return Family(f"sriov_scrape_collector_{name}", "gauge", help)


def _build_info() -> Family:
    family = Family("sriov_textfile_build_info", "gauge", "The version of sriov-textfile.")
    family.add(labels(python=sys.version.partition(" ")[0], version=__version__), 1)
    return family
