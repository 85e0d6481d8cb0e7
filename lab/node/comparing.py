"""Compares pages of metrics with the truth, and counts the comparisons."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
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


def expected(node: Node, starting: str = "") -> list[Expected]:
    """Return what a page must have, several times where the truth has several sources.

    Of the pod `starting`, which runs its init containers, the kubelet already lists the main
    containers: these are in the kubelet's checkpoints, and not yet among the processes.
    """
    running = truth.containers()
    pods = {container.pod: (container.uid, container.namespace) for container in running}
    listed = {  # as the kubelet lists them, by UID and container
        (pods[full][0], container["name"]): (pods[full][1], full, container["name"])
        for name, pod in node.pods.items()
        if (full := truth.full_name(name)) in pods
        for container in truth.long_running(pod)
    }
    cpus, devices = truth.assigned_cpus(), truth.assigned_devices()
    owners = Counter(cpu for one in running for cpu in one.cpus)
    numa_nodes = vfs.numa_nodes()

    def device_series(found: dict[tuple[str, str], frozenset[str]]) -> Series:
        return ones(
            (*listed[key], vfs.RESOURCE, address)
            for key in found.keys() & listed.keys()
            for address in found[key]
        )

    def cpu_series(found: dict[tuple[str, str], frozenset[int]]) -> Series:
        """Return the series of CPUs; one that containers of a pod share is no container's."""
        assigned = [(key, cpu) for key in found.keys() & listed.keys() for cpu in found[key]]
        users = Counter((uid, cpu) for (uid, _), cpu in assigned)
        return ones(
            (
                *(listed[key] if users[key[0], cpu] == 1 else (*listed[key][:2], "")),
                str(cpu),
                truth.numa_node(cpu),
            )
            for key, cpu in assigned
        )

    container = ("namespace", "pod", "container")
    pool, cpu, exclusive = (
        ("dev_type", "numa_node"),
        (*container, "cpu_id", "numa_node"),
        ("uid", "container_id", "cpu_id", "numa_node"),
    )
    device = (*container, "dev_type", "pciAddr")
    lists, cgroups = "kubepoddevice", "kubepodcpu"
    by_checkpoint = device_series(devices)
    found = [
        Expected("the checkpoint of devices", lists, "sriov_kubepoddevice", device, by_checkpoint),
        Expected("the checkpoint of CPUs", lists, "sriov_container_cpu", cpu, cpu_series(cpus)),
        Expected(
            "the CPUs that only one container's processes may use",
            cgroups,
            "sriov_kubepodcpu",
            exclusive,
            ones(
                (one.uid, one.id, str(cpu), truth.numa_node(cpu))
                for one in running
                if (one.uid, one.name) in cpus
                for cpu in one.cpus
                if owners[cpu] == 1
            ),
        ),
        Expected(
            "the device plugin",
            lists,
            "sriov_device_allocatable",
            pool,
            amounts((vfs.RESOURCE, str(node)) for node in numa_nodes.values()),
        ),
        Expected(
            "the checkpoint of devices",
            lists,
            "sriov_device_allocated",
            pool,
            {(vfs.RESOURCE, str(node)): 0 for node in numa_nodes.values()}
            | amounts((vfs.RESOURCE, str(numa_nodes[labels[-1]])) for labels in by_checkpoint),
        ),
        Expected(
            "sysfs", "vfstats", "sriov_vf_rx_bytes", ("pciAddr",), {(vf,): 0 for vf in numa_nodes}
        ),
    ]
    if not starting:
        found += [
            Expected(
                "the variables of the processes",
                lists,
                "sriov_kubepoddevice",
                device,
                device_series({(one.uid, one.name): one.devices for one in running}),
            ),
            Expected(
                "the CPUs of the processes",
                lists,
                "sriov_container_cpu",
                cpu,
                cpu_series(
                    {
                        (one.uid, one.name): one.cpus
                        for one in running
                        if (one.uid, one.name) in cpus
                    }
                ),
            ),
        ]
    return found


def ones(labels: Iterable[tuple[str, ...]]) -> Series:
    return dict.fromkeys(labels, 1)


def amounts(labels: Iterable[tuple[str, ...]]) -> Series:
    return dict(Counter(labels))


def compare(node: Node, page: Callable[[], str], starting: str = "") -> None:
    """Compare a page with the truth. It is fetched again if the truth changes meanwhile."""
    for _ in range(10):
        before = expected(node, starting)
        text = page()
        if expected(node, starting) == before:
            break
        time.sleep(1)
    else:
        raise AssertionError("the node does not settle")
    differences = [*failures(text), *differing(text, before)]
    assert not differences, "\n".join(differences)


def failures(page: str) -> list[str]:
    """Return the collectors that failed."""
    return [
        f"{labels['collector']} failed"
        for name, labels, value in parse(page)
        if name == SUCCESS and value != 1
    ]


def differing(page: str, truths: list[Expected]) -> list[str]:
    """Return a line for each comparison in which a page differs from the truth.

    Of a collector that failed there must be no series. One that is off is not compared.
    """
    samples = parse(page)
    success = {labels["collector"]: value for name, labels, value in samples if name == SUCCESS}
    differences = []
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
