"""View: which rows of a table are shown, in which order, and the keys that change that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sriov_textfile.top import columns
from sriov_textfile.top.rates import Row, Table

# What the rows are, and how many levels of rows can be below them: VFs below pods and PFs, and
# below the VFs of a PF their pods.
GROUPS = {"pod": 1, "vf": 0, "pf": 2}

TRAFFIC, NAME, SECOND = "traffic", "name", "second"
SORTS = (NAME, SECOND, *columns.VALUES)  # also those that only screens of another width show


@dataclass(frozen=True)
class Shown:
    """A row in its place."""

    row: Row
    id: tuple[str, ...]  # the keys of the rows above it and its own

    @property
    def depth(self) -> int:
        """How many rows are above it in the tree."""
        return len(self.id) - 1

    @property
    def is_user(self) -> bool:
        """Whether it is a pod below a VF: it names the VF's user, which has VFs elsewhere too."""
        return self.row.kind == "pod" and self.depth > 0


@dataclass
class View:
    """What the keys have set."""

    by: str  # one of GROUPS
    sort: str = TRAFFIC
    reverse: bool = False
    filter: str = ""
    typed: str | None = None  # a filter that is being typed
    hides_idle: bool = False
    in_bytes: bool = False
    paused: bool = False
    help: bool = False
    levels: dict[str, int] = field(default_factory=dict)  # of rows that are unfolded, by group
    folded: set[tuple[str, ...]] = field(
        default_factory=set
    )  # rows for which it is the other way round
    cursor: tuple[str, ...] = ()  # id of a row; () is the first row, whichever that is
    top: int = 0  # index of the first row on the screen
    height: int = 1  # rows that fit on the screen

    def rows(self, table: Table) -> list[Shown]:
        """Return the rows in the order in which they are shown."""
        roots = {"pod": table.pods, "vf": table.vfs, "pf": table.pfs}[self.by]
        return list(self._shown([row for row in roots if self._matches(row)], ()))

    def _shown(self, rows: list[Row], above: tuple[str, ...]) -> Iterator[Shown]:
        if self.hides_idle:
            rows = [row for row in rows if not row.is_idle]
        for row in self._sorted(rows):
            shown = Shown(row, (*above, row.key))
            yield shown
            if self.is_unfolded(shown):
                yield from self._shown(row.children, shown.id)

    def can_unfold(self, shown: Shown) -> bool:
        """Whether other rows can be shown below a row."""
        return shown.depth < GROUPS[self.by] and bool(shown.row.children)

    def is_unfolded(self, shown: Shown) -> bool:
        """Whether other rows are shown below a row."""
        levels = self.levels.get(self.by, 0)
        return self.can_unfold(shown) and (shown.depth < levels) != (shown.id in self.folded)

    def _matches(self, row: Row) -> bool:
        if not self.filter:
            return True
        texts = [row.name, *row.pfs]
        for vf in row.vfs:
            texts += [vf.address, *(vf.pods or [f"({vf.user})"])]
        return any(self.filter.lower() in text.lower() for text in texts)

    def _sorted(self, rows: list[Row]) -> list[Row]:
        """Return sorted rows: numbers from the highest, unknown ones last, texts from A."""
        if self.sort in (NAME, SECOND):
            text = columns.second if self.sort == SECOND else lambda row: row.name
            return sorted(rows, key=lambda row: _natural(text(row)), reverse=self.reverse)
        value = columns.VALUES[self.sort]
        known = [(found, row) for row in rows if (found := value(row)) is not None]
        known.sort(key=lambda pair: pair[0], reverse=not self.reverse)
        return [row for _, row in known] + [row for row in rows if value(row) is None]

    def index(self, rows: Sequence[Shown]) -> int:
        """Return the index of the row with the cursor."""
        return next((place for place, shown in enumerate(rows) if shown.id == self.cursor), 0)

    def press(self, key: str, rows: Sequence[Shown]) -> None:
        """Do what a key means, while these rows are shown; other keys are ignored."""
        moves = {"up": -1, "down": 1, "pageup": -self.height, "pagedown": self.height}
        moves |= {"home": -len(rows), "end": len(rows)}
        if self.typed is not None:
            self._type(self.typed, key)
        elif self.help:
            self.help = key == "resize"
        elif key in moves and rows:
            place = min(max(self.index(rows) + moves[key], 0), len(rows) - 1)
            self.cursor = rows[place].id if place else ()
        elif key in ("left", "right", "enter") and rows:
            self._fold(key, rows[self.index(rows)])
        elif key in ("p", "v", "n"):
            self.group({"p": "pod", "v": "vf", "n": "pf"}[key])
        elif key == "tab":
            groups = list(GROUPS)
            self.group(groups[(groups.index(self.by) + 1) % len(groups)])
        elif key in ("<", ">"):
            step = 1 if key == ">" else -1
            self.sort = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)]
        elif key == "f":
            self.levels[self.by] = (self.levels.get(self.by, 0) + 1) % (GROUPS[self.by] + 1)
            self.folded.clear()
        elif key == "/":
            self.typed = self.filter
        elif key == "escape":
            self.filter = ""
        elif key in _SWITCHES:
            name = _SWITCHES[key]
            setattr(self, name, not getattr(self, name))

    def group(self, by: str) -> None:
        """Show rows of another kind."""
        self.by, self.cursor, self.top = by, (), 0

    def _fold(self, key: str, shown: Shown) -> None:
        unfolded = self.is_unfolded(shown)
        if key == "left" and not unfolded:  # go to the row above, as in other trees
            self.cursor = shown.id[:-1] or shown.id
        elif self.can_unfold(shown) and (key == "enter" or unfolded == (key == "left")):
            self.folded ^= {shown.id}
            self.cursor = shown.id

    def _type(self, typed: str, key: str) -> None:
        if key in ("enter", "escape"):
            self.typed = None
            if key == "enter":
                self.filter, self.cursor, self.top = typed, (), 0
        elif key == "backspace":
            self.typed = typed[:-1]
        elif len(key) == 1:
            self.typed = typed + key


_SWITCHES = {
    "r": "reverse",
    "z": "hides_idle",
    "b": "in_bytes",
    " ": "paused",
    "?": "help",
    "h": "help",
}


def _natural(text: str) -> list[tuple[bool, int, str, str]]:
    """Return a sort key in which VF 2 comes before VF 10."""
    parts = re.split(r"([0-9]+)", text)
    # Not as int: a damaged recording may have more digits than Python converts.
    digits = [part.lstrip("0") if part[:1].isdigit() else "" for part in parts]
    return [(part[:1].isdigit(), len(d), d, part) for part, d in zip(parts, digits, strict=True)]
