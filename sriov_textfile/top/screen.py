"""Draws a view of a table as lines of styled text, for a terminal of any size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sriov_textfile.log import printable
from sriov_textfile.table import shortened
from sriov_textfile.top import columns
from sriov_textfile.top.rates import HISTORY_SECONDS, History, Row, Table
from sriov_textfile.top.sample import RX_DROPPED, RX_ERRORS, TX_DROPPED, TX_ERRORS
from sriov_textfile.top.view import NAME, SECOND, TRAFFIC, Shown, View

# Styles; "" is plain. What they mark is marked by characters too.
TITLE, HEAD, CURSOR, DIM = "title", "head", "cursor", "dim"
BUSY, LOST, PROBLEM = "busy", "lost", "problem"

# Above the first two columns.
_HEADINGS = {"pod": ("POD", "PF"), "vf": ("PF VF", "USED BY"), "pf": ("PF", "USED BY")}

Segment = tuple[str, str]  # text and style
Line = list[Segment]

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:-=+*#@"  # for a sparkline, from the lowest to the highest
_LEAST_HOST = 8  # columns of the host's name
_LEAST_HISTORY, _MOST_HISTORY = 18, 60  # columns of the sparkline
_BAR = 14
_LOSSES = (RX_DROPPED, TX_DROPPED, RX_ERRORS, TX_ERRORS)
_PROBLEM_SECONDS = 5.0  # for each, if there are several
_FIRST = "measuring: the second sample has the first rates"

_HELP = """\
q Ctrl-C      quit                       p v n Tab   rows: pods, VFs, NICs (PFs)
< >           sort by another column     Enter <- -> unfold or fold the row
r             reverse the order          f           unfold or fold all rows
/             only rows with a text      z           hide rows without traffic
Esc           all rows again             b           bytes instead of bits
Space         pause                      + -         longer or shorter interval
arrows PgUp PgDn Home End  move          ? h         this help
"""
_HELP_OF_REPLAY = """\
, .           a sample back or forward   [ ]         a minute back or forward
"""
_MEANINGS = """
RX is what a pod received by its VFs, TX what it sent. DROP and ERR are packets
dropped and errors, both ways. LINK is the share of the PF's link, in the busier
direction. The line of a PF is the sum of its VFs. Times are in UTC. On a wide
terminal, the last minute is RX and TX together, relative to the row's own peak.

+ -      before a name: Enter unfolds the row to its VFs, or folds it again
-        unknown: the driver lacks the counter, the counter fell or has just
         appeared, or the NIC resets
>43.2G   a sum that lacks an unknown part: a VF or a direction
87%!     more than 80 % of the link
1!=0     the NIC is on NUMA node 1, the pod's CPUs are on node 0
(host)   used by no pod: the host has its netdev; (vfio): bound to vfio-pci;
         (netns): in another network namespace; (free): without a driver
"""
_HELP_WIDTH = 80
_KEYS = (
    *("q quit", "? help", "p pods", "v VFs", "n NICs", "Enter unfold", "< > sort", "/ filter"),
    *("z idle", "Space pause"),
)
_KEYS_OF_REPLAY = (", . sample", "[ ] minute")


@dataclass
class Status:
    """What the title shows of the source of the samples."""

    interval: float
    is_recorded: bool = False
    replay: str = ""  # the position in a recording
    message: str = ""  # a problem of the source


def draw(
    view: View,
    table: Table,
    status: Status,
    width: int,
    height: int,
    blocks: str = BLOCKS,
) -> list[Line]:
    """Return `height` lines of at most `width` characters; adjusts the view to the height.

    Only the rows that fit are drawn.
    """
    top = [_title(view, table, status, width)]
    bottom = [_keys(view, status, width)]
    if view.help:
        lines = _help(status)
        if len(lines) > height - 2 or width < _HELP_WIDTH:
            size = f"{_HELP_WIDTH}x{len(lines) + 2}"
            bottom = [[(f"the help is cut off: it needs {size}", PROBLEM)]]
        return _fitted([*top, *lines], bottom, width, height)
    rows = view.rows(table)
    problems = table.sample.problems
    problem, more = status.message, ""
    if problems and not problem:
        number = int(table.read_at / max(_PROBLEM_SECONDS, status.interval)) % len(problems)
        problem = problems[number].text
        more = f" ({number + 1} of {len(problems)} problems)" if len(problems) > 1 else ""
    if problem:
        bottom.insert(0, [(shortened(printable(problem), width - len(more)) + more, PROBLEM)])
    if table.pfs and not table.seconds:
        return _fitted([*top, [], [(_FIRST, DIM)]], bottom, width, height)
    if height >= 16:
        if view.by != "pf":
            top += [*_pfs(table.pfs, view, width, height // 6), []]
        if rows:
            bottom = [[], *_details(rows[view.index(rows)].row, view, width), *bottom]
    layout = _Layout(view, rows, width, blocks)
    top += layout.head()
    view.height = max(height - len(top) - len(bottom), 1)
    _scroll(view, rows)
    shown = rows[view.top : view.top + view.height]
    body = [layout.line(row, table.read_at) for row in shown]
    if not rows:
        body = [[(f"no rows{f' with {view.filter}' if view.filter else ''}", DIM)]]
    return _fitted([*top, *body], bottom, width, height)


def _fitted(top: list[Line], bottom: list[Line], width: int, height: int) -> list[Line]:
    """Return `height` lines, of which the last are those of the bottom, cut off at the width."""
    room = max(height - len(bottom), 0)
    lines = [*top, *[[]] * (room - len(top))][:room] + bottom
    return [_cut(line, width) for line in lines[:height]]


def _scroll(view: View, rows: Sequence[Shown]) -> None:
    """Let the row with the cursor be on the screen."""
    index = view.index(rows)
    view.top = min(max(view.top, index - view.height + 1, 0), index)
    view.top = max(min(view.top, len(rows) - view.height), 0)


def _help(status: Status) -> list[Line]:
    text = _HELP + _HELP_OF_REPLAY * bool(status.replay) + _MEANINGS
    return [[(line, "")] for line in text.splitlines()]


def _title(view: View, table: Table, status: Status, width: int) -> Line:
    date, clock = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(table.sample.time)).split(
        " ", 1
    )
    parts = [f"{date} {clock}" if status.replay else clock]
    parts += ["REC"] * status.is_recorded + ["PAUSED"] * view.paused
    parts.append(f"every {status.interval:g} s")
    group = {"pod": "pods", "vf": "VFs", "pf": "PFs"}[view.by]
    parts.append(f"{group} sorted by {_order(view)}{', reversed' if view.reverse else ''}")
    parts += [f"with {view.filter}"] * bool(view.filter) + ["without idle"] * view.hides_idle
    rest = "".join([f"  {part}" for part in parts])
    host = shortened(table.sample.host, max(width - len(rest), _LEAST_HOST))
    return [(printable(host + rest)[:width].ljust(width), TITLE)]


def _order(view: View) -> str:
    """Return what sorts the rows, in the words of the headings."""
    if view.sort in (NAME, SECOND):
        return _HEADINGS[view.by][view.sort == SECOND]
    return columns.LABELS[view.sort]


def _keys(view: View, status: Status, width: int) -> Line:
    """Return the most important keys, as many as fit, or the filter that is being typed."""
    if view.typed is not None:
        return [(shortened(f"show only rows with: {view.typed}_", width), TITLE)]
    line = [(f"replay {status.replay}", TITLE)] if status.replay else []
    used = sum([len(text) for text, _ in line])
    for key in (*_KEYS_OF_REPLAY * bool(status.replay), *_KEYS):
        text = f"  {key}" if line else key
        if (used := used + len(text)) > width:
            break
        line.append((text, DIM))
    return line


def _pfs(pfs: Sequence[Row], view: View, width: int, most: int) -> list[Line]:
    """Return a line for each PF, the busiest first: its traffic and the share of its link."""
    most = max(most, 2)
    ordered = sorted(pfs, key=lambda pf: -(pf.traffic or 0))
    shown = ordered if len(pfs) <= most else ordered[: most - 1]
    longest = max([len(pf.name) for pf in shown], default=0)
    lines = [_pf(pf, view, longest, width) for pf in shown]
    if len(shown) < len(pfs):
        lines.append([(f"and {len(pfs) - len(shown)} more PFs: press n", DIM)])
    return lines


def _pf(pf: Row, view: View, longest: int, width: int) -> Line:
    name = printable(pf.name).ljust(longest)
    if pf.no_counters:
        return [(shortened(f"{name}  {columns.no_counters(pf)}", width), DIM)]
    speed = "?" if pf.speed_mbps is None else columns.number(pf.speed_mbps * 1e6)
    filled = round(min(pf.share or 0, 1) * _BAR)
    rx, tx = (column.text(pf, view.in_bytes) for column in (columns.RX, columns.TX))
    share = columns.link(pf)
    busy = BUSY if columns.is_busy(pf.share) else ""
    line = [
        (f"{name}  RX {rx:<6} TX {tx:<6} [", ""),
        ("|" * filled + " " * (_BAR - filled), busy),
        ("]", ""),
        (f"{share:>6}", busy),
        (f" of {speed:<5}  ", ""),
    ]
    dropped = columns.DROPS.text(pf, view.in_bytes)
    line.append((f"dropped {dropped}/s", LOST if pf.dropped else ""))
    return line


def _details(row: Row, view: View, width: int) -> list[Line]:
    """Return two lines about the row with the cursor: what has no column at this width."""
    vfs = " ".join([f"{vf.number} ({vf.address})" for vf in row.vfs[:4]])
    others = f" and {len(row.vfs) - 4} more" if len(row.vfs) > 4 else ""
    about = f"{row.name}: VF {vfs}{others} of {' '.join(row.pfs)}"
    if row.kind == "vf":
        about = f"{' '.join(row.pfs)} VF {vfs}: {columns.users(row)}"
    if row.kind == "pf":
        about = f"{row.name}: {columns.count(row)}, driver {row.driver or 'none'}"
        about += f", {columns.no_counters(row)}" if row.no_counters else ""
    rx_dropped, tx_dropped, rx_errors, tx_errors = [columns.rate(row, n) for n in _LOSSES]
    more = f"dropped/s RX {rx_dropped} TX {tx_dropped}, errors/s RX {rx_errors} TX {tx_errors}"
    more += f", NUMA node {','.join(row.numa_nodes) or 'unknown'}"
    if row.cpus_elsewhere:
        more += f", pod's CPUs on {','.join(row.cpus_elsewhere)}"
    return [[(shortened(printable(line), width), "")] for line in (about, more)]


class _Layout:
    """The columns that fit on the screen, and how wide each is."""

    def __init__(self, view: View, rows: Sequence[Shown], width: int, blocks: str) -> None:
        self._view = view
        self._width = width
        self._blocks = blocks
        self._wide = wide = width >= columns.WIDE_WIDTH
        self._columns = columns.of(width)
        addresses = [shown.row.vfs[0].address for shown in rows if shown.row.kind == "vf"]
        # Most have 12 characters, those of Intel VMD 13.
        longest = max([len(address) for address in addresses], default=-1)
        self._address = longest + 1 if wide else 0  # with a space before it
        free = width - sum([column.width + 1 for column in self._columns]) - self._address
        sized = [shown for shown in rows if not shown.is_user]
        names = max([len(self._name(shown)) for shown in sized], default=0)
        seconds = max([len(self._second(shown)) for shown in sized], default=0)
        names, seconds = (
            max(longest, len(heading))
            for longest, heading in zip((names, seconds), _HEADINGS[view.by], strict=True)
        )
        self._history = min(free - names - seconds - 2, _MOST_HISTORY) if wide else 0
        if self._history < _LEAST_HISTORY:
            self._history = 0
        free -= self._history + 1 if self._history else 0
        # The names come first, but for a third.
        self._names = min(names, free - 1 - min(seconds, free // 3))
        self._seconds = min(seconds, free - 1 - self._names)
        self._names = max(self._names, 1)
        self._seconds = max(self._seconds, 1)

    def _name(self, shown: Shown) -> str:
        row = shown.row
        mark = "  "
        if self._view.can_unfold(shown):
            mark = "- " if self._view.is_unfolded(shown) else "+ "
        if self._view.by == "vf":
            mark = ""
        name = row.name if row.kind != "vf" or not shown.depth else f"VF {row.vfs[0].number}"
        return "  " * shown.depth + mark + name

    def _second(self, shown: Shown) -> str:
        row = shown.row
        if self._view.by == "pod" and row.kind == "vf":
            return row.pfs[0]
        if row.kind == "pod" and len(row.pfs) > 1 and not self._wide:
            return f"{len(row.pfs)} PFs"
        return columns.second(row)

    def head(self) -> list[Line]:
        """Return the two lines above the rows; the column that sorts the rows is marked."""
        view = self._view
        unit = "byte/s" if view.in_bytes else "bit/s"
        name, second = _HEADINGS[view.by]
        groups = " " * (self._names + self._seconds + 1 + self._address)
        line = [
            (name.ljust(self._names)[: self._names], CURSOR if view.sort == NAME else HEAD),
            (" ", HEAD),
            (second.ljust(self._seconds)[: self._seconds], CURSOR if view.sort == SECOND else HEAD),
        ]
        if self._address:
            line.append((" PCI address".ljust(self._address)[: self._address], HEAD))
        by_group: dict[str, int] = {}
        for column in self._columns:
            by_group[column.group] = by_group.get(column.group, 0) + column.width + 1
            is_sorted = view.sort == column.id or (
                view.sort == TRAFFIC and column in (columns.RX, columns.TX)
            )
            line += [(" ", HEAD), (column.title.rjust(column.width), CURSOR if is_sorted else HEAD)]
        for group, width in by_group.items():
            title = unit if group == columns.RX.group else group
            groups += " " + (f" {title} ".center(width - 1, "-") if group else " " * (width - 1))
        if self._history:
            line.append((" last minute, RX+TX"[: self._history + 1], HEAD))
        return [[(groups, HEAD)], line]

    def line(self, shown: Shown, now: float) -> Line:
        """Return the line of a row."""
        line = self._user(shown) if shown.is_user else self._cells(shown, now)
        if shown.id == self._view.cursor:
            line = [("".join([text for text, _ in line]).ljust(self._width), CURSOR)]
        return line

    def _user(self, shown: Shown) -> Line:
        """Return a pod and its PFs, without numbers: they would not be a part of those above."""
        text = f"{self._name(shown)}, with VFs of {','.join(shown.row.pfs)}"
        return [(shortened(printable(text), self._width), "")]

    def _cells(self, shown: Shown, now: float) -> Line:
        row, view = shown.row, self._view
        line: Line = [
            (shortened(printable(self._name(shown)), self._names).ljust(self._names + 1), ""),
            (shortened(printable(self._second(shown)), self._seconds).ljust(self._seconds), ""),
        ]
        if self._address:
            address = row.vfs[0].address if row.kind == "vf" else ""
            address = shortened(printable(address), self._address - 1)
            line.append((f" {address}".ljust(self._address), ""))
        for column in self._columns:
            text = shortened(printable(column.text(row, view.in_bytes)), column.width)
            line.append((" ", ""))
            line.append((text.rjust(column.width), _style(column, text, row)))
        if self._history:
            line.append((" " + self._sparkline(row.history, now), ""))
        return line

    def _sparkline(self, history: History, now: float) -> str:
        """Return the traffic of the last minute as a row of blocks, relative to its peak."""
        peaks: dict[int, float | None] = {}
        for moment, traffic in history:
            place = self._history - 1 - int((now - moment) / HISTORY_SECONDS * self._history)
            known = [value for value in (peaks.get(place), traffic) if value is not None]
            peaks[place] = max(known, default=None)
        highest = max([peak for peak in peaks.values() if peak is not None], default=0.0)
        text, block = "", " "
        for place in range(self._history):
            if place in peaks:  # A place between two samples is like the one before.
                peak = peaks[place]
                level = (peak or 0) / (highest or 1) * (len(self._blocks) - 1)
                block = " " if peak is None else self._blocks[round(level)]
            text += block
        return text


def _style(column: columns.Column, text: str, row: Row) -> str:
    if text in ("0", "-", "0%"):
        return DIM
    if column is columns.LINK and columns.is_busy(row.share):
        return BUSY
    is_misplaced = column is columns.NUMA and row.cpus_elsewhere
    return LOST if column in columns.LOSSES or is_misplaced else ""


def _cut(line: Line, width: int) -> Line:
    """Return the first `width` characters of a line."""
    cut: Line = []
    for text, style in line:
        if width > 0:
            cut.append((text[:width], style))
        width -= len(text)
    return cut
