"""`make dist`: builds all files of a release into dist/, the same bytes from the same commit."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from lab import images
from sriov_textfile import __version__
from tools import install, linux_packages, zipapp
from tools.fetch import run, say

PROJECT = Path(__file__).parent.parent
DIST = PROJECT / "dist"
NAME = "sriov-textfile"
SUMS = DIST / "SHA256SUMS"


def main() -> None:
    """Build everything, and list what was left out. Raises SystemExit if a part fails."""
    os.environ["SOURCE_DATE_EPOCH"] = str(install.epoch())
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    say("building the sdist and the wheel")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, PROJECT])
    pythons = zipapp.pythons()
    say(f"building the one-file program, the .deb and the .rpm, compiled for {', '.join(pythons)}")
    zipapp.build(DIST / f"{NAME}-{__version__}.pyz", pythons=pythons)
    for kind in ("deb", "rpm"):
        linux_packages.build(kind, DIST, pythons)
    say("listing the components of the one-file program")
    components(next(DIST.glob("*.whl")), DIST / f"{NAME}-{__version__}.cdx.json")
    left_out = image(DIST / f"{NAME}-{__version__}.oci.tar")
    built = sorted(path for path in DIST.iterdir() if path != SUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in built]
    SUMS.write_text("".join(sums))
    for path in [*built, SUMS]:
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.relative_to(PROJECT)}")
    if left_out:
        print(f"dist: LEFT OUT: the image: {left_out}")


def image(archive: Path) -> str:
    """Write the OCI archive of the image; return why it was left out, or "" if it was not.

    buildah builds it from the base in the registry, which PYTHON_IMAGE can pin by its digest.
    Without buildah, root on Debian gets one whose base is made of Debian's packages.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.which("buildah"):
            images.from_registry(folder, os.environ.get("PYTHON_IMAGE", ""))
        elif os.geteuid() == 0 and shutil.which("apt-get"):
            images.from_packages(folder)
        else:
            return "this host has no buildah, and to run it in a Debian tree needs root and apt-get"
        # buildah's own archive would have the time of the build.
        tar = ["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
        files = ("blobs", "index.json", "oci-layout")
        run([*tar, f"--mtime=@{install.epoch()}", "-C", folder / "image", "-cf", archive, *files])
    return ""


def components(wheel: Path, target: Path) -> None:
    """Write the CycloneDX list of what the one-file program contains, with licenses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv")
        (site,) = (folder / "venv/lib").glob("python*/site-packages")
        # Unpacked, not installed: one of them is compiled for a version of Python.
        for path in [wheel, *zipapp.wheels().glob("*.whl")]:
            zipfile.ZipFile(path).extractall(site)
        about = (PROJECT / "pyproject.toml").read_text()
        about = about.replace('dynamic = ["version"]', f'version = "{__version__}"')
        (folder / "pyproject.toml").write_text(about)
        program = Path(sys.executable).with_name("cyclonedx-py")
        options = [f"--pyproject={folder}/pyproject.toml", "--output-reproducible", "--of=JSON"]
        options.append(f"--output-file={target}")
        run([program, "environment", folder / "venv/bin/python", *options])


if __name__ == "__main__":
    main()
