"""kubepoddevice: the PCI devices that pods use, from the kubelet."""

from __future__ import annotations

from sriov_textfile.metrics import Family, labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.snapshot import Snapshot


def collect(snapshot: Snapshot) -> Iterable[Family]:
    """Return `sriov_kubepoddevice`; raises ProblemError."""
    family = Family("sriov_kubepoddevice", "gauge", "A PCI device that a pod's container holds.")
    for device in snapshot.pod_devices:
        series = labels(
            container=device.container,
            dev_type=device.type,
            namespace=device.namespace,
            pciAddr=device.address,
            pod=device.pod,
        )
        family.add(series, 1)
    return [family]
