"""Reads the checkpoint file of the kubelet's CPU manager.

The format: pkg/kubelet/cm/cpumanager/state/checkpoint.go in Kubernetes' source, a JSON object
with `policyName`, `defaultCpuSet`, `entries` and a checksum.
"""

from __future__ import annotations

import json

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.host.files import read_at

_LIMIT = 16 << 20  # bytes; the checkpoint of a full node has about 100 KB


class Checkpoint:
    """The state of the CPU manager."""

    __slots__ = ("default_cpus", "policy")

    def __init__(self, policy: str, default_cpus: frozenset[int]) -> None:
        self.policy = policy  # policyName: "static" or "none"; "" if it is missing
        self.default_cpus = default_cpus  # defaultCpuSet: the shared pool


def read_checkpoint(path: str) -> Checkpoint:
    """Return the state in the checkpoint at `path`.

    Raises OSError if the file cannot be read, and ValueError if it is empty, half-written or
    not a checkpoint.
    """
    try:
        state = json.loads(read_at(path, limit=_LIMIT))
        policy, default_cpus = state.get("policyName"), parse_cpu_list(state["defaultCpuSet"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is not a complete checkpoint of the CPU manager") from None
    return Checkpoint(policy if isinstance(policy, str) else "", default_cpus)
