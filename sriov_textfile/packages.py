"""Checks the Python packages that a mode needs, and explains how to install missing ones."""

from __future__ import annotations

import os
import sys

from sriov_textfile.problems import Problem, ProblemError

# What each mode or collector imports: module, package, oldest version. The extras of pyproject.toml
# have the same packages and versions; a test compares them.
_NEEDED = {
    "--interval": (("schedule", "schedule", "1.2"),),
    "serve": (
        ("h11", "h11", "0.14"),
        ("prometheus_client", "prometheus-client", "0.20"),
        ("werkzeug", "werkzeug", "3"),
    ),
    "--web.config.file": (
        ("bcrypt", "bcrypt", "4"),
        ("msgspec", "msgspec", "0.19"),
        ("yaml", "pyyaml", "6"),
    ),
    "kubepoddevice": (("grpc", "grpcio", "1.30"), ("google.protobuf", "protobuf", "3.12")),
    "doctor": (("pyroute2", "pyroute2", "0.8"),),
}
# Those that are new enough in every Debian and Ubuntu with a Python that runs the program.
_DEBIAN = {"grpcio": "python3-grpcio", "protobuf": "python3-protobuf"}


class MissingPackageError(ProblemError):
    """Raised if a mode lacks packages; the message names them and how to install them."""


def require(mode: str) -> None:
    """Raise MissingPackageError if a package that the mode needs is missing or too old."""
    if wrong := _wrong(mode):
        raise MissingPackageError(_problem(mode, wrong))


def problem(mode: str, error: Exception) -> Problem:
    """Return the problem for an error that importing the packages of a mode raised."""
    return _problem(mode, _wrong(mode) or [f"{type(error).__name__}: {error}"])


def _problem(mode: str, wrong: list[str]) -> Problem:
    reason = f"{mode} needs Python packages: {', '.join(wrong)}"
    needed = {package: oldest for _, package, oldest in _NEEDED[mode]}
    return Problem("missing-package", mode, reason, _how_to_install(needed))


def _wrong(mode: str) -> list[str]:
    """Return what is wrong with each of the packages that are missing or too old."""
    from importlib import metadata, util

    wrong = []
    for module, package, oldest in _NEEDED[mode]:
        try:
            found = util.find_spec(module) is not None
        except (ImportError, ValueError):  # the parent package is missing or was replaced
            found = False
        if not found:
            wrong.append(f"{package} is not installed")
            continue
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # Not installed by pip, so its version is unknown.
        if version and _numbers(version) < _numbers(oldest):  # None of a broken installation
            wrong.append(f"{package} {version} is too old, {oldest} is needed")
    return wrong


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, which are enough to compare two releases."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _how_to_install(needed: dict[str, str]) -> str:
    """Return how to install packages, of at least these versions, for this Python.

    A distribution's own Python refuses pip (PEP 668): it needs the distribution's packages or a
    virtual environment.
    """
    import sysconfig

    packages = " ".join([f"'{package}>={oldest}'" for package, oldest in needed.items()])
    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):
        return f"run pipx inject {os.path.basename(sys.prefix)} {packages}"
    if sys.prefix != sys.base_prefix:
        return f"run {sys.prefix}/bin/pip install {packages}"
    if not os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")):
        return f"run {sys.executable} -m pip install {packages}"
    if os.path.exists("/usr/bin/apt") and needed.keys() <= _DEBIAN.keys():
        return f"run apt install {' '.join([_DEBIAN[package] for package in needed])}"
    venv = "/opt/sriov-textfile"
    return (
        f"run {sys.executable} -m venv {venv} && {venv}/bin/pip install {packages},"
        f" and start this program with {venv}/bin/python"
    )
