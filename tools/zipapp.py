"""Builds dist/sriov-textfile.pyz: the program and its packages in one file, reproducibly.

A timer starts the program every 15 seconds, so its own files are compiled and stored: a run then
costs no more than with the installed program. Python reads the list of all files at each start, so
the packages of other modes are there as source, once for all versions of Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tools.fetch import CACHE, key, new_folder, run

PROJECT = Path(__file__).parent.parent
TARGET = PROJECT / "dist/sriov-textfile.pyz"
PACKAGE = PROJECT / "sriov_textfile"
MAIN = PROJECT / "tools/zipapp_main.py"
REQUIREMENTS = PROJECT / "tools/zipapp-requirements.txt"

# Isolated: no module is imported from the working directory, PYTHONPATH or a user's packages,
# because root may run the file anywhere. Without -S, env would take "python3 -I" for a name.
ANY_PYTHON = "/usr/bin/env -S python3 -I"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest timestamp a zip file can have
# A grpcio of the host comes with its own protobuf, which is compiled, so that is preferred.
_FALLBACK = ("google", "protobuf")
_DOCUMENTS = ("LICENSE", "METADATA", "NOTICE")


def build(
    target: Path = TARGET, interpreter: str = ANY_PYTHON, pythons: Sequence[str] = ()
) -> None:
    """Write the archive, with the layout of Python's zipapp module.

    `interpreter` is what its first line names. The program is compiled for each of `pythons`, or
    for the one that runs this; any other Python compiles it at each start. Raises SystemExit.
    """
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        file.write(f"#!{interpreter}\n".encode())
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, "__main__.py", MAIN.read_bytes(), zipfile.ZIP_STORED)
            for python in pythons or [sys.executable]:
                for name, data in _compiled(python):
                    _add(archive, name, data, zipfile.ZIP_STORED)
            _add(archive, "LICENSE", (PROJECT / "LICENSE").read_bytes())
            for path in sorted(PACKAGE.rglob("*.py")):
                _add(archive, str(path.relative_to(PROJECT)), path.read_bytes())
            # Before 3.13, Python finds a package without __init__.py only if its folder is listed.
            for name in ("fallback/", "fallback/google/"):
                _add(archive, name, b"", zipfile.ZIP_STORED)
            for wheel in sorted(wheels().glob("*.whl")):
                for name, data in _packaged(wheel):
                    _add(archive, name, data)
    target.chmod(0o755)


def pythons() -> list[str]:
    """Return the commands of this host's Pythons that can run the program, the oldest first."""
    found = []
    for minor in range(10, 20):
        command = f"python3.{minor}"
        if shutil.which(command):
            done = subprocess.run([command, "-c", ""], capture_output=True, check=False)
            if done.returncode == 0:  # unlike that of a pyenv that has another version selected
                found.append(command)
    return found


def _add(archive: zipfile.ZipFile, name: str, data: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = how
    info.external_attr = (0o40755 if name.endswith("/") else 0o644) << 16
    archive.writestr(info, data)


def _compiled(python: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each of the program's files, compiled by a Python.

    Each is in a folder with the name of the Python's bytecode: cpython-311.
    """
    ask = "import sys; print(sys.implementation.cache_tag)"
    tag = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = shutil.copytree(
            PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        # Unchecked: nothing is compared with the source. The order in which sets of constants are
        # written depends on the seed.
        compiler = [python, "-m", "compileall", "-q", "-b", "--invalidation-mode=unchecked-hash"]
        seed = {**os.environ, "PYTHONHASHSEED": "0"}
        run([*compiler, "-s", folder, copy], env=seed)
        for path in sorted(copy.rglob("*.pyc")):
            yield f"{tag.strip()}/{path.relative_to(folder)}", path.read_bytes()


def wheels() -> Path:
    """Return the folder with the wheels of the packages, downloaded into the cache."""
    folder = CACHE / f"zipapp-{key(REQUIREMENTS.read_text())}"
    if not folder.is_dir():
        with new_folder(folder) as new:
            download = [sys.executable, "-m", "pip", "download", "-q", "-d", str(new)]
            download += ["--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)]
            # Whatever Python runs this: the wheels are those with the given hashes.
            download += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
            download += ["--abi=cp311", "--abi=none", "--platform=manylinux2014_x86_64"]
            run([*download, "--platform=any"], tries=3)
    return folder


def _packaged(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of the files of a wheel: code, licenses, and its version."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.suffix == ".py" or (
                ".dist-info/" in name and path.name.split(".")[0] in _DOCUMENTS
            ):
                is_fallback = path.parts[0].startswith(_FALLBACK)
                yield f"fallback/{name}" if is_fallback else name, archive.read(name)


if __name__ == "__main__":
    found = pythons()
    build(pythons=found)
    versions = ", ".join(found or [sys.executable])
    print(f"built {TARGET.relative_to(PROJECT)}, compiled for {versions}")
