"""Prometheus agents in two clusters send to a central Prometheus and to VictoriaMetrics.

Both evaluate our rules.
The clusters have the same nodes and pods; only the agents' external label `cluster` tells them
apart. The traffic differs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from e2e import nodes
from e2e.conftest import Prometheus, free_port, running_prometheus, settled, started
from e2e.fleet import RECORDED, FaultyPf, quick_rules
from sriov_textfile.simulate.host import GROWTH
from tools.fetch import CACHE, debian_packages

MANY = 5  # VFs in trouble, of one PF, are one alert
# VF 0 drops packets and has errors, VF 1 is silent. On the other PF, five VFs do so, and five are.
PFS = [
    FaultyPf(netdev="ens1f0", vfs=16, numa_node=0),
    FaultyPf(
        address="0000:88:00.0", netdev="ens2f0", vfs=16, numa_node=1, dropping=MANY, silent=MANY
    ),
]
PODS = nodes.pods(PFS)
COUNTERS = [name for name in GROWTH if not name.endswith("cast")]  # the rules use these
NODES = [(cluster, f"node-000{number}") for cluster in ("east", "west") for number in (1, 2, 3)]
CONFIGURATIONS = Path(__file__).parent.parent / "deployment/prometheus/fleet"
RULES_TEST = Path(__file__).parent / "rules_test.yml"
WINDOW_SECONDS = 20
OFFSET_SECONDS = 10  # Agents send every five seconds; rules must not run ahead of them.
RECORDS = [rule["record"] for rule in RECORDED]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Prometheus]]:
    """Run the agents, which send to a Prometheus and to VictoriaMetrics, with our rules."""
    prometheus = debian_packages(["prometheus"], CACHE / "prometheus-trixie", suite="trixie")
    prometheus /= "usr/bin/prometheus"
    work = tmp_path_factory.mktemp("central")
    rules = quick_rules(work / "rules", wait="2s", window=f"{WINDOW_SECONDS}s")
    with ExitStack() as stack:
        address = stack.enter_context(nodes.served(PFS))
        config = yaml.safe_load((CONFIGURATIONS / "central.yml").read_text())
        config["global"]["rule_query_offset"] = f"{OFFSET_SECONDS}s"
        config["rule_files"] = [str(path) for path in rules]
        flags = [f"--storage.tsdb.path={work}/tsdb", "--web.enable-remote-write-receiver"]
        found = {
            "Prometheus": stack.enter_context(running_prometheus(prometheus, work, config, *flags)),
            "VictoriaMetrics": stack.enter_context(victoria_metrics(work, rules)),
        }
        for cluster in ("east", "west"):
            config = yaml.safe_load((CONFIGURATIONS / "agent.yml").read_text())
            config["global"] = {"scrape_interval": "1s", "external_labels": {"cluster": cluster}}
            config["scrape_configs"] = nodes.scrape_configs(address, {cluster: 3}, label=False)
            (remote,) = config["remote_write"]
            config["remote_write"] = [
                {**remote, "url": f"{engine.url}/api/v1/write"} for engine in found.values()
            ]
            own = tmp_path_factory.mktemp(cluster)
            flags = ["--enable-feature=agent", f"--storage.agent.path={own}/wal"]
            stack.enter_context(running_prometheus(prometheus, own, config, *flags))
        # All scrapes of a whole window have arrived, and the rules have been evaluated since.
        full = f"count_over_time(sriov_vf_rx_bytes[{WINDOW_SECONDS}s]) >= {WINDOW_SECONDS - 1}"
        for engine in found.values():
            engine.wait_for(f"count({full}) == {len(NODES) * sum(pf.vfs for pf in PFS)}")
        time.sleep(OFFSET_SECONDS + 4)
        # vmalert does not wait until what a rule records can be queried by the next one.
        for record, series in EXPECTED.items():
            for engine in found.values():
                engine.wait_for(f"count({record}) == {len(series)}")
        yield found


@contextmanager
def victoria_metrics(work: Path, rules: Sequence[Path]) -> Iterator[Prometheus]:
    """Run VictoriaMetrics and vmalert, which have an option each for our rules' offset."""
    programs = victoria_metrics_programs()
    address, own = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    url = f"http://{address}"
    database: list[str | Path] = [
        programs / "victoria-metrics",
        f"-httpListenAddr={address}",
        f"-storageDataPath={work}/victoria-metrics",
        f"-search.latencyOffset={OFFSET_SECONDS}s",
    ]
    vmalert: list[str | Path] = [
        programs / "vmalert",
        f"-httpListenAddr={own}",
        *[f"-rule={path}" for path in rules],
        f"-datasource.url={url}",
        f"-remoteWrite.url={url}",
        "-notifier.blackhole",
        f"-rule.evalDelay={OFFSET_SECONDS}s",
    ]
    with (
        started(database, work / "victoria-metrics.log", f"{url}/health"),
        started(vmalert, work / "vmalert.log", f"http://{own}/health"),
    ):
        yield Prometheus(url)


def victoria_metrics_programs() -> Path:
    folder = CACHE / "victoria-metrics"
    return debian_packages(["victoria-metrics"], folder, suite="trixie") / "usr/bin"


Series = dict[tuple[tuple[str, str], ...], float]


def expected() -> dict[str, Series]:
    """Return the series of each recording rule, computed from how fast the counters grow."""
    found: dict[str, Series] = {record: {} for record in RECORDS}

    def add(record: str, value: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        found[record][key] = found[record].get(key, 0) + value

    for cluster, instance in NODES:
        node = {"cluster": cluster, "instance": instance}
        pods = {}
        for pod in PODS:
            name = pod.name.replace(nodes.NODE, f"{int(instance[5:]):012x}")
            labels = {**node, "namespace": pod.namespace, "pod": name}
            addresses = pod.containers[0].devices[nodes.RESOURCE]
            pods.update(dict.fromkeys(addresses, (labels, bool(pod.containers[0].cpus))))
        for pf in PFS:
            for vf in range(pf.vfs):
                address, numa_node = pf.vf_address(vf), str(pf.numa_node)
                before, after = pf.counters(vf, 0), pf.counters(vf, 1000)
                load = nodes.load(cluster, instance)
                rates = {name: load * (after[name] - before[name]) / 1000 for name in COUNTERS}
                own = {"numa_node": numa_node, "pciAddr": address, "pf": pf.netdev, "vf": str(vf)}
                user, has_cpus = pods.get(address, ({}, False))
                both = rates["rx_bytes"] + rates["tx_bytes"]
                add("vf:sriov_vf_bytes:rate5m", both, **node, **own)
                share = rates["rx_bytes"] / ((pf.speed or 0) * 125_000)  # the busier direction
                add("pf:sriov_link_utilization:ratio", share, **node, pf=pf.netdev)
                for name, rate in rates.items():
                    add(f"vf:sriov_vf_{name}:rate5m", rate, **node, **own)
                    add(f"pf:sriov_vf_{name}:rate5m", rate, **node, pf=pf.netdev)
                    if user:
                        add(f"pod:sriov_vf_{name}:rate5m", rate, **user)
                if vf < pf.dropping:
                    dropped = rates["rx_dropped"] + rates["tx_dropped"]
                    for trouble, rate in (("dropping", dropped), ("failing", rates["tx_errors"])):
                        add(f"vf:sriov_vf_{trouble}:rate5m", rate, **node, **own)
                        add(f"pf:sriov_vf_{trouble}:count", 1, **node, pf=pf.netdev)
                elif vf < pf.dropping + pf.silent:
                    add("vf:sriov_vf_silent:rate5m", 0, **node, **own)
                    add("pf:sriov_vf_silent:count", 1, **node, pf=pf.netdev)
                if user and vf < pf.dropping + pf.silent and pf.dropping < MANY:
                    add("pod:sriov_vf_in_trouble:group", 1, **user, pciAddr=address)
                if user and vf % 2 == 0:  # once for each pod: it has two VFs
                    add("pod:sriov_vf_numa_node:group", 1, **user, numa_node=numa_node)
                    if has_cpus:
                        add("pod:sriov_kubepodcpu_numa_node:group", 1, **user, numa_node=numa_node)
                        add("pod:sriov_numa_aligned:bool", 1, **user, numa_node=numa_node)
    for trouble in ("dropping", "failing", "silent"):
        counts = found[f"pf:sriov_vf_{trouble}:count"]
        found[f"pf:sriov_vf_{trouble}:many"] = {
            pf: count for pf, count in counts.items() if count >= MANY
        }
    return found


EXPECTED = expected()


@pytest.mark.parametrize("engine", ["Prometheus", "VictoriaMetrics"])
@pytest.mark.parametrize("record", RECORDS)
def test_each_rule_has_its_values_in_each_cluster(
    engines: dict[str, Prometheus], engine: str, record: str
) -> None:
    assert EXPECTED[record]

    def series() -> Series:
        return {
            tuple(sorted((k, v) for k, v in sample["metric"].items() if k != "__name__")): float(
                sample["value"][1]
            )
            for sample in engines[engine].query(record)
        }

    # Counters are integers: the rate of a slow one is off by up to a count in the window.
    slow = 1 if record.startswith("vf:") else MANY
    rounding = slow * 1.5 / WINDOW_SECONDS if record.endswith(":rate5m") else 0
    expected = pytest.approx(EXPECTED[record], rel=0.05, abs=rounding)
    assert settled(series, expected) == expected


@pytest.mark.parametrize("engine", ["Prometheus", "VictoriaMetrics"])
def test_alerts_name_the_cluster(engines: dict[str, Prometheus], engine: str) -> None:
    few, many = [pf.netdev for pf in PFS]
    expected = sorted(
        (name, cluster, instance, pf, vf)
        for name, pf, vf in (
            ("SriovVfDrops", few, "0"),
            ("SriovVfErrors", few, "0"),
            ("SriovVfSilent", few, "1"),
            ("SriovPfDrops", many, ""),
            ("SriovPfErrors", many, ""),
            ("SriovPfSilent", many, ""),
        )
        for cluster, instance in NODES
    )

    def firing() -> list[tuple[str, ...]]:
        found = engines[engine].query('ALERTS{alertstate="firing"}')
        names = ("alertname", "cluster", "instance", "pf", "vf")
        return sorted(tuple(alert["metric"].get(name, "") for name in names) for alert in found)

    # Those about VFs fire until a PF has had many in trouble for a while.
    assert settled(firing, expected) == expected


def test_vmalert_passes_promtools_rule_tests(tmp_path: Path) -> None:
    """Its test files only have another name for one key."""
    tests = RULES_TEST.read_text().replace("promql_expr_test:", "metricsql_expr_test:")
    tests = tests.replace("../deployment", str(RULES_TEST.parent.parent / "deployment"))
    (tmp_path / "rules_test.yml").write_text(tests)
    command: list[str | Path] = [victoria_metrics_programs() / "vmalert-tool", "unittest"]
    command += [f"--files={tmp_path}/rules_test.yml", "--disableAlertgroupLabel"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
