"""Adds kernels of several Debian suites to the machine's tree, and builds modules for each."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lab.debian import chroot
from tools.fetch import CACHE, debian_dependencies, debian_packages, key, new_folder, run, say

# The suite of each kernel. Debian 13's systemd and its other programs run on all of them.
KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "sid": "sid"}

PACKAGES = ("linux-image-amd64", "linux-headers-amd64")
# A third of the modules, for hardware that the machine does not have.
UNNEEDED = ("sound", "drivers/gpu", "drivers/media", "drivers/net/wireless")
# What the initrd needs to mount the disk. The other modules are on it.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")

SOURCES = Path(__file__).parent / "modules"


def add(tree: Path, name: str) -> None:
    """Add a kernel to a tree with initramfs-tools.

    `boot/<name>` then has `vmlinuz`, `initrd.img` and a link to the kernel's `headers`. The
    kernel's modules are where they belong. Raises SystemExit if that fails.
    """
    say(f"adding Linux {name}")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="lab-kernel.") as folder:
        packages = {
            dependency
            for package in PACKAGES
            for dependency in debian_dependencies(package, KERNELS[name])
            if dependency.startswith("linux-") and not dependency.endswith(("-base", "-unsigned"))
        }
        new = debian_packages(sorted(packages), Path(folder) / "packages", KERNELS[name])
        modules = next(path for path in new.glob("**/lib/modules/*") if path.is_dir())
        for path in UNNEEDED:
            shutil.rmtree(modules / "kernel" / path)
        boot = tree / "boot" / name
        boot.mkdir()
        vmlinuz = next(path for path in new.glob("**/vmlinuz*"))
        shutil.move(vmlinuz, boot / "vmlinuz")
        (boot / "headers").symlink_to(f"/usr/src/linux-headers-{modules.name}")
        # In the tree, /lib is a link.
        unpack = f"tar -C {new} -c . | tar -C {tree} -x --keep-directory-symlink"
        run(["sh", "-c", unpack])
    settings = tree / "etc/initramfs-tools"
    (settings / "modules").write_text("\n".join(INITRD_MODULES))
    (settings / "conf.d/lab").write_text("MODULES=list\n")
    release = modules.name
    chroot(tree, f"depmod {release} && mkinitramfs -o /boot/{name}/initrd.img {release}")


def modules(tree: Path, name: str) -> list[Path]:
    """Return the modules of lab/modules/ for a kernel of the tree, built unless they are there.

    Raises SystemExit if the build fails.
    """
    code = "".join([path.read_text() for path in sorted(SOURCES.iterdir())])
    built = tree / "boot" / name / f"modules-{key(code)}"
    if not built.is_dir():
        say(f"building vfsim and rdmasim for Linux {name}")
        with new_folder(built) as new:
            shutil.copytree(SOURCES, new, dirs_exist_ok=True)
            # Debian's headers name the compiler of their own suite. Type information is not needed,
            # and would take another program.
            settings = "CC=gcc CONFIG_DEBUG_INFO_BTF_MODULES="
            make = f"make -C /boot/{name}/headers M=/opt/modules {settings} modules"
            chroot(tree, make, mounts={"/opt/modules": new})
    return sorted(built.glob("*.ko"))
