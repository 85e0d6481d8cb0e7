"""The simulated host of `sriov-textfile demo`: busy PFs, one without counters, and pods."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sriov_textfile import log, packages
from sriov_textfile.problems import counted
from sriov_textfile.simulate.host import INFINIBAND, SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import Pools, SimulatedContainer, SimulatedPod

# Exclusive CPUs of the first two PFs' pods, on the NUMA node of the PF.
_EXCLUSIVE_CPUS = (("2-3", "10-11"), ("4-5,12-13", "6-7"))

_UPTIME_SECONDS = 93_784  # traffic before the demo started: a day and two hours
_VFS_IN_USE = 6  # of each PF: two for each of up to three pods


@dataclass
class DemoPf(SimulatedPf):
    """A PF whose VFs have carried traffic for a day, and drop a packet now and then."""

    load: int = 1  # how much more traffic it has than other PFs

    @property
    def hardware_address(self) -> bytes:
        """A MAC address of the vendor; on InfiniBand queue pair, GID prefix and port GUID."""
        digest = hashlib.sha256(self.address.encode()).digest()
        if self.pci_class == INFINIBAND:
            queue_pair, prefix = b"\0\0\x10\x49", b"\xfe\x80" + bytes(6)
            return queue_pair + prefix + b"\xb8\xce\xf6\x03\0" + digest[:3]
        vendor = b"\xb8\xce\xf6" if self.driver == "mlx5_core" else b"\x3c\xfd\xfe"
        return vendor + digest[:3]

    def vf_hardware_address(self, vf: int) -> bytes:
        """Return the address that the PF assigned to a VF."""
        if self.pci_class == INFINIBAND:
            return self.hardware_address[:-1] + bytes([vf & 0xFF])
        digest = hashlib.sha256(f"{self.address} {vf}".encode()).digest()
        return b"\x02" + digest[:5]  # locally administered

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        """Return the counters of a VF; they are 0 if no pod uses it."""
        if vf >= _VFS_IN_USE:
            return dict.fromkeys(super().counters(vf, 0), 0)
        start = super().counters(vf, 0)
        now = super().counters(vf, seconds + _UPTIME_SECONDS)
        counted = {name: self.load * (now[name] - start[name]) for name in now}
        # One packet in 100,000 received is dropped, and one in 500,000 sent.
        counted["rx_dropped"] = counted["rx_packets"] // 100_000
        counted["tx_dropped"] = counted["tx_packets"] // 500_000
        counted["tx_errors"] = vf  # long ago
        return counted


class DemoHost(SimulatedHost):
    """A host whose VFs count all the time, so that `top` shows smooth rates."""

    @property
    def uptime(self) -> float:
        """The time up to which the VFs have counted: now."""
        return self._clock() - self._start


# A netdev's name has the PF's number. The driver of the third PF has no VF counters, which doctor
# reports. The last PF is assigned to a virtual machine.
_KINDS = (
    DemoPf(
        netdev="ens{}f0",
        driver="ice",
        driver_version="1.16.3",
        firmware="4.60 0x8001e8b2 1.3682.0",
        vf_driver="vfio-pci",
    ),
    DemoPf(
        netdev="ens{}f0np0",
        driver="mlx5_core",
        driver_version="6.12.48",
        firmware="22.43.2566 (MT_0000000359)",
        speed=100_000,
        load=50,  # more than 80 % of the link at peaks
        sysfs="none",
        switchdev=True,
        vf_driver="mlx5_core",
        rdma=True,
        rdma_elsewhere=range(_VFS_IN_USE, 1024),
    ),
    DemoPf(
        netdev="ens{}f2",
        driver="igb",
        driver_version="6.12.48",
        firmware="3.30, 0x800005cf",
        speed=1000,
        sysfs="none",
        counts=False,
        vf_driver="igbvf",
    ),
    DemoPf(
        netdev="ibs{}",
        driver="mlx5_core",
        driver_version="24.10-2.1.8",
        firmware="28.43.2566 (MT_0000000838)",
        speed=200_000,
        pci_class=INFINIBAND,
        sysfs="file",
        vf_driver="mlx5_core",
    ),
    DemoPf(
        netdev="ens{}f1",
        driver="i40e",
        driver_version="6.12.48",
        firmware="9.50 0x8000f145 1.3682.0",
        speed=10_000,
        sysfs="none",
    ),
    DemoPf(netdev="", driver="vfio-pci", sysfs="none", vf_driver="vfio-pci"),
)


def pf(number: int, vfs: int) -> DemoPf:
    """Return PF `number` of the demo; the six kinds alternate."""
    domain, slot = divmod(number, 30)
    kind = _KINDS[number % len(_KINDS)]
    return replace(
        kind,
        address=f"{domain:04x}:{16 + 8 * slot:02x}:00.0",
        netdev=kind.netdev.format(number + 1),
        vfs=vfs,
        total_vfs=max(64, vfs),
        numa_node=number % 2,
        swell=0.5,
        swell_phase=2.0 * number,
    )


def pods(pfs: Sequence[SimulatedPf]) -> list[SimulatedPod]:
    """Return the demo's pods: one for every two VFs of a PF, up to three for a PF."""
    found = []
    free = dict(enumerate(_EXCLUSIVE_CPUS))  # by NUMA node; the first PF's pods get them
    for number, pf in enumerate(pfs):
        cpus = free.pop(pf.numa_node, ())
        for group in range(min(pf.vfs, _VFS_IN_USE) // 2):
            addresses = [pf.vf_address(2 * group), pf.vf_address(2 * group + 1)]
            devices, claims = {f"vendor.example/{pf.driver}_vf": addresses}, {}
            if group == 2:  # assigned by dynamic resource allocation (DRA)
                names = [_dra_name(address) for address in addresses]
                devices, claims = {}, {"sriovnetwork.k8snetworkplumbingwg.io": names}
            digest = hashlib.sha256(f"{number}.{group}".encode()).hexdigest()
            container = SimulatedContainer(
                name=("upf", "du", "router")[group],
                id=digest,
                cpus=cpus[group] if group < len(cpus) else "",
                devices=devices,
                claims=claims,
            )
            pod = SimulatedPod(
                name=f"{container.name}-{number}",
                namespace=("core", "ran", "edge")[group],
                uid=str(uuid.UUID(digest[:32])),
                containers=[container],
                qos="guaranteed" if container.cpus else "burstable",
            )
            found.append(pod)
    return found


def pools(pfs: Sequence[SimulatedPf]) -> Pools:
    """Return the devices of the demo's device plugins: all VFs that no DRA claim has."""
    claimed = {
        name for pod in pods(pfs) for owner in pod.containers for names in owner.claims.values()
        for name in names
    }  # fmt: skip
    found: dict[str, dict[int, list[str]]] = {}
    for pf in pfs:
        addresses = [pf.vf_address(vf) for vf in range(pf.vfs)]
        own = [address for address in addresses if _dra_name(address) not in claimed]
        nodes = found.setdefault(f"vendor.example/{pf.driver}_vf", {})
        nodes.setdefault(pf.numa_node, []).extend(own)
    return found


def _dra_name(address: str) -> str:
    """Return the name that dra-driver-sriov gives a device, by its PCI address."""
    return address.replace(":", "-").replace(".", "-")


@contextmanager
def host(pfs: int, vfs: int) -> Iterator[tuple[list[str], SimulatedHost]]:
    """Simulate a host with `pfs` PFs, and `vfs` VFs on each, in a temporary directory.

    Yields the flags that point the program at it, and the host. Its counters grow as long as
    the context lasts. Raises OSError if the directory cannot be created.
    """
    # A socket's path has at most 107 characters.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp"  # noqa: S108
    # A sample that is still being taken may write a counter while the directory is removed.
    with tempfile.TemporaryDirectory(
        prefix="sriov-demo-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        simulated = DemoHost(Path(folder), [pf(number, vfs) for number in range(pfs)])
        node = SimulatedNode(Path(folder), pods(simulated.pfs), pools=pools(simulated.pfs))
        sizes = f"{counted(pfs, 'PF')} with {counted(vfs, 'VF')}{' each' if pfs > 1 else ''}"
        log.write_line(f"simulated host: {sizes}, {counted(len(node.pods), 'pod')}")
        over = threading.Event()
        clock = threading.Thread(target=_keep_counting, args=(simulated, over))
        paths = simulated.flags + node.flags
        with simulated.running(), ExitStack() as stack:
            try:
                stack.enter_context(node.running())
            except Exception as error:  # grpcio or protobuf is missing or too old
                reason = packages.problem("kubepoddevice", error).text
                log.write_line(f"the simulated host has no kubelet: {reason}")
                paths.append("--no-collector.kubepoddevice")
            clock.start()
            try:
                yield paths, simulated
            finally:
                over.set()
                clock.join()


def next_steps() -> str:
    """Return what to try after the demo's metrics, in a few lines."""
    program = sys.argv[0] if os.path.basename(sys.argv[0]) == "sriov-textfile" else "sriov-textfile"
    return "\n".join(
        [
            "These are the metrics of a simulated host. To see why some counters are 0, and more:",
            f"  {program} demo doctor     shows every PF and VF, and explains what is wrong",
            f"  {program} demo top        shows which pods use the links, live",
            f"  {program} demo serve      serves the metrics on http://localhost:9808/metrics",
            f"  {program} doctor          examines this machine instead",
        ]
    )


def _keep_counting(simulated: SimulatedHost, over: threading.Event) -> None:
    while not over.wait(1):
        try:
            simulated.refresh()
        except OSError as error:  # The disk may be full.
            log.write_line(f"the counters of the simulated host no longer grow: {error}")
            return
