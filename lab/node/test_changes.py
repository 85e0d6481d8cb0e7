"""Pods come and go, kubelet and containerd restart: the loop never writes what is not true."""

from __future__ import annotations

import pytest
from common import sh
from comparing import compare, differing, expected
from conftest import Loop
from kubernetes import Node
from pods import BY_NAME


def run(node: Node, *names: str) -> None:
    node.run(*(BY_NAME[name] for name in names))


def test_pods_come_and_go(node: Node, loop: Loop) -> None:
    run(node, "upf", "burstable-vf", "besteffort")
    compare(node, loop.next)
    run(node, "upf", "burstable-vf", "besteffort", "two")
    compare(node, loop.next)
    run(node, "two", "besteffort")
    compare(node, loop.next)


@pytest.mark.parametrize("unit", ["kubelet", "containerd"])
def test_a_restart(node: Node, loop: Loop, unit: str) -> None:
    run(node, "two", "burstable-vf")
    compare(node, loop.next)
    before = expected(node)
    first = len(loop.pages)
    sh(f"systemctl restart {unit}")
    recovered = 0
    while recovered < 5:
        page = loop.next()
        recovered = recovered + 1 if 'success{collector="kubepoddevice"} 1' in page else 0
    assert expected(node) == before  # No pod has changed.
    pages = loop.pages[first:]
    wrong = [line for page in pages for line in differing(page, before)]
    failed = sum('success{collector="kubepoddevice"} 0' in page for page in pages)
    print(f"after the restart of {unit}: {len(pages)} pages, {failed} without devices")
    assert wrong == []
