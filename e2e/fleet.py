"""Three simulated nodes that a real Prometheus scrapes with our rules.

The one that is well is the demo. On the second every alert has a reason to fire but one, for which
the third has lost its file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.conftest import Prometheus, prometheus_reading, textfile_folder
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedContainer, SimulatedNode, SimulatedPod
from tests.conftest import PROGRAM

RULES = sorted((Path(__file__).parent.parent / "deployment/prometheus/rules").glob("*.yml"))
WELL, TROUBLED, EMPTIED = "node-1", "node-2", "node-3"
STALE_SECONDS = 900


class PfInTrouble(SimulatedPf):
    """A PF whose VF 0 drops one packet in ten and has errors, and whose VF 1 is silent."""

    def counters(self, vf: int, seconds: int) -> dict[str, int]:
        counters = super().counters(vf, 0 if vf == 1 else seconds)
        if vf == 0:
            counters["rx_dropped"] += counters["rx_packets"] // 10
            counters["tx_errors"] += seconds
        return counters


@contextmanager
def fleet(debian: Path, work: Path) -> Iterator[Prometheus]:
    """Run the nodes, their node_exporters and Prometheus for as long as the context lasts."""
    emptied = work / EMPTIED
    emptied.mkdir()
    demo = [sys.executable, "-m", "sriov_textfile", "demo", "--pfs=1", "--vfs=0"]
    subprocess.run([*demo, f"--textfile.path={emptied}/sriov.prom"], check=True)
    with (
        _node_that_is_well(work / WELL) as well,
        _node_in_trouble(work / TROUBLED) as trouble,
        prometheus_reading([well, trouble, emptied], debian, work, RULES) as prometheus,
    ):
        prometheus.wait_for(f'sriov_textfile_build_info{{instance="{EMPTIED}"}}')
        (emptied / "sriov.prom").unlink()
        yield prometheus


@contextmanager
def _node_that_is_well(folder: Path) -> Iterator[Path]:
    textfile_folder(folder)
    command = [sys.executable, "-m", "sriov_textfile", "demo", "--collector.vfinfo"]
    command += ["--interval=1s", f"--textfile.path={folder}/sriov.prom"]
    demo = subprocess.Popen(command)
    try:
        yield folder
    finally:
        demo.terminate()
        demo.wait(20)


@contextmanager
def _node_in_trouble(folder: Path) -> Iterator[Path]:
    # Pods hold every VF of the first PF; nobody in this network namespace knows the second.
    pf = PfInTrouble(netdev="ens7f0", vfs=2, total_vfs=2, numa_node=0)
    lost = SimulatedPf(address="0000:18:00.0", netdev="ens8f0", vfs=2, sysfs="none")
    # Its CPUs are on NUMA node 1, its VFs on 0.
    container = SimulatedContainer(
        name="gw",
        id="a1" * 32,
        cpus="4-5",
        devices={"vendor.example/ice_vf": [pf.vf_address(0), pf.vf_address(1)]},
    )
    uid = "11111111-2222-3333-4444-555555555555"
    pod = SimulatedPod(name="gw-0", namespace="edge", uid=uid, containers=[container])
    textfile_folder(folder, [pod])
    machine = folder.with_name("machine")
    host = SimulatedHost(machine, [pf, lost])
    node = SimulatedNode(machine, [pod])
    written = machine / "sriov.prom"
    command = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags, *node.flags]
    command += ["--collector.vfinfo", "--interval=1s", f"--textfile.path={written}"]
    over = threading.Event()

    def keep_counting() -> None:
        while not over.wait(0.5):
            host.refresh()
            if written.exists():
                # As old as if nothing had written it for long, though its counters go on.
                new = machine / "aged"
                shutil.copyfile(written, new)
                os.utime(new, (time.time() - STALE_SECONDS,) * 2)
                shutil.move(new, folder / "sriov.prom")

    with host.running() as rtnetlink, node.running():
        describe = rtnetlink.describe
        rtnetlink.describe = lambda netdev, sequence: (
            None if netdev == lost.netdev else describe(netdev, sequence)
        )
        program = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        clock = threading.Thread(target=keep_counting)
        clock.start()
        try:
            yield folder
        finally:
            over.set()
            clock.join()
            program.terminate()
            program.wait(20)
