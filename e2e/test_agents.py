"""Prometheus agents in two clusters send to a central Prometheus, which evaluates the rules.

The clusters have the same nodes and pods; only the agents' external label `cluster` tells them
apart. The traffic differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from e2e import nodes
from e2e.conftest import Prometheus, running_prometheus
from e2e.fleet import RECORDED, FaultyPf, quick_rules
from sriov_textfile.simulate.host import GROWTH
from tools.fetch import CACHE, debian_packages

# VF 0 drops packets and has errors, VF 1 is silent.
PFS = [
    FaultyPf(netdev="ens1f0", vfs=16, numa_node=0),
    FaultyPf(address="0000:88:00.0", netdev="ens2f0", vfs=16, numa_node=1),
]
PODS = nodes.pods(PFS)
COUNTERS = [name for name in GROWTH if not name.endswith("cast")]  # the rules use these
NODES = [(cluster, f"node-000{number}") for cluster in ("east", "west") for number in (1, 2, 3)]
WINDOW_SECONDS = 20
RECORDS = [rule["record"] for rule in RECORDED]


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = debian_packages(["prometheus"], CACHE / "prometheus-trixie", suite="trixie")
    program /= "usr/bin/prometheus"
    work = tmp_path_factory.mktemp("central")
    rules = quick_rules(work / "rules", wait="2s", window=f"{WINDOW_SECONDS}s")
    with ExitStack() as stack:
        address = stack.enter_context(nodes.served(PFS))
        flags = [f"--storage.tsdb.path={work}/tsdb", "--web.enable-remote-write-receiver"]
        config: dict[str, object] = {
            # Agents send every five seconds. Rules must not run ahead of them.
            "global": {"rule_query_offset": "6s"},
            "rule_files": [str(path) for path in rules],
        }
        server = stack.enter_context(running_prometheus(program, work, config, *flags))
        for cluster in ("east", "west"):
            config = {
                "global": {"scrape_interval": "1s", "external_labels": {"cluster": cluster}},
                "scrape_configs": nodes.scrape_configs(address, {cluster: 3}, label=False),
                "remote_write": [{"url": f"{server.url}/api/v1/write"}],
            }
            own = tmp_path_factory.mktemp(cluster)
            flags = ["--enable-feature=agent", f"--storage.agent.path={own}/wal"]
            stack.enter_context(running_prometheus(program, own, config, *flags))
        # All scrapes of a whole window have arrived, and the rules have been evaluated since.
        full = f"count_over_time(sriov_vf_rx_bytes[{WINDOW_SECONDS}s]) >= {WINDOW_SECONDS - 1}"
        server.wait_for(f"count({full}) == {len(NODES) * sum(pf.vfs for pf in PFS)}")
        time.sleep(10)
        yield server


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
                for name, rate in rates.items():
                    add(f"vf:sriov_vf_{name}:rate5m", rate, **node, **own)
                    add(f"pf:sriov_vf_{name}:rate5m", rate, **node, pf=pf.netdev)
                    if user:
                        add(f"pod:sriov_vf_{name}:rate5m", rate, **user)
                add(
                    "vf:sriov_vf_bytes:rate5m", rates["rx_bytes"] + rates["tx_bytes"], **node, **own
                )
                if vf < pf.dropping:
                    dropped = rates["rx_dropped"] + rates["tx_dropped"]
                    for trouble, rate in (("dropping", dropped), ("failing", rates["tx_errors"])):
                        add(f"vf:sriov_vf_{trouble}:rate5m", rate, **node, **own)
                        add(f"pf:sriov_vf_{trouble}:count", 1, **node, pf=pf.netdev)
                elif vf < pf.dropping + pf.silent:
                    add("vf:sriov_vf_silent:rate5m", 0, **node, **own)
                    add("pf:sriov_vf_silent:count", 1, **node, pf=pf.netdev)
                if user and vf % 2 == 0:  # once for each pod: it has two VFs
                    add("pod:sriov_vf_numa_node:group", 1, **user, numa_node=numa_node)
                    if has_cpus:
                        add("pod:sriov_kubepodcpu_numa_node:group", 1, **user, numa_node=numa_node)
                        add("pod:sriov_numa_aligned:bool", 1, **user, numa_node=numa_node)
            own_pf = (*node.items(), ("pf", pf.netdev))
            used = max(found[f"pf:sriov_vf_{way}_bytes:rate5m"][own_pf] for way in ("rx", "tx"))
            speed = (pf.speed or 0) * 125_000
            add("pf:sriov_link_utilization:ratio", used / speed, **node, pf=pf.netdev)
    return found


EXPECTED = expected()


@pytest.mark.parametrize("record", RECORDS)
def test_each_rule_has_its_values_in_each_cluster(central: Prometheus, record: str) -> None:
    assert EXPECTED[record]
    series = {
        tuple(sorted((k, v) for k, v in sample["metric"].items() if k != "__name__")): float(
            sample["value"][1]
        )
        for sample in central.query(record)
    }
    assert series == pytest.approx(EXPECTED[record], rel=0.05, abs=0.1)


def test_alerts_name_the_cluster(central: Prometheus) -> None:
    central.wait_for('ALERTS{alertname="SriovVfSilent",alertstate="firing"}')
    firing = [sample["metric"] for sample in central.query('ALERTS{alertstate="firing"}')]
    alerts = [(a["alertname"], a["cluster"], a["instance"], a["pf"], a["vf"]) for a in firing]
    assert sorted(alerts) == [
        (name, cluster, instance, pf.netdev, vf)
        for name, vf in (("SriovVfDrops", "0"), ("SriovVfErrors", "0"), ("SriovVfSilent", "1"))
        for cluster, instance in NODES
        for pf in PFS
    ]
