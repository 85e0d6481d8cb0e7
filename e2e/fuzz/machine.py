"""The simulated machine of one case, and the counters that the program must report."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import grpc

from sriov_textfile.host.rtnetlink import VF_STATS
from sriov_textfile.simulate.host import (
    ETHERNET,
    GROWTH,
    INFINIBAND,
    OTHER_NETWORK,
    SimulatedHost,
    SimulatedPf,
)
from sriov_textfile.simulate.kubelet import allocatable, response
from sriov_textfile.simulate.kubernetes import Layout, SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from sriov_textfile.simulate.rtnetlink import LinkVf, RtnetlinkServer

DEFAULT_TIMEOUT = 10.0  # of the program
# With less time, a busy machine may not answer before the program gives up.
_ENOUGH_SECONDS = 4.0

# The start of a netdev's name, and what the program writes for it.
_NETDEVS = (
    "ens",
    "enp3s0f",
    'e"',
    "e\\",
    "e\\n",
    "é",
    "e\nf",
    "{x=",
    "\udcff",
    "\u2028",
    "e #",
    "%",
)
_EXTRA_COUNTERS = ("rx_ring_0_packets", "tx_total", "RX", "_", "0", "rx_bucket", "rx_count")
_NAMES = ("upf-0", "", 'p"', "p\\", "p\nq", "é", "x" * 253, "\0", "}", "# TYPE a counter")


@dataclass
class Expected:
    """The counters that one reader may return for one VF."""

    values: dict[str, int]
    optional: set[str] = field(default_factory=set)  # may be missing, but never be wrong
    anything: bool = False  # the damage may have changed the values

    def lose(self) -> None:
        """Let all counters be missing."""
        self.optional |= self.values.keys()

    @property
    def may_be_missing(self) -> bool:
        return self.anything or self.values.keys() <= self.optional

    def fits(self, counters: dict[str, int]) -> bool:
        """Whether the reader may have returned these counters."""
        return self.anything or (
            counters.items() <= self.values.items()
            and self.values.keys() - self.optional <= counters.keys()
        )


@dataclass
class FuzzPf(SimulatedPf):
    """A PF whose counters have up to 64 bits, and other values by netlink than in sysfs."""

    extra: tuple[str, ...] = ()  # more counters in sysfs

    @property
    def ports(self) -> list[str]:
        """The netdevs of the PF's ports."""
        return [netdev for netdev in (self.netdev, self.second_port) if netdev]

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        return _values(f"{self.address} {vf} sysfs", [*GROWTH, *self.extra])

    def by_netlink(self, vf: int) -> dict[str, int]:
        """Return the counters that netlink has for a VF."""
        if not self.counts:
            return dict.fromkeys(VF_STATS.values(), 0)
        return _values(f"{self.address} {vf} netlink", VF_STATS.values())

    def link_vf(self, vf: int, seconds: float) -> LinkVf:
        return replace(super().link_vf(vf, seconds), stats=self.by_netlink(vf))


def _values(seed: str, names: Iterable[str]) -> dict[str, int]:
    random = Random(seed)
    edges = (0, 2**53 + 1, 2**63, 2**64 - 1)
    return {
        name: random.choice(edges) if random.random() < 0.1 else random.getrandbits(64)
        for name in names
    }


def _device_checkpoint(pods: Sequence[SimulatedPod]) -> str:
    entries = [
        {"PodUID": pod.uid, "ContainerName": c.name, "ResourceName": name, "DeviceIDs": {"0": ids}}
        for pod in pods
        for c in pod.containers
        for name, ids in c.devices.items()
    ]
    return json.dumps({"Data": {"PodDeviceEntries": entries}, "Checksum": 1})


@dataclass
class Kubelet:
    """What the kubelet answers: a gRPC response or status, or else any bytes on its socket."""

    response: bytes = b""
    allocatable: bytes | None = b""  # None is a kubelet that does not report it
    status: grpc.StatusCode | None = None
    details: str = ""
    hangs: bool = False
    raw: bytes = b""  # what a server that does not speak gRPC sends


class Machine:
    """A simulated host and node, the command line, and what the program must report.

    `counters` has what each reader may return, by netdev, VF number and reader. `lost` has the VFs
    that the program may not find, and `renamed` is whether it may find others.
    """

    def __init__(self, seed: int, folder: Path, rtnetlink: str, kubelet: str) -> None:
        """Build the machine in a folder; the arguments name the sockets of its servers."""
        self.random = random = Random(f"machine {seed}")
        self.folder = folder
        self.pfs = [_pf(random, number) for number in range(_count_of_pfs(random))]
        self.host = SimulatedHost(folder, self.pfs, clock=lambda: 0.0)
        self.pods = _pods(random, self.pfs)
        self.node = SimulatedNode(
            folder,
            self.pods,
            numa=random.choice([("0-3,8-11", "4-7,12-15"), ("0-15",), ("0-7", "", "8-15")]),
            layout=_layout(random),
        )
        self.rtnetlink = rtnetlink
        self.replies: dict[str, Callable[[RtnetlinkServer, bytes], bytes | None]] = {}
        pools = {
            f"vendor/vf{number}": {pf.numa_node: [*map(pf.vf_address, range(pf.vfs))]}
            for number, pf in enumerate(self.pfs)
        }
        self.kubelet = Kubelet(
            response(self.pods, pools).SerializeToString(), allocatable(pools).SerializeToString()
        )
        self.device_checkpoint = (
            self.node.checkpoint.parent / "device-plugins/kubelet_internal_checkpoint"
        )
        self.device_checkpoint.parent.mkdir()
        self.device_checkpoint.write_text(_device_checkpoint(self.pods))
        self.over = threading.Event()  # the case has ended; what hangs goes on
        self.damage: list[str] = []  # the kinds of damage

        self.healthy_pf = random.choice(self.pfs) if random.random() < 0.9 else None
        self.counters = {
            (netdev, vf): _expected(pf, vf)
            for pf in self.pfs
            for netdev in pf.ports
            for vf in range(pf.vfs)
        }
        self.addresses = {
            (netdev, vf): pf.vf_address(vf)
            for pf in self.pfs
            for netdev in pf.ports
            for vf in range(pf.vfs)
        }
        self.lost: set[tuple[str, int]] = set()
        self.renamed = False
        self.hangs = 0
        self.may_fail = False  # whether exit code 1 is right
        self.unprivileged = False  # whether the program must respect file permissions
        self.unreadable: list[Path] = []

        self.collectors = _collectors(random)
        self.readers = _readers(random)
        self.include, self.exclude = _filters(random, self.pfs)
        self.command = ""
        self.bad_arguments: list[str] = []
        self.timeout = 0.05 * random.randint(1, 30) if random.random() < 0.05 else DEFAULT_TIMEOUT
        self.textfile: Path | None = folder / "sriov.prom" if random.random() < 0.5 else None
        self.paths = {
            "path.sysbuspci": str(self.host.bus),
            "path.sysclassnet": str(self.host.net),
            "path.cpucheckpoint": str(self.node.checkpoint),
            "path.kubecgroup": str(self.node.cgroups),
            "path.kubeletsocket": kubelet,
            "path.nodecpuinfo": str(self.node.nodes),
        }

    @property
    def patient(self) -> bool:
        """Whether the program has enough time to read everything that does not hang."""
        return self.timeout >= _ENOUGH_SECONDS and self.hangs < 2

    def arguments(self) -> list[str]:
        """Return the command line."""
        random = self.random
        defaults = {"vfstats", "pfinfo"}
        words = [f"--{name}={value}" for name, value in self.paths.items()]
        for name in ("vfstats", "vfinfo", "vfrdma", "pfinfo", "kubepoddevice", "kubepodcpu"):
            on = name in self.collectors
            if on != (name in defaults) or random.random() < 0.2:
                words.append(_switch(random, f"collector.{name}", on))
        for name in ("sysfs", "netlink"):
            if name not in self.readers:
                words.append(_switch(random, f"collector.{name}", False))
        order = [*self.readers, *[r for r in ("netlink", "sysfs") if r not in self.readers]]
        if order != ["sysfs", "netlink"] or random.random() < 0.2:
            words.append(f"--collector.vfstatspriority={random.choice([',', ', ']).join(order)}")
        if self.include:
            words.append(f"--collector.pf-include={self.include}")
        if self.exclude:
            words.append(f"--collector.pf-exclude={self.exclude}")
        if self.timeout != DEFAULT_TIMEOUT:
            form = random.choice(["{:.3f}", "{:.3f}s", "{:.3f}S", "0m{:.3f}s"])
            words.append(f"--timeout={form.format(self.timeout).lower()}")
        if random.random() < 0.3:
            words.append(f"--log.level={random.choice(['debug', 'info', 'WARN', 'error'])}")
        if random.random() < 0.3:
            words.append("--log.format=json")
        if self.textfile and not self.command:
            words.append(f"--textfile.path={self.textfile}")
        words = [word.removeprefix("-") if random.random() < 0.1 else word for word in words]
        words += self.bad_arguments
        random.shuffle(words)
        return [*self.command.split(), *words]

    def of(self, pf: FuzzPf, vf: int, reader: str) -> Iterator[Expected]:
        """Yield what a reader may return for a VF, once for each port of the PF."""
        for netdev in pf.ports:
            if expected := self.counters[netdev, vf].get(reader):
                yield expected

    def lose(self, pf: FuzzPf, *vfs: int) -> None:
        """Let the program not find some VFs, or any VF of a PF, or not their files."""
        for netdev in pf.ports:
            self.lost.update([(netdev, vf) for vf in vfs or range(pf.vfs)])
        self.lose_counters(pf, "sysfs", *vfs)
        self.renamed = True

    def lose_counters(self, pf: FuzzPf, reader: str, *vfs: int) -> None:
        """Let a reader have no counters for some VFs, or any VF of a PF."""
        for vf in vfs or range(pf.vfs):
            for expected in self.of(pf, vf, reader):
                expected.lose()

    def hang(self) -> None:
        """Give the program little time, of which it spends most on what hangs."""
        self.hangs += 1
        self.may_fail = True
        self.timeout = min(self.timeout, self.random.choice((0.3, 0.5, 1.0, 4.0)))

    def some_pf(self) -> FuzzPf | None:
        """Return a PF to damage, or None if there is none but the healthy one."""
        pfs = [pf for pf in self.pfs if pf is not self.healthy_pf]
        return self.random.choice(pfs) if pfs else None

    def some_vf(self, *sysfs: str) -> tuple[FuzzPf, int] | None:
        """Return a VF to damage, of a PF with this kind of counters in sysfs, or None.

        It may be a VF of the healthy PF, but never its VF 0.
        """
        vfs = [
            (pf, vf)
            for pf in self.pfs
            for vf in range(pf is self.healthy_pf, pf.vfs)
            if pf.sysfs in sysfs
        ]
        return self.random.choice(vfs) if vfs else None

    def selected(self, netdev: str) -> bool:
        """Whether the flags select the PF with this netdev."""
        included = not self.include or re.search(self.include, netdev)
        return bool(included and not (self.exclude and re.search(self.exclude, netdev)))

    def close(self) -> None:
        """End what hangs, and make everything removable."""
        self.over.set()
        for path in sorted(set(self.unreadable)):
            with contextlib.suppress(OSError):
                path.chmod(0o700)


def _count_of_pfs(random: Random) -> int:
    return random.choice((1, 2, 2, 2, 3, 3, 4))


def _pf(random: Random, number: int) -> FuzzPf:
    netdev = f"{random.choice(_NETDEVS) if random.random() < 0.3 else 'ens'}{number}"
    if random.random() < 0.05:
        netdev = ""
    driver = random.choice(("ice", "mlx5_core", "igb", "i40e"))
    vfs = random.choice((0, 1, 1, 2, 2, 3, 4, 5, 8, 20))
    switchdev = bool(netdev) and random.random() < 0.15
    second_port = bool(netdev) and not switchdev and random.random() < 0.1
    return FuzzPf(
        address=f"{random.choice(('0000', '0000', '10000'))}:{16 + 32 * number:02x}:00.0",
        netdev=netdev,
        vfs=vfs,
        total_vfs=random.choice((vfs, 64)),
        driver=driver,
        pci_class=random.choice((ETHERNET, ETHERNET, ETHERNET, INFINIBAND, OTHER_NETWORK)),
        numa_node=random.choice((-1, 0, 1)),
        sysfs=random.choice(("folder", "file", "none")),
        counts=driver != "igb",
        rdma=driver == "mlx5_core" and vfs < 5,
        switchdev=switchdev,
        second_port=f"{netdev}b" if second_port else "",
        vf_driver=random.choice(("vfio-pci", "vfio-pci", "vfio-pci", "iavf", "")),
        vf_stride=random.choice((1, 1, 2)),
        extra=tuple(random.sample(_EXTRA_COUNTERS, 2)) if random.random() < 0.1 else (),
    )


def _expected(pf: FuzzPf, vf: int) -> dict[str, Expected]:
    readers = {"netlink": Expected(pf.by_netlink(vf))}
    if pf.sysfs != "none":
        readers["sysfs"] = Expected(pf.counters(vf, 0))
    return readers


def _pods(random: Random, pfs: list[FuzzPf]) -> list[SimulatedPod]:
    pods = []
    for _ in range(random.choice((0, 1, 2, 4))):
        containers = [_container(random, pfs) for _ in range(random.choice((1, 1, 2)))]
        uid = f"{random.getrandbits(128):032x}"
        if random.random() < 0.8:
            uid = "-".join([uid[:8], uid[8:12], uid[12:16], uid[16:20], uid[20:]])
        pod = SimulatedPod(_name(random), _name(random), uid, containers)
        pod.qos = random.choice(("guaranteed", "burstable", "besteffort"))
        pods.append(pod)
    return pods


def _container(random: Random, pfs: list[FuzzPf]) -> SimulatedContainer:
    addresses = [pf.vf_address(vf) for pf in pfs for vf in range(pf.vfs)]
    some = random.sample(addresses, min(len(addresses), random.choice((0, 1, 2))))
    claimed = [address.replace(":", "-").replace(".", "-") for address in some]
    by_claim = random.random() < 0.3
    return SimulatedContainer(
        name=_name(random),
        id=f"{random.getrandbits(256):064x}",
        cpus=random.choice(("", "2-3", "4", "5,12-13")),
        devices={} if by_claim else {_name(random): [*some, "gpu-0"]},
        claims={_name(random): claimed} if by_claim else {},
    )


def _name(random: Random) -> str:
    return random.choice(_NAMES) if random.random() < 0.2 else f"name-{random.randrange(100)}"


def _layout(random: Random) -> Layout:
    return Layout(
        version=random.choice((1, 2)),
        driver=random.choice(("systemd", "cgroupfs")),
        runtime=random.choice(("cri-containerd", "crio", "docker")),
        nested=random.random() < 0.2,
    )


def _collectors(random: Random) -> set[str]:
    shares = {
        "vfstats": 0.95,
        "vfinfo": 0.5,
        "vfrdma": 0.2,
        "pfinfo": 0.8,
        "kubepoddevice": 0.3,
        "kubepodcpu": 0.4,
    }
    return {name for name, share in shares.items() if random.random() < share}


def _readers(random: Random) -> tuple[str, ...]:
    """Return the readers in the order in which the program is to try them."""
    if random.random() < 0.6:
        return "sysfs", "netlink"
    return random.choice((("netlink", "sysfs"), ("sysfs",), ("netlink",), ()))


def _filters(random: Random, pfs: list[FuzzPf]) -> tuple[str, str]:
    """Return regular expressions for PFs to include and to exclude, mostly empty."""
    netdev = re.escape(random.choice(pfs).netdev)
    if not netdev or random.random() < 0.9:
        return "", ""
    return random.choice(((netdev, ""), ("", f"^{netdev}$"), ("ens|^e", netdev)))


def _switch(random: Random, flag: str, on: bool) -> str:
    if on:
        return random.choice((f"--{flag}", f"--{flag}=true", f"--{flag}=1", f"--{flag.upper()}=T"))
    return random.choice((f"--no-{flag}", f"--{flag}=false", f"--{flag}=0"))
