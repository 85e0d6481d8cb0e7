"""Packages: which ones a mode needs, and how to install them on this host."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from sriov_textfile import packages

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def message(mode: str) -> str:
    with pytest.raises(packages.MissingPackageError) as error:
        packages.require(mode)
    return str(error.value)


def fake_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Make importlib.metadata report these versions; names have underscores for dashes."""
    version = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: versions.get(name.replace("-", "_")) or version(name)
    )


@pytest.mark.parametrize("mode", ["serve", "--interval", "kubepoddevice", "doctor"])
def test_the_test_environment_has_every_package(mode: str) -> None:
    packages.require(mode)


def test_packages_and_versions_match_pyproject() -> None:
    dependencies = PYPROJECT.read_text().split("\ndependencies = [")[1].split("\n]")[0]
    declared = dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)', dependencies))
    needed = {
        package: oldest for needs in packages._NEEDED.values() for _, package, oldest in needs
    }
    assert needed == declared


def test_all_missing_packages_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    text = message("serve")
    assert "prometheus-client is not installed, werkzeug is not installed" in text


def test_an_old_package_is_reported_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_versions(monkeypatch, werkzeug="2.3.8")
    assert "werkzeug 2.3.8 is too old, 3 is needed" in message("serve")


@pytest.mark.parametrize(
    ("version", "enough"),
    [("3", True), ("3.0.10", True), ("3.1", True), ("10.0", True), ("2.10", False)],
)
def test_versions_are_compared_numerically(
    monkeypatch: pytest.MonkeyPatch, version: str, enough: bool
) -> None:
    fake_versions(monkeypatch, werkzeug=version)
    if enough:
        packages.require("serve")
    else:
        assert f"werkzeug {version} is too old" in message("serve")


def hint(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the hint for a missing package."""
    monkeypatch.setitem(sys.modules, "schedule", None)
    return message("--interval").partition("; ")[2]


def test_in_a_venv_the_hint_uses_its_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/venv")
    assert hint(monkeypatch) == "run /opt/venv/bin/pip install 'schedule>=1.2'"


def test_with_an_externally_managed_python_the_hint_creates_a_venv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "-m venv /opt/sriov-textfile && /opt/sriov-textfile/bin/pip install" in hint(monkeypatch)


def test_with_any_other_python_the_hint_uses_its_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert hint(monkeypatch) == f"run {sys.executable} -m pip install 'schedule>=1.2'"


def test_serve_does_not_start_with_an_old_package() -> None:
    code = (
        "import sys; from importlib import metadata\n"
        "metadata.version = lambda name: '0.1'\n"
        "from sriov_textfile import cli; sys.exit(cli.main(['serve']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "prometheus-client 0.1 is too old, 0.20 is needed" in done.stderr
