"""The node, and the ways to a page of metrics of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import comparing
import pytest
from common import PROGRAM, parse, sh
from kubernetes import Node, wait

COLLECTORS = ["--collector.kubepoddevice", "--collector.kubepodcpu"]


@pytest.fixture(scope="session")
def node() -> Node:
    return Node()


TIMEOUT = "--timeout=60s"  # On an emulated CPU, the import of grpcio alone takes five seconds.


@pytest.fixture
def once(tmp_path: Path) -> Callable[[], str]:
    """Return a function that collects once."""

    def collect() -> str:
        path = tmp_path / "sriov.prom"
        sh(f"{PROGRAM} collect {TIMEOUT} --textfile.path={path} {' '.join(COLLECTORS)}")
        return path.read_text()

    return collect


class Loop:
    """The pages that a running program writes into a file, from the first look on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pages: list[str] = []
        self._written = 0.0  # when the last page was

    def look(self) -> None:
        """Keep the page if it is new."""
        try:
            written = self.path.stat().st_mtime
            if written != self._written:
                self.pages.append(self.path.read_text())
                self._written = written
        except FileNotFoundError:
            pass  # The first collection has not ended yet.

    def next(self) -> str:
        """Return a page whose collection began after now."""
        now = time.time()

        def there() -> bool:
            self.look()
            return bool(self.pages) and self._written - duration(self.pages[-1]) > now

        wait("the program's next page", there)
        return self.pages[-1]


def duration(page: str) -> float:
    """Return how many seconds before it was written a page was begun, at most."""
    name = "sriov_scrape_collector_duration_seconds"
    return sum(value for metric, _, value in parse(page) if metric == name) + 0.2


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Loop]:
    path = tmp_path_factory.mktemp("loop") / "sriov.prom"
    command = [PROGRAM, "collect", "--interval=1s", f"--textfile.path={path}", TIMEOUT, *COLLECTORS]
    with subprocess.Popen(command) as program:
        yield Loop(path)
        program.terminate()
        assert program.wait(10) == 0


def pytest_sessionfinish() -> None:
    Path("/lab/comparisons.json").write_text(json.dumps(comparing.compared))
