"""How doctor and top find the flags of the program's service: in units, cron jobs and processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sriov_textfile import cli
from sriov_textfile.config import Config
from sriov_textfile.doctor import service
from sriov_textfile.doctor.service import Service
from sriov_textfile.top import command

PROJECT = Path(__file__).parent.parent
FILE = "/var/lib/prometheus/node-exporter/sriov.prom"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with the package: its units and its default file, none of them enabled."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in (PROJECT / "systemd").glob("*.*"):
        if unit.suffix in (".service", ".timer", ".socket"):
            shutil.copy(unit, units)
    (tmp_path / "etc/default").mkdir(parents=True)
    shutil.copy(PROJECT / "systemd/sriov-textfile.default", tmp_path / "etc/default/sriov-textfile")
    return tmp_path


def enable(root: Path, unit: str) -> None:
    """Enable a unit as systemctl does."""
    target = "multi-user" if unit.endswith(".service") else f"{unit.rpartition('.')[2]}s"
    wants = root / f"etc/systemd/system/{target}.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")


def drop_in(root: Path, name: str, text: str, folder: str = "etc/systemd/system") -> None:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def only(root: Path) -> list[str]:
    """Return the arguments of the only service."""
    (found,) = service.find(str(root))
    return found.arguments


TIMER = ["collect", f"--textfile.path={FILE}"]


def test_units_that_are_only_installed_are_no_service(root: Path) -> None:
    assert service.find(str(root)) == []


@pytest.mark.parametrize(
    ("unit", "arguments"),
    [
        ("sriov-textfile.timer", TIMER),
        (
            "sriov-textfile-kubernetes.service",
            [
                *("collect", "--interval=15s", "--collector.kubepoddevice"),
                *("--collector.kubepodcpu", *TIMER[1:]),
            ],
        ),
        ("sriov-textfile-http.service", ["serve"]),
        ("sriov-textfile-http.socket", ["serve"]),
    ],
)
def test_an_enabled_unit_is_found_with_its_command_line(
    root: Path, unit: str, arguments: list[str]
) -> None:
    enable(root, unit)
    assert service.find(str(root)) == [Service(unit, arguments)]


def test_a_running_service_is_found_even_if_it_is_not_enabled(root: Path) -> None:
    (root / "run/systemd/units").mkdir(parents=True)
    link = root / "run/systemd/units/invocation:sriov-textfile-kubernetes.service"
    link.symlink_to("6f1b3a")
    assert only(root)[:2] == ["collect", "--interval=15s"]


def test_a_service_that_a_timer_starts_is_found_once(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    enable(root, "sriov-textfile.service")
    assert [found.name for found in service.find(str(root))] == ["sriov-textfile.timer"]


def test_all_enabled_units_are_found_the_timer_first(root: Path) -> None:
    enable(root, "sriov-textfile-http.service")
    enable(root, "sriov-textfile.timer")
    assert [found.name for found in service.find(str(root))] == [
        "sriov-textfile.timer",
        "sriov-textfile-http.service",
    ]


@pytest.mark.parametrize(
    ("defaults", "arguments"),
    [
        (
            'SRIOV_TEXTFILE_FLAGS="--collector.vfinfo --timeout=5s"',
            ["--collector.vfinfo", "--timeout=5s"],
        ),
        (
            "SRIOV_TEXTFILE_FLAGS=--collector.vfinfo --timeout=5s",
            ["--collector.vfinfo", "--timeout=5s"],
        ),
        (
            """SRIOV_TEXTFILE_FLAGS="--collector.pf-exclude='^ens1 f0$'\"""",
            ["--collector.pf-exclude=^ens1 f0$"],
        ),
        ("# SRIOV_TEXTFILE_FLAGS=--json\n; x=y\nrubbish\n\n", []),
        (
            "SRIOV_TEXTFILE_FLAGS=--timeout=5s \\\n --collector.vfinfo",
            ["--timeout=5s", "--collector.vfinfo"],
        ),
        ('SRIOV_TEXTFILE_FLAGS="--timeout=5s', []),  # an open quote
    ],
)
def test_the_default_file_has_flags(root: Path, defaults: str, arguments: list[str]) -> None:
    enable(root, "sriov-textfile.timer")
    (root / "etc/default/sriov-textfile").write_text(f"{defaults}\n")
    assert only(root) == [*TIMER, *arguments]


def test_the_default_file_overrides_the_path_of_the_unit(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    path = "SRIOV_TEXTFILE_PATH=/srv/text file/sriov.prom\n"
    (root / "etc/default/sriov-textfile").write_text(path)
    assert only(root) == ["collect", "--textfile.path=/srv/text file/sriov.prom"]


def test_a_host_without_the_default_file_has_the_flags_of_the_unit(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    (root / "etc/default/sriov-textfile").unlink()
    assert only(root) == TIMER


def test_drop_ins_apply_in_the_order_of_their_names(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    drop_in(
        root,
        "sriov-textfile.service.d/20-b.conf",
        "[Service]\nExecStart=sriov-textfile --timeout=2s",
    )
    reset = "[Service]\nExecStart=\nExecStart=/opt/sriov-textfile/bin/sriov-textfile --timeout=1s"
    drop_in(root, "sriov-textfile.service.d/10-a.conf", reset)
    assert only(root) == ["--timeout=2s"]


def test_an_administrators_drop_in_replaces_one_of_the_same_name(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    name = "sriov-textfile.service.d/a.conf"
    drop_in(
        root, name, "[Service]\nExecStart=sriov-textfile --timeout=1s", "usr/lib/systemd/system"
    )
    drop_in(root, name, "[Service]\nExecStart=sriov-textfile --timeout=2s")
    assert only(root) == ["--timeout=2s"]


def test_a_unit_of_the_administrator_replaces_that_of_the_package(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    text = (
        "[Service]\nEnvironment='A=--timeout=3s --json' B=x\nExecStart=-sriov-textfile $A ${B}y\n"
    )
    drop_in(root, "sriov-textfile.service", text)
    assert only(root) == ["--timeout=3s", "--json", "xy"]


def test_a_masked_service_is_no_service(root: Path) -> None:
    enable(root, "sriov-textfile.timer")
    (root / "etc/systemd/system/sriov-textfile.service").symlink_to("/dev/null")
    assert service.find(str(root)) == []


@pytest.mark.parametrize("content", [b"\xff\xfe\0" * 50, b"ExecStart=" + b"x" * 70_000])
def test_an_unreadable_unit_is_no_service(root: Path, content: bytes) -> None:
    enable(root, "sriov-textfile.timer")
    (root / "usr/lib/systemd/system/sriov-textfile.service").write_bytes(content)
    assert service.find(str(root)) == []


# --- cron -------------------------------------------------------------------------------------


def test_the_cron_job_is_found_without_what_its_shell_does(root: Path) -> None:
    (root / "etc/cron.d").mkdir()
    shutil.copy(PROJECT / "cron/sriov-textfile", root / "etc/cron.d")
    assert service.find(str(root)) == [Service("/etc/cron.d/sriov-textfile", TIMER)]


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("@hourly root /opt/x/bin/sriov-textfile --timeout=1s > /dev/null", ["--timeout=1s"]),
        (
            "*/5 * * * * root python3 -I /x/sriov-textfile.pyz collect '--pfs=a b'",
            ["collect", "--pfs=a b"],
        ),
        ("* * * * * root python3 -m sriov_textfile collect; true", ["collect"]),
        ("# * * * * * root sriov-textfile collect", None),
        ("* * * * * root sriov-textfile 'collect", None),
        ("* * * * * sriov-textfile true", None),
        ("SRIOV=sriov-textfile collect", None),
    ],
)
def test_lines_of_crontabs(root: Path, line: str, arguments: list[str] | None) -> None:
    (root / "etc/cron.d").mkdir()
    (root / "etc/cron.d/metrics").write_text(f"MAILTO=root\n{line}\n")
    found = service.find(str(root))
    assert [one.arguments for one in found] == ([] if arguments is None else [arguments])


# --- a container ------------------------------------------------------------------------------


def process(root: Path, pid: int | str, namespace: str, *words: str) -> None:
    folder = root / f"proc/{pid}"
    (folder / "ns").mkdir(parents=True)
    (folder / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))


ENTRYPOINT = ("/opt/sriov-textfile/bin/python3", "/opt/sriov-textfile/bin/sriov-textfile")


def test_in_a_container_process_1_is_the_service(tmp_path: Path) -> None:
    process(tmp_path, "self", "1")
    process(tmp_path, 1, "1", *ENTRYPOINT, "serve", "--timeout=5s")
    process(tmp_path, 20, "1", *ENTRYPOINT, "doctor")
    process(tmp_path, 30, "1", *ENTRYPOINT, "top", "--record=/tmp/incident.jsonl")
    assert service.find(str(tmp_path)) == [Service("process 1", ["serve", "--timeout=5s"])]


def test_with_the_hosts_pids_the_service_is_the_process_of_the_same_container(
    tmp_path: Path,
) -> None:
    process(tmp_path, "self", "2")
    process(tmp_path, 1, "1", "/sbin/init")
    process(tmp_path, 300, "3", *ENTRYPOINT, "serve")
    process(tmp_path, 400, "2", *ENTRYPOINT, "--interval=15s")
    assert service.find(str(tmp_path)) == [Service("process 400", ["--interval=15s"])]


@pytest.mark.parametrize(
    "words",
    [
        ("kubectl", "logs", "-f", "node-exporter-x", "-c", "sriov-textfile", "--tail=10"),
        ("less", "/etc/default/sriov-textfile", "/etc/hosts"),
        ("python3", "-c", "print()", "sriov-textfile", "serve"),
    ],
)
def test_a_process_that_only_mentions_the_program_is_no_service(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    process(tmp_path, "self", "1")
    process(tmp_path, 20, "1", *words)
    assert service.find(str(tmp_path)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("/usr/bin/python3.12", "-I", "/usr/bin/sriov-textfile"),
        ("python3", "-m", "sriov_textfile"),
        ("./sriov-textfile.pyz",),
    ],
)
def test_ways_to_start_the_program(tmp_path: Path, words: tuple[str, ...]) -> None:
    process(tmp_path, "self", "1")
    process(tmp_path, 20, "1", *words, "serve")
    assert service.find(str(tmp_path)) == [Service("process 20", ["serve"])]


# --- doctor -----------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """What doctor finds on this host."""
    services: list[Service] = []
    monkeypatch.setattr(service, "find", lambda: services)
    return services


def test_doctor_uses_the_flags_of_the_service(
    found: list[Service], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = f"--textfile.path={tmp_path}/sriov.prom"
    found += [Service("sriov-textfile.timer", ["collect", path, "--path.sysbuspci=/nowhere"])]
    found += [Service("sriov-textfile-http.service", ["serve"])]
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capfd.readouterr().out)
    assert report["flags_of"] == ["sriov-textfile.timer", "sriov-textfile-http.service"]
    assert report["textfile"]["path"] == f"{tmp_path}/sriov.prom"
    assert cli.main(["doctor"]) == 1
    text = " ".join(capfd.readouterr().out.split())
    assert (
        "looked with the flags of sriov-textfile.timer; not of sriov-textfile-http.service" in text
    )
    assert "/nowhere" in text


def test_flags_on_the_command_line_replace_those_of_the_service(
    found: list[Service], capfd: pytest.CaptureFixture[str]
) -> None:
    found += [Service("sriov-textfile.timer", ["--textfile.path=/other/sriov.prom"])]
    cli.main(["doctor", "--json", "--path.sysbuspci=/nowhere"])
    report = json.loads(capfd.readouterr().out)
    assert (report["flags_of"], report["textfile"]) == ([], None)


def test_wrong_flags_of_the_service_are_reported(
    found: list[Service], capfd: pytest.CaptureFixture[str]
) -> None:
    found += [Service("sriov-textfile.timer", ["collect", "--colector.vfinfo"])]
    assert cli.main(["doctor"]) == 1
    assert capfd.readouterr().err == (
        "sriov-textfile: the flags of sriov-textfile.timer are wrong: unknown flag"
        " --colector.vfinfo; did you mean --collector.vfinfo?\n"
    )


# --- top --------------------------------------------------------------------------------------


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that top is run with; it shows nothing."""
    seen: list[Config] = []

    def run(config: Config, *_unused: object) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(command, "run", run)
    return seen


def test_top_reads_the_paths_of_the_service_and_has_its_own_flags_otherwise(
    found: list[Service], configs: list[Config]
) -> None:
    paths = ["--path.kubeletSocket=/host/kubelet.sock", "--path.sysbuspci=/host/devices"]
    others = ["--interval=15s", "--collector.pf-exclude=ens1", "--textfile.path=/a.prom"]
    found += [Service("process 1", [*paths, *others]), Service("process 2", ["--path.sysbuspci=/"])]
    assert cli.main(["top", "--path.sysbuspci=/own"]) == 0
    (config,) = configs
    assert (config.kubeletsocket, config.sysbuspci) == ("/host/kubelet.sock", "/own")
    assert (config.interval, config.pf_exclude, config.textfile_path) == (0, None, "")


@pytest.mark.parametrize("arguments", [["--replay=/incident.jsonl"], ["--record=/a"]])
def test_top_runs_with_its_defaults_if_the_flags_of_the_service_are_wrong_or_not_needed(
    found: list[Service], configs: list[Config], arguments: list[str]
) -> None:
    wrong = [] if "replay" in arguments[0] else ["--colector.vfinfo"]
    found += [Service("process 1", [*wrong, "--path.sysbuspci=/host/devices"])]
    assert cli.main(["top", *arguments]) == 0
    assert configs[0].sysbuspci == "/sys/bus/pci/devices"
