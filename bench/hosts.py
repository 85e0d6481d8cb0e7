"""Simulated hosts to measure on."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf


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
            server.terminate()
            server.join()


def _serve_rtnetlink(simulated: SimulatedHost, ready: Any) -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with simulated.running():
        ready.set()
        multiprocessing.get_context("fork").Event().wait()
