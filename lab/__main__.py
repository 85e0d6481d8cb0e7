"""`make lab`: boots virtual machines, runs the tests in them and prints how many passed."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lab import images, kernels, kubelet, machine, qemu
from lab.debian import disk_image
from tools import linux_packages, requirements
from tools.fetch import run, say

PROJECT = Path(__file__).parent.parent
LAB = Path(__file__).parent
LOGS = PROJECT / "build/lab"
# Installed in the disk image. The project's own wheel is built from the checkout at each run.
REQUIREMENTS = ["installer>=0.7", "pytest>=8", "hatchling>=1.27"]
REQUIREMENTS += [*requirements.of(), *requirements.of("all")]
BOOT_LIMIT = 1800.0


# All tests of lab/host/ run on Debian 13's own kernel, and on the others those without this marker.
ONE_KERNEL, MARKER = "6.12", "one_kernel"


@dataclass(frozen=True)
class Part:
    """A boot of the machine: its kernel and hardware, and the tests that run on it."""

    name: str
    kernel: str
    hardware: qemu.Hardware
    tests: Path
    marked: str  # which of the tests, as an expression for pytest's -m; "" means all
    fill: Callable[[Path], None]  # puts into the shared folder what only these tests need


def main() -> int:
    """Build and boot the machines, run the tests, print the result and return the exit code."""
    names = [f"host-{kernel}" for kernel in kernels.KERNELS] + ["node"]
    arguments = argparse.ArgumentParser("make lab", description=__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}")
    arguments.add_argument(
        "-k", default="", metavar="EXPRESSION", help="run only these tests, as in pytest"
    )
    options = arguments.parse_args()
    chosen = options.parts or names
    if unknown := set(chosen).difference(names):
        arguments.error(f"there is no part {', '.join(unknown)}, only {', '.join(names)}")
    start = time.monotonic()
    built = machine.build(REQUIREMENTS)
    parts = [_host(kernel, built) for kernel in kernels.KERNELS if f"host-{kernel}" in chosen]
    kubernetes = kubelet.find() if "node" in chosen else None
    if kubernetes:
        parts.append(_node(kubernetes, built))
    shutil.rmtree(LOGS, ignore_errors=True)
    results = {part.name: _run(part, built, options.k) for part in parts}
    passed = sum(numbers[0] for numbers in results.values())
    failed = sum(numbers[1] for numbers in results.values())
    say(f"the lab took {time.monotonic() - start:.0f} s")
    if "node" in chosen and not kubernetes:
        print("lab: LEFT OUT: the Kubernetes node, because of KUBELET=none", flush=True)
    for name, numbers in results.items():
        say(f"{name}: {numbers[0]} passed, {numbers[1]} failed")
    print(f"lab: {passed} passed, {failed} failed", flush=True)
    is_complete = all(number for number, _ in results.values()) or (options.k and passed)
    return 0 if is_complete and not failed else 1


def _host(kernel: str, built: Path) -> Part:
    """Return the part that runs the tests of lab/host/ on a kernel."""
    return Part(
        name=f"host-{kernel}",
        kernel=kernel,
        hardware=qemu.two_nics(),
        tests=LAB / "host",
        marked="" if kernel == ONE_KERNEL else f"not {MARKER}",
        fill=lambda share: _fill_host(share, kernels.modules(built / "tree", kernel)),
    )


def _node(kubernetes: Path, built: Path) -> Part:
    """Return the part that runs the tests of lab/node/."""
    return Part(
        name="node",
        kernel=ONE_KERNEL,
        hardware=qemu.two_numa_nodes(),
        tests=LAB / "node",
        marked="",
        fill=lambda share: _fill_node(share, built, kubernetes),
    )


def _run(part: Part, built: Path, expression: str) -> tuple[int, int]:
    """Boot the machine for a part, and return how many of its tests passed and failed.

    Only the tests run that match the expression for pytest's -k, unless it is "".
    """
    start = time.monotonic()
    logs = LOGS / part.name
    with tempfile.TemporaryDirectory(prefix="sriov-textfile-lab-") as folder:
        share = Path(folder)
        for attempt in (1, 2):
            try:
                _fill(share, part)
            except SystemExit as error:  # The other parts are run nevertheless.
                say(f"{part.name}: {error}")
                return 0, 1
            selected = shlex.join(["-m", part.marked, "-k", expression])
            (share / "pytest-options").write_text(selected)
            try:
                qemu.boot(built, part.kernel, part.hardware, share, BOOT_LIMIT)
                break
            except qemu.BootError as error:
                say(f"{error} (attempt {attempt} of 2)")
                _keep_logs(share, logs)
        passed, failed = _count(share / "results.xml")
        _keep_logs(share, logs)
    if failed or not passed:
        say(f"the guest's logs are in {logs.relative_to(PROJECT)}/; last lines of its console:")
        subprocess.run(["tail", "-n", "20", str(logs / "console")], check=False)
    say(f"{part.name}: {passed} passed, {failed} failed, {time.monotonic() - start:.0f} s")
    if (counts := logs / "comparisons.json").exists():
        compared = json.loads(counts.read_text())
        say(f"{sum(compared.values())} comparisons of all series of a metric with the truth")
    return passed, failed


def _fill(share: Path, part: Part) -> None:
    """Fill the folder shared with the guest: the wheel, the tests and what they need."""
    for old in share.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    say("building the wheel")
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    run([*wheel, "-w", share, PROJECT], tries=3)
    unneeded = shutil.ignore_patterns("__pycache__")
    shutil.copytree(part.tests, share / "guest", ignore=unneeded)
    shutil.copy(LAB / "common.py", share / "guest")
    part.fill(share)


def _fill_host(share: Path, modules: list[Path]) -> None:
    """Add the kernel modules, what the tests share with others, and a checkout to install."""
    for module in modules:
        shutil.copy(module, share)
    shutil.copy(PROJECT / "tests/peers.py", share / "guest")
    shutil.copytree(PROJECT / "bench", share / "guest/bench")
    say("building the packages")
    packages = share / "packages"
    linux_packages.build("deb", packages)
    linux_packages.build("deb", packages, version="9.0.0")
    checkout = share / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(PROJECT / name, checkout)
    for name in ("sriov_textfile", "systemd", "cron", "docs"):
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, checkout / name, ignore=unneeded)


def _fill_node(share: Path, built: Path, kubernetes: Path) -> None:
    """Add the manifests, the messages of the device plugin API, and a disk with the large files."""
    shutil.copytree(PROJECT / "deployment", share / "checkout/deployment")
    guest = share / "guest"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{guest}", f"--python_out={guest}"]
    run([*protoc, f"--grpc_python_out={guest}", "deviceplugin.proto"])
    disk = share / "disk"
    disk.mkdir()
    shutil.copy(kubernetes, disk / "kubelet")
    images.build(built / "tree", disk)
    disk_image(disk, share / "disk.img", "1G")
    shutil.rmtree(disk)


def _count(results: Path) -> tuple[int, int]:
    """Return how many tests passed and failed. A missing results file counts as one failure."""
    if not results.exists():
        return 0, 1
    suite = ElementTree.parse(results).getroot()[0]
    tests, failed, skipped = (int(suite.attrib[key]) for key in ("tests", "failures", "skipped"))
    failed += int(suite.attrib["errors"])
    return tests - failed - skipped, failed


def _keep_logs(share: Path, logs: Path) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    for name in ("log", "console", "results.xml", "cost.json", "comparisons.json"):
        if (share / name).exists():
            shutil.copy(share / name, logs)


if __name__ == "__main__":
    sys.exit(main())
