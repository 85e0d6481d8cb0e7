"""What is shipped: the wheel, the README's flag reference, and the direction of imports."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from sriov_textfile import __version__, flags

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "sriov_textfile").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == sources
    assert "sriov_textfile/py.typed" in shipped


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    folder = f"sriov_textfile-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "sriov-textfile = sriov_textfile.__main__:main" in entry_points


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (PROJECT / "CHANGELOG.md").read_text()


def test_the_readme_has_the_flag_reference_of_the_table() -> None:
    """If this fails: `python -m tools.flag_reference` writes it anew."""
    assert flags.reference() in (PROJECT / "README.md").read_text()


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
