"""kubepoddevice: the devices and CPUs of pods, and the devices of the node, from the kubelet."""

from __future__ import annotations

import os
from collections import Counter

from sriov_textfile.metrics import Family, labels
from sriov_textfile.problems import Problem, ProblemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sriov_textfile.kubelet.podresources import PodResources
    from sriov_textfile.snapshot import Snapshot


# How long after its start the kubelet may list only some of the pods; ten seconds were seen.
_STARTUP_SECONDS = 120.0


def collect(snapshot: Snapshot) -> Iterator[Family]:
    """Yield the metrics of devices and CPUs; raises ProblemError, also if pods are missing."""
    resources = snapshot.pod_resources
    if reason := _missing_pods(snapshot, resources):
        hint = "it does so for some seconds after its start; if it lasts, see journalctl -u kubelet"
        raise ProblemError(Problem("kubelet-not-ready", "", reason, hint))
    yield _pci_devices(resources)
    yield _auxiliary_devices(snapshot, resources)
    yield from _pools(resources)
    yield _cpus(snapshot, resources)
    if resources.problem:
        path = snapshot.config.kubeletsocket
        snapshot.skip(Problem("kubelet", path, str(resources.problem), resources.problem.hint))


def _missing_pods(snapshot: Snapshot, resources: PodResources) -> str:
    """Return why the kubelet's answer cannot be true yet, or "".

    After its start, the kubelet answers without an error but lists no pods, and then only some.
    """
    if resources.pods and resources.age > _STARTUP_SECONDS:
        return ""
    try:
        running = {container.pod_uid for container in snapshot.containers}
    except ProblemError:  # There are no cgroups here, as in a container. kubepodcpu reports it.
        running = set()
    if not resources.pods:
        own = "KUBERNETES_SERVICE_HOST" in os.environ  # set in every pod but a static one
        return "the kubelet lists no pods, but there are some" if running or own else ""
    try:
        assigned = snapshot.assigned_devices
    except ProblemError:
        return ""
    from sriov_textfile.kubelet.podresources import is_device

    listed = {device.name for _, device in resources.uses}
    for uid in sorted(running & assigned.keys()):
        devices = {name for name in assigned[uid] if is_device(name)}
        # Not each device: one of an init container is not listed.
        if devices and devices.isdisjoint(listed):
            return f"the kubelet does not list the pod {uid} yet, which has devices"
    return ""


def _pci_devices(resources: PodResources) -> Family:
    family = Family(
        "sriov_kubepoddevice", "gauge", "A PCI device assigned to a container of a pod."
    )
    for container, device in resources.uses:
        if not device.is_auxiliary:
            series = labels(
                container=container.name,
                dev_type=device.type,
                namespace=container.namespace,
                pciAddr=device.name,
                pod=container.pod,
            )
            family.add(series, 1)
    return family


def _auxiliary_devices(snapshot: Snapshot, resources: PodResources) -> Family:
    family = Family(
        "sriov_kubepod_auxiliary_device",
        "gauge",
        "A device on the auxiliary bus that a pod's container uses, such as a scalable function.",
    )
    for container, device in resources.uses:
        if device.is_auxiliary:
            try:
                address, netdev = snapshot.auxiliary_function(device.name)
            except ProblemError as error:
                snapshot.skip(error.problem)
                continue
            series = labels(
                container=container.name,
                dev_type=device.type,
                device=device.name,
                namespace=container.namespace,
                netdev=netdev,
                pciAddr=address,
                pod=container.pod,
            )
            family.add(series, 1)
    return family


def _pools(resources: PodResources) -> Iterator[Family]:
    """Yield how many PCI devices each device plugin has, and how many of them pods use."""
    nodes = {
        (device.type, device.name): device.numa_node
        for device in resources.allocatable
        if not device.is_auxiliary
    }
    used = {
        (device.type, device.name): device.numa_node
        for _, device in resources.uses
        if not (device.is_auxiliary or device.is_claimed)
    }
    allocatable = Counter([(type, node) for (type, _), node in nodes.items()])
    # A device may be in use and, because it is no longer healthy, not allocatable.
    allocated = Counter([(key[0], nodes.get(key, node)) for key, node in used.items()])
    for counts, name, help in (
        (allocatable, "sriov_device_allocatable", "PCI devices that can be assigned to pods."),
        (allocated, "sriov_device_allocated", "PCI devices that are assigned to pods."),
    ):
        family = Family(name, "gauge", help)
        for type, node in sorted({*allocatable, *counts}):
            family.add(labels(dev_type=type, numa_node=node), counts[type, node])
        yield family


def _cpus(snapshot: Snapshot, resources: PodResources) -> Family:
    family = Family(
        "sriov_container_cpu", "gauge", "A CPU that the kubelet has assigned to a container alone."
    )
    nodes: dict[int, str] = {}
    if any(container.cpus for container in resources.containers):
        try:
            nodes = snapshot.numa_nodes
        except ProblemError as error:  # The CPUs are known all the same.
            snapshot.skip(error.problem)
    for container in resources.containers:
        for cpu in container.cpus:
            series = labels(
                container=container.name,
                cpu_id=str(cpu),
                namespace=container.namespace,
                numa_node=nodes.get(cpu, ""),
                pod=container.pod,
            )
            family.add(series, 1)
    return family
