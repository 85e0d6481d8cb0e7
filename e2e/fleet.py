"""Three simulated nodes, scraped by a real Prometheus that evaluates our rules.

The healthy node is the demo. The faulty node has a reason for every alert except those about
missing metrics; for them, the file of the third node is removed, which is alone in its cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.conftest import (
    Prometheus,
    background,
    link_speeds,
    prometheus_reading,
    textfile_folder,
)
from sriov_textfile.simulate import demo
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from tests.conftest import PROGRAM

RULES = sorted((Path(__file__).parent.parent / "deployment/prometheus/rules").glob("*.yml"))
GROUPS = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
RECORDED = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
HEALTHY, FAULTY, EMPTIED = "node-1", "node-2", "node-3"
EMPTIED_CLUSTER = "cluster-2"
STALE_SECONDS = 900


@dataclass
class FaultyPf(SimulatedPf):
    """A PF whose first VFs drop one packet in ten and have errors, and whose next are silent."""

    dropping: int = 1
    silent: int = 1

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        is_silent = self.dropping <= vf < self.dropping + self.silent
        counters = super().counters(vf, 0 if is_silent else seconds)
        if vf < self.dropping:
            counters["rx_dropped"] += counters["rx_packets"] // 10
            counters["tx_errors"] += int(seconds)
        return counters


def quick_rules(folder: Path, interval: str = "1s", wait: str = "", window: str = "") -> list[Path]:
    """Write our rules, with a short interval, for tests. Returns the files.

    `wait` replaces how long a condition must hold before an alert fires, `window` the five minutes
    of a rate. A PF has many VFs in trouble after ten seconds.
    """
    folder.mkdir()
    for path in RULES:
        rules = re.sub(r"interval: \d+m", f"interval: {interval}", path.read_text())
        rules = re.sub(r"\[1[05]m\]", "[10s]", rules)
        if wait:
            rules = re.sub(r"for: \d+m", f"for: {wait}", rules)
        if window:
            rules = rules.replace("[5m]", f"[{window}]")
        (folder / path.name).write_text(rules)
    return sorted(folder.iterdir())


@contextmanager
def fleet(debian: Path, work: Path) -> Iterator[Prometheus]:
    """Run the nodes, their node_exporters and Prometheus until the context ends."""
    emptied = work / EMPTIED
    emptied.mkdir()
    command = [sys.executable, "-m", "sriov_textfile", "demo", "--pfs=1", "--vfs=0"]
    subprocess.run([*command, f"--textfile.path={emptied}/sriov.prom"], check=True)
    with (
        _healthy_node(work / HEALTHY) as healthy,
        _faulty_node(work / FAULTY) as faulty,
        prometheus_reading(
            [healthy, faulty, emptied],
            debian,
            work,
            quick_rules(work / "rules"),
            {EMPTIED: {"cluster": EMPTIED_CLUSTER}},
        ) as prometheus,
    ):
        prometheus.wait_for(f'sriov_textfile_build_info{{instance="{EMPTIED}"}}')
        (emptied / "sriov.prom").unlink()
        yield prometheus


@contextmanager
def _healthy_node(folder: Path) -> Iterator[Path]:
    textfile_folder(folder)
    speeds = link_speeds([demo.pf(number, vfs=8) for number in range(3)])
    (folder / "speeds.prom").write_text(speeds)
    command = [sys.executable, "-m", "sriov_textfile", "demo", "--collector.vfinfo"]
    command += ["--interval=1s", f"--textfile.path={folder}/sriov.prom"]
    program = subprocess.Popen(command)
    try:
        yield folder
    finally:
        program.terminate()
        program.wait(20)


@contextmanager
def _faulty_node(folder: Path) -> Iterator[Path]:
    # A pod uses both VFs of the first PF, and all VFs of the third, most of which are in trouble.
    # rtnetlink does not know the second PF, as in a container without hostNetwork.
    pf = FaultyPf(netdev="ens7f0", vfs=2, total_vfs=2, numa_node=0)
    lost = SimulatedPf(address="0000:18:00.0", netdev="ens8f0", vfs=2, sysfs="none")
    storm = FaultyPf(
        address="0000:20:00.0", netdev="ens9f0", vfs=11, numa_node=0, dropping=5, silent=5
    )
    vfs = [pf.vf_address(vf) for vf in range(2)] + [storm.vf_address(vf) for vf in range(11)]
    # CPUs on NUMA node 1, VFs on node 0.
    container = SimulatedContainer(
        name="gw", id="a1" * 32, cpus="4-5", devices={"vendor.example/ice_vf": vfs}
    )
    uid = "11111111-2222-3333-4444-555555555555"
    pod = SimulatedPod(name="gw-0", namespace="edge", uid=uid, containers=[container])
    textfile_folder(folder, [pod])
    (folder / "speeds.prom").write_text(link_speeds([pf, lost, storm]))
    machine = folder.with_name("machine")
    host = SimulatedHost(machine, [pf, lost, storm])
    node = SimulatedNode(machine, [pod])
    written = machine / "sriov.prom"
    command = [sys.executable, "-c", PROGRAM, host.rtnetlink, *host.flags, *node.flags]
    command += ["--collector.vfinfo", "--interval=1s", f"--textfile.path={written}"]

    def keep_counting(over: threading.Event) -> None:
        while not over.wait(0.5):
            host.refresh()
            if written.exists():
                # Backdate the file to make it stale, although its counters still grow.
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
        try:
            with background(keep_counting):
                yield folder
        finally:
            program.terminate()
            program.wait(20)
