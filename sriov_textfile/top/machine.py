"""Takes samples of this machine."""

from __future__ import annotations

import os
import threading  # noqa: F401  # before grpc does so in a task; see deadline.Task
import time
from collections.abc import Callable

from sriov_textfile import inventory
from sriov_textfile.config import Config
from sriov_textfile.host import pci
from sriov_textfile.log import Log
from sriov_textfile.problems import ProblemError
from sriov_textfile.snapshot import Snapshot
from sriov_textfile.snapshots import Snapshots
from sriov_textfile.top.sample import COUNTERS, Pf, Sample, Vf

# What rarely changes is read only so often: the speeds of links, for which the kernel may ask the
# NIC's firmware, and the drivers of VFs that no pod uses, which takes as long as their counters.
_DETAILS_SECONDS = 10.0
_MAX_PROBLEMS = 100


class Machine:
    """Reads this machine; `host` is its name, and `before` is called before each sample."""

    def __init__(
        self, config: Config, host: str = "", before: Callable[[], object] = lambda: None
    ) -> None:
        self._config = config
        self._host = host or os.uname().nodename
        self._before = before
        self._snapshots = Snapshots(config, Log("error"), "top", config.timeout)
        self._details_until = 0.0
        self._users: dict[str, str] = {}  # by the VF's address
        self._speeds: dict[str, int | None] = {}  # by the PF's netdev

    def sample(self) -> Sample:
        """Return a sample, within --timeout. Raises SnapshotError."""
        self._before()
        seconds = self._config.timeout
        snapshot = self._snapshots.new(seconds)
        return self._snapshots.read(snapshot, lambda: self._read(snapshot), seconds)

    def _read(self, snapshot: Snapshot) -> Sample:
        if time.monotonic() > self._details_until:
            self._users.clear()
            self._speeds.clear()
            self._details_until = time.monotonic() + _DETAILS_SECONDS
        now = time.time()
        found = inventory.take(snapshot, describe_nic=None)
        if found.problem:
            raise ProblemError(found.problem)
        cpu_nodes = _cpu_nodes(found.kubelet.containers)
        pfs = [
            Pf(
                address=pf.address,
                netdev=pf.netdev,
                driver=pf.driver,
                numa_node=pf.numa_node,
                speed_mbps=self._speed(snapshot, device),
                read_at=snapshot.vf_counters[device].read_at,
                vfs=[
                    Vf(
                        number=vf.number,
                        address=vf.address,
                        user="pod" if vf.pods else self._user(snapshot, vf.address),
                        pods=vf.pods,
                        cpu_nodes=cpu_nodes.get(vf.address, []),
                        counters={n: vf.counters[n] for n in COUNTERS if n in vf.counters},
                        held_back=vf.held_back_since is not None,
                    )
                    for vf in pf.vfs
                ],
            )
            for device, pf in zip(snapshot.pfs, found.pfs, strict=True)
        ]
        kubelet = found.kubelet
        problems = [*snapshot.failed, *([kubelet.problem] if kubelet.problem else [])]
        problems += snapshot.skipped
        pods_known = kubelet.asked and not kubelet.problem
        return Sample(now, self._host, pods_known, pfs, problems[:_MAX_PROBLEMS])

    def _speed(self, snapshot: Snapshot, pf: pci.Pf) -> int | None:
        if pf.netdev not in self._speeds:
            self._speeds[pf.netdev] = snapshot.link_speed(pf) if pf.netdev else None
        return self._speeds[pf.netdev]

    def _user(self, snapshot: Snapshot, address: str) -> str:
        if address not in self._users:
            self._users[address] = _user_of(snapshot, address)
        return self._users[address]


def _user_of(snapshot: Snapshot, address: str) -> str:
    """Return the user of a VF that no pod uses; see sample.USERS."""
    try:
        driver, netdev = snapshot.vf_driver_and_netdev(address)
    except ProblemError:
        return "unknown"
    if not driver:
        return "free"
    if pci.is_userspace(driver):
        return "vfio"
    return "host" if netdev else "netns"


def _cpu_nodes(containers: list[inventory.Container]) -> dict[str, list[str]]:
    """Return the NUMA nodes of the exclusive CPUs of the containers that use a device."""
    nodes: dict[str, set[str]] = {}
    for container in containers:
        for device in container.devices:
            nodes.setdefault(device.name, set()).update(container.cpu_numa_nodes)
    return {device: sorted(found) for device, found in nodes.items()}
