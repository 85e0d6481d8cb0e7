"""Pods' cgroups as systemd makes them on a real kernel, with cgroup version 2."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, sh

from sriov_textfile.simulate.kubernetes import Layout, SimulatedContainer, SimulatedPod

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
    """Start a process for each container in the scope that a kubelet would make.

    CPU 0 is the shared pool; the burstable pod's container has no cpuset at all.
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
    """Wait until a cgroup holds the process that sleeps."""
    for _ in range(300):
        if procs.exists() and procs.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"{procs} did not come to be")


def allowed(pid: int) -> str:
    """Return the CPUs on which the kernel lets a process run."""
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


def test_a_pinned_containers_cpus_are_those_that_the_kernel_lets_it_run_on(
    collect: Collect, processes: dict[str, int], checkpoint: str
) -> None:
    run = collect("--collector.kubepodcpu", checkpoint)
    assert run.code == 0
    assert run.values("sriov_kubepodcpu") == [
        (
            {
                "container_id": "a" * 64,
                "cpu_id": allowed(processes["a" * 64]),
                "numa_node": "0",
                "uid": PINNED.uid,
            },
            1,
        )
    ]
    assert allowed(processes["a" * 64]) == "1"
    assert allowed(processes["b" * 64]) == "0"
    assert allowed(processes["c" * 64]) == "0-1"
    # The flag's default is where cgroup v1 has them; here they are elsewhere, and it says so.
    assert "path=/sys/fs/cgroup/kubepods.slice flag=--path.kubecgroup" in run.log


def test_the_simulator_names_cgroups_as_systemd_does(processes: dict[str, int]) -> None:
    layout = Layout()
    for pod in (PINNED, BURSTABLE):
        for container in pod.containers:
            real = Path(f"/proc/{processes[container.id]}/cgroup").read_text().strip()
            simulated = f"/{layout.root}/{layout.pod(pod)}/{layout.container(container)}"
            assert real == f"0::{simulated}"
            cpuset = CGROUPS / simulated[1:] / "cpuset.cpus"
            # Where nobody set a cpuset, systemd may not even turn the controller on.
            assert (cpuset.read_text().strip() if cpuset.exists() else "") == container.cpus


def test_the_cpus_are_those_that_are_online(collect: Collect) -> None:
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
