"""Shared by the guest's tests: running the program, and querying the kernel independently."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peers
import pytest
from common import PROGRAM, Labels, parse, sh

from sriov_textfile.host import rtnetlink
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf

DEBUGFS = Path("/sys/kernel/debug/vfsim")

# The counters of vfsim, in the order in which debugfs lists them.
COUNTERS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_broadcast",
    "rx_multicast",
    "rx_dropped",
    "tx_dropped",
)


@dataclass
class Run:
    """One run of the program: exit code, log, and the metrics in the file it wrote."""

    code: int
    log: str
    samples: list[tuple[str, Labels, int | float]]

    def values(self, name: str) -> list[tuple[Labels, int | float]]:
        return [(labels, value) for metric, labels, value in self.samples if metric == name]

    def counters(self, pf: str) -> dict[int, dict[str, int | float]]:
        """Return the counters of a PF's VFs, by VF number and metric suffix."""
        found: dict[int, dict[str, int | float]] = {}
        for name, labels, value in self.samples:
            if name.startswith("sriov_vf_") and labels["pf"] == pf:
                found.setdefault(int(labels["vf"]), {})[name[len("sriov_vf_") :]] = value
        return found


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_kernel: one kernel is enough for this test")


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A world-writable folder."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.fixture(scope="session")
def collect(folder: Path) -> Callable[..., Run]:
    """Run `sriov-textfile collect` into a file, optionally under a wrapper command.

    The file is a new one, or with `again` that of the last run, from which the program knows which
    VFs had counted.
    """

    def collect(*flags: str, wrapper: tuple[str, ...] = (), again: bool = False) -> Run:
        path = folder / "sriov.prom"
        if not again:
            path.unlink(missing_ok=True)
        command = [*wrapper, PROGRAM, "collect", f"--textfile.path={path}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return Run(done.returncode, done.stderr, parse(path.read_text() if path.exists() else ""))

    return collect


def ip_vfs(netdev: str) -> peers.Vfs:
    """Return a PF's VFs as `ip` shows them, by number."""
    (link,) = json.loads(sh(f"ip -j -s -d link show {netdev}"))
    return peers.by_ip(link)


def only_counters(vfs: peers.Vfs) -> dict[int, dict[str, int]]:
    return {number: {name: vf[name] for name in COUNTERS} for number, vf in vfs.items()}


def request_link(netdev: str) -> bytes:
    """Return the kernel's raw RTM_GETLINK reply for a netdev."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as connection:
        connection.settimeout(10)
        connection.connect((0, 0))
        connection.send(rtnetlink.request(netdev, 1))
        return connection.recv(1 << 20)


@dataclass
class Pf:
    netdev: str
    address: str

    @property
    def device(self) -> Path:
        return Path("/sys/bus/pci/devices") / self.address

    def set_vfs(self, count: int) -> None:
        (self.device / "sriov_numvfs").write_text("0")
        (self.device / "sriov_numvfs").write_text(str(count))
        sh("udevadm settle --timeout=30")

    def vf_address(self, vf: int) -> str:
        return (self.device / f"virtfn{vf}").readlink().name


@pytest.fixture
def igb() -> list[Pf]:
    """The two igb PFs, with seven VFs each."""
    pfs = []
    for device in sorted(Path("/sys/bus/pci/drivers/igb").glob("0000:*")):
        (netdev,) = (device / "net").iterdir()
        pfs.append(Pf(netdev.name, device.name))
    assert len(pfs) == 2
    for pf in pfs:
        if (pf.device / "sriov_numvfs").read_text() != "7\n":
            sh(f"ip link set {pf.netdev} up")
            pf.set_vfs(7)
    return pfs


class Vfsim:
    """The kernel module vfsim, and a simulated sysfs that matches its PFs.

    The module's PFs are not PCI devices, so /sys/bus/pci does not list them.
    """

    def __init__(self, root: Path, vfs: Sequence[int], kinds: Sequence[str] = ()) -> None:
        """Load it with these numbers of VFs, and with the kind of each PF (see vfsim.c)."""
        kind = f"kind={','.join(kinds)}" if kinds else ""
        sh(f"insmod /lab/vfsim.ko vfs={','.join(map(str, vfs))} {kind}")
        self._root = root
        self._vfs = vfs

    @functools.cached_property
    def host(self) -> SimulatedHost:
        """The simulated sysfs. With many VFs it takes seconds, and not all tests need it."""
        pfs = [
            SimulatedPf(
                address=f"0000:{16 + 8 * n:02x}:00.0",
                netdev=f"pf{n}",
                vfs=number,
                sysfs="none",
                vf_driver="vfio-pci",
            )
            for n, number in enumerate(self._vfs)
        ]
        return SimulatedHost(self._root / "host", pfs)

    @property
    def flags(self) -> list[str]:
        """The flags that point the program at the simulated sysfs."""
        return self.host.flags

    def remove(self) -> None:
        sh("rmmod vfsim")

    def counters(self, netdev: str) -> dict[int, dict[str, int]]:
        """Return the counters in the module, by VF number."""
        lines = self._lines(netdev)
        return {line[0]: dict(zip(COUNTERS, line[1:9], strict=True)) for line in lines}

    def queries(self, netdev: str) -> dict[int, tuple[int, int]]:
        """Return how often the kernel queried each VF's configuration and counters."""
        return {line[0]: (line[9], line[10]) for line in self._lines(netdev)}

    def advance(self, by: int) -> None:
        """Add a number to every counter."""
        self._write("advance", by)

    def set(self, value: int) -> None:
        """Set every counter to a value."""
        self._write("set", value)

    @contextmanager
    def growing(self, per_second: int) -> Iterator[None]:
        """Let every counter grow steadily."""
        over = threading.Event()

        def grow() -> None:
            # By the time that has passed: on a busy machine the pauses are longer.
            start, grown = time.monotonic(), 0
            while not over.wait(0.02):
                growth = int(per_second * (time.monotonic() - start))
                self.advance(growth - grown)
                grown = growth

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def busy(self, queries: int) -> None:
        """Let the next queries of each VF's counters fail with EBUSY; they go on counting."""
        self._write("busy", queries)

    def delay(self, microseconds: int) -> None:
        """Let each query of a VF's configuration take some time."""
        self._write("delay", microseconds)

    def set_vfs(self, number: int) -> None:
        """Let each PF have only so many of its VFs. The simulated sysfs is not changed."""
        self._write("vfs", number)

    def _write(self, file: str, number: int) -> None:
        (DEBUGFS / file).write_text(str(number))

    def _lines(self, netdev: str) -> list[list[int]]:
        text = (DEBUGFS / netdev).read_text()
        return [[int(word) for word in line.split()] for line in text.splitlines()]
