"""Packaging: the wheel, the zipapp, and documents that must match the code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from sriov_textfile import __version__, flags
from sriov_textfile.doctor import drivers
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from tools import zipapp

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_contains_exactly_the_package(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "sriov_textfile").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == sources
    assert "sriov_textfile/py.typed" in shipped


def test_the_wheel_has_version_license_and_entry_point(wheel: zipfile.ZipFile) -> None:
    folder = f"sriov_textfile-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "sriov-textfile = sriov_textfile.__main__:main" in entry_points


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "sriov-textfile.pyz"
    zipapp.build(path)
    return path


def run_pyz(pyz: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the zipapp with a Python that sees no installed packages."""
    command = [sys.executable, "-I", "-S", str(pyz), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_zipapp_imports_nothing_from_a_users_environment(pyz: Path, tmp_path: Path) -> None:
    for name in ("json", "grpc", "select", "sitecustomize", "sriov_textfile"):
        (tmp_path / f"{name}.py").write_text("print('imported', flush=True)\n")
    user = (
        tmp_path / "user" / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    )
    user.mkdir(parents=True)
    (user / "usercustomize.py").write_text("print('imported', flush=True)\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "PYTHONUSERBASE": str(tmp_path / "user"),
    }
    flags = ["--path.sysbuspci=/nowhere", "--collector.kubepoddevice"]  # so that it logs, with json
    done = subprocess.run(
        [pyz, *flags, f"--textfile.path={tmp_path}/sriov.prom"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "cannot list PCI devices in /nowhere" in done.stderr


def test_the_zipapp_build_is_reproducible(pyz: Path, tmp_path: Path) -> None:
    zipapp.build(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()
    assert pyz.stat().st_mode & 0o777 == 0o755


def test_the_zipapp_writes_the_same_metrics_as_the_installed_program(
    pyz: Path, tmp_path: Path
) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    node = SimulatedNode(tmp_path / "node", [])
    flags = [*host.flags, *node.flags, "--no-collector.kubepoddevice"]
    done = run_pyz(pyz, *flags, f"--textfile.path={tmp_path}/sriov.prom")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    installed = subprocess.run(
        [sys.executable, "-m", "sriov_textfile", *flags], capture_output=True, text=True
    ).stdout

    def without_durations(text: str) -> list[str]:
        return [line for line in text.splitlines() if "_duration_seconds{" not in line]

    assert without_durations((tmp_path / "sriov.prom").read_text()) == without_durations(installed)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (
            ["serve"],
            "h11 is not installed, prometheus-client is not installed, werkzeug is not installed",
        ),
        (["--interval=1s"], "schedule is not installed"),
    ],
)
def test_the_zipapp_reports_the_missing_packages_of_a_mode(
    pyz: Path, arguments: list[str], missing: str
) -> None:
    done = run_pyz(pyz, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"needs Python packages: {missing}; " in done.stderr


def test_the_zipapp_runs_the_demo_without_its_kubelet(pyz: Path) -> None:
    done = run_pyz(pyz, "demo", "--pfs=2", "--vfs=4")
    assert done.returncode == 0
    assert (
        "the simulated host has no kubelet: kubepoddevice needs Python packages:"
        " grpcio is not installed, protobuf is not installed; " in done.stderr
    )
    assert done.stdout.count("sriov_vf_rx_bytes{") == 8
    assert "sriov_kubepodcpu{" in done.stdout


def test_the_zipapp_runs_doctor(pyz: Path) -> None:
    done = run_pyz(pyz, "demo", "--pfs=2", "doctor")
    assert done.returncode == 0
    assert "\npods      not checked: --collector.kubepoddevice is off\n" in done.stdout
    assert done.stdout.endswith("\nNo findings. Not checked: pods, textfile.\n")


def test_doctor_in_the_zipapp_reports_the_missing_package_for_nic_details(
    pyz: Path, tmp_path: Path
) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    done = run_pyz(pyz, "doctor", *host.flags)
    out = " ".join(done.stdout.split())
    assert "links are unknown: doctor needs Python packages: pyroute2 is not installed" in out


def test_the_zipapp_reports_the_missing_packages_of_a_collector_and_writes_the_rest(
    pyz: Path, tmp_path: Path
) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    done = run_pyz(pyz, *host.flags, "--collector.kubepoddevice")
    assert done.returncode == 0
    assert "kubepoddevice needs Python packages: grpcio is not installed, protobuf" in done.stderr
    assert "code=missing-package subject=kubepoddevice" in done.stderr
    assert 'pf="ens1f0",vf="1"} 1003\n' in done.stdout


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (PROJECT / "CHANGELOG.md").read_text()


def test_the_hardware_page_has_the_current_table_of_drivers() -> None:
    """If this fails, replace the table by what drivers.reference() returns."""
    assert drivers.reference() in (PROJECT / "docs/hardware.md").read_text()


def test_the_readme_has_the_current_flag_reference() -> None:
    """If this fails, run `python -m tools.flag_reference`."""
    assert flags.reference() in (PROJECT / "README.md").read_text()
