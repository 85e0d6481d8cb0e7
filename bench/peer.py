"""Measures `serve` and the loop beside the Go exporter, on the same simulated hosts.

The three programs collect in turns, so that noise on the machine affects all of them alike. While
another program has its turn, a program is stopped.
"""

from __future__ import annotations

import ctypes
import http.client
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.hosts import host
from bench.measure import Spread
from sriov_textfile.simulate.host import SimulatedHost

SIZES = ((1, 8), (2, 64), (4, 64), (8, 128))
EXPORTER = "Go exporter"
_ROUNDS = 15
_TURN_SECONDS = 0.25
_LEAST_COLLECTIONS = 3  # in a turn
_PAUSE = 0.02  # seconds between two collections of a program
_WAIT_SECONDS = 20  # for a program to start, and for a collection
_NO_LIMIT = ["--web.rate-limit=1000000", "--web.rate-burst=1000000"]


@dataclass(frozen=True)
class Cost:
    """What a running program uses: CPU seconds for a collection, and memory in KiB."""

    cpu: Spread
    rss: int
    pss: int


class PeerError(Exception):
    """Raised if a program cannot be measured; the message is one line."""


@dataclass(frozen=True)
class _Program:
    pid: int
    collect: Callable[[], object]  # returns after a collection


@contextmanager
def unpacked(path: str) -> Iterator[Path]:
    """Yield the Go exporter as a program that exports VF counters; `path` may be an .xz.

    Raises PeerError.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "exporter"
        try:
            with (
                lzma.open(path) if path.endswith(".xz") else open(path, "rb") as source,
                program.open("wb") as target,
            ):
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise PeerError(f"cannot read the program: {error}") from None
        program.chmod(0o755)
        with host(1, 2) as simulated, _exporter(program, simulated):
            pass
        yield program


def compare(program: Path) -> dict[str, dict[str, Cost]]:
    """Return the costs of the programs by the host's size, such as `{"1x8": {"serve": …}}`.

    Raises PeerError.
    """
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # The programs inherit it.
    try:
        return {f"{pfs}x{vfs}": _compare(program, pfs, vfs) for pfs, vfs in SIZES}
    finally:
        os.sched_setaffinity(0, affinity)


def _compare(exporter: Path, pfs: int, vfs: int) -> dict[str, Cost]:
    with ExitStack() as stack:
        simulated = stack.enter_context(host(pfs, vfs))
        programs = {
            EXPORTER: stack.enter_context(_exporter(exporter, simulated)),
            "serve": stack.enter_context(_serve(simulated)),
            "loop": stack.enter_context(_loop(simulated)),
        }
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for round in range(_ROUNDS + 1):
            for name, program in programs.items():
                seconds = _turn(program)
                if round:  # the first warms up the caches
                    taken[name].append(seconds)
        return {
            name: Cost(Spread.of(taken[name]), *_memory(program.pid))
            for name, program in programs.items()
        }


def _turn(program: _Program) -> float:
    """Return the CPU seconds of a collection, on average over a turn."""
    collections = 0
    start, end = _cpu_seconds(program.pid), time.monotonic() + _TURN_SECONDS
    os.kill(program.pid, signal.SIGCONT)
    while collections < _LEAST_COLLECTIONS or time.monotonic() < end:
        program.collect()
        collections += 1
    os.kill(program.pid, signal.SIGSTOP)
    return (_cpu_seconds(program.pid) - start) / collections


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, of all its threads (clock_getcpuclockid(3))."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def _memory(pid: int) -> tuple[int, int]:
    """Return the resident and the proportional set size of a process in KiB (proc(5))."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    sizes = {words[0]: int(words[1]) for words in lines[1:]}
    return sizes["Rss:"], sizes["Pss:"]


@contextmanager
def _exporter(program: Path, simulated: SimulatedHost) -> Iterator[_Program]:
    """Run the Go exporter, which needs all of its paths, even those of collectors that are off."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cpuset.cpus").write_text("0-1\n")
        (Path(folder) / "checkpoint").write_text("{}")
        (Path(folder) / "socket").touch()
        paths = [
            f"--path.kubecgroup={folder}",
            f"--path.cpucheckpoint={folder}/checkpoint",
            f"--path.kubeletsocket={folder}/socket",
            f"--path.nodecpuinfo={folder}",
        ]
        with _http([str(program), *paths], simulated) as running:
            yield running


@contextmanager
def _serve(simulated: SimulatedHost) -> Iterator[_Program]:
    with _http([sys.executable, "-m", "sriov_textfile", "serve"], simulated) as running:
        yield running


@contextmanager
def _http(command: Sequence[str], simulated: SimulatedHost) -> Iterator[_Program]:
    """Run a server, to be scraped as Prometheus does: on one connection, and with gzip."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [*command, *simulated.flags, f"--web.listen-address=127.0.0.1:{port}", *_NO_LIMIT]
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT_SECONDS)

    def scrape(encoding: str = "gzip") -> bytes:
        client.request("GET", "/metrics", headers={"Accept-Encoding": encoding})
        response = client.getresponse()
        body = response.read()
        if response.status != 200:
            raise PeerError(f"it answers {response.status} to GET /metrics")
        time.sleep(_PAUSE)
        return body

    def starts() -> bool:
        try:
            client.connect()
        except ConnectionRefusedError:
            return False
        return True

    with _running(arguments, starts) as pid, closing(client):
        vfs = sum(pf.vfs for pf in simulated.pfs)
        if scrape("identity").count(b"\nsriov_vf_rx_bytes{") != vfs:
            raise PeerError(f"it does not export sriov_vf_rx_bytes of {vfs} VFs")
        yield _Program(pid, scrape)


@contextmanager
def _loop(simulated: SimulatedHost) -> Iterator[_Program]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "sriov.prom"
        written = [0]

        def collect() -> None:
            end = time.monotonic() + _WAIT_SECONDS
            while (new := path.stat().st_mtime_ns) == written[0]:
                if time.monotonic() > end:
                    raise PeerError("the loop does not write its file")
                time.sleep(0.001)
            written[0] = new

        flags = [f"--textfile.path={path}", f"--interval={_PAUSE}s", *simulated.flags]
        with _running([sys.executable, "-m", "sriov_textfile", *flags], path.exists) as pid:
            yield _Program(pid, collect)


@contextmanager
def _running(command: Sequence[str], starts: Callable[[], bool]) -> Iterator[int]:
    """Run a program, and yield its process ID once it has started. Raises PeerError."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        except OSError as error:
            raise PeerError(f"cannot run the program: {error.strerror}") from None
        try:
            end = time.monotonic() + _WAIT_SECONDS
            while not starts():
                if process.poll() is not None or time.monotonic() > end:
                    output.seek(0)
                    last = output.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
                    raise PeerError(f"the program does not start: {last or 'without a message'}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.kill()
            process.wait()
