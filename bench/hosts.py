"""Simulated hosts, and the kubelet of a simulated node, to measure on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode


@contextmanager
def host(pfs: int, vfs: int, sysfs: bool = True) -> Iterator[SimulatedHost]:
    """Yield a simulated host with its rtnetlink server in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        simulated = SimulatedHost(
            Path(folder) / "host",
            [
                SimulatedPf(
                    address=f"0000:{16 + 8 * n:02x}:00.0",
                    netdev=f"ens{n + 1}f0",
                    vfs=vfs,
                    sysfs="folder" if sysfs else "none",
                    vf_driver="vfio-pci",
                )
                for n in range(pfs)
            ],
            clock=lambda: 0.0,
        )
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        server = context.Process(target=_serve_rtnetlink, args=(simulated, ready), daemon=True)
        server.start()
        ready.wait(10)
        try:
            yield simulated
        finally:
            # Not by SIGTERM: after curses, its handler writes to standard output.
            server.kill()
            server.join()


def _serve_rtnetlink(simulated: SimulatedHost, ready: Any) -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with simulated.running():
        ready.set()
        multiprocessing.get_context("fork").Event().wait()


@contextmanager
def kubelet(node: SimulatedNode) -> Iterator[None]:
    """Run a node's kubelet in a separate process, as grpcio's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    server = context.Process(target=_serve_kubelet, args=(node, ready), daemon=True)
    server.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the kubelet does not start")
        yield
    finally:
        server.terminate()
        server.join()


# Not in __main__, whose functions a spawned process does not find.
def _serve_kubelet(node: SimulatedNode, ready: Any) -> None:
    with node.running():
        ready.set()
        signal.pause()
