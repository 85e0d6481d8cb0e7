"""vfrdma agrees with node_exporter's own collector about the same RDMA devices."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from e2e.conftest import free_port, get, started
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf

VFS = 3


def by_device(page: str, prefix: str) -> dict[tuple[str, str, str], float]:
    """Return the values of a page by the rest of the metric's name, device and port."""
    sample = rf'^{prefix}(\w+){{device="(\w+)",.*?port="(\w+)".*}} (\S+)$'
    found = re.findall(sample, page, re.MULTILINE)
    return {(name, device, port): float(value) for name, device, port, value in found}


def test_names_and_values_are_those_of_node_exporter(debian: Path, tmp_path: Path) -> None:
    pf = SimulatedPf(vfs=VFS, driver="mlx5_core", vf_driver="mlx5_core", sysfs="none", rdma=True)
    host = SimulatedHost(tmp_path, [pf])
    ours = [sys.executable, "-m", "sriov_textfile", *host.flags]
    ours += ["--collector.vfrdma", "--no-collector.vfstats"]
    page = subprocess.run(ours, capture_output=True, text=True, check=True).stdout
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        debian / "usr/bin/prometheus-node-exporter",
        f"--web.listen-address={address}",
        f"--path.sysfs={tmp_path}/sys",
        "--collector.disable-defaults",
        "--collector.infiniband",
    ]
    url = f"http://{address}/metrics"
    with started(command, tmp_path / "node_exporter.log", url):
        theirs = by_device(get(url), "node_infiniband_")
    mine = by_device(page, "sriov_vf_rdma_")
    devices = {f"mlx5_{number}" for number in range(1, 1 + VFS)}  # mlx5_0 is the PF's
    common = {key: value for key, value in theirs.items() if key in mine}
    assert {device for _, device, _ in common} == devices
    assert common == {key: mine[key] for key in common}
    # node_exporter has facts of the port too, which are no counters.
    facts = {"physical_state_id", "rate_bytes_per_second", "state_id"}
    assert {name for name, device, _ in theirs if device in devices} - facts == {
        name for name, _, _ in common
    }
    print(f"{len(common)} values of {len({name for name, _, _ in common})} metrics are the same")
