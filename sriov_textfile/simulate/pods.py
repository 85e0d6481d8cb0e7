"""The pods of a simulated Kubernetes node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

# The IDs of a device plugin's devices: by resource, and by NUMA node, -1 if it is unknown.
Pools = Mapping[str, Mapping[int, Sequence[str]]]


@dataclass
class SimulatedContainer:
    """A container, its exclusive CPUs, and its devices by resource or DRA driver."""

    name: str
    id: str
    cpus: str = ""  # a list such as 2-3; "" is the shared pool
    devices: dict[str, list[str]] = field(default_factory=dict)  # of device plugins
    claims: dict[str, list[str]] = field(default_factory=dict)  # of DRA drivers


@dataclass
class SimulatedPod:
    """A pod. A static pod's uid is a hash of 32 hex digits without dashes."""

    name: str
    namespace: str
    uid: str
    containers: list[SimulatedContainer]
    qos: Literal["guaranteed", "burstable", "besteffort"] = "guaranteed"
