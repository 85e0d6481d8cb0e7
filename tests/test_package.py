"""Packaging: the wheel, the zipapp, and documents that must match the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import urllib.request
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


def test_the_zipapp_contains_the_license_and_version_of_each_package(pyz: Path) -> None:
    names = zipfile.ZipFile(pyz).namelist()
    assert "LICENSE" in names
    packages = re.findall(r"^([a-z0-9-]+)==(\S+)", zipapp.REQUIREMENTS.read_text(), re.MULTILINE)
    assert len(packages) == 7
    for name, version in packages:
        folder = f"{name.replace('-', '_')}-{version}.dist-info"
        own = [path.rpartition(f"{folder}/")[2].upper() for path in names if f"{folder}/" in path]
        assert "METADATA" in own
        assert any("LICENSE" in path for path in own)


def test_a_collection_of_the_zipapp_runs_compiled_files_only(pyz: Path) -> None:
    """Those of this Python: to compile them, or to decompress others, takes longer than to run."""
    code = (
        "import os, runpy, sys\n"
        "os._exit = lambda code: None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('sriov_textfile'): print(module.__file__, file=sys.stderr)\n"
        "print('zlib' in sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(pyz), "--path.sysbuspci=/dev/shm"]
    done = subprocess.run(command, capture_output=True, text=True)
    *files, decompressed = done.stderr.splitlines()
    files = [line for line in files if not line.startswith("sriov-textfile: found no PF")]
    assert len(files) > 15
    assert {file.startswith(f"{pyz}/{sys.implementation.cache_tag}/") for file in files} == {True}
    assert decompressed == "False"


def test_the_zipapp_runs_on_a_python_that_it_is_not_compiled_for(tmp_path: Path) -> None:
    path = tmp_path / "other.pyz"
    zipapp.build(path)
    other = tmp_path / "renamed.pyz"
    tag = sys.implementation.cache_tag.encode()
    other.write_bytes(path.read_bytes().replace(tag, tag[::-1]))
    done = run_pyz(other, "demo", "--pfs=1", "--vfs=2")
    assert done.returncode == 0
    assert done.stdout.count("sriov_vf_rx_bytes{") == 2


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


def test_the_zipapp_serves_http(pyz: Path, tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    command = [sys.executable, "-I", "-S", str(pyz), "serve", "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen([*command, *host.flags], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        address = server.stderr.readline().partition("address=")[2].split()[0]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as response:
            page = response.read().decode()
        server.terminate()
    assert page.count("sriov_vf_rx_bytes{") == 2


def test_the_zipapp_repeats_collections(pyz: Path) -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        str(pyz),
        "demo",
        "--interval=10ms",
        "--pfs=1",
        "--vfs=1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout
        lines = (line for line in loop.stdout if line.startswith("sriov_vf_rx_bytes{"))
        first, second = next(lines), next(lines)
        loop.terminate()
    assert first.split()[0] == second.split()[0]


def test_the_zipapp_reports_the_missing_packages_of_the_web_configuration(pyz: Path) -> None:
    done = run_pyz(pyz, "serve", "--web.config.file=/etc/web.yml")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    missing = "bcrypt is not installed, msgspec is not installed, pyyaml is not installed"
    assert f"--web.config.file needs Python packages: {missing}; " in done.stderr


@pytest.mark.parametrize("version", ["(3, 9, 18)", "(3, 6, 8)"])
def test_an_old_python_is_reported_in_one_line(version: str) -> None:
    """RHEL 9 has 3.9. What follows the check is newer syntax, so it must not even be compiled."""
    code = (
        f"import sys; sys.version_info = {version}; import sriov_textfile.__main__ as m; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "run this with Python 3.10 or newer" in done.stderr


@pytest.mark.parametrize("name", ["sriov_textfile/__main__.py", "tools/zipapp_main.py"])
def test_an_old_python_can_read_the_check(name: str) -> None:
    ast.parse((PROJECT / name).read_text(), feature_version=(3, 6))


def test_the_zipapp_runs_the_demo_without_its_kubelet(pyz: Path) -> None:
    done = run_pyz(pyz, "demo", "--pfs=2", "--vfs=4")
    assert done.returncode == 0
    assert (
        "the simulated host has no kubelet: kubepoddevice needs Python packages:"
        " grpcio is not installed; " in done.stderr
    )
    assert done.stdout.count("sriov_vf_rx_bytes{") == 8
    assert "sriov_kubepodcpu{" in done.stdout


def test_the_zipapp_runs_doctor(pyz: Path) -> None:
    done = run_pyz(pyz, "demo", "--pfs=2", "doctor")
    assert done.returncode == 0
    assert "\npods      not checked: --collector.kubepoddevice is off\n" in done.stdout
    assert done.stdout.endswith("\nNo findings. Not checked: pods, textfile.\n")


def test_the_zipapp_prints_the_tables_of_top(pyz: Path) -> None:
    done = run_pyz(pyz, "demo", "--pfs=2", "--vfs=4", "top", "--batch", "--count=2", "--by=vf")
    assert done.returncode == 0
    heads = [line for line in done.stdout.splitlines() if line.startswith("time ")]
    assert [head.split()[1:3] for head in heads] == [["PF", "VF"], ["PF", "rx-bit/s"]] * 2
    assert done.stdout.count(" ens1f0 ") == 2 * (4 + 1)


def test_doctor_in_the_zipapp_has_the_package_for_nic_details(pyz: Path, tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    done = run_pyz(pyz, "doctor", *host.flags)
    assert "are unknown" not in done.stdout
    assert "pyroute2" not in done.stdout


def test_the_zipapp_reports_the_missing_packages_of_a_collector_and_writes_the_rest(
    pyz: Path, tmp_path: Path
) -> None:
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=2)])
    done = run_pyz(pyz, *host.flags, "--collector.kubepoddevice")
    assert done.returncode == 0
    assert "kubepoddevice needs Python packages: grpcio is not installed; " in done.stderr
    assert "code=missing-package subject=kubepoddevice" in done.stderr
    assert 'pf="ens1f0",vf="1"} 1003\n' in done.stdout


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__


def test_documents_and_manifests_name_this_version() -> None:
    """Where they name one: as a tag of the image, of a package, or in output of the program."""
    version = re.compile(r"(?:sriov-textfile[:_ -]|newTag: |[ .]version=\"?)(\d+\.\d+\.\d+)")
    paths = [PROJECT / "README.md", PROJECT / ".github/ISSUE_TEMPLATE/bug_report.yml"]
    for folder in ("docs", "deployment"):
        paths += [path for path in (PROJECT / folder).rglob("*") if path.is_file()]
    found = {
        (str(path.relative_to(PROJECT)), number)
        for path in paths
        for number in version.findall(path.read_text())
    }
    assert len(found) >= 7
    assert {(path, number) for path, number in found if number != __version__} == set()


def test_the_hardware_page_has_the_current_table_of_drivers() -> None:
    """If this fails, replace the table by what drivers.reference() returns."""
    assert drivers.reference() in (PROJECT / "docs/hardware.md").read_text()


def test_the_readme_has_the_current_flag_reference() -> None:
    """If this fails, run `python -m tools.flag_reference`."""
    assert flags.reference() in (PROJECT / "README.md").read_text()
