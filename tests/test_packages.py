"""Packages: which ones a mode needs, and how to install them on this host."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sriov_textfile import packages
from tools import requirements


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


# The modes that an extra of pyproject.toml has the packages of; "" is what every installation has.
EXTRAS = {
    "": {"--interval"},
    "kubernetes": {"kubepoddevice"},
    "http": {"serve", "--web.config.file"},
    "doctor": {"doctor"},
    "top": {"kubepoddevice"},
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_the_packages_of_its_modes(extra: str) -> None:
    needed = {
        (package, oldest) for mode in EXTRAS[extra] for _, package, oldest in packages._NEEDED[mode]
    }
    declared = {
        (requirement.name, limit.version)
        for requirement in map(Requirement, requirements.of(extra))
        for limit in requirement.specifier
        if limit.operator == ">="
    }
    assert declared == needed


def test_every_mode_has_an_extra() -> None:
    assert set().union(*EXTRAS.values()) == set(packages._NEEDED)


def test_the_extra_all_has_the_packages_of_every_mode() -> None:
    everything = {text for extra in EXTRAS if extra for text in requirements.of(extra)}
    assert set(requirements.of("all")) >= everything


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


def hint(monkeypatch: pytest.MonkeyPatch, mode: str = "--interval") -> str:
    """Return the hint for the packages of a mode."""
    for module, _, _ in packages._NEEDED[mode]:
        monkeypatch.setitem(sys.modules, module, None)
    return message(mode).partition("; ")[2]


def test_in_a_venv_the_hint_uses_its_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/venv")
    assert hint(monkeypatch) == "run /opt/venv/bin/pip install 'schedule>=1.2'"


def test_in_a_venv_of_pipx_the_hint_uses_pipx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    venv = tmp_path / "venvs/sriov-textfile"
    venv.mkdir(parents=True)
    (venv / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(venv))
    assert hint(monkeypatch) == "run pipx inject sriov-textfile 'schedule>=1.2'"


@pytest.fixture
def distribution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make this Python that of a distribution, which refuses pip; it has apt."""
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/usr/bin/apt" or exists(path))


@pytest.mark.usefixtures("distribution")
def test_with_debians_python_the_hint_for_the_kubelet_uses_apt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apt = "run apt install python3-grpcio python3-protobuf"
    assert hint(monkeypatch, "kubepoddevice") == apt


@pytest.mark.usefixtures("distribution")
def test_with_a_distributions_python_the_hint_creates_a_venv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
