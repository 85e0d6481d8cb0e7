"""Prints a Report: as aligned text for people, or as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from sriov_textfile.collectors import vfstats
from sriov_textfile.doctor.report import Finding, Report, Textfile
from sriov_textfile.inventory import Container, Cpus, Kubelet, Pf, ReaderUse, Vf
from sriov_textfile.log import printable
from sriov_textfile.problems import Problem, counted
from sriov_textfile.table import aligned

# SGR parameters (ECMA-48).
_PLAIN, _BOLD, _RED, _GREEN = "", "1", "31", "32"
_WIDTH, _LEAST_WIDTH = 100, 60


def as_json(report: Report) -> str:
    """Return the JSON that docs/doctor.md documents; `healthy` agrees with the exit code."""
    facts = asdict(report)
    inventory = facts.pop("inventory")
    findings = facts.pop("findings")
    whole = {"healthy": not findings, **facts, **inventory, "findings": findings}
    return json.dumps(whole, indent=2, default=Problem.as_dict) + "\n"


def terminal() -> tuple[int, bool]:
    """Return the width of standard output, and whether it is a terminal that shows colours.

    NO_COLOR in the environment turns colours off (https://no-color.org).
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return _WIDTH, False
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return max(width, _LEAST_WIDTH), not plain


def as_text(report: Report, width: int, colour: bool) -> str:
    """Return the report as lines; sentences are wrapped at `width`, tables are not.

    `colour` adds escape sequences (ECMA-48). Escape sequences in names from the machine are
    printed as text.
    """
    lines = []
    for style, line in _Text(width).report(report):
        text = printable(line)
        lines.append(f"\x1b[{style}m{text}\x1b[0m" if style and colour else text)
    return "\n".join(lines) + "\n"


_Line = tuple[str, str]  # style and text


class _Text:
    """Formats a report as lines."""

    def __init__(self, width: int) -> None:
        self._width = width

    def report(self, report: Report) -> Iterator[_Line]:
        """Yield all lines: the number of findings, the facts, the findings."""
        count = counted(len(report.findings), "finding")
        title = f"{report.host}, {report.kernel}, {report.time}: {count}"
        style = _RED if report.findings else _GREEN
        yield from self._wrapped(style, "", f"{title}, see below" if report.findings else title)
        yield _PLAIN, ""
        for pf in report.inventory.pfs:
            yield from self._pf(pf)
            yield _PLAIN, ""
        if containers := report.inventory.kubelet.containers:
            yield _BOLD, "Containers with devices or exclusive CPUs"
            for line in aligned(_containers(containers)):
                yield _PLAIN, f"  {line}"
            yield _PLAIN, ""
        yield from self._facts("", _environment(report))
        yield _PLAIN, ""
        yield style, count if report.findings else _nothing_found(report)
        for number, finding in enumerate(report.findings, 1):
            yield _PLAIN, ""
            yield from self._finding(number, finding)

    def _pf(self, pf: Pf) -> Iterator[_Line]:
        yield _BOLD, f"PF {pf.netdev or '(no netdev)'}  {pf.address}  {pf.kind}"
        yield from self._facts("  ", _pf_facts(pf))
        for table in (_configuration(pf.vfs), _counters(pf.vfs)):
            if len(table) > 1:
                yield _PLAIN, ""
                for line in aligned(table):
                    yield _PLAIN, f"  {line}"

    def _facts(self, indent: str, facts: Sequence[tuple[str, str]]) -> Iterator[_Line]:
        longest = max(len(name) for name, _ in facts)
        for name, text in facts:
            yield from self._wrapped(_PLAIN, f"{indent}{name:<{longest}}  ", text)

    def _finding(self, number: int, finding: Finding) -> Iterator[_Line]:
        yield from self._wrapped(_BOLD, f"{number}. ", f"{finding.code}: {finding.what}")
        yield from self._wrapped(_PLAIN, "   meaning  ", finding.meaning)
        yield from self._wrapped(_PLAIN, "   to do    ", finding.hint)

    def _wrapped(self, style: str, start: str, text: str) -> Iterator[_Line]:
        lines = textwrap.wrap(
            text,
            self._width,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines or [start.rstrip()]:
            yield style, line


def _nothing_found(report: Report) -> str:
    checked = {
        "pods": report.inventory.kubelet.asked and not report.inventory.kubelet.problem,
        "CPUs": report.inventory.cpus.enabled,
        "textfile": bool(report.textfile),
    }
    left = [name for name, is_checked in checked.items() if not is_checked]
    return f"No findings. Not checked: {', '.join(left)}." if left else "No findings."


def _pf_facts(pf: Pf) -> list[tuple[str, str]]:
    speed = f", {pf.speed_mbps} Mbit/s" if pf.speed_mbps else ""
    version = f" {pf.driver_version}" if pf.driver_version else ""
    existing = len(pf.vfs) if pf.num_vfs is None else pf.num_vfs
    return [
        ("driver", f"{pf.driver or 'none'}{version}"),
        ("firmware", pf.firmware or "unknown"),
        ("NUMA node", pf.numa_node or "unknown"),
        ("link", (pf.link_state or "unknown") + speed),
        ("eswitch", pf.eswitch_mode or "unknown"),
        ("VFs", f"{existing} of {pf.total_vfs}"),
        *[(f"{reader.name} reader", _serves(reader, pf)) for reader in pf.readers],
        *([("rtnetlink", pf.link_problem.text)] if pf.link_problem else []),
    ]


def _serves(reader: ReaderUse, pf: Pf) -> str:
    if not reader.vfs and reader.why_not:
        return reader.why_not
    serves = f"serves {counted(reader.vfs, 'VF')}"
    if reader.vfs and not any(any(vf.counters.values()) for vf in pf.vfs):
        serves += "; all counters are 0"
    return f"{serves}; {reader.why_not}" if reader.why_not else serves


def _configuration(vfs: Sequence[Vf]) -> list[list[str]]:
    head = ["VF", "PCI address", "driver", "netdev", "MAC"]
    head += ["VLAN", "trust", "spoofchk", "link", "pod"]
    rows = [
        [
            str(vf.number),
            vf.address,
            vf.driver or "-",
            vf.netdev or "-",
            vf.mac or "-",
            _vlan(vf),
            _switch(vf.trust),
            _switch(vf.spoofchk),
            vf.link_state or "-",
            " ".join(vf.pods) or "-",
        ]
        for vf in vfs
    ]
    return [head, *rows]


def _counters(vfs: Sequence[Vf]) -> list[list[str]]:
    known = [name for name in vfstats.HELP if any(name in vf.counters for vf in vfs)]
    rows = [
        [str(vf.number), vf.address, *[str(vf.counters.get(name, "-")) for name in known]]
        for vf in vfs
    ]
    return [["VF", "PCI address", *known], *rows] if known else []


def _containers(containers: Sequence[Container]) -> list[list[str]]:
    rows = [
        [
            container.name,
            _ranges(container.cpus) or "-",
            ",".join(container.cpu_numa_nodes) or "-",
            " ".join([device.name for device in container.devices]) or "-",
            ",".join(sorted({n for device in container.devices for n in device.numa_nodes})) or "-",
        ]
        for container in containers
    ]
    return [["container", "CPUs", "their NUMA node", "devices", "their NUMA node"], *rows]


def _ranges(cpus: Sequence[int]) -> str:
    """Return ascending numbers as the kernel writes a list of CPUs: 0-3,8."""
    ranges: list[list[int]] = []
    for cpu in cpus:
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join([f"{a}-{b}" if a != b else str(a) for a, b in ranges])


def _vlan(vf: Vf) -> str:
    if vf.vlan is None:
        return "-"
    return f"{vf.vlan} qos {vf.qos}" if vf.qos else str(vf.vlan)


def _switch(value: bool | None) -> str:
    return "-" if value is None else ("on" if value else "off")


def _environment(report: Report) -> list[tuple[str, str]]:
    inventory = report.inventory
    facts = [
        ("run by", f"{report.user}, sriov-textfile {report.version}"),
        *([("flags", _flags_of(report.flags_of))] if report.flags_of else []),
        ("pods", _pods(inventory.kubelet)),
        ("CPUs", _cpus(inventory.cpus)),
        ("textfile", _textfile(report.textfile)),
    ]
    if inventory.problem:
        facts.append(("PFs", inventory.problem.reason))
    if inventory.nics:
        facts.append(("NICs", f"driver versions, firmware and links are unknown: {inventory.nics}"))
    return facts


def _flags_of(services: Sequence[str]) -> str:
    first, *others = services
    return f"looked with the flags of {first}" + (f"; not of {', '.join(others)}" if others else "")


def _pods(kubelet: Kubelet) -> str:
    if not kubelet.asked:
        return "not checked: --collector.kubepoddevice is off"
    if kubelet.problem:
        return kubelet.problem.reason
    devices = counted(kubelet.devices, "PCI device")
    return f"use {devices} (from the kubelet at {kubelet.socket})"


def _cpus(cpus: Cpus) -> str:
    if not cpus.enabled:
        return "not checked: --collector.kubepodcpu is off"
    where = f"; pods' cgroups in {cpus.cgroups}" if cpus.cgroups else ""
    return f"CPU manager policy {cpus.policy or 'unknown'}{where}"


def _textfile(textfile: Textfile | None) -> str:
    if textfile is None:
        return "not checked: pass the --textfile.path of the timer, cron job or sidecar"
    age = textfile.problem or "does not exist"
    if textfile.age_seconds is not None and not textfile.problem:
        age = f"written {textfile.age_seconds:.0f} s ago"
    exporters = textfile.node_exporters
    readers = [str(exporter.pid) for exporter in exporters if exporter.reads_ours]
    unknown = any(exporter.reads_ours is None for exporter in exporters)
    if readers:
        read = f"node_exporter (process {', '.join(readers)}) reads its directory"
    elif unknown or not (exporters or textfile.sees_processes):
        read = "it is unknown whether a node_exporter reads its directory"
    else:
        read = "no node_exporter reads its directory"
    return f"{textfile.path}: {age}; {read}"
