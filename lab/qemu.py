"""Boots the lab's virtual machine in QEMU, with one of two sets of hardware."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab.debian import environment
from tools.fetch import say

START_LIMIT = 240.0
# Emulated CPUs have synchronous time stamp counters. The kernel does not know this, and would read
# a clock that all of them have to wait for. Mitigations of real CPUs' faults take a fifth of the
# time.
KERNEL_ARGUMENTS = "root=/dev/vda rw console=ttyS0 quiet tsc=reliable mitigations=off"


class BootError(Exception):
    """The machine did not boot, or did not finish in time."""


@dataclass(frozen=True)
class Hardware:
    """What the machine has beside its disk and the shared folder."""

    description: str
    options: tuple[str, ...]  # of QEMU
    arguments: str  # of the kernel


def two_nics() -> Hardware:
    """Return a machine with two igb NICs. The Kubernetes node's services do not run on it."""
    options = ["-smp", "2", "-m", "3G"]
    for n in (1, 2):
        options += ["-device", f"pcie-root-port,id=port{n},chassis={n},slot={n}"]
        options += _igb(n)
    return Hardware("two igb NICs", tuple(options), "systemd.mask=containerd.service")


def two_numa_nodes() -> Hardware:
    """Return a machine with two NUMA nodes, each with four CPUs and an igb NIC.

    Its own Prometheus and node_exporter do not run: their ports are those of the pods.
    """
    options = ["-smp", "8,sockets=2,cores=4,threads=1", "-m", "4G"]
    for n in (1, 2):
        node = n - 1
        options += ["-object", f"memory-backend-ram,id=memory{n},size=2G"]
        cpus = f"{4 * node}-{4 * node + 3}"
        options += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=memory{n}"]
        # A PCIe host bridge of its own for each NUMA node, so that a NIC and its VFs have a node.
        bridge = f"pxb-pcie,id=bridge{n},bus_nr={64 * n},numa_node={node},bus=pcie.0"
        options += ["-device", bridge]
        options += ["-device", f"pcie-root-port,id=port{n},bus=bridge{n},chassis={n},slot={n}"]
        options += _igb(n)
    masked = "systemd.mask=prometheus.service systemd.mask=prometheus-node-exporter.service"
    return Hardware("two NUMA nodes with an igb NIC each", tuple(options), masked)


def _igb(n: int) -> list[str]:
    """Return the options of an igb NIC at the root port `port<n>`."""
    nic = f"igb,bus=port{n},netdev=net{n},mac=52:54:00:aa:00:{n:02x}"
    return ["-netdev", f"user,id=net{n},restrict=on", "-device", nic]


def boot(machine: Path, kernel: str, hardware: Hardware, share: Path, seconds: float) -> None:
    """Boot the machine with one of its kernels, and wait until it powers off.

    The guest mounts the folder `share` and runs `guest/run` from it. Its output, `share/log`, is
    printed as it grows; its console is written to `share/console`. If there is a `share/disk.img`,
    it is the guest's second disk: the shared folder is slow. Raises BootError if the guest prints
    nothing within START_LIMIT seconds, or has not finished after `seconds`.
    """
    linux = machine / "tree/boot" / kernel
    accelerator = _accelerator(machine)
    say(f"booting Linux {kernel} with {hardware.description} ({accelerator})")
    command = [
        *_qemu(machine, linux / "vmlinuz", accelerator),
        *("-initrd", str(linux / "initrd.img")),
        *("-append", f"{KERNEL_ARGUMENTS} {hardware.arguments}"),
        *hardware.options,
        # With a named bus: QEMU would put these on the first host bridge that it finds.
        *("-drive", f"file={machine}/root.img,format=raw,if=none,id=root,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=root,bus=pcie.0"),
        *("-fsdev", f"local,path={share},id=lab,security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab,bus=pcie.0"),
    ]
    if (disk := share / "disk.img").exists():
        command += ["-drive", f"file={disk},format=raw,if=none,id=disk,snapshot=on"]
        command += ["-device", "virtio-blk-pci,drive=disk,bus=pcie.0"]
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
            start = time.monotonic()
            while qemu.poll() is None:
                passed = time.monotonic() - start
                if passed > seconds:
                    raise BootError(f"the machine did not finish within {seconds:g} s")
                if passed > START_LIMIT and not log.stat().st_size:
                    raise BootError(f"the machine did not start within {START_LIMIT:g} s")
                time.sleep(0.2)
                sys.stdout.write(lines.read())
                sys.stdout.flush()
        finally:
            qemu.kill()
            qemu.wait()
        sys.stdout.write(lines.read())
    if not (share / "status").exists():
        raise BootError("the machine powered off before the tests finished")


@functools.cache
def _accelerator(machine: Path) -> str:
    """Return `kvm` if a kernel boots with it, else software emulation.

    /dev/kvm can exist and still not work. The probe boots a kernel without a root file system: it
    panics within a second or two, and QEMU exits.
    """
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        vmlinuz = next(machine.glob("tree/boot/*/vmlinuz"))
        probe = [*_qemu(machine, vmlinuz, "kvm"), "-m", "512M", "-append", "console=ttyS0 panic=-1"]
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


def _qemu(machine: Path, vmlinuz: Path, accelerator: str) -> list[str]:
    """Return the start of a command line that runs the tree's QEMU with a kernel."""
    tree = (machine / "tree").resolve()
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    command = [str(tree / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    command.append(str(tree / "usr/bin/qemu-system-x86_64"))
    for share in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"):
        command += ["-L", str(tree / share)]
    command += ["-machine", "q35", "-accel", accelerator, "-cpu", "max"]
    return [*command, "-nographic", "-no-reboot", "-kernel", str(vmlinuz)]
