"""Node_exporter, Prometheus and another Python, from Debian packages."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError

import pytest

from sriov_textfile.simulate.demo import pf, pods
from sriov_textfile.simulate.host import SimulatedPf
from sriov_textfile.simulate.pods import SimulatedPod
from tools import requirements
from tools.fetch import CACHE, debian_packages, key, run, with_own_libraries

T = TypeVar("T")

# Debian 13 has this Python. The packages are those that the program's imports load.
PYTHON = "3.13"
PYTHON_PACKAGES = [
    *(f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libssl3t64", "libzstd1"),
    *("libffi8", "libbz2-1.0", "liblzma5", "libuuid1"),
]
PROJECT = Path(__file__).parent.parent

# The pods that the demo simulates by default.
PODS = pods([pf(number, vfs=8) for number in range(3)])


def kube_state_metrics(pods: Sequence[SimulatedPod]) -> str:
    """Return the metrics that kube-state-metrics exports for the pods."""
    lines = ["# TYPE kube_pod_info gauge"]
    lines += [
        f'kube_pod_info{{namespace="{pod.namespace}",pod="{pod.name}",uid="{pod.uid}"}} 1'
        for pod in pods
    ]
    lines += ["# TYPE kube_pod_labels gauge"]
    lines += [
        f'kube_pod_labels{{namespace="{pod.namespace}",pod="{pod.name}",uid="{pod.uid}",'
        f'label_app_kubernetes_io_name="{pod.name.split("-")[0]}"}} 1'
        for pod in pods
    ]
    return "\n".join(lines) + "\n"


def link_speeds(pfs: Sequence[SimulatedPf]) -> str:
    """Return the metrics of node_exporter about the links of the PFs, which nothing leaves."""
    values = {
        pf.netdev: {
            "node_network_speed_bytes": (pf.speed or 0) * 125_000,
            "node_network_transmit_bytes_total": 0,
            "node_ethtool_transmitted_bytes_phy": 0,
        }
        for pf in pfs
    }
    return "".join(
        [
            f'{name}{{device="{netdev}"}} {value}\n'
            for netdev, metrics in values.items()
            for name, value in metrics.items()
        ]
    )


def textfile_folder(folder: Path, pods: Sequence[SimulatedPod] = PODS) -> Path:
    """Create a textfile folder with the metrics that kube-state-metrics exports for the pods."""
    folder.mkdir()
    (folder / "kube_state_metrics.prom").write_text(kube_state_metrics(pods))
    return folder


@pytest.fixture(scope="session")
def debian() -> Path:
    """Return a folder whose usr/bin has promtool, prometheus and node_exporter."""
    return debian_packages(["prometheus", "prometheus-node-exporter"], CACHE / "prometheus")


@pytest.fixture(scope="session")
def three_nodes(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus with our rules on the nodes of fleet.py."""
    from e2e.fleet import fleet

    with fleet(debian, tmp_path_factory.mktemp("fleet")) as prometheus:
        prometheus.wait_for("count(count_over_time(sriov_vf_rx_bytes[1m]) > 5) == 37")
        yield prometheus


@pytest.fixture(scope="session", params=["this Python", f"Python {PYTHON}"])
def python(request: pytest.FixtureRequest) -> list[str]:
    """Return the start of a command that runs the program's modules with a Python."""
    if request.param == "this Python":
        return [sys.executable]
    if sys.version.startswith(f"{PYTHON}."):
        pytest.skip(f"this Python is {PYTHON}")
    try:
        return other_python()
    except SystemExit as error:
        reason = error if isinstance(error.code, str) else "the download failed"
        pytest.skip(f"no Python {PYTHON} from Debian: {reason}")


def other_python() -> list[str]:
    """Return the command of Debian's Python, run by its own loader with its own libraries."""
    tree = debian_packages(PYTHON_PACKAGES, CACHE / f"python-{PYTHON}", suite="trixie")
    packages = [*requirements.of(), *requirements.of("all")]
    site = CACHE / f"python-{PYTHON}-site-{key(*packages)}"
    if not site.is_dir():
        new = site.with_name(f"{site.name}.new")
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", f"--target={new}"]
        command += [f"--python-version={PYTHON}", "--only-binary=:all:", *packages]
        run(command, tries=3)
        new.rename(site)
    command = ["env", f"PYTHONPATH={PROJECT}:{site}"]
    command += with_own_libraries(tree, f"usr/bin/python{PYTHON}")
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith(f"Python {PYTHON}.")
    return command


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out, and why."""
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.line(f"LEFT OUT: {report.nodeid}: {reason}", red=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        body: bytes = response.read()
        return body.decode()


@contextmanager
def background(call: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run a call in a thread; at the end of the context its event is set, and it must return."""
    over = threading.Event()
    thread = threading.Thread(target=call, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def started(command: Sequence[str | Path], log: Path, ready: str) -> Iterator[None]:
    """Run a server until the context ends. Wait until it answers at the URL `ready`."""
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            try:
                get(ready)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        else:
            pytest.fail(f"{command[0]} does not answer at {ready}:\n{log.read_text()}")
        yield
    finally:
        server.terminate()
        server.wait(20)


class Prometheus:
    """A running Prometheus, and the pages of the node_exporters that it scrapes, if it does."""

    def __init__(self, url: str, node_exporters: Sequence[str] = ()) -> None:
        self.url = url
        self.node_exporters = node_exporters

    def get(self, path: str, **parameters: object) -> Any:
        """Return the data of an HTTP API response."""
        encoded = urllib.parse.urlencode(parameters)
        try:
            answer = json.loads(get(f"{self.url}/api/v1/{path}?{encoded}"))
        except HTTPError as error:
            answer = json.load(error)
        assert answer["status"] == "success", answer["error"]
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Run an instant query and return its series, each with `metric` and `value`."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression once there are any. Fail after two minutes."""
        end = time.monotonic() + 120
        while not (series := self.query(expression)):
            if time.monotonic() > end:
                pages = [get(url)[-3000:] for url in self.node_exporters[:1]]
                pytest.fail("\n".join([f"no series for {expression}", *pages]))
            time.sleep(0.2)
        return series


def settled(read: Callable[[], T], expected: object) -> T:
    """Return what `read` returns, once that is as expected or half a minute is over.

    On a busy machine, Prometheus's last scrape of a target may have failed.
    """
    end = time.monotonic() + 30
    while (found := read()) != expected and time.monotonic() < end:
        time.sleep(0.5)
    return found


@contextmanager
def prometheus_reading(
    folders: Sequence[Path],
    debian: Path,
    work: Path,
    rules: Sequence[Path] = (),
    labels: Mapping[str, Mapping[str, str]] | None = None,
    **jobs: str,
) -> Iterator[Prometheus]:
    """Run a node_exporter per folder, and a Prometheus that scrapes them and other jobs.

    Each node's `instance` label is the name of its folder. `labels` has more, by that name.
    """
    with ExitStack() as stack:
        exporters = []
        for folder in folders:
            address = f"127.0.0.1:{free_port()}"
            command: list[str | Path] = [
                debian / "usr/bin/prometheus-node-exporter",
                f"--web.listen-address={address}",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={folder}",
            ]
            log = work / f"node_exporter-{folder.name}.log"
            stack.enter_context(started(command, log, f"http://{address}/metrics"))
            exporters.append(address)
        scrapes: list[dict[str, object]] = [
            {"job_name": name, "static_configs": [{"targets": [address]}]}
            for name, address in jobs.items()
        ]
        nodes = [
            {
                "targets": [address],
                "labels": {"instance": folder.name, **(labels or {}).get(folder.name, {})},
            }
            for address, folder in zip(exporters, folders, strict=True)
        ]
        scrapes.append({"job_name": "node", "static_configs": nodes})
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": scrapes,
        }
        prometheus = running_prometheus(debian / "usr/bin/prometheus", work, config)
        server = stack.enter_context(prometheus)
        server.node_exporters = [f"http://{address}/metrics" for address in exporters]
        yield server


@contextmanager
def running_prometheus(
    program: Path, work: Path, config: Mapping[str, object], *flags: str, address: str = ""
) -> Iterator[Prometheus]:
    """Run Prometheus until the context ends, with its data in `work`."""
    address = address or f"127.0.0.1:{free_port()}"
    (work / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command: list[str | Path] = [
        program,
        f"--web.listen-address={address}",
        f"--config.file={work}/prometheus.yml",
        *(flags or [f"--storage.tsdb.path={work}/tsdb"]),
    ]
    with started(command, work / "prometheus.log", f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}")
