"""Something hangs for good: the program ends, or goes on, within its deadline plus a second."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import free_port, get
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod

TIMEOUT = 2.0
# Of a run that delivers what does not hang: after the hang, a fifth is left for a slow machine.
TIMEOUT_OF_A_DELIVERY = 5.0
TRIES = 3  # A deadline that is missed is missed each time; a machine is busy for a moment.

# The program with one call that hangs for good, as a system call does that waits for a driver.
PROGRAM = """
import os, sys, threading, types
from sriov_textfile import cli
from sriov_textfile.host import rtnetlink
what, socket, *arguments = sys.argv[1:]
hang = threading.Event().wait
if what == "sysfs":  # a file that kubepodcpu reads, after grpc is imported
    real_open = os.open
    os.open = lambda path, *more, **options: (
        hang() if str(path).endswith("cpulist") else real_open(path, *more, **options)
    )
elif what == "rtnetlink":
    real_link = rtnetlink.Rtnetlink.link
    rtnetlink.Rtnetlink.link = lambda self, netdev: (
        hang() if netdev == "ens1f0" else real_link(self, netdev)
    )
elif what == "fsync":
    os.fsync = lambda fd: hang()
elif what in ("lock", "folder"):  # the lock file, or all files in its folder, as on a dead NFS
    end = "sriov.prom.lock" if what == "lock" else ""
    for name in "open", "stat", "lstat":
        setattr(os, name, lambda path, *more, real=getattr(os, name), **options: (
            hang() if "sriov.prom" in str(path) and str(path).endswith(end)
            else real(path, *more, **options)
        ))
from sriov_textfile import __main__
cli.main = lambda: cli.run(arguments, host=types.SimpleNamespace(rtnetlink=socket))
__main__.main()
"""


@pytest.fixture
def machine(tmp_path: Path, what: str, python: list[str]) -> Iterator[list[str]]:
    """Run a host with two PFs and a node with a pod; give the arguments of a program on it."""
    pfs = [
        SimulatedPf(vfs=2, sysfs="none", vf_driver="vfio-pci"),
        SimulatedPf(address="0000:20:00.0", netdev="b", vfs=2, sysfs="none", vf_driver="vfio-pci"),
    ]
    host = SimulatedHost(tmp_path / "host", pfs)
    container = SimulatedContainer("c", "a" * 64, "2", {"vendor/vf": [pfs[0].vf_address(0)]})
    pod = SimulatedPod("p", "core", "1" * 32, [container])
    node = SimulatedNode(tmp_path, [pod])
    with host.running(), node.running("hangs" if what == "kubelet" else ""):
        arguments = [what, host.rtnetlink, *host.flags, *node.flags]
        yield [*python, "-c", PROGRAM, *arguments, f"--timeout={deadline(what)}s"]


@pytest.fixture
def path() -> Iterator[Path]:
    """Return the path of the file, in memory: a disk may be busy with what other tests wrote."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "sriov.prom"


def metrics(page: str) -> dict[str, int]:
    """Return how many series of each kind a page has."""
    names = ("sriov_vf_rx_bytes", "sriov_kubepoddevice", "sriov_kubepodcpu")
    found = {name: page.count(f"\n{name}{{") for name in names}
    failed = re.findall(r'_success\{collector="(\w+)"\} 0', page)
    return {**found, **dict.fromkeys(failed, 0)}


ALL = {"sriov_vf_rx_bytes": 4, "sriov_kubepoddevice": 1, "sriov_kubepodcpu": 1}
# What is delivered all the same; None where a system call hangs, and nothing can be.
DELIVERED: dict[str, dict[str, int] | None] = {
    "rtnetlink": {**ALL, "sriov_vf_rx_bytes": 2, "vfstats": 0},
    "kubelet": {**ALL, "sriov_kubepoddevice": 0, "kubepoddevice": 0},
    "sysfs": None,
    "fsync": None,
    "lock": None,
    "folder": None,
}


def deadline(what: str) -> float:
    """Return the --timeout for a case."""
    return TIMEOUT if DELIVERED[what] is None else TIMEOUT_OF_A_DELIVERY


every_hang = pytest.mark.parametrize("what", DELIVERED)


@every_hang
def test_a_run_ends_within_the_deadline_plus_a_second(
    machine: list[str], what: str, path: Path
) -> None:
    path.write_text("# the old file\n")
    expected, timeout = DELIVERED[what], deadline(what)
    for _ in range(TRIES):
        start = time.monotonic()
        command = [*machine, f"--textfile.path={path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        taken = time.monotonic() - start
        print(f"once, {what} hangs: exit {done.returncode} after {taken:.2f} s of {timeout} s")
        if taken < timeout + 1:
            break
    assert taken < timeout + 1
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == (1 if expected is None else 0)
    if expected is None:
        assert path.read_text() == "# the old file\n"
        assert "code=hangs" in done.stderr
    else:
        assert metrics(path.read_text()) == expected


@every_hang
def test_a_loop_goes_on_and_can_be_stopped(machine: list[str], what: str, path: Path) -> None:
    command = [*machine, f"--textfile.path={path}", "--interval=100ms"]
    expected = DELIVERED[what]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(3 * deadline(what) + 1)
        end = time.monotonic() + 20
        while expected and time.monotonic() < end and metrics(path.read_text()) != expected:
            time.sleep(0.1)
        threads = int(status(program.pid)["Threads"])
        program.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert program.wait(10) == 0
        taken = time.monotonic() - start
        assert program.stderr
        log = [line for line in program.stderr if "resolved: " not in line]
    print(f"loop, {what} hangs: {len(log)} lines of log, {threads} threads, ended in {taken:.2f} s")
    assert taken < TIMEOUT  # it does not wait for what hangs
    assert len(log) <= 4
    assert threads < 30
    if expected:
        assert metrics(path.read_text()) == expected
    else:
        assert not path.exists()


@pytest.mark.parametrize("what", ["rtnetlink", "kubelet", "sysfs"])
def test_http_goes_on(machine: list[str], what: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    at = next(i for i, word in enumerate(machine) if word == what) + 2
    command = [*machine[:at], "serve", *machine[at:], f"--web.listen-address={address}"]
    expected = 503 if DELIVERED[what] is None else DELIVERED[what]

    def ask() -> tuple[Any, float]:
        """Return the answer, and how many seconds it took."""
        start = time.monotonic()
        answer: Any
        try:
            answer = metrics(get(f"http://{address}/metrics"))
        except OSError as error:
            answer = getattr(error, "code", error)
        taken = time.monotonic() - start
        print(f"serve, {what} hangs: answered after {taken:.2f} s")
        return answer, taken

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr
        assert "msg=started" in program.stderr.readline()
        right = 0
        for _ in range(3 + TRIES):
            answer, taken = ask()
            right += answer == expected and taken < deadline(what) + 1
            if right == 3:
                break
        assert right == 3
        program.send_signal(signal.SIGTERM)
        assert program.wait(5) == 0


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
