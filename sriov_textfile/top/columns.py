"""The columns of the table: what a row shows in each, and in which units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sriov_textfile.problems import counted
from sriov_textfile.top.rates import Row
from sriov_textfile.top.sample import (
    RX_BYTES,
    RX_DROPPED,
    RX_ERRORS,
    RX_PACKETS,
    TX_BYTES,
    TX_DROPPED,
    TX_ERRORS,
    TX_PACKETS,
)

_BUSY = 0.8  # the share of a link from which it is marked

Value = Callable[[Row], "float | None"]
Text = Callable[[Row, bool], str]  # the bool is whether to show bytes instead of bits


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    id: str
    batch_title: str
    title: str  # on the screen, where the group is above it
    group: str
    width: int  # on the screen
    value: Value
    text: Text


def number(value: float | None) -> str:
    """Return a number in at most five characters, such as 0.04, 162 or 43.2G; `-` is unknown."""
    if value is None:
        return "-"
    value = min(value, 999e18)  # more than any link, so it is of a damaged recording
    units = iter(("", "k", "M", "G", "T", "P", "E"))
    unit = next(units)
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    whole = 1 if value < 9.995 else 2 if value < 99.95 else 3
    return f"{value:.{3 - whole}f}{unit}" if value else "0"


def percent(share: float) -> str:
    """Return a share of a link; `!` marks a link that is nearly full."""
    text = f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"
    return f"{text}!" if is_busy(share) else text


def is_busy(share: float | None) -> bool:
    """Whether a link is nearly full."""
    return share is not None and share > _BUSY


def numa(row: Row) -> str:
    """Return the NUMA nodes of a row's NICs; `0!=1` means that the pods' CPUs are on node 1."""
    nodes = ",".join(row.numa_nodes)
    elsewhere = ",".join(row.cpus_elsewhere)
    return f"{nodes}!={elsewhere}" if elsewhere else nodes or "-"


def users(row: Row) -> str:
    """Return who uses a VF: its pods, or another user in parentheses."""
    (vf,) = row.vfs
    return " ".join(vf.pods) or f"({vf.user})"


def count(row: Row) -> str:
    """Return the number of VFs of a pod or PF."""
    return counted(len(row.vfs), "VF")


def no_counters(pf: Row) -> str:
    """Return why a PF whose counters are all 0 has no rates."""
    return f"VF counters are all 0: no traffic yet, or driver {pf.driver or '?'} has none"


def second(row: Row) -> str:
    """Return what is shown beside the name: a pod's PFs, a VF's users, a PF's number of VFs."""
    if row.kind == "vf":
        return users(row)
    return ",".join(row.pfs) if row.kind == "pod" else count(row)


def rate(row: Row, *places: int, factor: int = 1) -> str:
    """Return the sum of some rates; `>` marks one that lacks an unknown part."""
    value = row.rate(*places)
    return _marked(row.lacks(*places), None if value is None else number(value * factor))


def link(row: Row) -> str:
    """Return the share of the link; `>` marks one without VFs whose traffic is unknown."""
    share = _share(row)
    return _marked(bool(row.unknown), None if share is None else percent(share))


def _marked(lacks_part: bool, known: str | None) -> str:
    if known is None:
        return "-"
    return f">{known}" if lacks_part else known


def _share(row: Row) -> float | None:
    return None if row.unknown and not row.share else row.share


def _value(*places: int) -> Value:
    return lambda row: row.rate(*places)


def _traffic(place: int) -> Text:
    return lambda row, in_bytes: rate(row, place, factor=1 if in_bytes else 8)


def _rates(id: str, batch_title: str, title: str, group: str, *places: int) -> Column:
    """Return the column of the sum of some rates."""
    return Column(
        id, batch_title, title, group, 6, _value(*places), lambda row, in_bytes: rate(row, *places)
    )


_TRAFFIC, _PACKETS, _LOST = "bit/s", "packet/s", "per s"

RX = Column("rx", "rx-bit/s", "RX", _TRAFFIC, 6, _value(RX_BYTES), _traffic(RX_BYTES))
TX = Column("tx", "tx-bit/s", "TX", _TRAFFIC, 6, _value(TX_BYTES), _traffic(TX_BYTES))
_RX_PACKETS = _rates("rx packets", "rx-packet/s", "RX", _PACKETS, RX_PACKETS)
_TX_PACKETS = _rates("tx packets", "tx-packet/s", "TX", _PACKETS, TX_PACKETS)
DROPS = _rates("drops", "drop/s", "DROP", _LOST, RX_DROPPED, TX_DROPPED)
_RX_DROPS = _rates("rx drops", "rx-drop/s", "RXDROP", _LOST, RX_DROPPED)
_TX_DROPS = _rates("tx drops", "tx-drop/s", "TXDROP", _LOST, TX_DROPPED)
_ERRORS = _rates("errors", "error/s", "ERR", _LOST, RX_ERRORS, TX_ERRORS)
LINK = Column("link", "link", "LINK", "", 6, _share, lambda row, in_bytes: link(row))
NUMA = Column(
    "numa",
    "NUMA",
    "NUMA",
    "",
    4,
    lambda row: float(bool(row.cpus_elsewhere)),
    lambda row, in_bytes: numa(row),
)

LOSSES = (DROPS, _RX_DROPS, _TX_DROPS, _ERRORS)
# Those of a narrow screen, of one of 80 columns, and those of a wide one and of batch mode.
NARROWEST = (RX, TX, DROPS, LINK)
NARROW = (RX, TX, _RX_PACKETS, _TX_PACKETS, DROPS, _ERRORS, LINK, NUMA)
WIDE = (RX, TX, _RX_PACKETS, _TX_PACKETS, _RX_DROPS, _TX_DROPS, _ERRORS, LINK, NUMA)
_ALL = (RX, TX, _RX_PACKETS, _TX_PACKETS, *LOSSES, LINK, NUMA)

NARROW_WIDTH, WIDE_WIDTH = 70, 110


def of(width: int) -> tuple[Column, ...]:
    """Return the columns of a screen of this width."""
    if width < NARROW_WIDTH:
        return NARROWEST
    return NARROW if width < WIDE_WIDTH else WIDE


VALUES: dict[str, Value] = {
    **{column.id: column.value for column in _ALL},
    "traffic": lambda row: row.traffic,
}

# The same as headings.
LABELS = {
    "traffic": "RX+TX",
    **{
        column.id: f"{column.title} {_PACKETS}" if column.group == _PACKETS else column.title
        for column in _ALL
    },
}
