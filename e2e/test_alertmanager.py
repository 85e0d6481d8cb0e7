"""Debian's Alertmanager with our routes: what a storm sends, and which alerts inhibit others."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import nodes
from e2e.conftest import Prometheus, free_port, get, running_prometheus, started
from e2e.fleet import ALERTS, quick_rules
from tools.fetch import CACHE, debian_packages

CONFIG = Path(__file__).parent.parent / "deployment/alertmanager/alertmanager.yml"
NODES, VFS = 100, 64
Alert = dict[str, str]  # its labels


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook. Yields its URL, and a list to which it adds what it receives."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def alertmanager(work: Path, webhook: str, group_wait: str) -> Iterator[str]:
    """Run Alertmanager with our configuration, and with shorter times. Yields its address."""
    config = yaml.safe_load(CONFIG.read_text())
    for receiver in config["receivers"]:
        for hook in receiver.get("webhook_configs", ()):
            hook["url"] = webhook
    (route,) = config["route"]["routes"]
    route |= {"group_wait": group_wait, "group_interval": "1s"}
    (work / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    # Debian's Alertmanager looks for its templates in /usr/share.
    share = programs().parent / "share"
    command: list[str | Path] = [
        *("unshare", "--mount", "--map-root-user", "sh", "-c"),
        f'mount --bind {share} /usr/share && exec "$0" "$@"',
        programs() / "prometheus-alertmanager",
        f"--config.file={work}/alertmanager.yml",
        f"--storage.path={work}/alertmanager",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with started(command, work / "alertmanager.log", f"http://{address}/-/ready"):
        yield address


def programs() -> Path:
    return debian_packages(["prometheus-alertmanager"], CACHE / "alertmanager") / "usr/bin"


@contextmanager
def storm(debian: Path, work: Path, alertmanager: str) -> Iterator[Prometheus]:
    """Run a Prometheus on nodes whose VFs all drop packets. Rules and alerts wait for seconds."""
    rules = quick_rules(work / "rules", interval="5s", wait="10s")
    with nodes.served(nodes.pfs(VFS, dropping=VFS)) as address:
        config = {
            "global": {"scrape_interval": "5s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": nodes.scrape_configs(
                address, {"east": NODES // 2, "west": NODES // 2}
            ),
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}],
            },
        }
        with running_prometheus(debian / "usr/bin/prometheus", work, config) as prometheus:
            yield prometheus


def test_a_storm_sends_one_notification_for_each_cluster(debian: Path, tmp_path: Path) -> None:
    """6,400 VFs of 200 PFs drop packets."""
    with (
        webhook() as (url, received),
        alertmanager(tmp_path, url, group_wait="40s") as address,
        storm(debian, tmp_path, address) as prometheus,
    ):
        end = time.monotonic() + 180
        while len(received) < 2:
            assert time.monotonic() < end, prometheus.get("rules")
            time.sleep(1)
        (dropping,) = prometheus.query("sum(pf:sriov_vf_dropping:count)")
        time.sleep(10)  # for more notifications
    assert dropping["value"][1] == str(NODES * VFS)
    assert sorted((*sent["groupLabels"].values(), len(sent["alerts"])) for sent in received) == [
        ("SriovPfDrops", "east", NODES),
        ("SriovPfDrops", "west", NODES),
    ]
    pfs = [sorted(alert["labels"].items()) for sent in received for alert in sent["alerts"]]
    assert len(pfs) == len({tuple(labels) for labels in pfs}) == 2 * NODES


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an Alertmanager that waits before it sends anything. Yields its address."""
    with alertmanager(tmp_path_factory.mktemp("am"), "http://127.0.0.1:9/", "1h") as address:
        yield address


def inhibited(address: str, source: Alert, targets: Sequence[Alert]) -> list[Alert]:
    """Fire an alert and others. Return those of the others that it inhibits."""
    body = json.dumps([{"labels": labels} for labels in (source, *targets)]).encode()
    headers = {"Content-Type": "application/json"}
    url = f"http://{address}/api/v2/alerts"
    urllib.request.urlopen(urllib.request.Request(url, body, headers)).close()
    end = time.monotonic() + 10
    while True:  # Alertmanager takes a moment.
        found = [a["labels"] for a in json.loads(get(url)) if a["status"]["inhibitedBy"]]
        if found := [target for target in targets if target in found]:
            return found
        assert time.monotonic() < end, "nothing is inhibited"
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["SriovTextfileStale", "SriovMetricsMissing", "InstanceDown"])
def test_a_node_without_current_metrics_has_no_other_alerts(quiet: str, name: str) -> None:
    node = {"cluster": "east", "instance": f"{name}-a"}
    without = ["SriovClusterMissing"]  # which has no instance
    if name != "InstanceDown":
        without += ["SriovTextfileStale", "SriovMetricsMissing"]
    names = [rule["alert"] for rule in ALERTS if rule["alert"] not in without]
    same_node = [{**node, "alertname": alert} for alert in names]
    others = [
        {**labels, "alertname": "SriovVfDrops"}
        for labels in (
            {**node, "cluster": "west"},
            {**node, "instance": f"{name}-b"},
            {"instance": node["instance"]},
        )
    ]
    others.append({**node, "alertname": "NodeFilesystemFull"})
    source = {**node, "alertname": name}
    assert inhibited(quiet, source, [*same_node, *others]) == same_node


def test_the_alert_about_a_cluster_covers_its_nodes(quiet: str) -> None:
    cluster = {"cluster": "lost"}
    names = [rule["alert"] for rule in ALERTS if rule["alert"] != "SriovClusterMissing"]
    nodes = [
        {**cluster, "alertname": name, "instance": instance} for name in names for instance in "ab"
    ]
    others = [
        {"alertname": "SriovMetricsMissing", "cluster": "found", "instance": "a"},
        {"alertname": "SriovMetricsMissing", "instance": "a"},
        {**cluster, "alertname": "NodeFilesystemFull"},
    ]
    source = {**cluster, "alertname": "SriovClusterMissing"}
    assert inhibited(quiet, source, [*nodes, *others]) == nodes


@pytest.mark.parametrize("kind", ["Drops", "Errors", "Silent"])
def test_the_alert_about_a_pf_covers_its_vfs(quiet: str, kind: str) -> None:
    pf = {"cluster": "east", "instance": f"{kind}-a", "pf": "ens1f0"}
    vf = {**pf, "alertname": f"SriovVf{kind}", "pciAddr": "0000:11:00.3", "vf": "3"}
    others = [
        {**vf, "pf": "ens2f0"},
        {**vf, "cluster": "west"},
        {**vf, "instance": f"{kind}-b"},
        {**vf, "alertname": "SriovNumaMisaligned"},
        {**pf, "alertname": "SriovVfsRunningOut"},
    ]
    source = {**pf, "alertname": f"SriovPf{kind}"}
    assert inhibited(quiet, source, [vf, *others]) == [vf]


@pytest.mark.parametrize(
    ("severity", "receiver"),
    [("critical", "on-call"), ("warning", "network-team"), ("info", "network-team")],
)
def test_alerts_go_to_a_receiver_by_severity(severity: str, receiver: str) -> None:
    command: list[str | Path] = [programs() / "amtool", "config", "routes", "test"]
    command += [f"--config.file={CONFIG}", "alertname=SriovVfDrops", f"severity={severity}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"{receiver}\n", done.stderr


def test_other_alerts_keep_their_own_route() -> None:
    command: list[str | Path] = [programs() / "amtool", "config", "routes", "test"]
    command += [f"--config.file={CONFIG}", "alertname=NodeFilesystemFull", "severity=critical"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "default\n", done.stderr
