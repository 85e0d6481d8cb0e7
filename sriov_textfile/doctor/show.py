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
from sriov_textfile.doctor.report import Finding, Pf, Reader, Report, Textfile, Vf

_BOLD, _RED, _GREEN = "1", "31", "32"
_WIDTH, _LEAST_WIDTH = 100, 60


def as_json(report: Report) -> str:
    """Return the whole report, with `healthy` for what the exit code says."""
    healthy = not report.findings
    return json.dumps({"healthy": healthy, **asdict(report)}, indent=2) + "\n"


def terminal() -> tuple[int, bool]:
    """Return the width of standard output, and whether it takes colours: a terminal does.

    NO_COLOR, if set, says that the user wants none (https://no-color.org).
    """
    if not sys.stdout.isatty():
        return _WIDTH, False
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    return max(width, _LEAST_WIDTH), not os.environ.get("NO_COLOR")


def as_text(report: Report, width: int, colour: bool) -> str:
    """Return the report as lines; sentences are wrapped at `width`, tables are not.

    `colour` adds a terminal's escape sequences (ECMA-48).
    """
    show = _Text(width, colour)
    return "\n".join(show.report(report)) + "\n"


class _Text:
    def __init__(self, width: int, colour: bool) -> None:
        self._width = width
        self._colour = colour

    def report(self, report: Report) -> Iterator[str]:
        for pf in report.pfs:
            yield from self._pf(pf)
            yield ""
        yield from self._facts("", _surroundings(report))
        yield ""
        if not report.findings:
            yield self._styled("No findings: nothing keeps a metric away.", _GREEN)
            return
        count = len(report.findings)
        yield self._styled(f"{count} finding{'s' if count > 1 else ''}", _RED)
        for number, finding in enumerate(report.findings, 1):
            yield ""
            yield from self._finding(number, finding)

    def _pf(self, pf: Pf) -> Iterator[str]:
        name = pf.netdev or "(no netdev)"
        yield self._styled(f"PF {name}  {pf.address}  {pf.kind}", _BOLD)
        yield from self._facts("  ", _pf_facts(pf))
        for table in (_configuration(pf.vfs), _counters(pf.vfs)):
            if len(table) > 1:
                yield ""
                yield from _table(table)

    def _facts(self, indent: str, facts: Sequence[tuple[str, str]]) -> Iterator[str]:
        longest = max(len(name) for name, _ in facts)
        for name, text in facts:
            yield from self._wrapped(f"{indent}{name:<{longest}}  ", text)

    def _finding(self, number: int, finding: Finding) -> Iterator[str]:
        heading = self._wrapped(f"{number}. ", finding.what)
        yield from [self._styled(line, _BOLD) for line in heading]
        yield from self._wrapped("   meaning  ", finding.meaning)
        yield from self._wrapped("   to do    ", finding.mend)

    def _wrapped(self, start: str, text: str) -> list[str]:
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text


def _pf_facts(pf: Pf) -> list[tuple[str, str]]:
    speed = f", {pf.speed_mbps} Mbit/s" if pf.speed_mbps else ""
    version = f" {pf.driver_version}" if pf.driver_version else ""
    existing = len(pf.vfs) if pf.num_vfs is None else pf.num_vfs
    return [
        ("driver", f"{pf.driver or 'none'}{version}"),
        ("firmware", pf.firmware or "not said"),
        ("NUMA node", pf.numa_node or "not said"),
        ("link", (pf.link_state or "not said") + speed),
        ("eswitch", pf.eswitch_mode or "not said"),
        ("VFs", f"{existing} of {pf.total_vfs}"),
        *[(f"{reader.name} reader", _serves(reader, pf)) for reader in pf.readers],
    ]


def _serves(reader: Reader, pf: Pf) -> str:
    serves = f"serves {reader.vfs or 'no'} VF{'' if reader.vfs == 1 else 's'}"
    if reader.vfs and not any(any(vf.counters.values()) for vf in pf.vfs):
        serves += ", and every counter is 0"
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
    rows = [[str(vf.number), *[str(vf.counters.get(name, "-")) for name in known]] for vf in vfs]
    return [["VF", *known], *rows] if known else []


def _vlan(vf: Vf) -> str:
    if vf.vlan is None:
        return "-"
    return f"{vf.vlan} qos {vf.qos}" if vf.qos else str(vf.vlan)


def _switch(value: bool | None) -> str:
    return "-" if value is None else ("on" if value else "off")


def _table(rows: list[list[str]]) -> Iterator[str]:
    """Yield aligned lines; columns of numbers stand to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [
        all(cell.isdecimal() or cell == "-" for cell in column[1:])
        and any(map(str.isdecimal, column))
        for column in columns
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ]
        yield "  " + "  ".join(cells).rstrip()


def _surroundings(report: Report) -> list[tuple[str, str]]:
    kubelet, cpus = report.kubelet, report.cpus
    held = f"{kubelet.devices} PCI devices are held by pods, says the kubelet at {kubelet.socket}"
    facts = [
        ("run by", f"{report.user}, sriov-textfile {report.version}"),
        ("pods", kubelet.problem or held),
        (
            "CPUs",
            _policy(cpus.policy) if cpus.wanted else "not asked: --collector.kubepodcpu is off",
        ),
        ("textfile", _textfile(report.textfile)),
    ]
    if report.nic_problem:
        facts.append(("NICs", f"drivers' versions, firmware and links: {report.nic_problem}"))
    return facts


def _policy(policy: str) -> str:
    return (
        f"the CPU manager's policy is {policy}" if policy else "the CPU manager's policy is unknown"
    )


def _textfile(textfile: Textfile | None) -> str:
    if textfile is None:
        return "not looked at: give --textfile.path as the timer, cron or sidecar has it"
    age = "not there yet"
    if textfile.age_seconds is not None:
        age = f"written {textfile.age_seconds:.0f} s ago"
    readers = [f"{one.pid}" for one in textfile.node_exporters if one.reads_ours]
    if readers:
        read = f"node_exporter (process {', '.join(readers)}) reads its folder"
    elif textfile.node_exporters or textfile.sees_processes:
        read = "no node_exporter reads its folder"
    else:
        read = "whether a node_exporter reads it cannot be seen from this container"
    return f"{textfile.path}: {age}; {read}"
