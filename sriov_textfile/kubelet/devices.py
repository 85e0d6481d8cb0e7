"""Reads the checkpoint file of the kubelet's device manager.

The format: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go in Kubernetes' source, a JSON
object `Data` with `PodDeviceEntries`, and a checksum.
"""

from __future__ import annotations

import json

from sriov_textfile.host.files import read_at

_LIMIT = 16 << 20  # bytes


def read_checkpoint(path: str) -> dict[str, set[str]]:
    """Return the IDs of the devices that are assigned to each pod, by the pod's uid.

    A pod that has ended may still be there. Raises OSError if the file cannot be read, and
    ValueError if it is empty, half-written or not a checkpoint.
    """
    try:
        found: dict[str, set[str]] = {}
        for entry in json.loads(read_at(path, limit=_LIMIT))["Data"]["PodDeviceEntries"] or ():
            # Since Kubernetes 1.20 by NUMA node.
            ids = entry["DeviceIDs"]
            lists = ids.values() if isinstance(ids, dict) else [ids]
            found.setdefault(str(entry["PodUID"]), set()).update(*lists)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is not a complete checkpoint of the device manager") from None
    return found
