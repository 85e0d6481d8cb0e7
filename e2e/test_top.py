"""top's live view on a real terminal: tmux sends the keys and captures the screen."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sriov_textfile.simulate.demo import DemoHost
from sriov_textfile.simulate.host import SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from tools.fetch import CACHE, debian_program

# Run as `python -c PROGRAM SOCKET FLAGS...`: the program on a host in this process. If the file
# named by CRASH exists, drawing fails.
PROGRAM = """
import os, sys, types
from sriov_textfile import __main__, cli
from sriov_textfile.top import screen
host = types.SimpleNamespace(rtnetlink=sys.argv[1], name="node-1", refresh_without_rdma=int)
draw = screen.draw
screen.draw = lambda *a: 1 / 0 if os.path.exists(os.environ["CRASH"]) else draw(*a)
cli.main = lambda: cli.run(["top", *sys.argv[2:]], host=host)
__main__.main()
"""
PROMPT = "^[$#]$"
BYTES_PER_SECOND = 9_000_000  # received by VF 0; VF N receives N + 1 times as much


@pytest.fixture(scope="module")
def tmux() -> list[str]:
    return debian_program("tmux", "usr/bin/tmux", CACHE / "tmux")


class Terminal:
    """A terminal with a shell."""

    def __init__(self, tmux: Sequence[str], folder: Path, width: int, height: int) -> None:
        self._folder = folder
        self._tmux = [*tmux, "-u", "-f", "/dev/null", "-S", str(folder / "tmux")]
        env = {**os.environ, "LC_ALL": "C.UTF-8", "CRASH": str(folder / "crash")}
        # Where the tests run in several processes, readline has set a size, which curses takes.
        for name in ("NO_COLOR", "TMUX", "ENV", "COLUMNS", "LINES"):
            env.pop(name, None)
        size = ["-x", str(width), "-y", str(height)]
        command = [*self._tmux, "new-session", "-d", *size, "sh"]
        subprocess.run(command, env=env, check=True, timeout=30)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout

    def screen(self, *options: str) -> str:
        return self.run("capture-pane", "-p", *options)

    def keys(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def type(self, text: str) -> None:
        self.run("send-keys", "-l", text)

    def resize(self, width: int, height: int) -> None:
        self.run("resize-window", "-x", str(width), "-y", str(height))

    def wait_until(self, accepts: Callable[[str], object], what: str) -> str:
        """Return the screen once it is as wanted. Fail after a minute."""
        end = time.monotonic() + 60
        while not accepts(screen := self.screen()):
            if time.monotonic() > end:
                pytest.fail(f"no {what} on the screen:\n{screen}")
            time.sleep(0.05)
        return screen

    def wait_for(self, pattern: str) -> str:
        found = re.compile(pattern, re.MULTILINE)
        return self.wait_until(found.search, pattern)

    def settings(self) -> str:
        """Return the settings of the terminal, while the shell waits."""
        path = self._folder / "settings"
        path.unlink(missing_ok=True)
        self.keys(f"stty -a > {path}.new; mv {path}.new {path}", "Enter")
        self.wait_until(lambda screen: path.exists(), "file with the settings")
        return path.read_text()

    def close(self) -> None:
        self.run("kill-server")


@contextmanager
def terminal(tmux: Sequence[str], folder: Path, width: int, height: int) -> Iterator[Terminal]:
    opened = Terminal(tmux, folder, width, height)
    try:
        opened.wait_for(PROMPT)
        yield opened
    finally:
        try:
            opened.close()
        except subprocess.CalledProcessError:  # The test has closed it.
            pass


@pytest.fixture
def shell(tmux: list[str], tmp_path: Path) -> Iterator[Terminal]:
    """A terminal of the smallest size that is supported."""
    with terminal(tmux, tmp_path, 80, 24) as opened:
        yield opened


@pytest.fixture
def command(tmp_path: Path) -> Iterator[str]:
    """The command of top on a host with steady traffic.

    The first PF has four pods with two VFs each, which fill more than 80 % of its link, and the
    second one an idle VF.
    """
    busy = SimulatedPf(vfs=8, sysfs="none", vf_driver="vfio-pci", speed=3000)
    idle = SimulatedPf("0000:20:00.0", "ens2f0", vfs=1, sysfs="none", vf_driver="vfio-pci")
    pods = [
        SimulatedPod(
            name,
            "core",
            f"{number}" * 32,
            [SimulatedContainer("c", f"{number}" * 64, "", {"vendor/vf": addresses})],
        )
        for number, name in enumerate("abcd")
        if (addresses := [busy.vf_address(2 * number), busy.vf_address(2 * number + 1)])
    ]
    idle.counters = lambda vf, seconds: SimulatedPf().counters(vf, 0)  # type: ignore[method-assign]
    host = DemoHost(tmp_path / "host", [busy, idle])
    node = SimulatedNode(tmp_path, pods)
    with host.running(), node.running():
        words = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags, *node.flags]
        path = tmp_path / "top"
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)
        yield str(path)


def rows(screen: str) -> list[str]:
    """Return the names of the pods, VFs and PFs below the head of the table."""
    lines = screen.splitlines()
    at = next(place for place, line in enumerate(lines) if "LINK NUMA" in line)
    end = next((place for place in range(at, len(lines)) if not lines[place]), len(lines))
    second = "USED BY" if "USED BY" in lines[at] else " PF"
    return [line[: lines[at].index(second)].strip() for line in lines[at + 1 : end]]


def known(screen: str) -> bool:
    """Whether the screen has rates, which the first sample lacks."""
    return bool(re.search(r"^\+ core/d .* \d+%", screen, re.MULTILINE))


def busiest_is_right(screen: str) -> bool:
    """Whether the screen has what the pod with the most traffic receives, and that it drops."""
    found = re.search(r"^\+ core/d +ens1f0 +([\d.]+)G( +\S+){3} +([\d.]+)", screen, re.M)
    if not found:
        return False
    true = 15 * BYTES_PER_SECOND * 8
    pf = r"^ens1f0 +RX 2\.\d+G .* 8\d%! of 3\.00G +dropped \d"
    return (
        abs(float(found[1]) * 1e9 - true) < 0.05 * true
        and float(found[3]) > 1  # drops per second
        and bool(re.search(pf, screen, re.M))
    )


# --- the screen and the keys ------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(80, 24), (132, 43), (200, 60)])
def test_the_busiest_pod_its_pf_and_its_drops_are_on_the_first_screen(
    tmux: list[str], tmp_path: Path, command: str, width: int, height: int
) -> None:
    with terminal(tmux, tmp_path, width, height) as shell:
        shell.keys(command, "Enter")
        shell.wait_until(known, "rates")
        # On a busy machine, the sample of a second may be late.
        screen = shell.wait_until(busiest_is_right, "rate of the busiest pod")
        print(screen)
        assert rows(screen) == ["+ core/d", "+ core/c", "+ core/b", "+ core/a", "+ (vfio)"]
        shell.keys("q")
        shell.wait_for(PROMPT)


def test_the_first_rates_follow_the_second_sample(shell: Terminal, command: str) -> None:
    shell.keys(f"{command} --interval=2s", "Enter")
    shell.wait_for("^measuring")
    start = time.monotonic()
    shell.wait_until(known, "rates")
    taken = time.monotonic() - start
    print(f"the first rates: {taken:.2f} s after the first screen, with an interval of 2 s")


def test_keys_sort_filter_fold_hide_and_pause(shell: Terminal, command: str) -> None:
    shell.keys(command, "Enter")
    shell.wait_until(known, "rates")
    shell.keys("r")
    shell.wait_until(lambda screen: rows(screen)[1] == "+ core/a", "reversed order")
    shell.keys("r", ">")
    shell.wait_until(lambda screen: "sorted by POD" in screen, "order by name")
    assert rows(shell.screen())[:2] == ["+ (vfio)", "+ core/a"]
    shell.keys("<", "/")
    shell.type("core/b")
    shell.wait_for("show only rows with: core/b_")
    shell.keys("Enter")
    shell.wait_until(lambda screen: rows(screen) == ["+ core/b"], "filtered rows")
    shell.keys("Right")
    shell.wait_until(lambda screen: rows(screen) == ["- core/b", "VF 3", "VF 2"], "VFs of the pod")
    shell.keys("Left", "Escape", "z")
    shell.wait_until(lambda screen: len(rows(screen)) == 4, "busy rows only")
    shell.keys("z", "v")
    shell.wait_until(lambda screen: rows(screen)[0] == "ens1f0 7", "VFs")
    shell.keys("n", "f", "f")
    shell.wait_for("^ +core/d, with VFs of ens1f0$")
    shell.keys("p", "Space")
    paused = shell.wait_for("PAUSED")
    time.sleep(2.2)
    assert shell.screen() == paused
    shell.keys("Space")
    shell.wait_until(lambda screen: "PAUSED" not in screen and screen[:40] != paused[:40], "time")
    shell.keys("?")
    shell.wait_for("a longer or shorter|longer or shorter interval")
    shell.keys("x", "-")
    shell.wait_for("every 0.5 s")
    shell.keys("b")
    shell.wait_for("byte/s")


def test_the_screen_follows_the_size_of_the_terminal(shell: Terminal, command: str) -> None:
    shell.keys(command, "Enter")
    shell.wait_until(known, "rates")
    shell.resize(200, 60)
    shell.wait_for("last minute")
    shell.keys("v")
    screen = shell.wait_for("0000:11:00.7")
    assert len(screen.splitlines()[0]) > 40
    shell.resize(40, 10)
    shell.wait_until(
        lambda screen: len(screen.splitlines()) == 10 and "node-1" in screen, "10 lines"
    )
    shell.resize(80, 24)
    shell.wait_until(lambda screen: "q quit" in screen.splitlines()[-1], "24 lines")
    shell.keys("q")
    shell.wait_for(PROMPT)


def test_a_screen_of_1024_vfs_is_scrolled(shell: Terminal) -> None:
    demo = f"{sys.executable} -m sriov_textfile demo top --pfs=1 --vfs=1024 --by=vf"
    shell.keys(f"TMPDIR=/dev/shm {demo}", "Enter")  # a host of 20,000 files
    shell.wait_for(r"^ens1f0 5 .* \d+%|^ens1f0 5 .*\d\.\d%")
    shell.keys("End")
    shell.wait_for("^ens1f0 1023 ")
    shell.keys("Home")
    shell.wait_for("^ens1f0 5 ")
    shell.keys("q")
    shell.wait_for(PROMPT)


# --- the terminal afterwards ------------------------------------------------------------


def leave_with_q(shell: Terminal, program: int, crash: Path) -> None:
    shell.keys("q")


def leave_with_control_c(shell: Terminal, program: int, crash: Path) -> None:
    shell.keys("C-c")


def terminate(shell: Terminal, program: int, crash: Path) -> None:
    os.kill(program, signal.SIGTERM)


def crash(shell: Terminal, program: int, crash: Path) -> None:
    crash.touch()


@pytest.mark.parametrize(
    ("leave", "code", "message"),
    [
        (leave_with_q, 0, ""),
        (leave_with_control_c, 0, ""),
        (terminate, 0, ""),
        (crash, 1, "sriov-textfile: unexpected error: ZeroDivisionError"),
    ],
)
def test_the_terminal_is_as_before(
    shell: Terminal,
    command: str,
    tmp_path: Path,
    leave: Callable[[Terminal, int, Path], None],
    code: int,
    message: str,
) -> None:
    before = shell.settings()
    shell.keys("clear; echo before", "Enter")
    shell.wait_for("^before$")
    shell.keys(f"{command}; echo exit $?", "Enter")
    shell.wait_until(known, "rates")
    leave(shell, process_of(shell), tmp_path / "crash")
    after = shell.wait_for(r"^exit \d+$")
    print(after)
    assert f"exit {code}" in after
    assert after.startswith("before\n")
    assert message in after
    assert "Traceback" not in after
    assert "core/d" not in after
    shell.keys("echo typed", "Enter")  # The terminal echoes what is typed.
    shell.wait_for("^typed$")
    assert shell.settings() == before


def process_of(shell: Terminal) -> int:
    """Return the process of the program that the shell runs in the foreground."""
    parent = int(shell.run("display-message", "-p", "#{pane_pid}"))
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def test_control_z_stops_it_and_fg_continues_it(shell: Terminal, command: str) -> None:
    before = shell.settings()
    shell.keys(command, "Enter")
    shell.wait_until(known, "rates")
    shell.keys("C-z")
    shell.wait_for("Stopped")
    assert shell.settings() == before
    shell.keys("fg", "Enter")
    shell.wait_until(known, "rates")
    shell.keys("v")
    shell.wait_for("^ens1f0 7")
    shell.keys("q")
    shell.wait_for(PROMPT)
    assert shell.settings() == before


@pytest.mark.parametrize("ignored", ["", "trap '' HUP; "])
def test_a_lost_connection_ends_it(
    shell: Terminal, command: str, tmp_path: Path, ignored: str
) -> None:
    """As when an SSH connection breaks: the terminal is gone, with SIGHUP or without."""
    shell.keys(f"{ignored}{command} --record={tmp_path}/recording", "Enter")
    shell.wait_until(known, "rates")
    program = process_of(shell)
    shell.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{program}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{program}").exists()
    assert (tmp_path / "recording").read_bytes().endswith(b"}\n")


# --- other terminals --------------------------------------------------------------------


def colours(shell: Terminal) -> set[str]:
    """Return the foreground and background colours on the screen."""
    codes = re.findall(r"\x1b\[([0-9;]*)m", shell.screen("-e"))
    parts = {part for code in codes for part in code.split(";")}
    return {part for part in parts if re.fullmatch("3[0-8]|4[0-8]|9[0-7]|10[0-7]", part)}


def test_drops_and_full_links_are_coloured_but_not_with_no_color(
    shell: Terminal, command: str
) -> None:
    shell.keys(command, "Enter")
    shell.wait_until(known, "rates")
    shell.wait_until(lambda _: {"31", "33"} <= colours(shell), "colours")
    shell.keys("q")
    shell.wait_for(PROMPT)
    shell.keys(f"NO_COLOR=1 {command}", "Enter")
    shell.wait_until(known, "rates")
    assert colours(shell) == set()


@pytest.mark.parametrize("setting", ["TERM=linux", "TERM=vt100 LC_ALL=C"])
def test_a_simple_terminal_gets_ascii(
    tmux: list[str], tmp_path: Path, command: str, setting: str
) -> None:
    with terminal(tmux, tmp_path, 132, 43) as shell:
        # Without the variable, Python uses the locale C.UTF-8 in place of C.
        shell.keys(f"PYTHONCOERCECLOCALE=0 {setting} {command}", "Enter")
        screen = shell.wait_until(lambda screen: known(screen) and "last minute" in screen, "rates")
        assert screen.isascii()
        shell.keys("v")
        shell.wait_for("^ens1f0 7 ")
        shell.keys("q")
        shell.wait_for(PROMPT)


@pytest.mark.parametrize("name", ["unknown-terminal", "dumb"])
def test_a_terminal_that_cannot_show_it_gets_a_message(
    shell: Terminal, command: str, name: str
) -> None:
    shell.keys(f"clear; TERM={name} {command}; echo exit $?", "Enter")
    screen = shell.wait_for(r"^exit \d+$").replace("\n", "")
    assert "exit 1" in screen
    assert "Traceback" not in screen
    assert f"a terminal of type '{name}'" in screen
    assert "set TERM to the type of your terminal, or use --batch" in screen


def test_little_is_sent_to_the_terminal(shell: Terminal, command: str, tmp_path: Path) -> None:
    """A line of 9,600 bit/s passes 960 bytes each second."""
    shell.keys(command, "Enter")
    shell.wait_until(known, "rates")
    sent = tmp_path / "sent"
    shell.run("pipe-pane", f"cat > {sent}")
    start = time.monotonic()
    time.sleep(5)
    shell.run("pipe-pane")
    rate = sent.stat().st_size / (time.monotonic() - start)
    print(f"sent {rate:.0f} bytes per second to a screen of 80x24")
    assert 0 < rate < 960


# --- replay -----------------------------------------------------------------------------


def test_a_recording_is_shown_again(shell: Terminal, command: str, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    shell.keys(f"{command} --record={path}", "Enter")
    shell.wait_until(known, "rates")
    assert "  REC  " in shell.screen().splitlines()[0]
    shell.keys("-", "-")
    shell.wait_for("every 0.2 s")
    shell.wait_until(lambda _: len(path.read_text().splitlines()) > 9, "recorded samples")
    shell.keys("q")
    shell.wait_for(PROMPT)
    samples = len(path.read_text().splitlines()) - 1
    shell.keys(f"{sys.executable} -m sriov_textfile top --replay={path}", "Enter")
    shell.wait_for(rf"^replay \d+ of {samples}")
    shell.keys("Space", "]")
    screen = shell.wait_for(rf"^replay {samples} of {samples}, end  , \. sample  ")
    assert rows(screen)[0] == "+ core/d"
    shell.keys(",")
    shell.wait_for(rf"^replay {samples - 1} of {samples}  ")
    shell.keys("[")
    shell.wait_for(rf"^replay 1 of {samples}  ")
    shell.keys("q")
    shell.wait_for(PROMPT)
    shell.keys(f"{command} --record={path} --interval=5s", "Enter")
    shell.wait_for("appending to the recording")
    shell.keys("q")
    shell.wait_for(PROMPT)
