"""Runs commands, and keeps what is fetched or built in a cache.

Debian packages are unpacked without installing them. What is built has a name that contains a hash
of its recipe, so it is built again only when the recipe changes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sriov-textfile"


def say(message: str) -> None:
    """Print a progress message."""
    print(f"=> {message}", flush=True)


def run(
    command: Sequence[str | Path],
    tries: int = 1,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command, up to `tries` times, and print its output only if it fails.

    Without `env` the command inherits this process's environment. Raises SystemExit if every
    attempt fails.
    """
    words = [str(word) for word in command]
    for attempt in range(1, tries + 1):
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode == 0:
            return
        sys.stdout.write(done.stdout.decode(errors="replace")[-4000:])
        say(f"failed (attempt {attempt} of {tries}): {' '.join(words)[:200]}")
        if attempt < tries:
            time.sleep(5 * attempt)
    raise SystemExit(1)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `folder` once its content is complete.

    If another process was faster, its folder stays.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{folder.name}."))
    new.chmod(0o755)
    try:
        yield new
        if folder.is_dir():
            shutil.rmtree(new)
        else:
            new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def key(*recipe: str) -> str:
    """Return a short hash of a recipe, for the name of what is built from it."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]


def debian_program(package: str, program: str, folder: Path) -> list[str]:
    """Return a command that runs a program of a Debian package with the libraries of its own tree.

    The package and all that it depends on are unpacked into `folder`, unless it exists.
    """
    if not folder.is_dir():
        debian_packages(debian_dependencies(package), folder)
    return with_own_libraries(folder, program)


def with_own_libraries(folder: Path, program: str) -> list[str]:
    """Return a command that runs a program of unpacked packages with their loader and libraries."""
    libraries = [*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-linux-gnu")]
    loader = next(path for own in libraries for path in own.glob("ld-linux-*.so.*"))
    paths = ":".join([str(path) for path in libraries])
    return [str(loader), "--library-path", paths, str(folder / program)]


def debian_dependencies(package: str, suite: str = "") -> list[str]:
    """Return the names of a Debian package and of all that it depends on.

    They are of the host's own suite, or of another one.
    """
    depends = ["apt-cache", *_apt_options(suite), "depends", "--recurse", "--important", package]
    listed = subprocess.run(depends, capture_output=True, text=True, check=True).stdout
    return sorted({line for line in listed.splitlines() if line[:1].isalnum() and ":" not in line})


def debian_packages(packages: Sequence[str], folder: Path, suite: str = "") -> Path:
    """Download Debian packages and unpack them into `folder`, unless it exists; return `folder`.

    They are of the host's own suite, or of another one. Their dependencies are not fetched.
    Raises SystemExit if the host has no apt-get or a download fails.
    """
    if folder.is_dir():
        return folder
    say(f"fetching {', '.join(packages)}")
    options = _apt_options(suite)
    with new_folder(folder) as new:
        debs = new / "debs"
        debs.mkdir()
        run(["apt-get", "-q", *options, "download", *packages], tries=3, cwd=debs)
        for deb in sorted(debs.iterdir()):
            run(["dpkg", "-x", deb, new])
        shutil.rmtree(debs)
    return folder


def debian_source(package: str, folder: Path, suite: str) -> Path:
    """Download a Debian source package and unpack it into the new `folder`; return `folder`.

    Debian's own patches are not applied. Raises SystemExit if the host has no apt-get or the
    download fails.
    """
    say(f"fetching the source of {package}")
    options = _apt_options(suite, "deb-src")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        downloads = Path(name)
        download = ["apt-get", "-q", *options, "source", "--download-only", package]
        run(download, tries=3, cwd=downloads)
        tarball = next(downloads.glob("*.orig.tar.?z"))
        run(["tar", "-xf", tarball, "-C", folder, "--strip-components=1"])
    return folder


@functools.cache
def _apt_options(suite: str = "", kind: str = "deb") -> list[str]:
    """Return options with which apt has current lists, needs no root and leaves the system alone.

    The lists are those of the host's own suite, or of another one: of its packages, or with the
    kind `deb-src` of its sources. Raises SystemExit if the host has no apt-get or the lists cannot
    be fetched.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise SystemExit("no apt-get or dpkg found: run this on Debian or a derivative")
    state = CACHE / f"{kind.replace('deb', 'apt')}{suite and '-'}{suite}"
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}"]
    options += ["-o", "APT::Sandbox::User="]
    if suite:
        sources = state / "sources.list"
        sources.write_text(f"{kind} {debian_mirror()} {suite} main\n")
        options += ["-o", f"Dir::Etc::SourceList={sources}"]
        options += ["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::State::Status=/dev/null"]
    run(["apt-get", "-q", *options, "update"], tries=3)
    return options


def debian_mirror() -> str:
    """Return the URL of the Debian mirror this host uses, or deb.debian.org."""
    apt = Path("/etc/apt")
    for source in [*apt.glob("sources.list.d/*.sources"), *apt.glob("**/*.list")]:
        for line in source.read_text().splitlines():
            if line.startswith(("URIs:", "deb ")):
                for word in line.split():
                    if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                        return word
    return "http://deb.debian.org/debian"
