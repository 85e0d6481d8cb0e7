"""Shared fixtures: simulated hosts, and runs of the program on them."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sriov_textfile import cli, flags
from sriov_textfile.host import vfsysfs
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.rtnetlink import RtnetlinkServer

CAPTURES = Path(__file__).parent / "captures"
# Prefix of a command: drops the capabilities with which root bypasses file permissions.
WITHOUT_PRIVILEGE = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
)
# Run as `python -c PROGRAM SOCKET FLAGS...`: the program in a separate process, on a host whose
# rtnetlink server runs in this one.
PROGRAM = (
    "import sys, types; from sriov_textfile import cli;"
    " sys.exit(cli.run(sys.argv[2:], host=types.SimpleNamespace(rtnetlink=sys.argv[1])))"
)
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


@dataclass
class Run:
    """One run of the program on a host."""

    code: int
    out: str
    log: str

    @property
    def samples(self) -> dict[str, str]:
        """The value of every sample as written, by name and labels."""
        lines = [line for line in self.out.splitlines() if not line.startswith("#")]
        samples = dict(line.rsplit(" ", 1) for line in lines)
        assert len(samples) == len(lines), "a series was written twice"
        return samples

    def vf_samples(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith("sriov_vf_")]

    def value(self, name: str, **labels: str) -> str | None:
        text = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
        return self.samples.get(f"{name}{{{text}}}")


class Host(SimulatedHost):
    """A simulated host with an rtnetlink server and a clock that the test sets."""

    server: RtnetlinkServer

    def __init__(self, root: Path, pfs: list[SimulatedPf], capfd: pytest.CaptureFixture[str]):
        self.now = 0.0
        super().__init__(root, pfs, clock=lambda: self.now)
        self._capfd = capfd

    def collect(self, *arguments: str) -> Run:
        """Run the program in this process."""
        self._capfd.readouterr()
        try:
            code = cli.run([*self.flags, *arguments], host=self)
        except flags.FlagError as error:
            pytest.fail(str(error))
        captured = self._capfd.readouterr()
        return Run(code, captured.out, captured.err)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short path: a unix socket's path has at most 107 characters.

    It is in memory, where there is enough: a host with 1,024 VFs is built four times as fast.
    """
    place = "/tmp/sriov-"
    try:
        memory = os.statvfs("/dev/shm")
        if os.access("/dev/shm", os.W_OK) and memory.f_bavail * memory.f_frsize > 1 << 30:
            place = "/dev/shm/s-"  # as long as the other: golden files are wrapped at paths
    except OSError:
        pass
    folder, prefix = os.path.split(place)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as name:
        yield Path(name)


MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[MakeHost]:
    """Make a host with the given PFs; its rtnetlink server runs until the test ends."""
    with ExitStack() as stack:

        def make(*pfs: SimulatedPf) -> Host:
            host = Host(tmp_path / "host", list(pfs), capfd)
            host.server = stack.enter_context(host.running())
            return host

        yield make


def documented(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the tables below a heading of a page of docs/."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in row.split(" |")] for row in rows[1:]]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a whole output with a golden file, ignoring what differs from run to run."""

    def compare(name: str, out: str) -> None:
        out = re.sub(r"(_duration_seconds\{.*\}) .*", r"\1 0.001", out)
        out = re.sub(r'python="[^"]*"', 'python="3.11.2"', out)
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(out)
        assert out == path.read_text()

    return compare


@pytest.fixture
def hanging_sysfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let the sysfs reader hang until the event is set, or the test is over."""
    answered = threading.Event()
    counters = vfsysfs.counters

    def hang(*arguments: Any) -> Any:
        answered.wait(60)
        return counters(*arguments)

    monkeypatch.setattr(vfsysfs, "counters", hang)
    yield answered
    answered.set()


@pytest.fixture
def node_exporter_lock() -> Iterator[None]:
    """Wait until no other test, of any process on this host, runs a node_exporter."""
    path = f"{tempfile.gettempdir()}/sriov-textfile-tests-{os.getuid()}.lock"
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
