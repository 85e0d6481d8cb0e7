"""Parts of `make dist` that the tests of the packages do not build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sriov_textfile import __version__
from tools import dist, install, zipapp

PROJECT = Path(__file__).parent.parent


def build(folder: Path) -> dict[str, bytes]:
    """Build sdist, wheel and the list of components, and return them by name."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    epoch = {**os.environ, "SOURCE_DATE_EPOCH": str(install.epoch())}
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, env=epoch)
    dist.components(next(folder.glob("*.whl")), folder / "components.json")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(tmp_path_factory.mktemp("dist"))


def test_two_builds_have_the_same_bytes(built: dict[str, bytes], tmp_path: Path) -> None:
    assert set(built) == {
        f"sriov_textfile-{__version__}.tar.gz",
        f"sriov_textfile-{__version__}-py3-none-any.whl",
        "components.json",
    }
    again = build(tmp_path)
    assert {name for name in built if built[name] != again[name]} == set()


def test_the_list_of_components_has_each_package_with_its_license(built: dict[str, bytes]) -> None:
    listed = json.loads(built["components.json"])
    about = listed["metadata"]["component"]
    assert (about["name"], about["version"]) == ("sriov-textfile", __version__)
    found = {
        f"{component['name'].lower().replace('_', '-')}=={component['version']}"
        for component in listed["components"]
    }
    lines = zipapp.REQUIREMENTS.read_text().splitlines()
    assert found == {line.split()[0] for line in lines if "==" in line}
    without = {part["name"] for part in listed["components"] if "licenses" not in part}
    assert without <= {"protobuf"}  # its metadata has none that CycloneDX knows
