"""The program as a whole: commands, exit codes, what it prints, and what it imports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sriov_textfile import __version__
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from tests.conftest import MakeHost

MODULE = [sys.executable, "-m", "sriov_textfile"]
SCRIPT = [str(Path(sys.executable).parent / "sriov-textfile")]


def run(*arguments: str, program: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def sysfs_host(tmp_path: Path) -> SimulatedHost:
    """A host that needs no rtnetlink, so that the program can run on it as it is."""
    return SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["python -m", "script"])
@pytest.mark.parametrize("command", [[], ["collect"]], ids=["bare", "collect"])
def test_both_names_and_both_forms_are_one_program(
    sysfs_host: SimulatedHost, program: list[str], command: list[str]
) -> None:
    done = run(*command, *sysfs_host.flags, program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pf="ens1f0",vf="1"} 1003\n' in done.stdout


@pytest.mark.parametrize("path", ["", "-"])
def test_without_a_path_the_metrics_go_to_standard_output(
    sysfs_host: SimulatedHost, path: str
) -> None:
    done = run(*sysfs_host.flags, f"--textfile.path={path}")
    assert done.stdout.startswith("# HELP sriov_vf_rx_bytes ")


def test_with_a_path_nothing_is_printed(sysfs_host: SimulatedHost, tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    done = run(*sysfs_host.flags, f"--textfile.path={path}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text().startswith("# HELP sriov_vf_rx_bytes ")


def test_exit_0_even_if_a_collector_failed(tmp_path: Path) -> None:
    done = run("--path.sysbuspci=/nowhere")
    assert done.returncode == 0
    assert 'sriov_scrape_collector_success{collector="vfstats"} 0\n' in done.stdout
    assert "cannot list PCI devices in /nowhere: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colector.vfstats"], "unknown flag --colector.vfstats"),
        (["--textfile.path=x.txt"], "--textfile.path=x.txt: node_exporter reads only"),
        (["collcet"], "unknown command collcet; use collect, serve, doctor or demo"),
        (["collect", "collect"], "unknown command collect collect"),
        (["--collector.netlink", "false"], "give a boolean flag its value as --flag=false"),
        (["demo", "--pfs=0"], "--pfs=0: use a whole number from 1 to 64"),
        (["demo", "--vfs=many"], "--vfs=many: use a whole number from 0 to 1024"),
        (["--pfs=1"], "unknown flag --pfs"),
        (["--timeout=1s", "demo"], "demo must be the first word"),
        (["demo", f"--pfs={'9' * 5000}"], "use a whole number from 1 to 64"),
        (["--no-collector.netlink=true"], "--no-collector.netlink takes no value"),
        (["--timeout=a\nb"], "--timeout=a\\nb: use a duration"),
        (["serve", "--interval=15s"], "--interval goes with collect; serve collects when"),
        (["serve", "--textfile.path=x.prom"], "--textfile.path goes with collect;"),
    ],
)
def test_exit_2_and_one_line_for_a_wrong_command_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("sriov-textfile: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("redirect", "message"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_exit_1_where_standard_output_takes_nothing(redirect: str, message: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m sriov_textfile --path.sysbuspci=/sys/bus/pci {redirect}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot write standard output: {message}; what was written is not whole" in done.stderr


def test_a_reader_that_goes_away_gets_no_traceback(sysfs_host: SimulatedHost) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*MODULE, *sysfs_host.flags], stdout=write, stderr=subprocess.PIPE, timeout=60, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Broken pipe" in done.stderr


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_that_cannot_be_printed_gets_one_line(argument: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MODULE, argument], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == (
        "sriov-textfile: cannot write standard output: No space left on device;"
        " what was written is not whole\n"
    )


def test_a_reader_that_is_late_gets_the_whole_page_from_a_non_blocking_pipe(
    tmp_path: Path,
) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=256)])
    read, write = os.pipe()
    os.set_blocking(write, False)
    program = subprocess.Popen([*MODULE, *host.flags], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    time.sleep(0.5)  # by now the pipe is full
    with open(read) as pipe:
        text = pipe.read()
    assert len(text) > 65536
    assert text.rstrip().splitlines()[-1].startswith("sriov_textfile_build_info{")
    _, log = program.communicate()
    assert (program.returncode, log) == (0, b"")


# --- standard error -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--path.sysbuspci=/nowhere"], 0), (["demo", "--vfs=0"], 0), (["--bogus"], 2)],
)
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_where_nobody_can_be_told_nothing_else_changes(
    arguments: list[str], code: int, redirect: str
) -> None:
    done = subprocess.run(
        f"{sys.executable} -m sriov_textfile {' '.join(arguments)} {redirect}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    assert all(line.startswith(("sriov_", "# ")) for line in done.stdout.splitlines())


def test_a_full_pipe_that_nobody_reads_does_not_hold_up_a_collection(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=1)])
    (host.device("0000:10:00.0") / "sriov/0/stats/rx_bytes").write_text("x\n")
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    done = subprocess.run(
        [*MODULE, *host.flags], stdout=subprocess.PIPE, stderr=write, text=True, timeout=30
    )
    os.close(read)
    os.close(write)
    assert done.returncode == 0
    assert 'sriov_scrape_collector_skipped{collector="vfstats"} 1\n' in done.stdout


def test_an_interrupt_while_the_program_is_imported_shows_no_traceback() -> None:
    code = (
        "import sys; from sriov_textfile.__main__ import main\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *unused):\n"
        "        if name == 'sriov_textfile.gather': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt()); sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- help and version -----------------------------------------------------------------------


def test_version() -> None:
    python = sys.version.split()[0]
    assert run("--version").stdout == f"sriov-textfile {__version__} (Python {python})\n"


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: sriov-textfile [COMMAND] [FLAGS]\n")
    assert "--collector.vfstats\n" in done.stdout
    assert "--pfs\n" in run("demo", "--help").stdout


# --- the log ----------------------------------------------------------------------------


def test_log_lines_are_logfmt() -> None:
    done = run("--path.sysbuspci=/nowhere", "--no-collector.pfinfo")
    pattern = (
        r'time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ level=error msg="collector vfstats: cannot list .*"'
    )
    assert re.fullmatch(pattern, done.stderr.rstrip("\n"))


def test_log_lines_can_be_json() -> None:
    done = run("--path.sysbuspci=/nowhere", "--no-collector.pfinfo", "--log.format=json")
    event = json.loads(done.stderr)
    assert event["level"] == "error"
    assert event["msg"].startswith("collector vfstats: cannot list PCI devices in /nowhere")


def test_the_log_level_silences_what_is_below(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (host.device("0000:10:00.0") / "sriov/0/stats/rx_bytes").write_text("x\n")
    assert "level=warn" in host.collect("--log.level=warn").log
    assert host.collect("--log.level=error").log == ""


# --- the demo ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["collect"], ["--pfs=4", "--vfs=3"], ["--pfs=64", "--vfs=1"], ["--vfs", "0"]]
)
def test_the_demo_runs_the_program_on_a_simulated_host(arguments: list[str]) -> None:
    done = run("demo", *arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("simulated host: ")
    assert len(done.stderr.splitlines()) == 1
    assert 'sriov_scrape_collector_success{collector="vfstats"} 1\n' in done.stdout


def test_the_demo_has_as_many_pfs_and_vfs_as_asked_for() -> None:
    out = run("demo", "--pfs=5", "--vfs=7").stdout
    assert out.count("sriov_pf_info{") == 5
    assert out.count("sriov_vf_rx_bytes{") == 35


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "demo"], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []


# --- imports ----------------------------------------------------------------------------


def imports(*arguments: str) -> set[str]:
    """Return the modules that a run imports, beyond those of bare Python."""

    def imported(command: list[str]) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command], capture_output=True, text=True
        )
        assert done.returncode == 0
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return {line.split("|")[-1].strip() for line in lines}

    return imported(["-m", "sriov_textfile", *arguments]) - imported(["-c", "pass"])


def test_a_single_collection_imports_little_and_nothing_of_others(
    sysfs_host: SimulatedHost, tmp_path: Path
) -> None:
    path = f"--textfile.path={tmp_path}/sriov.prom"
    modules = imports(*sysfs_host.flags, "--collector.vfstatspriority=sysfs,netlink", path)
    foreign = {
        name
        for name in modules
        if name.split(".")[0] not in sys.stdlib_module_names | {"sriov_textfile"}
    }
    assert foreign == set()
    # Each of these takes milliseconds, of the ten or so that starting Python takes.
    dear = {"argparse", "asyncio", "dataclasses", "enum", "inspect", "json", "logging", "pathlib"}
    dear |= {"re", "socket", "tempfile", "threading", "typing"}
    assert modules & dear == set()
