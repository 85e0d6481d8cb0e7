"""Pod cgroups created by systemd on a real kernel with cgroup v2."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import sh
from conftest import Run

from sriov_textfile.simulate.kubernetes import Layout
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod

pytestmark = pytest.mark.one_kernel

Collect = Callable[..., Run]

CGROUPS = Path("/sys/fs/cgroup")
CPU1 = Path("/sys/devices/system/cpu/cpu1/online")

PINNED = SimulatedPod(
    "pinned",
    "core",
    "12345678-9abc-def0-1234-56789abcdef0",
    [SimulatedContainer("app", "a" * 64, "1"), SimulatedContainer("sidecar", "b" * 64, "0")],
)
BURSTABLE = SimulatedPod(
    "burstable",
    "core",
    "22222222-2222-2222-2222-222222222222",
    [SimulatedContainer("app", "c" * 64, "")],
    "burstable",
)


@pytest.fixture
def processes() -> Iterator[dict[str, int]]:
    """Start a process per container, in scopes named as on a real node; yield PIDs by container.

    CPU 0 is the shared pool. The burstable pod's container has no cpuset.
    """
    layout = Layout()
    started = {}
    try:
        for pod in (PINNED, BURSTABLE):
            for container in pod.containers:
                scope, slice_ = layout.container(container), Path(layout.pod(pod)).name
                cpus = ["-p", f"AllowedCPUs={container.cpus}"] if container.cpus else []
                command = ["systemd-run", "--quiet", "--scope", f"--unit={scope}"]
                command += [f"--slice={slice_}", *cpus, "sleep", "600"]
                started[container.id] = subprocess.Popen(command)
                wait_for(CGROUPS / layout.root / layout.pod(pod) / scope / "cgroup.procs")
        yield {id: process.pid for id, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def wait_for(procs: Path) -> None:
    """Wait until a cgroup contains a process."""
    for _ in range(300):
        if procs.exists() and procs.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"no process in {procs} after 30 s")


def allowed_cpus(pid: int) -> str:
    """Return the CPUs on which a process may run."""
    status = Path(f"/proc/{pid}/status").read_text()
    (cpus,) = re.findall(r"^Cpus_allowed_list:\t(.*)$", status, re.MULTILINE)
    return cpus


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "cpu_manager_state"
    entries = {PINNED.uid: {"app": "1"}}
    state = {"policyName": "static", "defaultCpuSet": "0", "entries": entries, "checksum": 1}
    path.write_text(json.dumps(state))
    return f"--path.cpucheckpoint={path}"


def test_a_pinned_containers_cpus_match_its_process_affinity(
    collect: Collect, processes: dict[str, int], checkpoint: str
) -> None:
    run = collect("--collector.kubepodcpu", checkpoint)
    assert run.code == 0
    assert run.values("sriov_kubepodcpu") == [
        (
            {
                "container_id": "a" * 64,
                "cpu_id": allowed_cpus(processes["a" * 64]),
                "numa_node": "0",
                "uid": PINNED.uid,
            },
            1,
        )
    ]
    assert allowed_cpus(processes["a" * 64]) == "1"
    assert allowed_cpus(processes["b" * 64]) == "0"
    assert allowed_cpus(processes["c" * 64]) == "0-1"
    # The flag's default is a cgroup v1 path. The program finds the v2 path, and logs it only for
    # debugging: a timer must not log the same thing at every run.
    assert run.log == ""
    run = collect("--collector.kubepodcpu", checkpoint, "--log.level=debug")
    assert "path=/sys/fs/cgroup/kubepods.slice\n" in run.log


def test_the_simulator_names_cgroups_like_systemd(processes: dict[str, int]) -> None:
    layout = Layout()
    for pod in (PINNED, BURSTABLE):
        for container in pod.containers:
            real = Path(f"/proc/{processes[container.id]}/cgroup").read_text().strip()
            simulated = f"/{layout.root}/{layout.pod(pod)}/{layout.container(container)}"
            assert real == f"0::{simulated}"
            cpuset = CGROUPS / simulated[1:] / "cpuset.cpus"
            # Without a cpuset, systemd may not even enable the controller.
            assert (cpuset.read_text().strip() if cpuset.exists() else "") == container.cpus


def test_cpu_info_lists_online_cpus_only(collect: Collect) -> None:
    def cpus() -> list[str]:
        run = collect("--collector.kubepodcpu")
        return [labels["cpu"] for labels, _ in run.values("sriov_cpu_info")]

    assert cpus() == ["cpu0", "cpu1"]
    CPU1.write_text("0")
    try:
        assert cpus() == ["cpu0"]
    finally:
        CPU1.write_text("1")
        sh("udevadm settle --timeout=30")
    assert cpus() == ["cpu0", "cpu1"]
