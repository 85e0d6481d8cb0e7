"""Pods come and go, kubelet and containerd restart: the loop never writes what is not true."""

from __future__ import annotations

from common import sh
from comparing import compare, differing, expected, failures, without_device_plugin
from conftest import Loop
from kubernetes import Node, restart_kubelet
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


def test_a_restart_of_containerd(node: Node, loop: Loop) -> None:
    run(node, "two", "burstable-vf")
    compare(node, loop.next)
    before = expected(node)
    first = len(loop.pages)
    sh("systemctl restart containerd")
    for _ in range(5):
        loop.next()
    assert expected(node) == before  # No pod has changed.
    pages = loop.pages[first:]
    assert [line for page in pages for line in differing(page, before)] == []
    assert [line for page in pages for line in failures(page)] == []


def test_a_restart_of_the_kubelet(node: Node, loop: Loop) -> None:
    run(node, "two", "burstable-vf")
    compare(node, loop.next)
    before = expected(node)
    first = seen = len(loop.pages)
    is_registered = restart_kubelet()
    wrong = []
    registered = False  # before the first page that was not seen yet
    recovered = 0
    while recovered < 5:
        now = is_registered()
        page = loop.next()
        for new in loop.pages[seen:]:
            truths = [before] if registered else [before, without_device_plugin(before)]
            wrong += min((differing(new, one) for one in truths), key=len)
        seen = len(loop.pages)
        recovered = recovered + 1 if registered and not failures(page) else 0
        registered = now
    assert expected(node) == before  # No pod has changed.
    failed = sum(bool(failures(page)) for page in loop.pages[first:])
    print(f"after the restart of the kubelet: {seen - first} pages, {failed} without devices")
    assert wrong == []
