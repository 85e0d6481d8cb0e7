"""Reads the NUMA topology of the CPUs, and CPU lists as the kernel writes them."""

from __future__ import annotations

import os

from sriov_textfile.host.files import read

# No kernel has more (CONFIG_NR_CPUS is at most 8192); a broken list must not exhaust memory.
_MAX_CPUS = 65536


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the CPUs in a list such as `0-3,8`, as in a file `cpulist` or `cpuset.cpus`.

    The format: the kernel's Documentation/admin-guide/cputopology.rst. Raises ValueError.
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, dash, last = part.partition("-")
            last = last if dash else first
            numbers = part.isascii() and first.isdecimal() and last.isdecimal()
            if not numbers or int(last) >= _MAX_CPUS:
                raise ValueError(f"{part[:40]!r} is not a range of CPUs")
            cpus.update(range(int(first), int(last) + 1))
    return frozenset(cpus)


def numa_nodes(root: str) -> dict[int, str]:
    """Return the NUMA node of each online CPU; `root` is /sys/devices/system/node.

    A node without CPUs, which has only memory, is left out. Raises OSError, ValueError.
    """
    nodes: dict[int, str] = {}
    for name in os.listdir(root):
        number = name.removeprefix("node")
        if name.startswith("node") and number.isdecimal():
            for cpu in _cpus_of(f"{root}/{name}"):
                nodes[cpu] = number
    return nodes


def _cpus_of(node: str) -> frozenset[int]:
    """Return the CPUs of a node, from its cpulist or else from the names of its links."""
    cpulist = read(f"{node}/cpulist")
    if cpulist is not None:
        return parse_cpu_list(cpulist)
    numbers = [name.removeprefix("cpu") for name in os.listdir(node) if name.startswith("cpu")]
    return frozenset([int(number) for number in numbers if number.isdecimal()])
