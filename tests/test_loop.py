"""--interval: one collection per interval, until a signal stops the program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sriov_textfile import __version__, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.log import Log
from sriov_textfile.outputs import loop, once
from sriov_textfile.simulate.host import SimulatedPf
from tests.conftest import PROGRAM, Host, MakeHost

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host(SimulatedPf(vfs=2, sysfs="none"))


@pytest.fixture
def start(host: Host) -> Iterator[Start]:
    """Start the program with the given flags, and kill it when the test ends."""
    started = []

    def start(*flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags, *flags]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.communicate()


def next_problem(program: subprocess.Popen[str]) -> str:
    """Return the next line of the log, without the one about the start."""
    assert program.stderr
    line = program.stderr.readline()
    return program.stderr.readline() if "msg=started" in line else line


def problems_of(program: subprocess.Popen[str]) -> list[str]:
    """Return the rest of the log of an exited program, without the line about the start."""
    assert program.stderr
    return [line for line in program.stderr if "msg=started" not in line]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition was not met within 20 s"
        time.sleep(0.01)


def rx_bytes_of_vf_1(path: Path) -> int:
    (line,) = [
        line for line in path.read_text().splitlines() if "rx_bytes{" in line and 'vf="1"' in line
    ]
    return int(line.split()[-1])


def test_the_first_collection_runs_at_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    start("--interval=1h", f"--textfile.path={path}")
    wait_until(path.exists)


def test_the_log_starts_with_version_mode_path_and_device_counts(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "sriov.prom"
    program = start("--interval=1h", f"--textfile.path={path}")
    assert program.stderr
    line = program.stderr.readline()
    assert f"msg=started version={__version__} mode=loop path={path} pfs=1 vfs=2\n" in line


def test_a_lasting_problem_is_logged_once(start: Start, host: Host, tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    host.pfs.clear()  # sysfs still has the PF, rtnetlink does not
    program = start("--interval=10ms", f"--textfile.path={path}")
    wait_until(path.exists)
    time.sleep(0.5)
    program.terminate()
    assert program.wait(5) == 0
    (line,) = problems_of(program)
    assert "code=unknown-netdev" in line


def test_later_collections_show_new_counts_and_new_vfs(
    start: Start, host: Host, tmp_path: Path
) -> None:
    path = tmp_path / "sriov.prom"
    start("--interval=20ms", f"--textfile.path={path}")
    wait_until(path.exists)
    host.now = 100
    wait_until(lambda: rx_bytes_of_vf_1(path) == 1003 + 2 * 100 * 9_000_000)
    host.set_vfs(host.pfs[0], 5)
    wait_until(lambda: path.read_text().count("sriov_vf_rx_bytes{") == 5)


def test_without_a_path_each_collection_is_printed(start: Start) -> None:
    program = start("--interval=10ms")
    assert program.stdout
    pages = 0
    for line in program.stdout:
        pages += line.startswith("sriov_textfile_build_info")
        if pages == 3:
            break
    program.terminate()
    program.stdout.close()
    assert program.wait(10) == 0


def test_a_loop_waits_for_the_reader_of_standard_output_and_can_be_stopped(
    start: Start, host: Host
) -> None:
    program = start("--interval=1ms")
    wait_until(lambda: bool(host.server.requests))
    collections = 0
    while collections != sum(host.server.requests.values()):  # until the pipe is full
        collections = sum(host.server.requests.values())
        time.sleep(0.5)
    assert program.poll() is None
    assert collections > 1
    program.terminate()
    assert program.wait(5) == 0
    assert problems_of(program) == []


def test_without_a_path_the_loop_goes_on_after_a_collection_that_hung(
    host: Host,
    hanging_sysfs: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = [*host.flags, "--timeout=100ms"]
    config = flags.config(flags.parse(arguments)[1], host.rtnetlink)

    class Delivery(once.Delivery):
        """Deliveries until one has succeeded; after the first that fails, sysfs answers."""

        def deliver(self) -> None:
            try:
                super().deliver()
            except once.DeliveryError:
                hanging_sysfs.set()
                raise
            raise SystemExit(0)

    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with pytest.raises(SystemExit) as ended:
            loop.run(Delivery(Gatherer(config, Log()), config), 0.05, Log())
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    out, log = capfd.readouterr()
    assert ended.value.code == 0
    assert "sriov_vf_rx_bytes{" in out
    assert "code=hangs" in log


def test_a_closed_standard_output_stops_the_loop_with_exit_1(start: Start) -> None:
    program = start("--interval=10ms")
    assert program.stdout
    program.stdout.readline()
    program.stdout.close()
    assert program.wait(10) == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_collections_stops_the_loop_at_once(
    start: Start, tmp_path: Path, stop: signal.Signals
) -> None:
    path = tmp_path / "sriov.prom"
    program = start("--interval=1h", f"--textfile.path={path}")
    wait_until(path.exists)
    time.sleep(0.1)
    program.send_signal(stop)
    assert program.wait(5) == 0
    assert problems_of(program) == []


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_collection_stops_the_loop_at_once(
    start: Start, host: Host, tmp_path: Path, stop: signal.Signals
) -> None:
    host.server.mute = True
    program = start("--interval=1h", "--timeout=1h", f"--textfile.path={tmp_path}/sriov.prom")
    wait_until(lambda: bool(host.server.requests))
    program.send_signal(stop)
    assert program.wait(5) == 0
    assert problems_of(program) == []


def test_a_signal_at_any_time_leaves_no_temporary_file_and_no_traceback(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "textfile/sriov.prom"
    path.parent.mkdir()
    for delay in range(20):
        program = start("--interval=1ms", f"--textfile.path={path}")
        wait_until(path.exists)
        time.sleep(delay / 200)
        program.terminate()
        assert program.wait(5) == 0
        assert problems_of(program) == []
        assert set(os.listdir(path.parent)) <= {".sriov.prom.lock", "sriov.prom"}
        path.unlink()


def test_a_failed_write_is_logged_and_the_loop_goes_on(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    program = start("--interval=20ms", f"--textfile.path={folder}/sriov.prom")
    line = next_problem(program)
    assert f"cannot write {folder}/sriov.prom: No such file or directory" in line
    time.sleep(0.2)  # more collections fail in the same way
    folder.mkdir()
    wait_until((folder / "sriov.prom").exists)
    # Not always the next line: the folder may appear while the hint for its absence is made.
    assert program.stderr
    assert any('msg="resolved: cannot write' in line for line in program.stderr)


def test_a_hung_kernel_fails_the_collection_and_the_loop_goes_on(
    start: Start, host: Host, tmp_path: Path
) -> None:
    path = tmp_path / "sriov.prom"
    host.server.mute = True
    program = start("--interval=20ms", "--timeout=1s", f"--textfile.path={path}")
    assert "the kernel does not answer about ens1f0" in next_problem(program)
    host.server.mute = False
    wait_until(lambda: path.exists() and "sriov_vf_rx_bytes{" in path.read_text())
    assert program.stderr
    assert any('msg="resolved: ' in line for line in program.stderr)


# --- a service of Type=notify -----------------------------------------------------------------


@pytest.fixture(params=["/path", "@abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listen as systemd does, with a watchdog of 0.2 s."""
    name = f"{tmp_path}/notify" if request.param == "/path" else f"@sriov-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(20)
        yield listener


def test_systemd_is_notified_once_the_first_file_is_written(
    start: Start, tmp_path: Path, systemd: socket.socket
) -> None:
    path = tmp_path / "sriov.prom"
    start("--interval=1h", f"--textfile.path={path}")
    assert systemd.recv(100) == b"READY=1"
    assert rx_bytes_of_vf_1(path)


def test_the_watchdog_is_notified_between_collections_until_the_loop_hangs(
    start: Start, tmp_path: Path, systemd: socket.socket
) -> None:
    path = tmp_path / "sriov.prom"
    program = start("--interval=1h", f"--textfile.path={path}")
    assert [systemd.recv(100) for _ in range(5)] == [b"READY=1"] + [b"WATCHDOG=1"] * 4
    program.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    systemd.setblocking(False)
    while True:
        try:
            systemd.recv(100)
        except BlockingIOError:
            break
    systemd.settimeout(0.5)
    with pytest.raises(TimeoutError):
        systemd.recv(100)


def test_a_socket_that_systemd_does_not_read_delays_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/gone")
    path = tmp_path / "sriov.prom"
    start("--interval=10ms", f"--textfile.path={path}")
    wait_until(path.exists)
    first = path.stat().st_mtime_ns
    wait_until(lambda: path.stat().st_mtime_ns > first)
