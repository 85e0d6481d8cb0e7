"""Report: what doctor found, as plain data. `--json` prints it as it is here."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Vf:
    """A VF. None is what nobody says of it."""

    number: int
    address: str
    driver: str  # "" where it is bound to none
    netdev: str  # "" where it has none in this network namespace
    netdev_packets: int | None  # what its own netdev has counted, if it is here
    mac: str | None = None
    vlan: int | None = None
    qos: int | None = None
    vlan_proto: str | None = None
    trust: bool | None = None
    spoofchk: bool | None = None
    link_state: str | None = None
    counters: dict[str, int] = field(default_factory=dict)
    pods: list[str] = field(default_factory=list)  # namespace/name


@dataclass
class Reader:
    """A reader of VF counters, how many VFs of the PF it serves, and why not all."""

    name: str
    vfs: int
    why_not: str


@dataclass
class Pf:
    """A PF. None is what nobody says of it."""

    address: str
    netdev: str
    kind: str  # Ethernet, InfiniBand
    driver: str
    driver_version: str | None
    firmware: str | None
    numa_node: str
    link_state: str | None
    speed_mbps: int | None
    eswitch_mode: str | None
    total_vfs: int
    num_vfs: int | None
    in_other_namespace: bool  # whether the kernel knows no such netdev here
    vf_list_wrapped: bool  # whether other tools lose VFs
    netlink_problem: str  # why its link could not be had
    readers: list[Reader]
    vfs: list[Vf]


@dataclass
class Kubelet:
    """What came of asking the kubelet."""

    wanted: bool  # whether kubepoddevice is on
    socket: str
    problem: str  # "" if it answered
    mend: str
    devices: int  # PCI devices that pods hold


@dataclass
class Cpus:
    """What kubepodcpu needs, if it is on."""

    wanted: bool
    policy: str  # of the CPU manager; "" if not known
    missing: list[str]  # what cannot be read, and why


@dataclass
class NodeExporter:
    """A node_exporter that runs, and the folder whose files it reads; "" for none."""

    pid: int
    folder: str
    reads_ours: bool


@dataclass
class Textfile:
    """The file for node_exporter, if --textfile.path says which."""

    path: str
    folder_exists: bool
    writable: bool
    age_seconds: float | None  # None where there is no file yet
    stale_after_seconds: float
    node_exporters: list[NodeExporter]
    sees_processes: bool  # False in a container, which has process IDs of its own


@dataclass
class Finding:
    """Something that keeps a metric away or makes it doubtful."""

    code: str  # stable, for machines
    about: str  # a PF's netdev or address, a path, or ""
    what: str
    meaning: str
    mend: str


@dataclass
class Report:
    """All of it."""

    version: str
    user: str
    pci_problem: str  # why PCI devices could not be listed
    net_problem: str  # why the netdevs' folder cannot be used
    nic_problem: str  # why there is nothing of drivers, firmware and links
    left_out: int  # PFs that --collector.pf-include and pf-exclude leave out
    pfs: list[Pf]
    kubelet: Kubelet
    cpus: Cpus
    textfile: Textfile | None
    skipped: list[str]  # what could not be read
    findings: list[Finding] = field(default_factory=list)
