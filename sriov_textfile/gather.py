"""Runs the collectors that are on, within one deadline, and adds the metrics about the run."""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock, start_new_thread

from sriov_textfile import __version__
from sriov_textfile.collectors import COLLECTORS
from sriov_textfile.host.snapshot import Snapshot
from sriov_textfile.metrics import Family, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sriov_textfile.collectors import Collector
    from sriov_textfile.config import Config
    from sriov_textfile.log import Log


# Packages whose names are not those of their modules.
_PACKAGES = {"google": "protobuf", "grpc": "grpcio", "prometheus_client": "prometheus-client"}


class GatherError(Exception):
    """Raised when a collection did not end within the flag `timeout`, or could not start."""


class Gatherer:
    """Gathers all metrics, one collection at a time.

    A collection runs in a thread of its own, because a system call that waits for a driver
    cannot be interrupted: the caller goes on at the deadline, whatever the thread waits for.
    """

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._collection: _Collection | None = None

    def gather(self) -> list[Family]:
        """Return the families of all collectors and of the run itself.

        A collector that fails is logged and told by `sriov_scrape_collector_success`. Raises
        GatherError, after the flag `timeout` or, while an earlier collection still hangs, at
        once: what hangs costs one thread, not one for each try.
        """
        if self._collection and not self._collection.done:
            raise GatherError(f"the collector {self._collection.running} still hangs")
        try:
            self._collection = collection = _Collection(self._config, self._log)
        except RuntimeError as error:
            raise GatherError(f"{error}; allow more tasks (TasksMax, ulimit -u)") from None
        if not collection.wait(self._config.timeout):
            raise GatherError(
                f"the collector {collection.running} did not end within the"
                f" {self._config.timeout:g} s that --timeout allows"
            )
        return collection.families


class _Collection:
    """One collection, running in its thread from the moment it is made."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._ended = allocate_lock()
        self.families: list[Family] = []
        self.running = ""  # the collector that is at work
        self.done = False
        self._ended.acquire()
        start_new_thread(self._run, ())

    def wait(self, timeout: float) -> bool:
        """Return whether the collection ended, after `timeout` seconds at most."""
        return self._ended.acquire(timeout=timeout)

    def _run(self) -> None:
        deadline = time.monotonic() + self._config.timeout
        snapshot = Snapshot(self._config, self._log, deadline)
        success = _self("success", "Whether the collector did all of its work.")
        duration = _self("duration_seconds", "How long the collector took.")
        skipped = _self("skipped", "Inputs that the collector left out; the log names each.")
        try:
            for collector in COLLECTORS:
                if collector.name not in self._config.collectors:
                    continue
                self.running = collector.name
                series = labels(collector=collector.name)
                skips, start = snapshot.skipped, time.perf_counter()
                success.add(series, int(run(collector, snapshot, self.families)))
                duration.add(series, time.perf_counter() - start)
                skipped.add(series, snapshot.skipped - skips)
            self.families += (success, duration, skipped, _build_info())
            self._log.debug("collected", families=len(self.families))
        finally:
            snapshot.close()
            self.done = True
            self._ended.release()


def run(collector: Collector, snapshot: Snapshot, families: list[Family]) -> bool:
    """Run one collector, add what it returns to `families`, and return whether nothing failed.

    What failed or was left out is told to the snapshot.
    """
    problems = snapshot.problems
    try:
        for family in collector.collect(snapshot):
            families.append(family)
            for series in family.repeated:
                snapshot.skip(f"{family.name}{series} is there already: repeated series")
    except Exception as error:
        snapshot.problem(f"collector {collector.name}: {describe(error)}")
    return snapshot.problems == problems


def missing(error: ModuleNotFoundError) -> str:
    """Say what to do about a package that is not there, as where the one-file program runs."""
    module = str(error.name).partition(".")[0]
    return f"this needs a Python package: pip install {_PACKAGES.get(module, module)}"


def describe(error: Exception) -> str:
    """Say in one line what went wrong, and what to do where that is known."""
    if isinstance(error, ModuleNotFoundError):
        return missing(error)
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _self(name: str, help: str) -> Family:
    return Family(f"sriov_scrape_collector_{name}", "gauge", help)


def _build_info() -> Family:
    family = Family("sriov_textfile_build_info", "gauge", "The version of sriov-textfile.")
    family.add(labels(python=sys.version.partition(" ")[0], version=__version__), 1)
    return family
