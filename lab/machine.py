"""Builds the lab's virtual machine from Debian packages, and boots it.

Everything built is cached under a name that contains a hash of its recipe, so it is rebuilt only
when the recipe changes.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.fetch import CACHE, debian_mirror, debian_packages, run, say

SUITE = "trixie"  # Linux 6.12 and QEMU 10; igb has SR-IOV from QEMU 8.0
PYTHON = "3.13"  # trixie's
PACKAGES = [
    *("linux-image-amd64", "linux-headers-amd64", "gcc", "make", "kmod", "qemu-system-x86"),
    *("systemd", "systemd-sysv", "dbus", "udev", "cron", "util-linux", "procps", "e2fsprogs"),
    *("python3", "python3-venv", "iproute2", "pciutils", "curl"),
    *("prometheus", "prometheus-node-exporter"),
]

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")

# The guest's only job: run the script in the shared folder, then power off.
UNIT = """\
[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=/bin/mkdir -p /lab
ExecStart=/bin/mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576 lab /lab
ExecStart=-/bin/sh -c 'sh /lab/guest/run >/lab/log 2>&1; echo $? >/lab/status'
ExecStart=/bin/sh -c 'sync; poweroff -f'
"""


class BootError(Exception):
    """The machine did not boot, or did not finish in time."""


def build(requirements: list[str]) -> Path:
    """Return the machine's folder, building the machine if it is not in the cache.

    The folder contains `tree`, the root file system as a directory tree; `root.img`, the same as
    a disk image, with `requirements` installed in /opt/venv and their wheels in /opt/wheels; and
    `vfsim.ko`. Raises SystemExit if the build fails or the user is not root.
    """
    if os.geteuid():
        raise SystemExit("make lab must run as root: it builds a root file system")
    tree = _tree()
    source = Path(__file__).parent / "vfsim"
    code = "".join([(source / name).read_text() for name in ("vfsim.c", "Kbuild")])
    machine = CACHE / f"lab-machine-{key(tree.name, UNIT, code, *requirements)}"
    if not machine.is_dir():
        _remove_all_but_newest("lab-machine-*")
        with _new(machine) as new:
            (new / "tree").symlink_to(tree)
            _build_module(tree, source, new)
            _build_disk(tree, requirements, new)
    return machine


def boot(machine: Path, share: Path, seconds: float) -> None:
    """Boot the machine with two igb NICs and wait until it powers off.

    The guest mounts the folder `share` and runs `guest/run` from it. Its output, `share/log`, is
    printed as it grows; its console is written to `share/console`. Raises BootError if the guest
    has not finished after `seconds`.
    """
    accelerator = _accelerator(machine)
    say(f"booting Linux with two igb NICs ({accelerator})")
    nics: list[str] = []
    for n in (1, 2):
        nics += ["-device", f"pcie-root-port,id=port{n},chassis={n},slot={n}"]
        nics += ["-netdev", f"user,id=net{n},restrict=on"]
        nics += ["-device", f"igb,bus=port{n},netdev=net{n},mac=52:54:00:aa:00:{n:02x}"]
    initrd = next((machine / "tree/boot").glob("initrd.img-*"))
    command = [
        *_qemu(machine, accelerator),
        *("-initrd", str(initrd)),
        *("-smp", "2", "-m", "3G"),
        *("-append", "root=/dev/vda rw console=ttyS0"),
        *("-drive", f"file={machine}/root.img,format=raw,if=virtio,snapshot=on"),
        *("-virtfs", f"local,path={share},mount_tag=lab,security_model=none"),
        *nics,
    ]
    log = share / "log"
    log.touch()
    with (share / "console").open("wb") as console, log.open() as lines:
        qemu = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + seconds
            while qemu.poll() is None:
                if time.monotonic() > end:
                    raise BootError(f"the machine did not finish within {seconds:g} s")
                time.sleep(0.2)
                sys.stdout.write(lines.read())
                sys.stdout.flush()
        finally:
            qemu.kill()
            qemu.wait()
        sys.stdout.write(lines.read())
    if not (share / "status").exists():
        raise BootError("the machine powered off before the tests finished")


def _tree() -> Path:
    """Return a directory tree with a Debian root file system that has PACKAGES installed."""
    tree = CACHE / f"lab-tree-{key(SUITE, *PACKAGES)}"
    if tree.is_dir():
        return tree
    mirror = debian_mirror()
    tools = debian_packages(["debootstrap"], CACHE / "debootstrap")
    _remove_all_but_newest("lab-tree-*")
    with _new(tree) as new:
        say(f"building a Debian {SUITE} root file system (about a minute)")
        share = tools / "usr/share/debootstrap"
        bootstrap = tools / "usr/sbin/debootstrap"
        for attempt in (1, 2, 3):
            done = subprocess.run(
                [bootstrap, "--variant=minbase", SUITE, new, mirror],
                env={**environment(), "DEBOOTSTRAP_DIR": str(share)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                break
            sys.stdout.write(done.stdout.decode(errors="replace")[-2000:])
            say(f"debootstrap failed (attempt {attempt} of 3)")
            shutil.rmtree(new)
            new.mkdir()
        else:
            raise SystemExit(f"debootstrap failed: is the Debian mirror {mirror} reachable?")
        say("adding the kernel, QEMU, Prometheus and a compiler (about a minute)")
        shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
        _chroot(new, "apt-get -q update", tries=3)
        install = "apt-get -qy --no-install-recommends install"
        _chroot(new, f"{install} {' '.join(PACKAGES)}", tries=3)
        _chroot(new, "apt-get clean")
    return tree


def _build_module(tree: Path, source: Path, machine: Path) -> None:
    say("building the kernel module vfsim")
    work = tree / "opt/vfsim"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    headers = next(path.name for path in (tree / "usr/src").glob("linux-headers-*-amd64"))
    _chroot(tree, f"make -C /usr/src/{headers} M=/opt/vfsim modules")
    shutil.copy(work / "vfsim.ko", machine)
    shutil.rmtree(work)


def _build_disk(tree: Path, requirements: list[str], machine: Path) -> None:
    say("adding Python packages to the root file system")
    wheels = tree / "opt/wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    shutil.rmtree(tree / "opt/venv", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels)]
    command += ["--only-binary=:all:", "--python-version", PYTHON]
    run([*command, *requirements], tries=3)
    _chroot(tree, "python3 -m venv /opt/venv")
    names = " ".join([f"'{name}'" for name in requirements])
    _chroot(tree, f"/opt/venv/bin/pip install -q --no-index -f /opt/wheels {names}")
    (tree / "etc/hostname").write_text("sriov-lab\n")
    units = tree / "etc/systemd/system"
    (units / "lab.service").write_text(UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    if not (wanted / "lab.service").is_symlink():
        (wanted / "lab.service").symlink_to("../lab.service")
    say("writing the disk image")
    image = machine / "root.img"
    run(["truncate", "-s", "6G", image])
    mkfs = shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4"
    run([mkfs, "-q", "-F", "-d", str(tree), str(image)])


def _accelerator(machine: Path) -> str:
    """Return `kvm` if a kernel boots with it, else software emulation.

    /dev/kvm can exist and still not work. The probe boots a kernel without a root file system: it
    panics within a second or two, and QEMU exits.
    """
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        probe = [*_qemu(machine, "kvm"), "-m", "512M", "-append", "console=ttyS0 panic=-1"]
        try:
            done = subprocess.run(
                probe,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=8,
                check=False,
            )
            if done.returncode == 0:
                return "kvm"
        except subprocess.TimeoutExpired:
            pass
    return "tcg,thread=multi,tb-size=1024"


def _qemu(machine: Path, accelerator: str) -> list[str]:
    """Return the start of a command line that runs the tree's QEMU with the tree's kernel."""
    tree = (machine / "tree").resolve()
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    command = [str(tree / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    command.append(str(tree / "usr/bin/qemu-system-x86_64"))
    for share in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"):
        command += ["-L", str(tree / share)]
    command += ["-machine", "q35", "-accel", accelerator, "-cpu", "max"]
    return [*command, "-nographic", "-no-reboot", "-kernel", str(kernel)]


def _chroot(tree: Path, command: str, tries: int = 1) -> None:
    """Run a shell command chrooted into the tree, with /proc, /sys and /dev mounted."""
    script = (
        f"mount -t proc proc {tree}/proc && mount --rbind /sys {tree}/sys"
        f" && mount --rbind /dev {tree}/dev && exec chroot {tree} sh -ec {shlex.quote(command)}"
    )
    command_line = ["unshare", "--mount", "--propagation=private", "sh", "-ec", script]
    run(command_line, tries, env=environment())


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


def _remove_all_but_newest(names: str) -> None:
    """Remove the builds of older recipes: each takes a gigabyte."""
    folders = sorted(CACHE.glob(names), key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-1]:
        shutil.rmtree(folder)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `folder` once its content is complete."""
    CACHE.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{folder.name}."))
    new.chmod(0o755)
    try:
        yield new
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def key(*recipe: str) -> str:
    """Return a short hash of a recipe, for the name of what is built from it."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]
