"""Reads the checkpoint file of the kubelet's CPU manager.

The format: pkg/kubelet/cm/cpumanager/state/checkpoint.go in Kubernetes' source, a JSON object
with `policyName`, `defaultCpuSet`, `entries` and a checksum.
"""

from __future__ import annotations

import json

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.host.files import read_at

_MOST = 16 << 20  # bytes; an entry for each container of a full node makes 100 KB


class Checkpoint:
    """What the CPU manager has written down."""

    __slots__ = ("default_cpus", "policy")

    def __init__(self, policy: str, default_cpus: frozenset[int]) -> None:
        # policyName: static, or none, which gives no container its own CPUs; "" if not said
        self.policy = policy
        self.default_cpus = default_cpus  # defaultCpuSet: the shared pool, where all others run


def read_checkpoint(path: str) -> Checkpoint:
    """Return what the checkpoint at `path` says.

    Raises OSError if the file cannot be read, and ValueError if it is empty, half-written or
    no such file; both say which file.
    """
    try:
        state = json.loads(read_at(path, most=_MOST))
        policy, default_cpus = state.get("policyName"), parse_cpu_list(state["defaultCpuSet"])
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no whole checkpoint of the CPU manager") from None
    return Checkpoint(policy if isinstance(policy, str) else "", default_cpus)
