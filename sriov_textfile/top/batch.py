"""Prints tables as plain lines, like pidstat, or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from sriov_textfile.log import printable
from sriov_textfile.table import aligned
from sriov_textfile.top import columns
from sriov_textfile.top.rates import Row, Table
from sriov_textfile.top.sample import COUNTERS
from sriov_textfile.top.view import View

_HEAD = {"pod": ["pod", "PF"], "vf": ["PF", "VF", "address", "used by"], "pf": ["PF"]}

# Marks in the tables, and what is printed below them if they occur.
_MARKS = {
    " - ": "- is unknown",
    " >": "> is a sum that lacks an unknown part",
    "%!": "! is more than 80 % of the link",
    "!=": "1!=0 is a NIC on NUMA node 1 whose pod has its CPUs on node 0",
}


def as_text(table: Table, by: str) -> str:
    """Return the rows of a table, the busiest first, and below them the PFs with their links.

    What follows explains the marks that occur.
    """
    clock = time.strftime("%H:%M:%SZ", time.gmtime(table.sample.time))
    blocks = [
        _lines(clock, group, [shown.row for shown in View(group).rows(table)])
        for group in dict.fromkeys((by, "pf"))
    ]
    notes = [f"{pf.name}: {columns.no_counters(pf)}" for pf in table.pfs if pf.no_counters]
    text = "\n".join(blocks)
    if meanings := [meaning for mark, meaning in _MARKS.items() if mark in text]:
        notes.append(f"marks: {'; '.join(meanings)}")
    return text + "".join([f"{printable(note)}\n" for note in notes]) + "\n"


def _lines(clock: str, by: str, rows: Sequence[Row]) -> str:
    titles = [column.batch_title for column in columns.WIDE]
    cells = [["time", *_HEAD[by], *titles]]
    for row in rows:
        numbers = [column.text(row, False) for column in columns.WIDE]
        cells.append([clock, *_names(by, row), *numbers])
    return "".join([f"{printable(line)}\n" for line in aligned(cells, right=titles)])


def _names(by: str, row: Row) -> list[str]:
    if by == "vf":
        (vf,) = row.vfs
        return [row.pfs[0], str(vf.number), vf.address, columns.users(row)]
    return [row.name, ",".join(row.pfs)] if by == "pod" else [row.name]


def as_json(table: Table) -> str:
    """Return the line of JSON that docs/top.md documents."""
    pods = [row for row in table.pods if not row.name.startswith("(")]
    whole = {
        "time": _rfc3339(table.sample.time),
        "host": table.sample.host,
        "seconds": round(table.seconds, 3),
        "pods_known": table.sample.pods_known,
        "pfs": [
            {
                "address": row.key.partition(" ")[0],
                "netdev": row.key.partition(" ")[2],
                "driver": row.driver,
                "numa_node": "".join(row.numa_nodes),
                "speed_mbps": row.speed_mbps,
                "no_counters": row.no_counters,
                **_numbers(row),
                "vfs": [_vf(child) for child in row.children],
            }
            for row in table.pfs
        ],
        "pods": [
            {
                "name": row.name,
                "pfs": row.pfs,
                "numa_nodes": row.numa_nodes,
                "vfs": list(dict.fromkeys(vf.address for vf in row.vfs)),
                "cpus_elsewhere": row.cpus_elsewhere,
                **_numbers(row),
            }
            for row in pods
        ],
        "problems": [problem.as_dict() for problem in table.sample.problems],
    }
    return json.dumps(whole) + "\n"


def _vf(row: Row) -> dict[str, object]:
    (vf,) = row.vfs
    return {
        "number": vf.number,
        "address": vf.address,
        "user": vf.user,
        "pods": vf.pods,
        "held_back": vf.held_back,
        "cpus_elsewhere": row.cpus_elsewhere,
        **_numbers(row),
    }


def _numbers(row: Row) -> dict[str, object]:
    """Return the rates of a row; null is unknown, and so is 0 without a part that is unknown."""
    rates = {name: row.rate(place) for place, name in enumerate(COUNTERS)}
    per_second = {
        f"{name}_per_second": None if rate is None else round(rate, 3)
        for name, rate in rates.items()
    }
    share = None if row.share is None else round(row.share, 5)
    return {"unknown_vfs": row.unknown, "link_share": share, **per_second}


def _rfc3339(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03}Z"
