"""Compares pages of metrics with the truth, and counts the comparisons."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import truth
import vfs
from common import parse
from kubernetes import Node

SUCCESS = "sriov_scrape_collector_success"
Series = dict[tuple[str, ...], int | float]  # The value, by the labels' values.

compared: Counter[str] = Counter()  # how often, by metric


class Expected(NamedTuple):
    """The series of a metric that a page must have, no more and no fewer."""

    source: str
    collector: str
    metric: str
    labels: tuple[str, ...]
    series: Series


Key = tuple[str, str]  # a pod's UID and a container's name
CONTAINER = ("namespace", "pod", "container")  # labels of what the kubelet lists
POOL = ("dev_type", "numa_node")


def expected(node: Node, starting: str = "") -> list[Expected]:
    """Return what a page must have, several times where the truth has several sources.

    Of the pod `starting`, which runs its init containers, the kubelet already lists the main
    containers: these are in the kubelet's checkpoints, and not yet among the processes.
    """
    running = truth.containers()
    listed = _listed(node, running)
    cpus, devices = truth.assigned_cpus(), truth.assigned_devices()
    by_checkpoint = _devices("the checkpoint of devices", listed, devices)
    found = [
        by_checkpoint,
        _cpus("the checkpoint of CPUs", node, listed, cpus),
        _exclusive_cpus(running, cpus),
        *_pools(node, [labels[-1] for labels in by_checkpoint.series]),
        Expected(
            "sysfs",
            "vfstats",
            "sriov_vf_rx_bytes",
            ("pciAddr",),
            dict.fromkeys([(address,) for address in vfs.numa_nodes()], 0),
        ),
    ]
    if not starting:
        given = {one.key: one.devices for one in running}
        allowed = {one.key: one.cpus for one in running if one.key in cpus}
        found += [
            _devices("the variables of the processes", listed, given),
            _cpus("the CPUs of the processes", node, listed, allowed),
        ]
    return found


def _listed(node: Node, running: Iterable[truth.Container]) -> dict[Key, tuple[str, ...]]:
    """Return the labels of each container that the kubelet lists."""
    pods = {container.pod: container for container in running}
    return {
        (pods[full].uid, container["name"]): (pods[full].namespace, full, container["name"])
        for name, pod in node.pods.items()
        if (full := truth.full_name(name)) in pods
        for container in truth.long_running(pod)
    }


def _devices(
    source: str, listed: dict[Key, tuple[str, ...]], found: dict[Key, frozenset[str]]
) -> Expected:
    series = ones(
        (*listed[key], vfs.RESOURCE, address)
        for key in found.keys() & listed.keys()
        for address in found[key]
    )
    labels = (*CONTAINER, "dev_type", "pciAddr")
    return Expected(source, "kubepoddevice", "sriov_kubepoddevice", labels, series)


def _cpus(
    source: str,
    node: Node,
    listed: dict[Key, tuple[str, ...]],
    found: dict[Key, frozenset[int]],
) -> Expected:
    """Return the CPUs of containers. One that containers of a pod share is no container's."""
    assigned = [(key, cpu) for key in found.keys() & listed.keys() for cpu in found[key]]
    users = Counter((uid, cpu) for (uid, _), cpu in assigned)
    series = ones(
        (
            *(listed[key] if users[key[0], cpu] == 1 else (*listed[key][:2], "")),
            str(cpu),
            truth.numa_node(cpu),
        )
        for key, cpu in assigned
    )
    labels = (*CONTAINER, "cpu_id", "numa_node")
    return Expected(
        source,
        "kubepoddevice",
        "sriov_container_cpu",
        labels,
        series if node.reports_allocatable else {},
    )


def _exclusive_cpus(
    running: Iterable[truth.Container], assigned: dict[Key, frozenset[int]]
) -> Expected:
    owners = Counter(cpu for one in running for cpu in one.cpus)
    return Expected(
        "the CPUs that only one container's processes may use",
        "kubepodcpu",
        "sriov_kubepodcpu",
        ("uid", "container_id", "cpu_id", "numa_node"),
        ones(
            (one.uid, one.id, str(cpu), truth.numa_node(cpu))
            for one in running
            if one.key in assigned
            for cpu in one.cpus
            if owners[cpu] == 1
        ),
    )


def _pools(node: Node, allocated: list[str]) -> tuple[Expected, Expected]:
    """Return how many devices there are, and how many of them pods have."""
    numa_nodes = {address: str(number) for address, number in vfs.numa_nodes().items()}
    plugged = Counter((vfs.RESOURCE, number) for number in numa_nodes.values())
    pools: Counter[tuple[str, ...]] = plugged if node.reports_allocatable else Counter()
    used = Counter((vfs.RESOURCE, numa_nodes[address]) for address in allocated)
    metric = "sriov_device_allocatable"
    return (
        Expected("the device plugin", "kubepoddevice", metric, POOL, dict(pools)),
        Expected(
            "the checkpoint of devices",
            "kubepoddevice",
            "sriov_device_allocated",
            POOL,
            {pool: used[pool] for pool in {*pools, *used}},
        ),
    )


def without_device_plugin(truths: list[Expected]) -> list[Expected]:
    """Return what a page must have while the kubelet waits for the device plugin to register.

    It knows which devices it has assigned, and has none to assign.
    """
    changed = []
    for one in truths:
        series = one.series
        if one.metric == "sriov_device_allocatable":
            series = {}
        elif one.metric == "sriov_device_allocated":
            series = {pool: number for pool, number in series.items() if number}
        changed.append(one._replace(series=series))
    return changed


def ones(labels: Iterable[tuple[str, ...]]) -> Series:
    return dict.fromkeys(labels, 1)


def compare(
    node: Node, page: Callable[[], str], starting: str = "", off: Collection[str] = ()
) -> None:
    """Compare a page with the truth. It is fetched again if the truth changes meanwhile.

    `off` has the collectors that are off.
    """
    for _ in range(10):
        before = expected(node, starting)
        text = page()
        if expected(node, starting) == before:
            break
        time.sleep(1)
    else:
        raise AssertionError("the node does not settle")
    differences = [*failures(text), *differing(text, before, off)]
    assert not differences, "\n".join(differences)


def failures(page: str) -> list[str]:
    """Return the collectors that failed, or that none ran."""
    success = {labels["collector"]: value for name, labels, value in parse(page) if name == SUCCESS}
    if not success:
        return ["no collector ran"]
    return [f"{collector} failed" for collector, value in success.items() if value != 1]


def differing(page: str, truths: list[Expected], off: Collection[str] = ()) -> list[str]:
    """Return a line for each comparison in which a page differs from the truth.

    Of a collector that failed there must be no series. Only those in `off` are not compared.
    """
    samples = parse(page)
    success = {labels["collector"]: value for name, labels, value in samples if name == SUCCESS}
    expected = {truth.collector for truth in truths} - set(off)
    differences = [f"{collector} did not run" for collector in sorted(expected - success.keys())]
    for source, collector, metric, keys, series in truths:
        if collector in success:
            found = {
                tuple(labels[key] for key in keys): value
                for name, labels, value in samples
                if name == metric
            }
            compared[metric] += 1
            if found != (series if success[collector] else {}):
                differences.append(f"{metric} and {source}:\n  {found}\n  {series}")
    return differences
