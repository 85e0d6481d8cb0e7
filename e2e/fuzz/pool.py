"""Runs cases in several processes, each with a worker of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

from e2e.fuzz.checks import Case, Worker
from e2e.fuzz.servers import Servers
from tools.fetch import CACHE, debian_packages

_worker: list[Worker] = []  # that of this process
_open = ExitStack()  # its servers, until it ends


def run(seeds: Sequence[int], workers: int) -> Iterator[Case]:
    """Run a case for each seed; yield them in order."""
    with short_folder() as folder:
        # A new interpreter for each worker: gRPC does not work in a fork.
        context, arguments = get_context("spawn"), (folder, promtool())
        with ProcessPoolExecutor(workers, context, _start_worker, arguments) as processes:
            yield from processes.map(_run_case, seeds, chunksize=4)


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a temporary folder with a short path: a socket's path has at most 107 characters.

    It is in memory if it can be.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="s-", dir=memory) as name:
        yield Path(name)


def promtool() -> Path:
    """Return the path of promtool, from Debian's package."""
    packages = ["prometheus", "prometheus-node-exporter"]
    return debian_packages(packages, CACHE / "prometheus") / "usr/bin/promtool"


def _start_worker(folder: Path, promtool: Path) -> None:
    own = folder / str(os.getpid())
    own.mkdir()
    servers = Servers(own)
    _open.enter_context(servers.running())
    _worker.append(Worker(own, servers, promtool))


def _run_case(seed: int) -> Case:
    return _worker[0].run(seed)
