"""Sample: the VFs of a host, their users and their counters at one time, as plain data.

As JSON, a sample is a line of a recording; docs/top.md documents it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

from sriov_textfile.problems import Problem

# The counters that are shown, in the order of docs/metrics.md.
COUNTERS = (
    "rx_bytes",
    "tx_bytes",
    "rx_packets",
    "tx_packets",
    "rx_dropped",
    "tx_dropped",
    "rx_errors",
    "tx_errors",
)
# Their places in it.
RX_BYTES, TX_BYTES, RX_PACKETS, TX_PACKETS, RX_DROPPED, TX_DROPPED, RX_ERRORS, TX_ERRORS = range(
    len(COUNTERS)
)
# A VF that no pod uses: its netdev is the host's, it is bound to vfio-pci, its netdev is in another
# network namespace, or it is bound to no driver.
USERS = ("pod", "host", "vfio", "netns", "free", "unknown")

_YEAR_9999 = 253_402_300_800.0

Kind = TypeVar("Kind")


@dataclass
class Vf:
    """A VF, and what it has counted; a counter that is unknown is left out."""

    number: int
    address: str
    user: str  # one of USERS
    pods: list[str]  # namespace/name
    cpu_nodes: list[str]  # NUMA nodes of the pods' exclusive CPUs
    counters: dict[str, int]
    held_back: bool = False  # whether it lacks counters because its NIC seems to reset


@dataclass
class Pf:
    """A PF; None means unknown."""

    address: str
    netdev: str  # "" if it has none
    driver: str  # "" if no driver is bound to it
    numa_node: str  # "" if the kernel reports none
    speed_mbps: int | None
    read_at: float  # when its counters were read, on the clock of time.monotonic()
    vfs: list[Vf]


@dataclass
class Sample:
    """A host at one time."""

    time: float  # seconds since 1970
    host: str
    pods_known: bool  # whether the kubelet reported the pods
    pfs: list[Pf]
    problems: list[Problem]


def encode(sample: Sample) -> str:
    """Return a sample as one line of JSON."""
    return json.dumps(sample, default=_plain, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, Problem):
        return value.as_dict()
    return vars(value)


def decode(data: object) -> Sample:
    """Return the sample that encode() wrote, from its parsed JSON; raises ValueError."""
    try:
        return _sample(_is(dict, data))
    except KeyError as error:
        raise ValueError(f"a sample has no {error}") from None


def _sample(data: dict[str, object]) -> Sample:
    problems = [_is(dict, each) for each in _is(list, data["problems"])]
    return Sample(
        time=_seconds(data["time"]),
        host=_is(str, data["host"]),
        pods_known=_is(bool, data["pods_known"]),
        pfs=[_pf(_is(dict, pf)) for pf in _is(list, data["pfs"])],
        problems=[
            Problem(*[_is(str, each[name]) for name in ("code", "subject", "reason", "hint")])
            for each in problems
        ],
    )


def _pf(data: dict[str, object]) -> Pf:
    speed = data["speed_mbps"]
    return Pf(
        address=_is(str, data["address"]),
        netdev=_is(str, data["netdev"]),
        driver=_is(str, data["driver"]),
        numa_node=_is(str, data["numa_node"]),
        speed_mbps=None if speed is None else _count(speed, 2**32),
        read_at=_seconds(data["read_at"]),
        vfs=[_vf(_is(dict, vf)) for vf in _is(list, data["vfs"])],
    )


def _vf(data: dict[str, object]) -> Vf:
    user = _is(str, data["user"])
    if user not in USERS:
        raise ValueError(f"{user} is no user of a VF")
    return Vf(
        number=_count(data["number"], 2**32),
        address=_is(str, data["address"]),
        user=user,
        pods=[_is(str, pod) for pod in _is(list, data["pods"])],
        cpu_nodes=[_is(str, node) for node in _is(list, data["cpu_nodes"])],
        counters={
            name: _count(value, 2**64) for name, value in _is(dict, data["counters"]).items()
        },
        held_back=_is(bool, data["held_back"]),
    )


def _is(kind: type[Kind], value: object) -> Kind:
    """Return a value if it is of the given type; raises ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.50} is not of type {kind.__name__}")
    return value


def _count(value: object, limit: int) -> int:
    """Return a whole number from 0 to below a limit; raises ValueError."""
    if isinstance(value, int) and 0 <= value < limit:
        return value
    raise ValueError(f"{value!r:.50} is not a whole number from 0 to below {limit}")


def _seconds(value: object) -> float:
    """Return a time; raises ValueError."""
    if isinstance(value, int | float) and 0 <= value < _YEAR_9999:
        return float(value)
    raise ValueError(f"{value!r:.50} is not a time")
