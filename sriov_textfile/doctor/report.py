"""Report: what doctor found, as plain data; docs/doctor.md documents it as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from sriov_textfile.inventory import Inventory
from sriov_textfile.problems import Problem


@dataclass
class CollectorResult:
    """The result of running a collector."""

    name: str
    success: bool
    seconds: float
    skipped: int  # inputs that it left out


@dataclass
class NodeExporter:
    """A running node_exporter, and the directories whose files it reads."""

    pid: int
    folders: list[str]
    reads_ours: bool | None  # whether it reads the textfile's directory; None if unknown


@dataclass
class Textfile:
    """The file for node_exporter, if --textfile.path is given."""

    path: str
    folder: str
    folder_exists: bool
    writable: bool
    problem: str  # what else is wrong with the path
    age_seconds: float | None  # None if the file does not exist
    stale_after_seconds: float
    node_exporters: list[NodeExporter]
    sees_processes: bool  # False in a container with a PID namespace of its own


@dataclass
class Finding:
    """Something that makes a metric missing or unreliable."""

    code: str  # stable, for programs
    about: str  # a PF's netdev or address, a path, a flag, or ""
    what: str
    meaning: str
    hint: str


@dataclass
class Report:
    """The facts about a host, and the findings."""

    version: str
    host: str
    kernel: str
    time: str  # RFC 3339, UTC
    user: str
    timeout_seconds: float  # --timeout, for all collectors together
    pf_exclude: str  # --collector.pf-exclude; "" if it is not given
    collectors: list[CollectorResult]  # those that are on
    failed: list[Problem]  # what a collection would log as errors
    skipped: list[Problem]  # what a collection would log as warnings
    inventory: Inventory
    textfile: Textfile | None
    flags_of: list[str] = field(default_factory=list)  # services; doctor took the first one's
    findings: list[Finding] = field(default_factory=list)
