"""The other cgroup driver, without a reboot, and containers that share the CPUs of their pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import truth
from comparing import compare
from kubernetes import Node
from pods import BY_NAME

OLD = Path("/sys/fs/cgroup/kubepods.slice")


def test_the_old_drivers_empty_cgroups_do_not_hide_the_new_ones(
    node: Node, once: Callable[[], str]
) -> None:
    node.run()
    node.configure("cgroupfs")
    node.run(*(BY_NAME[name] for name in ("two", "burstable", "besteffort")))
    assert OLD.is_dir()
    compare(node, once)


def test_containers_that_share_their_pods_cpus_do_not_own_them(
    node: Node, once: Callable[[], str]
) -> None:
    if node.version < 36:
        pytest.skip("PodLevelResourceManagers came with Kubernetes 1.36")
    node.run()
    gates = {"PodLevelResourceManagers": True}
    node.configure("cgroupfs", featureGates=gates, topologyManagerScope="pod")
    node.run(*(BY_NAME[name] for name in ("two", "burstable", "pod-level-cpus")))
    pod = truth.full_name("pod-level-cpus")
    cpus = {one.name: one.cpus for one in truth.containers() if one.pod == pod}
    assert cpus["one"] == cpus["other"]
    assert len(cpus["one"]) == 2
    compare(node, once)
