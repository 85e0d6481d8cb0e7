"""Turns samples into rates: what VFs, pods and PFs receive, send and drop per second."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sriov_textfile.top.sample import (
    COUNTERS,
    RX_BYTES,
    RX_DROPPED,
    RX_ERRORS,
    TX_BYTES,
    TX_DROPPED,
    TX_ERRORS,
    Pf,
    Sample,
    Vf,
)

HISTORY_SECONDS = 60.0
_LEAST_SECONDS = 1e-6  # between two samples; less is a damaged recording

Rates = Sequence["float | None"]  # per second, in the order of COUNTERS; None is unknown
_UNKNOWN: Rates = (None,) * len(COUNTERS)
# The traffic of the last minute: the time on the clock of Table.read_at, and bytes per second.
History = Sequence["tuple[float, float | None]"]


@dataclass
class Row:
    """A VF, the VFs of a pod, or the VFs of a PF, with the sum of their rates."""

    kind: Literal["vf", "pod", "pf"]
    key: str  # the same in each sample
    name: str  # PF's netdev (or address) and VF number; pod as namespace/name; PF
    pfs: list[str]  # names
    vfs: list[Vf]
    numa_nodes: list[str]  # of the PFs, where known
    rates: Rates = _UNKNOWN
    unknown: int = 0  # VFs whose traffic is unknown; the rates are those of the others
    speed_mbps: int | None = None  # of the PF's link; of a pod with several PFs it is unknown
    share: float | None = None  # of the link that it fills most, from 0 to 1, in one direction
    no_counters: bool = False  # of a PF: all counters are 0, as without VF counters
    driver: str = ""  # of a PF
    children: list[Row] = field(default_factory=list)  # VFs of a PF or pod, pods of a VF
    history: History = ()

    def rate(self, *places: int) -> float | None:
        """Return the sum of the known ones of some rates; None is unknown.

        It is unknown too if the known ones are 0 and others are not known.
        """
        known = total(*[self.rates[place] for place in places])
        return known if known or not self.lacks(*places) else None

    def lacks(self, *places: int) -> bool:
        """Whether one of these rates is unknown, of the row or of one of its VFs."""
        vfs = [self] if self.kind == "vf" else self.children
        return any(vf.rates[place] is None for vf in vfs for place in places)

    @property
    def traffic(self) -> float | None:
        """Bytes received and sent per second."""
        return self.rate(RX_BYTES, TX_BYTES)

    @property
    def dropped(self) -> float | None:
        """Packets dropped per second."""
        return self.rate(RX_DROPPED, TX_DROPPED)

    @property
    def errors(self) -> float | None:
        """Errors per second."""
        return self.rate(RX_ERRORS, TX_ERRORS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing has passed in the last minute, as far as is known."""
        counted = (self.dropped, self.errors, *[traffic for _, traffic in self.history])
        return not self.unknown and not any(counted)

    @property
    def cpus_elsewhere(self) -> list[str]:
        """The NUMA nodes of its pods' CPUs, if the NIC of one of its VFs is on another node."""
        if self.kind != "vf":
            return sorted({node for vf in self.children for node in vf.cpus_elsewhere})
        nodes = set(self.vfs[0].cpu_nodes)
        return sorted(nodes) if nodes and set(self.numa_nodes) - nodes else []


@dataclass
class Table:
    """The rates between a sample and the one before."""

    sample: Sample
    read_at: float  # on the clock of time.monotonic() of the host
    seconds: float  # since the sample before; 0 if there is none
    pfs: list[Row]
    vfs: list[Row]
    pods: list[Row]  # also one for each kind of other users, such as "(host)"


def total(*values: float | None) -> float | None:
    """Return the sum of the known values, or None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class Meter:
    """Remembers the last sample, to compare the next one with it."""

    def __init__(self) -> None:
        self._read_at: dict[str, float] = {}  # by PF
        self._counters: dict[str, dict[str, int]] = {}  # by VF
        self._before_fall: dict[tuple[str, str], int] = {}  # by VF and counter
        self._history: dict[str, deque[tuple[float, float | None]]] = {}  # by row: time and traffic

    def update(self, sample: Sample) -> Table:
        """Return the rates since the last sample; in the first sample all are unknown."""
        read_at, counters = {}, {}
        pfs: list[Row] = []
        seconds = 0.0
        for pf in sample.pfs:
            key = f"{pf.address} {pf.netdev}"
            read_at[key] = pf.read_at
            passed = pf.read_at - self._read_at.get(key, pf.read_at)
            seconds = max(seconds, passed)
            for vf in pf.vfs:
                counters[f"{key} {vf.number}"] = vf.counters
            pfs.append(self._pf(key, pf, passed))
        self._before_fall = {
            (vf, name): value for (vf, name), value in self._before_fall.items() if vf in counters
        }
        self._read_at, self._counters = read_at, counters
        vfs = [vf for pf in pfs for vf in pf.children]
        pods = _pods(pfs)
        now = max(read_at.values(), default=0.0)
        if seconds:
            self._remember([*pfs, *vfs, *pods], now)
        by_name = {pod.name: pod for pod in pods}
        for row in vfs:
            row.children = [by_name[pod] for pod in row.vfs[0].pods]
        return Table(sample, now, seconds, pfs, vfs, pods)

    def _remember(self, rows: Iterable[Row], now: float) -> None:
        """Give each row its history; that of rows that have gone is forgotten."""
        remembered = {}
        for row in rows:
            past = self._history.get(row.key) or deque()
            while past and past[0][0] < now - HISTORY_SECONDS:
                past.popleft()
            past.append((now, row.traffic))
            remembered[row.key] = past
            row.history = list(past)
        self._history = remembered

    def _pf(self, key: str, pf: Pf, seconds: float) -> Row:
        name = pf.netdev or pf.address
        nodes = [pf.numa_node] if pf.numa_node else []
        counted = [vf.counters for vf in pf.vfs if vf.counters]
        # A driver without VF counters is indistinguishable from idle VFs.
        no_counters = bool(counted) and not any(any(counters.values()) for counters in counted)
        no_counters = no_counters and not any(vf.held_back for vf in pf.vfs)
        children = []
        for vf in pf.vfs:
            own = f"{key} {vf.number}"
            rates = _UNKNOWN
            if seconds > _LEAST_SECONDS and not no_counters:
                rates = self._rates(own, vf.counters, seconds)
            unknown = int(rates[RX_BYTES] is None or rates[TX_BYTES] is None)
            share = _share(rates, pf.speed_mbps)
            row = Row("vf", own, f"{name} {vf.number}", [name], [vf], nodes, rates, unknown)
            row.speed_mbps, row.share = pf.speed_mbps, share
            children.append(row)
        rates = _sum(children)
        return Row(
            kind="pf",
            key=key,
            name=name,
            pfs=[name],
            vfs=pf.vfs,
            numa_nodes=nodes,
            rates=rates,
            unknown=sum([vf.unknown for vf in children]),
            speed_mbps=pf.speed_mbps,
            share=_share(rates, pf.speed_mbps),
            no_counters=no_counters,
            driver=pf.driver,
            children=children,
        )

    def _rates(self, vf: str, counters: dict[str, int], seconds: float) -> Rates:
        before = self._counters.get(vf, {})
        # Zeros may be those of a NIC that resets. What follows is then not growth: the old values.
        if not any(before.values()) and any(counters.values()):
            return _UNKNOWN
        rates: list[float | None] = []
        for name in COUNTERS:
            rate = None
            if name in before and name in counters:
                last, now = before[name], counters[name]
                # Hardly ever has a counter fallen.
                if (now >= last and not self._before_fall) or self._is_plausible(
                    (vf, name), last, now
                ):
                    rate = (now - last) / seconds
            rates.append(rate)
        return rates

    def _is_plausible(self, counter: tuple[str, str], before: int, now: int) -> bool:
        """Whether a counter has neither fallen nor come back after a fall.

        A driver that resets its NIC may report 0, and then the old values again.
        """
        if now < before:
            self._before_fall[counter] = max(before, self._before_fall.get(counter, 0))
            return False
        if now >= self._before_fall.get(counter, now + 1):
            del self._before_fall[counter]
            return False
        return True


def _sum(rows: Sequence[Row]) -> Rates:
    columns = zip(*[row.rates for row in rows], strict=True)
    return [total(*column) for column in columns] or _UNKNOWN


def _share(rates: Rates, speed_mbps: int | None) -> float | None:
    """Return the share of a link that the busier direction fills."""
    known = [rate for rate in (rates[RX_BYTES], rates[TX_BYTES]) if rate is not None]
    return max(known) * 8 / (speed_mbps * 1e6) if known and speed_mbps else None


def _pods(pfs: Sequence[Row]) -> list[Row]:
    """Return a row for each pod, and for each kind of other users."""
    found: dict[str, dict[str, list[Row]]] = {}  # VFs by pod and by PF
    for pf in pfs:
        for vf in pf.children:
            for name in vf.vfs[0].pods or [f"({vf.vfs[0].user})"]:
                found.setdefault(name, {}).setdefault(pf.key, []).append(vf)
    pods = []
    for name, by_pf in found.items():
        children = [vf for vfs in by_pf.values() for vf in vfs]
        firsts = [vfs[0] for vfs in by_pf.values()]
        shares = [_share(_sum(vfs), vfs[0].speed_mbps) for vfs in by_pf.values()]
        row = Row(
            kind="pod",
            key=f"pod {name}",
            name=name,
            pfs=[first.pfs[0] for first in firsts],
            vfs=[vf.vfs[0] for vf in children],
            numa_nodes=sorted({node for first in firsts for node in first.numa_nodes}),
            rates=_sum(children),
            unknown=sum([vf.unknown for vf in children]),
            share=max([share for share in shares if share is not None], default=None),
            children=children,
        )
        pods.append(row)
    return pods
