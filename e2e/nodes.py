"""Serves any number of simulated nodes, each on a path of its own, from one process.

The pages are the program's own: it runs on one simulated node, and what differs between nodes and
what grows with time is then filled in.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from e2e.conftest import kube_state_metrics, link_speeds
from sriov_textfile import cli
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import Pools, SimulatedContainer, SimulatedPod

RESOURCE = "vendor.example/ice_vf"
# Stands for the node in the names and IDs of its pods. A UID has room for 12 hexadecimal digits.
NODE = "abcdefabcdef"
UPTIME_SECONDS = 100_000  # of a node when the server starts
FILE_AGE = 7
# What node_exporter adds. Its own collectors add a thousand series more, without any VF.
MTIME = 'node_textfile_mtime_seconds{file="/var/lib/node_exporter/sriov.prom"} %d\n'


@dataclass
class Pf(SimulatedPf):
    """A PF that drops one in 20,000 packets of each VF, but of the first `dropping` one in ten."""

    dropping: int = 0

    def counters(self, vf: int, seconds: float) -> dict[str, int]:
        counters = super().counters(vf, seconds)
        counters["rx_dropped"] = counters["rx_packets"] // (10 if vf < self.dropping else 20_000)
        return counters


def pfs(vfs: int, dropping: int = 0) -> list[Pf]:
    """Return two PFs, one on each NUMA node, with half of the VFs each; so many of each drop."""
    return [
        Pf(
            address=f"0000:{16 + 120 * number:02x}:00.0",
            netdev=f"ens{number + 1}f0",
            vfs=vfs // 2,
            total_vfs=max(64, vfs),
            numa_node=number,
            speed=200_000,
            dropping=dropping,
        )
        for number in range(2)
    ]


def pods(pfs: Sequence[SimulatedPf]) -> list[SimulatedPod]:
    """Return pods with two VFs each, which use 7 in 8 VFs. One in four has CPUs of its own."""
    found = []
    for pf in pfs:
        free = [4 * pf.numa_node + cpu for cpu in (2, 3, 10, 11)]
        for number in range(pf.vfs * 7 // 16):
            kind, namespace = (("upf", "core"), ("du", "ran"), ("router", "edge"))[number % 3]
            serial = f"{pf.numa_node:02d}{number:06d}"
            container = SimulatedContainer(
                name=kind,
                id=(serial + NODE).ljust(64, "0"),
                cpus=str(free.pop()) if number % 4 == 0 and free else "",
                devices={RESOURCE: [pf.vf_address(2 * number), pf.vf_address(2 * number + 1)]},
            )
            pod = SimulatedPod(
                name=f"{kind}-{NODE}-{pf.numa_node}{number:03d}",
                namespace=namespace,
                uid=f"{serial}-2222-4333-8444-{NODE}",
                containers=[container],
            )
            found.append(pod)
    return found


@dataclass(frozen=True)
class Template:
    """Pages with gaps for what differs between nodes and between scrapes.

    `growth` is that of the counters of `page`, per second, on a node with an average load.
    """

    page: bytes
    growth: list[float]
    speeds: str
    kube_state_metrics: bytes

    def filled(self, path: str, uptime: float) -> bytes:
        """Return the page at /CLUSTER/NODE, or at /CLUSTER/kube-state-metrics/COUNT.

        Raises ValueError for another path.
        """
        _, cluster, name, *rest = path.split("/")
        if name == "kube-state-metrics":
            numbers = range(1, int(*rest) + 1)
            return b"".join([_of_node(self.kube_state_metrics, number) for number in numbers])
        volume = uptime * load(cluster, name)
        page = self.page % tuple([volume * growth for growth in self.growth])
        own = MTIME % (time.time() - FILE_AGE) + self.speeds
        return _of_node(page, int(name.removeprefix("node-"))) + own.encode()


def load(cluster: str, node: str) -> float:
    """Return how busy a node is: from a tenth of the average to three times as much."""
    return random.Random(f"{cluster} {node}").uniform(0.1, 3)


def _of_node(page: bytes, number: int) -> bytes:
    return page.replace(NODE.encode(), b"%012x" % number)


def template(pfs: Sequence[SimulatedPf]) -> Template:
    """Run the program on a simulated node, twice, to see which samples grow."""
    seconds = 0
    with tempfile.TemporaryDirectory(prefix="sriov-") as folder:
        root = Path(folder)
        host = SimulatedHost(root, pfs, clock=lambda: seconds)
        addresses = {pf.numa_node: [pf.vf_address(vf) for vf in range(pf.vfs)] for pf in pfs}
        pools: Pools = {RESOURCE: addresses}
        node = SimulatedNode(root, pods(pfs), pools=pools)
        written = root / "sriov.prom"
        flags = [*host.flags, *node.flags, "--collector.vfinfo", f"--textfile.path={written}"]

        def page() -> str:
            host.refresh()
            with contextlib.redirect_stderr(io.StringIO()) as log:
                assert cli.run(flags, host=host) == 0, log.getvalue()
            return written.read_text()

        with host.running(), node.running():
            pages = [page()]
            seconds = UPTIME_SECONDS
            pages.append(page())
    lines, growth = [], []
    for before, after in zip(*[page.splitlines() for page in pages], strict=True):
        series, _, value = after.rpartition(" ")
        if before != after and re.match(r"sriov_vf_\w+{", series):
            growth.append((int(value) - int(before.rpartition(" ")[2])) / UPTIME_SECONDS)
            lines.append(series.replace("%", "%%") + " %d")
        else:
            lines.append(before.replace("%", "%%"))
    pod_metrics = re.sub("#.*\n", "", kube_state_metrics(node.pods))
    return Template(
        "\n".join(lines).encode() + b"\n", growth, link_speeds(pfs), pod_metrics.encode()
    )


def scrape_configs(
    address: str, clusters: Mapping[str, int], label: bool = True
) -> list[dict[str, Any]]:
    """Return scrape_configs for clusters with so many nodes each, and for kube-state-metrics.

    Clusters have the same instances and the same pods. `label` is whether targets have a label
    `cluster`.
    """

    def job(name: str, paths: Callable[[int], Sequence[str]]) -> dict[str, Any]:
        targets = [
            {
                "targets": [address],
                "labels": {
                    "instance": path.split("/")[0],
                    "__metrics_path__": f"/{cluster}/{path}",
                    **({"cluster": cluster} if label else {}),
                },
            }
            for cluster, nodes in clusters.items()
            for path in paths(nodes)
        ]
        return {"job_name": name, "honor_labels": True, "static_configs": targets}

    return [
        job("node", lambda nodes: [f"node-{number:04d}" for number in range(1, nodes + 1)]),
        job("kube-state-metrics", lambda nodes: [f"kube-state-metrics/{nodes}"]),
    ]


@contextmanager
def served(pfs: Sequence[SimulatedPf]) -> Iterator[str]:
    """Serve simulated nodes with these PFs from a process of their own until the context ends.

    Yields the address. /CLUSTER/node-N is a node, /CLUSTER/kube-state-metrics/COUNT has the pods of
    the first nodes, and any other path the CPU time of this process.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    made = template(pfs)
    process = context.Process(target=_serve, args=(made, sender), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{receiver.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(made: Template, port: Any) -> None:
    start = time.time() - UPTIME_SECONDS

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open

        def do_GET(self) -> None:
            try:
                page = made.filled(self.path, time.time() - start)
            except ValueError:
                page = b"process_cpu_seconds_total %f\n" % time.process_time()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

    with Server(("127.0.0.1", 0), Handler) as server:
        port.send(server.server_address[1])
        server.serve_forever()
