"""kubepoddevice: which pod holds which PCI device, as the kubelet says."""

from __future__ import annotations

import time

from sriov_textfile.kubelet import podresources
from sriov_textfile.metrics import Family, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.host.snapshot import Snapshot

# Of the time that is left: a kubelet that hangs must not cost what other collectors found.
_SHARE = 0.8


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return `sriov_kubepoddevice`; raises KubeletError."""
    family = Family("sriov_kubepoddevice", "gauge", "A PCI device that a pod's container holds.")
    seconds = (snapshot.deadline - time.monotonic()) * _SHARE
    for device in podresources.pod_devices(snapshot.config.kubeletsocket, seconds):
        series = labels(
            container=device.container,
            dev_type=device.type,
            namespace=device.namespace,
            pciAddr=device.address,
            pod=device.pod,
        )
        family.add(series, 1)
    return [family]
