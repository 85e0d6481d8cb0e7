"""`make lab`: boots the virtual machine, runs the tests in it and prints how many passed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from lab import machine
from tools.fetch import run, say

PROJECT = Path(__file__).parent.parent
LOGS = PROJECT / "build/lab"
# Installed in the disk image. The project's own wheel is built from the checkout at each run.
REQUIREMENTS = ["installer>=0.7", "pytest>=8", "hatchling>=1.27"]
REQUIREMENTS += [
    requirement
    for requirement in metadata.requires("sriov-textfile") or ()
    if "extra" not in requirement
]
BOOT_LIMIT = 600.0


def main() -> int:
    """Build and boot the machine, run the tests, print the result and return the exit code."""
    start = time.monotonic()
    built = machine.build(REQUIREMENTS)
    shutil.rmtree(LOGS, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="sriov-textfile-lab-") as folder:
        share = Path(folder)
        for attempt in (1, 2):
            _fill(share, built)
            try:
                machine.boot(built, share, BOOT_LIMIT)
                break
            except machine.BootError as error:
                say(f"{error} (attempt {attempt} of 2)")
                _keep_logs(share)
        passed, failed = _count(share / "results.xml")
        _keep_logs(share)
        if failed or not passed:
            say(f"the guest's logs are in {LOGS.relative_to(PROJECT)}/; last lines of its console:")
            subprocess.run(["tail", "-n", "20", str(LOGS / "console")], check=False)
    say(f"the lab took {time.monotonic() - start:.0f} s")
    print(f"lab: {passed} passed, {failed} failed", flush=True)
    return 0 if passed and not failed else 1


def _fill(share: Path, built: Path) -> None:
    """Fill the folder shared with the guest: wheel, kernel module, tests, docs, units."""
    for old in share.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    say("building the wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(share),
        str(PROJECT),
    ]
    run(build, tries=3)
    shutil.copy(built / "vfsim.ko", share)
    shutil.copytree(Path(__file__).parent / "guest", share / "guest")
    shutil.copy(PROJECT / "tests/peers.py", share / "guest")
    shutil.copytree(PROJECT / "bench", share / "guest/bench")
    checkout = share / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(PROJECT / name, checkout)
    for name in ("sriov_textfile", "systemd", "cron", "docs"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, checkout / name, ignore=unneeded)


def _count(results: Path) -> tuple[int, int]:
    """Return how many tests passed and failed. A missing results file counts as one failure."""
    if not results.exists():
        return 0, 1
    suite = ElementTree.parse(results).getroot()[0]
    tests, failed, skipped = (int(suite.attrib[key]) for key in ("tests", "failures", "skipped"))
    failed += int(suite.attrib["errors"])
    return tests - failed - skipped, failed


def _keep_logs(share: Path) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for name in ("log", "console", "results.xml", "cost.json"):
        if (share / name).exists():
            shutil.copy(share / name, LOGS)


if __name__ == "__main__":
    sys.exit(main())
