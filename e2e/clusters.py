"""Simulated nodes of several clusters, in a real Prometheus.

The nodes are as alike as nodes can be: all have the same PFs and PCI addresses, and the clusters
have the same instances, pods and UIDs. One cluster has no label `cluster`, and only one node with
Kubernetes. The traffic differs.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.conftest import Prometheus, kube_state_metrics, prometheus_reading
from sriov_textfile import cli
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod

# The traffic of each node, by cluster and instance.
TRAFFIC = {
    ("east", "node-1"): 1,
    ("east", "node-2"): 10,
    ("west", "node-1"): 100,
    ("west", "node-2"): 1_000,
    ("", "node-1"): 10_000,
    ("", "bare"): 100_000,
}
# What VF 0 counts per second on a node with traffic 1. VF 1 counts twice as much, VF 2 three times.
PER_SECOND = {
    "rx_packets": 5,
    "tx_packets": 3,
    "rx_bytes": 500,
    "tx_bytes": 300,
    "rx_broadcast": 1,
    "rx_multicast": 1,
    "rx_dropped": 2,
    "tx_dropped": 4,
    "tx_errors": 7,
}
# Prometheus has scraped each node for five minutes, the last time at NOW.
NOW = 1_760_000_000
SCRAPES = range(0, 301, 15)
FILE_AGE = 6
# What node_exporter adds, with the file of another program.
MTIMES = """\
node_textfile_mtime_seconds{{file="/var/lib/node_exporter/sriov.prom"}} {}
node_textfile_mtime_seconds{{file="/var/lib/node_exporter/apt.prom"}} 0
"""
# And of netdevs: speed, what the host itself sends, and by ethtool what leaves the port, all in
# bytes per second on a node with traffic 1. Each driver has a name of its own for the last.
LINK_SPEED = 125_000_000
OWN_BYTES = {"ens1f0": 700, "ens2f0": 100, "ens2f0d1": 150, "eno1": 4}
WIRE_BYTES = {
    "ens1f0": ("transmitted_bytes_phy", 2_500),
    "ens2f0": ("transmitted_bytes_nic", 390),
    "ens2f0d1": ("port_transmitted_bytes", 460),
}


@dataclass
class Pf(SimulatedPf):
    traffic: int = 1

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        return {name: self.traffic * n * (vf + 1) * int(seconds) for name, n in PER_SECOND.items()}

    def rdma_counters(self, vf: int, seconds: int) -> dict[str, dict[str, int]]:
        return {
            folder: {name: self.traffic * value for name, value in values.items()}
            for folder, values in super().rdma_counters(vf, seconds).items()
        }


def pfs(traffic: int) -> list[Pf]:
    """Return a PF with four VFs, and a card with two ports and one VF on one PCI address."""
    return [
        Pf(netdev="ens1f0", vfs=4, rdma=True, traffic=traffic),
        Pf(
            address="0000:18:00.0",
            netdev="ens2f0",
            second_port="ens2f0d1",
            driver="mlx4_core",
            vfs=1,
            numa_node=1,
            sysfs="none",
            traffic=traffic,
        ),
    ]


VF_0, VF_1, VF_2, VF_3 = [pfs(1)[0].vf_address(vf) for vf in range(4)]
VF_WITH_TWO_PORTS = pfs(1)[1].vf_address(0)


def claim(address: str) -> dict[str, list[str]]:
    """Return the claim of a VF, as dra-driver-sriov names it. Containers and pods may share it."""
    name = address.replace(":", "-").replace(".", "-")
    return {"sriovnetwork.k8snetworkplumbingwg.io": [name]}


RESOURCE = "vendor.example/vf"
POOLS = {RESOURCE: {0: [VF_1, VF_3], 1: [VF_WITH_TWO_PORTS]}}
UPF_0 = SimulatedPod(
    name="upf-0",
    namespace="core",
    uid="11111111-2222-3333-4444-555555555555",
    containers=[
        SimulatedContainer("upf", "a1" * 32, "2-3", {RESOURCE: [VF_1]}, claim(VF_0)),
        SimulatedContainer("proxy", "a2" * 32, claims=claim(VF_0)),
    ],
)
UPF_1 = SimulatedPod(
    name="upf-1",
    namespace="core",
    uid="22222222-3333-4444-5555-666666666666",
    containers=[
        SimulatedContainer("upf", "b1" * 32, "4", {RESOURCE: [VF_1, VF_WITH_TWO_PORTS]}),
    ],
)
ROUTER_0, ROUTER_1 = [
    SimulatedPod(
        name=f"router-{number}",
        namespace="edge",
        uid=f"3333333{number}-4444-5555-6666-777777777777",
        containers=[SimulatedContainer("router", f"c{number}" * 32, claims=claim(VF_2))],
    )
    for number in range(2)
]
# The node "bare" has no Kubernetes.
PODS = {"node-1": [UPF_0, ROUTER_0, ROUTER_1], "node-2": [UPF_1], "bare": []}


@contextmanager
def clusters(debian: Path, work: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that has scraped all nodes and kube-state-metrics of all clusters."""
    samples = work / "samples"
    with samples.open("w") as file:
        for cluster, instance in TRAFFIC:
            labels = {"cluster": cluster, "instance": instance, "job": "node"}
            if PODS[instance]:  # prometheus-operator adds labels of node_exporter's pod
                labels |= {"namespace": "monitoring", "pod": "node-exporter-x"}
            for time, page in pages(cluster, instance, work / f"{cluster}-{instance}"):
                file.writelines(scraped(page, time, labels))
        for cluster in ("east", "west", ""):
            for replica in ("kube-state-metrics-0", "kube-state-metrics-1"):
                labels = {"cluster": cluster, "instance": replica, "job": "kube-state-metrics"}
                pods = [pod for node in PODS if (cluster, node) in TRAFFIC for pod in PODS[node]]
                file.writelines(scraped(kube_state_metrics(pods), NOW, labels))
        file.write("# EOF\n")
    promtool = [f"{debian}/usr/bin/promtool", "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*promtool, "--quiet", str(samples), f"{work}/tsdb"], check=True)
    with prometheus_reading([], debian, work) as prometheus:
        yield prometheus


def pages(cluster: str, instance: str, folder: Path) -> Iterator[tuple[int, str]]:
    """Run the program on a node at each scrape. Yield the time, and what node_exporter serves."""
    seconds = 0
    host = SimulatedHost(folder, pfs(TRAFFIC[cluster, instance]), clock=lambda: seconds)
    node = SimulatedNode(folder, PODS[instance], pools=POOLS)
    written = folder / "sriov.prom"
    flags = [*host.flags, f"--textfile.path={written}", "--collector.vfrdma"]
    with ExitStack() as stack:
        stack.enter_context(host.running())
        if PODS[instance]:
            stack.enter_context(node.running())
            flags += node.flags
        for seconds in SCRAPES:
            host.refresh()
            assert cli.run(flags, host=host) == 0
            time = NOW - SCRAPES[-1] + seconds
            mtimes = MTIMES.format(time - FILE_AGE)
            yield time, written.read_text() + mtimes + links(TRAFFIC[cluster, instance], seconds)


def links(traffic: int, seconds: int) -> str:
    """Return what node_exporter exports of the PFs' netdevs and of another one without a link."""
    lines = [f'node_network_speed_bytes{{device="{device}"}} {LINK_SPEED}' for device in WIRE_BYTES]
    lines.append('node_network_speed_bytes{device="eno1"} -125000')
    for device, rate in OWN_BYTES.items():
        value = traffic * rate * seconds
        lines.append(f'node_network_transmit_bytes_total{{device="{device}"}} {value}')
    for device, (name, rate) in WIRE_BYTES.items():
        lines.append(f'node_ethtool_{name}{{device="{device}"}} {traffic * rate * seconds}')
    return "\n".join(lines) + "\n"


def scraped(page: str, time: int, target: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a page with the labels of its target, as with `honor_labels`."""
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE):
        own = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        text = ",".join(f'{key}="{value}"' for key, value in {**target, **own}.items() if value)
        yield f"{name}{{{text}}} {value} {time}\n"
