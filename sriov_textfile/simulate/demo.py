"""The simulated host of `sriov-textfile demo`, and its flags."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from sriov_textfile import flags, log
from sriov_textfile.gather import missing
from sriov_textfile.simulate.host import INFINIBAND, SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedContainer, SimulatedNode, SimulatedPod

# CPUs that the pods of the first two PFs have to themselves, on the PF's NUMA node.
_OWN_CPUS = (("2-3", "10-11"), ("4-5,12-13", "6-7"))


FLAGS = (
    flags.Flag("pfs", flags.whole_number(1, 64), "3", "physical functions of the simulated host"),
    flags.Flag("vfs", flags.whole_number(0, 1024), "8", "virtual functions of each"),
)


# A netdev's name holds the PF's number. The last two kinds are there for doctor: a driver that
# does not count, and a PF that was given away.
_KINDS = (
    SimulatedPf(
        netdev="ens{}f0",
        driver="ice",
        driver_version="1.16.3",
        firmware="4.60 0x8001e8b2 1.3682.0",
        vf_driver="vfio-pci",
    ),
    SimulatedPf(
        netdev="ens{}f0np0",
        driver="mlx5_core",
        driver_version="6.12.48",
        firmware="22.43.2566 (MT_0000000359)",
        speed=100_000,
        sysfs="none",
        switchdev=True,
        vf_driver="mlx5_core",
    ),
    SimulatedPf(
        netdev="ibs{}",
        driver="mlx5_core",
        driver_version="24.10-2.1.8",
        firmware="28.43.2566 (MT_0000000838)",
        speed=200_000,
        pci_class=INFINIBAND,
        sysfs="file",
        vf_driver="mlx5_core",
    ),
    SimulatedPf(
        netdev="ens{}f1",
        driver="i40e",
        driver_version="6.12.48",
        firmware="9.50 0x8000f145 1.3682.0",
        speed=10_000,
        sysfs="none",
    ),
    SimulatedPf(
        netdev="ens{}f2",
        driver="igb",
        driver_version="6.12.48",
        firmware="3.30, 0x800005cf",
        speed=1000,
        sysfs="none",
        counts=False,
        vf_driver="igbvf",
    ),
    SimulatedPf(netdev="", driver="vfio-pci", sysfs="none", vf_driver="vfio-pci"),
)


def pf(number: int, vfs: int) -> SimulatedPf:
    """Return the demo's PF of a number: one of six kinds in turn."""
    domain, slot = divmod(number, 30)
    kind = _KINDS[number % len(_KINDS)]
    return replace(
        kind,
        address=f"{domain:04x}:{16 + 8 * slot:02x}:00.0",
        netdev=kind.netdev.format(number + 1),
        vfs=vfs,
        total_vfs=max(64, vfs),
        numa_node=number % 2,
        first_count=1_000_000 * number,
        swell=0.5,
        swell_phase=2.0 * number,
    )


def pods(pfs: Sequence[SimulatedPf]) -> list[SimulatedPod]:
    """Return the demo's pods: one for each two VFs of a PF, up to three for a PF."""
    found = []
    for number, pf in enumerate(pfs):
        for group in range(min(pf.vfs // 2, 3)):
            addresses = [pf.vf_address(2 * group), pf.vf_address(2 * group + 1)]
            kind = group % 3
            devices, claims = {f"vendor.example/{pf.driver}_vf": addresses}, {}
            if kind == 2:  # by dynamic resource allocation
                names = [address.replace(":", "-").replace(".", "-") for address in addresses]
                devices, claims = {}, {"sriovnetwork.k8snetworkplumbingwg.io": names}
            digest = hashlib.sha256(f"{number}.{group}".encode()).hexdigest()
            container = SimulatedContainer(
                name=("upf", "du", "router")[kind],
                id=digest,
                cpus=_OWN_CPUS[number % 2][group] if number < 2 and kind < 2 else "",
                devices=devices,
                claims=claims,
            )
            pod = SimulatedPod(
                name=f"{container.name}-{number}",
                namespace=("core", "ran", "edge")[kind],
                uid=str(uuid.UUID(digest[:32])),
                containers=[container],
                qos="guaranteed" if container.cpus else "burstable",
            )
            found.append(pod)
    return found


@contextmanager
def host(arguments: Sequence[str]) -> Iterator[tuple[list[str], SimulatedHost]]:
    """Run a host as the command line asks for, in a temporary folder.

    Gives the flags that point the program at it, and the host. Its counters grow as long as
    the context lasts. Raises FlagError.
    """
    _, values = flags.parse(arguments, (*flags.FLAGS, *FLAGS))
    pfs, vfs = int(str(values["pfs"])), int(str(values["vfs"]))
    # A socket's path has at most 107 characters.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="sriov-demo-", dir=parent) as folder:
        simulated = SimulatedHost(Path(folder), [pf(number, vfs) for number in range(pfs)])
        node = SimulatedNode(Path(folder), pods(simulated.pfs))
        told = f"simulated host: {pfs} PFs with {vfs} VFs each, {len(node.pods)} pods"
        log.say(told)
        over = threading.Event()
        clock = threading.Thread(target=_keep_counting, args=(simulated, over))
        paths = simulated.flags + node.flags
        with simulated.running(), ExitStack() as stack:
            try:
                stack.enter_context(node.running())
            except ModuleNotFoundError as error:
                log.say(f"the simulated host has no kubelet: {missing(error)}")
                paths.append("--no-collector.kubepoddevice")
            clock.start()
            try:
                yield paths, simulated
            finally:
                over.set()
                clock.join()


def _keep_counting(simulated: SimulatedHost, over: threading.Event) -> None:
    while not over.wait(1):
        simulated.refresh()
