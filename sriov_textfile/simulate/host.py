"""Builds a simulated host in a directory: sysfs, and an rtnetlink socket that agrees with it."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sriov_textfile.host.nic import Nic
from sriov_textfile.host.pci import Pf
from sriov_textfile.simulate import rdma
from sriov_textfile.simulate.rtnetlink import LinkSize, LinkVf, RtnetlinkServer, encode_link

ETHERNET, INFINIBAND, OTHER_NETWORK = "0x020000", "0x020700", "0x028000"

# The counters of a VF, and how much each grows per second.
GROWTH = {
    "rx_packets": 10_000,
    "tx_packets": 8_000,
    "rx_bytes": 9_000_000,
    "tx_bytes": 5_000_000,
    "rx_broadcast": 2,
    "rx_multicast": 5,
    "rx_dropped": 1,
    "tx_dropped": 1,
    "tx_errors": 0,
}
_SWELL_SECONDS = 90  # from one peak of traffic to the next
_UPTIME_SECONDS = 86_400  # of a host when it is simulated, and so the age of its devices


@dataclass
class SimulatedPf:
    """A PF to simulate.

    VF N's counters start at `first_count` + 1000 N + 1, 2, 3 …, in the order of GROWTH, and
    grow with time, N + 1 times as fast as VF 0's.
    """

    address: str = "0000:10:00.0"
    netdev: str = "ens1f0"  # "" for a PF that has none
    vfs: int = 8
    total_vfs: int = 64
    driver: str = "ice"
    pci_class: str = ETHERNET
    numa_node: int = 0
    # How the driver publishes VF counters in sysfs: a directory of files, one file, or not at all.
    sysfs: Literal["folder", "file", "none"] = "folder"
    counts: bool = True  # whether the driver has VF counters for rtnetlink; if not, they are 0
    busy: Container[int] = ()  # VFs that the driver resets: their counters read 0, but go on
    rdma: bool = False  # whether its VFs have RDMA devices, mlx5_2, mlx5_3 …
    rdma_elsewhere: Container[int] = ()  # VFs whose RDMA device is in another network namespace
    guids: bool = False  # whether it has GUIDs of its VFs, which Linux 5.10 reserves no space for
    first_count: int = 0
    swell: float = 0.0  # how much traffic varies about its mean, from 0 to 1
    swell_phase: float = 0.0  # of VF 0, in radians
    switchdev: bool = False  # with a representor for each VF, eth0, eth1 …
    second_port: str = ""  # netdev of a card's second port on the same PCI address
    driver_version: str | None = None
    firmware: str | None = None
    speed: int | None = 25_000  # Mbit/s; None for a link that is down
    vf_driver: str = "iavf"  # vfio-pci leaves the VFs without netdevs
    vf_offset: int = 256  # from the PF's routing ID to VF 0's, and from VF to VF
    vf_stride: int = 1

    @property
    def hardware_address(self) -> bytes:
        """The PF's hardware address: 6 bytes, or 20 on InfiniBand."""
        length = 20 if self.pci_class == INFINIBAND else 6
        return bytes([2, *self.address.encode()[-length + 1 :]]).ljust(length, b"\0")

    def vf_hardware_address(self, vf: int) -> bytes:
        """Return the hardware address that the PF assigned to a VF."""
        return self.hardware_address[:-2] + vf.to_bytes(2, "big")

    def vf_address(self, vf: int) -> str:
        """Return VF N's PCI address, whose 16-bit routing ID is bus, device and function."""
        domain, bus, device = self.address.split(":")
        slot, function = device.split(".")
        routing_id = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
        routing_id += self.vf_offset + vf * self.vf_stride
        return f"{domain}:{routing_id >> 8:02x}:{routing_id >> 3 & 31:02x}.{routing_id & 7}"

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        """Return the VF's counters some seconds after the start."""
        start = self.first_count + 1000 * vf
        # The integral of 1 + swell * sin(x), with a phase for each VF; it never falls.
        radians, phase = 2 * math.pi / _SWELL_SECONDS, self.swell_phase + vf
        swelled = math.cos(phase) - math.cos(radians * seconds + phase)
        volume = (vf + 1) * (seconds + self.swell * swelled / radians)
        return {
            name: start + order + int(growth * volume)
            for order, (name, growth) in enumerate(GROWTH.items(), 1)
        }

    def rdma_counters(self, vf: int, seconds: int) -> dict[str, dict[str, int]]:
        """Return the counters of the VF's RDMA device, by their directory in sysfs."""
        return {
            "counters": rdma.values(rdma.COUNTERS, vf, seconds),
            "hw_counters": rdma.values(rdma.HW_COUNTERS, vf, seconds),
        }

    def link_vf(self, vf: int, seconds: float) -> LinkVf:
        """Return the VF as the driver describes it to the kernel, which has no tx_errors."""
        return LinkVf(
            number=vf,
            mac=self.vf_hardware_address(vf),
            vlan=100 + vf if vf % 4 == 3 else 0,
            qos=3 if vf % 4 == 3 else 0,
            trust=vf % 2,
            max_tx_rate=10_000 if vf % 4 == 2 else 0,
            guid=vf + 1 if self.guids else None,
            stats=self.counters(vf, seconds) if self.counts and vf not in self.busy else {},
        )


class SimulatedHost:
    """A host in the directory `root`, with some PFs and a few other PCI devices.

    Sysfs exists from the start; rtnetlink answers within `with host.running():`.
    """

    name = "node-1"
    kernel = "Linux 6.12.48"

    def __init__(
        self, root: Path, pfs: Sequence[SimulatedPf], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self.pfs = list(pfs)
        self._clock = clock
        self._start = clock()
        self._refreshing = threading.Lock()
        self._written: dict[Path, str] = {}  # texts of files that are refreshed
        self._representors = itertools.count()
        self._ifindexes = itertools.count(2)  # 1 is lo
        self._born: dict[str, int] = {}  # when each VF was created, in seconds of the host
        self._rdma_devices = itertools.count(len(self.pfs))  # after those of the PFs
        self._rdma_ports: dict[tuple[str, int], Path] = {}  # by the PF's address and the VF
        self._devices = root / "sys/devices"
        self.bus = root / "sys/bus/pci/devices"
        self.net = root / "sys/class/net"
        self.bus.mkdir(parents=True)
        self.net.mkdir(parents=True)
        self.rtnetlink = str(root / "rtnetlink")
        for address, pci_class in (("0000:00:00.0", "0x060000"), ("0000:00:1f.6", ETHERNET)):
            self._add_device(address, pci_class, numa_node=-1)
        nvme = self._add_device("0000:00:1d.0", "0x010802", numa_node=0)
        _write(nvme / "sriov_totalvfs", 32)
        if any(pf.rdma for pf in self.pfs):
            self.set_rdma_mode(shared=True)
        for pf in self.pfs:
            self._add_pf(pf)

    @property
    def flags(self) -> list[str]:
        """The flags that point the program at this host."""
        return [f"--path.sysbuspci={self.bus}", f"--path.sysclassnet={self.net}"]

    @property
    def seconds(self) -> int:
        """How long the host has been up, in whole seconds."""
        return int(self._clock() - self._start)

    @property
    def uptime(self) -> float:
        """The time up to which the VFs have counted, in seconds: they count once a second."""
        return self.seconds

    @contextmanager
    def running(self) -> Iterator[RtnetlinkServer]:
        """Run rtnetlink for as long as the context lasts."""
        with RtnetlinkServer(self.rtnetlink, self.describe, self.links) as server:
            try:
                yield server
            finally:
                server.shutdown()

    def add_auxiliary_device(self, pf: SimulatedPf, name: str, netdev: str = "") -> None:
        """Add a part of a PF, such as a scalable function, to the auxiliary bus."""
        folder = self.device(pf.address).resolve() / name
        folder.mkdir()
        if netdev:
            (folder / "net" / netdev).mkdir(parents=True)
        bus = self.bus.parent.parent / "auxiliary/devices"
        bus.mkdir(parents=True, exist_ok=True)
        (bus / name).symlink_to(os.path.relpath(folder, bus))

    def describe(self, netdev: str, sequence: int) -> bytes | None:
        """Return the kernel's reply about a netdev, or None if it does not exist."""
        for pf in self.pfs:
            if netdev and netdev in (pf.netdev, pf.second_port):
                vfs = [pf.link_vf(vf, self.uptime) for vf in range(pf.vfs)]
                return encode_link(
                    netdev, pf.address, pf.hardware_address, pf.vfs, vfs, sequence=sequence
                )
        return None

    def links(self) -> dict[str, LinkSize]:
        """Return the PFs' netdevs, in the order of a dump."""
        return {
            netdev: LinkSize(pf.vfs, pf.guids)
            for pf in self.pfs
            for netdev in (pf.netdev, pf.second_port)
            if netdev
        }

    def device(self, address: str) -> Path:
        """Return the directory of a PCI device."""
        return self.bus / address

    def nic(self, pf: Pf) -> Nic:
        """Return what ethtool and devlink report of a PF's NIC, which no file has."""
        if not pf.netdev:
            return Nic()
        (simulated,) = [candidate for candidate in self.pfs if candidate.address == pf.address]
        return Nic(
            driver_version=simulated.driver_version,
            firmware=simulated.firmware,
            link_state="up" if simulated.speed else "down",
            speed=simulated.speed,
            eswitch_mode="switchdev" if simulated.switchdev else "legacy",
        )

    def set_vfs(self, pf: SimulatedPf, count: int) -> None:
        """Create or remove VFs, as writing to sriov_numvfs does."""
        device = self.device(pf.address)
        for vf in range(count, pf.vfs):
            address = pf.vf_address(vf)
            (device / f"virtfn{vf}").unlink()
            if pf.sysfs != "none":
                shutil.rmtree(device / f"sriov/{vf}")
            for netdev in (device.resolve().parent / address).glob("net/*"):
                (self.net / netdev.name).unlink()
            if port := self._rdma_ports.pop((pf.address, vf), None):
                (self.net.parent / "infiniband" / port.parent.parent.name).unlink()
            shutil.rmtree(self.device(address).resolve())
            self.device(address).unlink()
            self._written.clear()
        for vf in range(pf.vfs, count):
            self._add_vf(pf, vf, self.seconds)
        pf.vfs = count
        _write(device / "sriov_numvfs", count)

    def set_rdma_mode(self, shared: bool) -> None:
        """Set whether all network namespaces see all RDMA devices, as `rdma system set` does."""
        parameters = self.root / "sys/module/ib_core/parameters"
        parameters.mkdir(parents=True, exist_ok=True)
        _write(parameters / "netns_mode", "Y" if shared else "N")

    def refresh(self) -> None:
        """Write the current counters and the ages of the VFs into sysfs; any thread may do this."""
        self.refresh_without_rdma()
        for pf in self.pfs:
            for vf in range(pf.vfs):
                with self._refreshing:
                    self._write_rdma_counters(pf, vf)

    def refresh_without_rdma(self) -> None:
        """Do the same but for RDMA counters, which are most of the files."""
        for pf in self.pfs:
            for vf in range(pf.vfs):
                with self._refreshing:
                    self._write_counters(pf, vf)
                    self._write_age(pf.vf_address(vf))

    def _add_pf(self, pf: SimulatedPf) -> None:
        device = self._add_device(pf.address, pf.pci_class, pf.numa_node, pf.driver)
        _write(device / "sriov_totalvfs", pf.total_vfs)
        _write(device / "sriov_numvfs", pf.vfs)
        if pf.switchdev:
            for vf in range(pf.vfs):
                name = f"eth{next(self._representors)}"
                self._add_netdev(device, name, phys_port_name=f"pf0vf{vf}", switch="5e0001")
            self._add_netdev(device, pf.netdev, phys_port_name="p0", switch="5e0001")
        elif pf.netdev:
            self._add_netdev(device, pf.netdev)
        if pf.netdev:
            _write(device / "net" / pf.netdev / "speed", pf.speed or -1)
        if pf.second_port:
            self._add_netdev(device, pf.second_port, dev_port=1)
        if pf.rdma:
            rdma.create(device, self.net.parent, f"mlx5_{self.pfs.index(pf)}")
        for vf in range(pf.vfs):
            self._add_vf(pf, vf, -_UPTIME_SECONDS)

    def _add_vf(self, pf: SimulatedPf, vf: int, born: int) -> None:
        address = pf.vf_address(vf)
        parent = self.device(pf.address).resolve().parent
        device = self._add_device(address, pf.pci_class, pf.numa_node, pf.vf_driver, parent)
        (device / "physfn").symlink_to(f"../{pf.address}")
        (parent / pf.address / f"virtfn{vf}").symlink_to(f"../{address}")
        if pf.netdev and pf.vf_driver not in ("", "vfio-pci"):
            name = f"{pf.netdev}v{vf}"
            self._add_netdev(device, name)
            statistics = device / "net" / name / "statistics"
            statistics.mkdir()
            for counter in ("rx_packets", "tx_packets"):
                _write(statistics / counter, pf.counters(vf, self.seconds)[counter])
        if pf.sysfs != "none":
            (parent / pf.address / f"sriov/{vf}").mkdir(parents=True)
        self._write_counters(pf, vf)
        if pf.rdma and vf not in pf.rdma_elsewhere:
            name = f"mlx5_{next(self._rdma_devices)}"
            self._rdma_ports[pf.address, vf] = rdma.create(device, self.net.parent, name)
            self._write_rdma_counters(pf, vf)
        (device / "power").mkdir()
        _write(device / "power/runtime_suspended_time", 0)
        self._born[address] = born
        self._write_age(address)

    def _write_rdma_counters(self, pf: SimulatedPf, vf: int) -> None:
        if port := self._rdma_ports.get((pf.address, vf)):
            for folder, counters in pf.rdma_counters(vf, self.seconds).items():
                for name, value in counters.items():
                    self._replace(port / folder / name, str(value))

    def _write_age(self, address: str) -> None:
        age = self.seconds - self._born[address]
        self._replace(self.device(address) / "power/runtime_active_time", str(1000 * age))

    def _write_counters(self, pf: SimulatedPf, vf: int) -> None:
        stats = self.device(pf.address) / f"sriov/{vf}/stats"
        counters = pf.counters(vf, self.uptime)
        if vf in pf.busy:
            counters = dict.fromkeys(counters, 0)
        if pf.sysfs == "folder":
            stats.mkdir(exist_ok=True)
            for name, value in counters.items():
                self._replace(stats / name, str(value))
        elif pf.sysfs == "file":
            lines = [f"{name:<14}: {value}" for name, value in counters.items()]
            self._replace(stats, "\n".join(lines))

    def _replace(self, path: Path, text: str) -> None:
        """Replace a file, so that a running reader sees the old text or the new one."""
        if self._written.get(path) != text:
            new = self.root / "new"
            _write(new, text)
            new.rename(path)
            self._written[path] = text

    def _add_device(
        self,
        address: str,
        pci_class: str,
        numa_node: int,
        driver: str = "",
        parent: Path | None = None,
    ) -> Path:
        folder = parent or self._devices / f"pci{address[:-5]}"
        device = folder / address
        device.mkdir(parents=True)
        _write(device / "class", pci_class)
        _write(device / "numa_node", numa_node)
        if driver:
            drivers = self.root / "sys/bus/pci/drivers" / driver
            drivers.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
        (self.bus / address).symlink_to(f"../../../devices/{folder.name}/{address}")
        return device

    def _add_netdev(
        self,
        device: Path,
        name: str,
        phys_port_name: str = "",
        switch: str = "",
        dev_port: int = 0,
    ) -> None:
        netdev = device / "net" / name
        netdev.mkdir(parents=True)
        _write(netdev / "dev_port", dev_port)
        _write(netdev / "ifindex", next(self._ifindexes))
        # The kernel has these files and returns EOPNOTSUPP; a simulated file can only be missing.
        if phys_port_name:
            _write(netdev / "phys_port_name", phys_port_name)
        if switch:
            _write(netdev / "phys_switch_id", switch)
        (netdev / "device").symlink_to(f"../../../{device.name}")
        (self.net / name).symlink_to(f"../../devices/{device.parent.name}/{device.name}/net/{name}")


def _write(path: Path, value: object) -> None:
    path.write_text(f"{value}\n")
