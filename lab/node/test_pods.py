"""Pods of every kind, while they run: each series is what the kubelet and the processes have."""

from __future__ import annotations

from collections.abc import Callable

import truth
from comparing import compare
from kubernetes import FLAGS, Node
from pods import BY_NAME

# How many CPUs of its own and devices each container has.
AMOUNTS = {
    ("upf", "app"): (2, 1),
    ("two", "left"): (1, 1),
    ("two", "right"): (1, 1),
    ("burstable", "app"): (0, 0),
    ("besteffort", "app"): (0, 0),
    ("burstable-vf", "app"): (0, 1),
    ("fraction", "app"): (0, 0),
    ("sidecar", "app"): (1, 1),
    ("sidecar", "helper"): (1, 1),
    ("pod-level", "one"): (0, 0),
    ("pod-level", "other"): (0, 0),
}


def amounts(node: Node) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the same of the containers that run."""
    own = truth.assigned_cpus()
    return {
        (one.pod.removesuffix(truth.full_name("")), one.name): (
            len(one.cpus) if (one.uid, one.name) in own else 0,
            len(one.devices),
        )
        for one in truth.containers()
    }


def test_pods_of_all_kinds(node: Node, once: Callable[[], str]) -> None:
    expected = {
        container: amount
        for container, amount in AMOUNTS.items()
        if node.has_sidecars or container[0] != "sidecar"
    }
    node.run(*(BY_NAME[name] for name in {name for name, _ in expected}))
    assert amounts(node) == expected
    compare(node, once)


def test_an_init_container(node: Node, once: Callable[[], str]) -> None:
    (FLAGS / "ready").unlink(missing_ok=True)
    pods = [BY_NAME[name] for name in ("upf", "two", "init")]
    node.run(*pods, starting="init")
    assert amounts(node)["init", "setup"] == (1, 1)
    compare(node, once, starting="init")
    (FLAGS / "ready").touch()
    node.run(*pods)
    assert amounts(node)["init", "app"] == (1, 1)
    compare(node, once)


def test_a_job_that_ends(node: Node, once: Callable[[], str]) -> None:
    (FLAGS / "done").unlink(missing_ok=True)
    pods = [BY_NAME[name] for name in ("upf", "two", "job")]
    node.run(*pods)
    assert amounts(node)["job", "app"] == (1, 1)
    compare(node, once)
    (FLAGS / "done").touch()
    node.run(*pods, ended="job")
    compare(node, once)
