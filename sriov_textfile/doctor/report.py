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
    """A reader of VF counters, and how many VFs of a PF it serves."""

    name: str
    vfs: int
    why_not: str  # why it does not serve all; "" if it does
    failure: str  # what failed, though another reader may have served


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
    unknown_here: bool  # whether this network namespace has no such netdev
    vf_list_wrapped: bool  # whether other tools lose VFs
    configuration_problem: str  # why nothing is known of MACs, VLANs and so on
    readers: list[Reader]
    vfs: list[Vf]


@dataclass
class Problem:
    """Something that could not be had, why, and what to do about it, if that is known."""

    flag: str  # the flag that says where to look, without dashes
    reason: str
    mend: str = ""


@dataclass
class Kubelet:
    """What came of asking the kubelet."""

    wanted: bool  # whether kubepoddevice is on
    socket: str
    asked: bool = False
    problem: Problem | None = None
    devices: int = 0  # PCI devices that pods hold


@dataclass
class Cpus:
    """What kubepodcpu needs, if it is on."""

    wanted: bool
    policy: str = ""  # of the CPU manager; "" if not known
    problems: list[Problem] = field(default_factory=list)


@dataclass
class NodeExporter:
    """A node_exporter that runs, and the folders whose files it reads."""

    pid: int
    folders: list[str]
    reads_ours: bool | None  # None where this user may not look


@dataclass
class Textfile:
    """The file for node_exporter, if --textfile.path says which."""

    path: str
    folder: str
    folder_exists: bool
    writable: bool
    problem: str  # what else is wrong with the path
    age_seconds: float | None  # None where there is no file yet
    stale_after_seconds: float
    node_exporters: list[NodeExporter]
    sees_processes: bool  # False in a container, which has process IDs of its own


@dataclass
class CollectorRun:
    """What came of running a collector, as a collection does."""

    name: str
    success: bool
    seconds: float
    problems: list[str]  # what it logs as failed


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
    host: str
    kernel: str
    time: str
    user: str
    collectors: list[CollectorRun]  # those that are on
    seconds_allowed: float  # --timeout, for all of them together
    kubelet: Kubelet
    cpus: Cpus
    textfile: Textfile | None
    paths: list[Problem] = field(default_factory=list)  # where sysfs could not be read
    nics: str = ""  # why there is nothing of drivers, firmware and links
    left_out: int = 0  # PFs that --collector.pf-include and pf-exclude leave out
    pfs: list[Pf] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what could not be read
    findings: list[Finding] = field(default_factory=list)
