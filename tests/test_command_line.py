"""The command line: commands, exit codes, output, and the modules that a run imports."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sriov_textfile import __version__
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from tests.conftest import MakeHost

MODULE = [sys.executable, "-m", "sriov_textfile"]
SCRIPT = [str(Path(sys.executable).parent / "sriov-textfile")]


def run(*arguments: str, program: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def sysfs_host(tmp_path: Path) -> SimulatedHost:
    """A host with all counters in sysfs, so that the program needs no rtnetlink server."""
    return SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["python -m", "script"])
@pytest.mark.parametrize("command", [[], ["collect"]], ids=["no command", "collect"])
def test_module_and_script_run_the_same_program(
    sysfs_host: SimulatedHost, program: list[str], command: list[str]
) -> None:
    done = run(*command, *sysfs_host.flags, program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pf="ens1f0",vf="1"} 1003\n' in done.stdout


@pytest.mark.parametrize("path", ["", "-"])
def test_without_a_path_metrics_go_to_standard_output(sysfs_host: SimulatedHost, path: str) -> None:
    done = run(*sysfs_host.flags, f"--textfile.path={path}")
    assert done.stdout.startswith("# HELP sriov_vf_rx_bytes ")


def test_with_a_path_nothing_is_printed(sysfs_host: SimulatedHost, tmp_path: Path) -> None:
    path = tmp_path / "sriov.prom"
    done = run(*sysfs_host.flags, f"--textfile.path={path}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text().startswith("# HELP sriov_vf_rx_bytes ")


def test_a_failed_collector_still_exits_0(tmp_path: Path) -> None:
    done = run("--path.sysbuspci=/nowhere")
    assert done.returncode == 0
    assert 'sriov_scrape_collector_success{collector="vfstats"} 0\n' in done.stdout
    assert "cannot list PCI devices in /nowhere: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colector.vfstats"], "unknown flag --colector.vfstats"),
        (["--textfile.path=x.txt"], "--textfile.path=x.txt: use a path that ends in .prom"),
        (["collcet"], "unknown command collcet; did you mean collect?\n"),
        (
            ["frobnicate"],
            "unknown command frobnicate; commands: collect, serve, doctor, top, demo, help",
        ),
        (["collect", "collect"], "unexpected argument collect after collect; see --help"),
        (["--collector.netlink", "false"], "set a boolean flag with --flag=false"),
        (["demo", "--pfs=0"], "--pfs=0: use a whole number from 1 to 64"),
        (["demo", "--vfs=many"], "--vfs=many: use a whole number from 0 to 1024"),
        (["--pfs=1"], "--pfs is a flag of demo, not of collect"),
        (["help", "srve"], "unknown command srve; did you mean serve?"),
        (["demo", "demo"], "cannot run demo here; see sriov-textfile --help"),
        (["version", "foo"], "cannot run version foo here"),
        (["serve", "demo"], "unexpected argument demo after serve"),
        (["demo", f"--pfs={'9' * 5000}"], "use a whole number from 1 to 64"),
        (["--no-collector.netlink=true"], "--no-collector.netlink takes no value"),
        (["--timeout=a\nb"], "--timeout=a\\nb: use a duration"),
        (["serve", "--interval=15s"], "--interval is a flag of collect, not of serve"),
        (["serve", "--textfile.path=x.prom"], "--textfile.path is a flag of collect, not of serve"),
        (["--web.rate-limit=5"], "--web.rate-limit is a flag of serve, not of collect"),
        (["demo", "--web.listen-address=:0"], "--web.listen-address is a flag of serve"),
        (["collect", "--json"], "--json is a flag of doctor, not of collect"),
    ],
)
def test_a_wrong_command_line_exits_2_with_a_one_line_message(
    arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("sriov-textfile: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("redirect", "message"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_unwritable_standard_output_exits_1_with_a_one_line_message(
    sysfs_host: SimulatedHost, redirect: str, message: str
) -> None:
    done = subprocess.run(
        f"{sys.executable} -m sriov_textfile {' '.join(sysfs_host.flags)} {redirect}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"cannot write to standard output: {message}; the output is incomplete" in done.stderr


def test_a_broken_pipe_exits_1_with_a_one_line_message(sysfs_host: SimulatedHost) -> None:
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
def test_unwritable_help_exits_1_with_a_one_line_message(argument: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MODULE, argument], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == (
        "sriov-textfile: cannot write to standard output: No space left on device;"
        " the output is incomplete\n"
    )


def test_a_slow_reader_of_a_non_blocking_pipe_gets_the_whole_page(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=256, vf_driver="vfio-pci")])
    read, write = os.pipe()
    os.set_blocking(write, False)
    command = [*MODULE, *host.flags, "--timeout=1s"]
    program = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    time.sleep(2)  # by now the pipe is full, and the time for the collection is over
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
def test_a_closed_or_full_standard_error_does_not_affect_the_run(
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


def test_a_full_standard_error_pipe_does_not_block_a_collection(tmp_path: Path) -> None:
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


def test_an_interrupt_during_import_shows_no_traceback() -> None:
    code = (
        "import sys; from sriov_textfile.__main__ import main\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *unused):\n"
        "        if name == 'sriov_textfile.gather': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt()); sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_unexpected_error_is_one_line_and_exit_1() -> None:
    code = (
        "from sriov_textfile import cli; from sriov_textfile.__main__ import main\n"
        "cli.main = lambda: 1 // 0\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"sriov-textfile: unexpected error: ZeroDivisionError: .*; .*\n", done.stderr
    )


# --- help and version -----------------------------------------------------------------------


def test_version_shows_program_and_python() -> None:
    python = sys.version.split()[0]
    assert run("--version").stdout == f"sriov-textfile {__version__} (Python {python})\n"


def test_help_shows_usage_and_flags() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: sriov-textfile [COMMAND] [FLAGS]\n")
    assert "--collector.vfstats\n" in done.stdout


@pytest.mark.parametrize("arguments", [["-h"], ["help"], ["-help"], ["help", "--timeout=1s"]])
def test_every_spelling_of_help_prints_the_same_text(arguments: list[str]) -> None:
    assert run(*arguments).stdout == run("--help").stdout


@pytest.mark.parametrize("arguments", [["-version"], ["version"]])
def test_every_spelling_of_version_prints_the_same_text(arguments: list[str]) -> None:
    assert run(*arguments).stdout == run("--version").stdout


@pytest.mark.parametrize("arguments", [["serve", "--help"], ["help", "serve"], ["serve", "-h"]])
def test_help_for_serve_lists_only_flags_that_serve_accepts(arguments: list[str]) -> None:
    out = run(*arguments).stdout
    assert out.startswith("usage: sriov-textfile serve [FLAGS]\n")
    assert "--web.listen-address\n" in out
    assert "--collector.vfstats\n" in out
    for flag in ("--textfile.path", "--interval", "--json", "--pfs"):
        assert f"{flag}\n" not in out


def test_help_for_demo_lists_its_own_flags_first_and_builds_no_host(tmp_path: Path) -> None:
    missing = tmp_path / "missing"  # the demo would fail without it
    done = subprocess.run(
        [*MODULE, "demo", "--help"],
        env={**os.environ, "TMPDIR": str(missing)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *_ = re.findall(r"^  (--\S+)$", done.stdout, re.MULTILINE)
    assert first == "--pfs"
    assert "--textfile.path\n" in done.stdout


def test_help_for_demo_serve_lists_the_flags_of_both() -> None:
    out = run("demo", "serve", "--help").stdout
    assert out.startswith("usage: sriov-textfile demo serve [FLAGS]\n")
    assert re.findall(r"^  (--\S+)$", out, re.MULTILINE)[:3] == [
        "--pfs",
        "--vfs",
        "--web.listen-address",
    ]


# --- the log ----------------------------------------------------------------------------


def test_log_lines_are_logfmt() -> None:
    done = run("--path.sysbuspci=/nowhere")
    pattern = (
        r'time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ level=error msg="cannot list PCI devices in .*"'
        r" code=missing-mount subject=--path.sysbuspci"
    )
    assert re.fullmatch(pattern, done.stderr.rstrip("\n"))


def test_log_lines_can_be_json() -> None:
    done = run("--path.sysbuspci=/nowhere", "--log.format=json")
    event = json.loads(done.stderr)
    assert (event["level"], event["code"]) == ("error", "missing-mount")
    assert event["msg"].startswith("cannot list PCI devices in /nowhere")


def test_the_log_level_suppresses_lower_levels(make_host: MakeHost) -> None:
    host = make_host(SimulatedPf(vfs=1))
    (host.device("0000:10:00.0") / "sriov/0/stats/rx_bytes").write_text("x\n")
    assert "level=warn" in host.collect("--log.level=warn").log
    assert host.collect("--log.level=error").log == ""


# --- no PF -----------------------------------------------------------------------------


def test_a_manual_run_without_pfs_points_to_doctor(tmp_path: Path) -> None:
    done = run(*SimulatedHost(tmp_path / "host", []).flags)
    assert done.returncode == 0
    assert done.stderr == "sriov-textfile: found no PF; run sriov-textfile doctor to see why\n"


def test_a_run_without_pfs_that_writes_a_file_logs_nothing(tmp_path: Path) -> None:
    done = run(*SimulatedHost(tmp_path / "host", []).flags, f"--textfile.path={tmp_path}/x.prom")
    assert (done.returncode, done.stderr) == (0, "")


# --- the demo ---------------------------------------------------------------------------


def demo_label_values(name: str, label: str, *arguments: str) -> list[str]:
    """Return the value of a label in each sample of a metric of the demo."""
    out = run("demo", *arguments).stdout
    return re.findall(rf'^{name}{{.*{label}="([^"]*)"', out, re.MULTILINE)


def test_the_demo_says_that_its_counters_cannot_grow(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refresh(host: demo.DemoHost) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo.DemoHost, "refresh", refresh)
    log = ""
    with demo.host(1, 1):
        while "no longer grow" not in log:
            log += capfd.readouterr().err
            time.sleep(0.05)
    assert "No space left on device" in log


def test_every_demo_vf_has_a_unique_mac() -> None:
    macs = demo_label_values("sriov_vf_info", "mac", "--pfs=4", "--vfs=4", "--collector.vfinfo")
    assert len(set(macs)) == 16
    assert [len(mac.split(":")) for mac in macs] == [6] * 12 + [20] * 4
    # RFC 4391: flags and queue pair number, then the port's GID, here with the default prefix.
    assert all(mac.startswith("00:00:10:49:fe:80:00:00:00:00:00:00:") for mac in macs[12:])


def test_demo_vfs_are_idle_or_drop_a_small_share_of_packets() -> None:
    out = run("demo", "--pfs=2").stdout
    samples = {
        name: [int(value) for value in re.findall(rf"^sriov_vf_{name}{{.*}} (\d+)$", out, re.M)]
        for name in ("rx_packets", "rx_dropped")
    }
    assert len(samples["rx_packets"]) == 16
    for packets, dropped in zip(samples["rx_packets"], samples["rx_dropped"], strict=True):
        assert packets > 100_000_000 or packets == 0
        assert dropped <= packets / 10_000


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        (["--pfs=1", "--vfs=1"], "1 PF with 1 VF, no pods"),
        (["--pfs=1", "--vfs=2"], "1 PF with 2 VFs, 1 pod"),
        (["--pfs=2", "--vfs=0"], "2 PFs with no VFs each, no pods"),
    ],
)
def test_the_demo_uses_singular_and_plural_correctly(arguments: list[str], sizes: str) -> None:
    assert run("demo", *arguments).stderr.splitlines()[0] == f"simulated host: {sizes}"


def test_the_demo_without_a_temporary_folder_suggests_tmpdir() -> None:
    code = (
        "import sys, tempfile; from sriov_textfile import cli\n"
        "tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
        "sys.exit(cli.main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "set TMPDIR to a writable directory" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["collect"], ["--pfs=4", "--vfs=3"], ["--pfs=64", "--vfs=1"], ["--vfs", "0"]]
)
def test_the_demo_runs_the_program_on_a_simulated_host(arguments: list[str]) -> None:
    done = run("demo", *arguments)
    assert done.returncode == 0
    assert done.stderr.startswith("simulated host: ")
    assert "sriov-textfile demo doctor" in done.stderr
    assert 'sriov_scrape_collector_success{collector="vfstats"} 1\n' in done.stdout


def test_the_demo_has_the_requested_number_of_pfs_and_vfs() -> None:
    out = run("demo", "--pfs=5", "--vfs=7").stdout
    assert out.count("sriov_pf_info{") == 5
    assert out.count("sriov_vf_rx_bytes{") == 35


def test_the_demo_removes_its_temporary_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "demo"], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []


# --- imports ----------------------------------------------------------------------------


def imports(*arguments: str) -> set[str]:
    """Return the modules that a run imports in addition to those of bare Python."""

    def imported(command: list[str]) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command], capture_output=True, text=True
        )
        assert done.returncode == 0
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return {line.split("|")[-1].strip() for line in lines}

    return imported(["-m", "sriov_textfile", *arguments]) - imported(["-c", "pass"])


def test_a_single_collection_imports_no_third_party_or_slow_module(
    sysfs_host: SimulatedHost, tmp_path: Path
) -> None:
    path = f"--textfile.path={tmp_path}/sriov.prom"
    modules = imports(*sysfs_host.flags, "--collector.vfstatspriority=sysfs,netlink", path)
    third_party = {
        name
        for name in modules
        if name.split(".")[0] not in sys.stdlib_module_names | {"sriov_textfile"}
    }
    assert third_party == set()
    # Each of these takes milliseconds to import; Python itself starts in about ten.
    slow = {"argparse", "asyncio", "dataclasses", "enum", "inspect", "json", "logging", "pathlib"}
    slow |= {"re", "socket", "tempfile", "threading", "typing"}
    assert modules & slow == set()
