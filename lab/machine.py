"""Builds the lab's virtual machine from Debian packages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lab import kernels
from lab.debian import PYTHON, SUITE, bootstrap, chroot, disk_image
from tools.fetch import CACHE, key, new_folder, run, say

PACKAGES = [
    *("initramfs-tools", "gcc", "make", "libelf1t64", "kmod", "qemu-system-x86"),
    *("systemd", "systemd-sysv", "dbus", "udev", "cron", "util-linux", "procps", "e2fsprogs"),
    *("acl", "python3", "python3-grpcio", "python3-venv", "iproute2", "pciutils", "curl"),
    *("prometheus", "prometheus-node-exporter"),
    *("containerd", "runc", "busybox-static", "buildah", "netavark"),
]

# The guest's only job: run the script in the shared folder, then power off. The kernel may find the
# device of the shared folder only after this unit has started.
UNIT = """\
[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=/bin/mkdir -p /lab
ExecStart=/bin/sh -c 'until mount -t 9p -o trans=virtio,msize=512000 lab /lab; do sleep 0.5; done'
ExecStart=-/bin/sh -c 'sh /lab/guest/run >/lab/log 2>&1; echo $? >/lab/status'
ExecStart=/bin/sh -c 'sync; poweroff -f'
"""


def build(requirements: list[str]) -> Path:
    """Return the machine's folder, building the machine if it is not in the cache.

    The folder contains `tree`, the root file system as a directory tree, and `root.img`, the same
    as a disk image, with `requirements` installed in /opt/venv and their wheels in /opt/wheels.
    Raises SystemExit if the build fails or the user is not root.
    """
    if os.geteuid():
        raise SystemExit("make lab must run as root: it builds a root file system")
    root = tree()
    machine = CACHE / f"lab-machine-{key(root.name, UNIT, *requirements)}"
    if not machine.is_dir():
        _remove_all_but_newest("lab-machine-*")
        with new_folder(machine) as new:
            (new / "tree").symlink_to(root)
            _build_disk(root, requirements, new)
    return machine


def tree() -> Path:
    """Return a directory tree with a Debian root file system, with PACKAGES and the kernels."""
    recipe = (PACKAGES, kernels.KERNELS, kernels.PACKAGES, kernels.UNNEEDED, kernels.INITRD_MODULES)
    root = CACHE / f"lab-tree-{key(SUITE, repr(recipe))}"
    if root.is_dir():
        return root
    _remove_all_but_newest("lab-tree-*")
    with new_folder(root) as new:
        say(f"building a Debian {SUITE} root file system (about a minute)")
        bootstrap(new)
        say("adding QEMU, containerd, Prometheus and a compiler (about a minute)")
        shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
        chroot(new, "apt-get -q update", tries=3)
        install = "apt-get -qy --no-install-recommends install"
        chroot(new, f"{install} {' '.join(PACKAGES)}", tries=3)
        chroot(new, "apt-get clean")
        for name in kernels.KERNELS:
            kernels.add(new, name)
    return root


def _build_disk(tree: Path, requirements: list[str], machine: Path) -> None:
    say("adding Python packages to the root file system")
    wheels = tree / "opt/wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    shutil.rmtree(tree / "opt/venv", ignore_errors=True)
    download(requirements, wheels)
    chroot(tree, "python3 -m venv /opt/venv")
    names = " ".join([f"'{name}'" for name in requirements])
    chroot(tree, f"/opt/venv/bin/pip install -q --no-index -f /opt/wheels {names}")
    (tree / "etc/hostname").write_text("sriov-lab\n")
    units = tree / "etc/systemd/system"
    (units / "lab.service").write_text(UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    if not (wanted / "lab.service").is_symlink():
        (wanted / "lab.service").symlink_to("../lab.service")
    say("writing the disk image")
    disk_image(tree, machine / "root.img", "6G")


def download(requirements: list[str], folder: Path) -> None:
    """Download wheels for the tree's Python, with what they depend on. Raises SystemExit."""
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder)]
    command += ["--only-binary=:all:", "--python-version", PYTHON]
    run([*command, *requirements], tries=3)


def _remove_all_but_newest(names: str) -> None:
    """Remove the builds of older recipes: each takes a gigabyte.

    A name with a dot is that of a build that another process has begun.
    """
    complete = [folder for folder in CACHE.glob(names) if "." not in folder.name]
    for folder in sorted(complete, key=lambda folder: folder.stat().st_mtime)[:-1]:
        shutil.rmtree(folder)
