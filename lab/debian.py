"""Makes Debian trees, and runs commands in them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.fetch import CACHE, debian_mirror, debian_packages, run, say

SUITE = "trixie"  # Linux 6.12 and QEMU 10; igb has SR-IOV from QEMU 8.0
PYTHON = "3.13"  # trixie's

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")


def bootstrap(tree: Path, *options: str, suite: str = SUITE) -> None:
    """Fill an empty folder with a minimal Debian system. Raises SystemExit if that fails."""
    mirror = debian_mirror()
    tools = debian_packages(["debootstrap"], CACHE / "debootstrap")
    program = tools / "usr/sbin/debootstrap"
    for attempt in (1, 2, 3):
        done = subprocess.run(
            [program, "--variant=minbase", *options, suite, tree, mirror],
            env={**environment(), "DEBOOTSTRAP_DIR": str(tools / "usr/share/debootstrap")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return
        sys.stdout.write(done.stdout.decode(errors="replace")[-2000:])
        say(f"debootstrap failed (attempt {attempt} of 3)")
        shutil.rmtree(tree)
        tree.mkdir()
    raise SystemExit(f"debootstrap failed: is the Debian mirror {mirror} reachable?")


def chroot(
    tree: Path, command: str, tries: int = 1, mounts: Mapping[str, Path] | None = None
) -> None:
    """Run a shell command chrooted into the tree. Raises SystemExit if it fails."""
    run(chrooted(tree, command, mounts), tries, env=environment())


def chrooted(tree: Path, command: str, mounts: Mapping[str, Path] | None = None) -> list[str]:
    """Return the command that runs a shell command in the tree, with /proc, /sys and /dev mounted.

    `mounts` are other folders, by the path that they get in the tree.
    """
    # The tree is mounted on itself because buildah wants its root to be a mount.
    script = [f"mount --bind {tree} {tree}", f"mount -t proc proc {tree}/proc"]
    script += [f"mount --rbind /{name} {tree}/{name}" for name in ("sys", "dev")]
    for path, folder in (mounts or {}).items():
        script += [f"mkdir -p {tree}{path}", f"mount --bind {folder} {tree}{path}"]
    script.append(f"exec chroot {tree} sh -ec {shlex.quote(command)}")
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(script)]


def disk_image(folder: Path, image: Path, size: str) -> None:
    """Write the files of a folder into the image of a disk with an ext4 file system."""
    run(["truncate", "-s", size, image])
    run([shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", "-F", "-d", folder, image])


def environment() -> dict[str, str]:
    """Return the environment for debootstrap, commands in the chroot, compilers and QEMU.

    It takes only the proxy settings from the caller's environment. Anything else can break a
    build: with a TMPDIR that does not exist in the chroot, maintainer scripts fail.
    """
    proxies = [*PROXY_VARIABLES, *(name.upper() for name in PROXY_VARIABLES)]
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: os.environ[name] for name in proxies if name in os.environ},
    }
