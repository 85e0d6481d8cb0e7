"""The node, and the ways to a page of metrics of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import comparing
import pytest
from common import PROGRAM, sh
from kubernetes import Node, wait

COLLECTORS = ["--collector.kubepoddevice", "--collector.kubepodcpu"]


@pytest.fixture(scope="session")
def node() -> Node:
    return Node()


@pytest.fixture
def once(tmp_path: Path) -> Callable[[], str]:
    """Return a function that collects once."""

    def collect() -> str:
        path = tmp_path / "sriov.prom"
        sh(f"{PROGRAM} collect --textfile.path={path} {' '.join(COLLECTORS)}")
        return path.read_text()

    return collect


class Loop:
    """The program, collecting once a second; keeps every page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pages: list[str] = []
        self._seen = 0

    def look(self) -> None:
        """Keep the page if it is new."""
        try:
            written = self.path.stat().st_mtime_ns
            if written != self._seen:
                self.pages.append(self.path.read_text())
                self._seen = written
        except FileNotFoundError:
            pass  # The first collection has not ended yet.

    def next(self) -> str:
        """Return a page whose collection begins after now."""
        self.look()
        after = len(self.pages) + 2  # The next one may have begun already.

        def there() -> bool:
            self.look()
            return len(self.pages) >= after

        wait("the loop's next pages", there)
        return self.pages[-1]


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory, node: Node) -> Iterator[Loop]:
    path = tmp_path_factory.mktemp("loop") / "sriov.prom"
    command = [PROGRAM, "collect", "--interval=1s", f"--textfile.path={path}", *COLLECTORS]
    with subprocess.Popen(command) as program:
        yield Loop(path)
        program.terminate()
        assert program.wait(10) == 0


def pytest_sessionfinish() -> None:
    Path("/lab/comparisons.json").write_text(json.dumps(comparing.compared))
