"""The dashboard on a real Prometheus: its values on a few nodes, its limits on many."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import nodes
from e2e.conftest import Prometheus, running_prometheus, settled
from e2e.fleet import FAULTY, HEALTHY, RULES, quick_rules
from e2e.grafana import DASHBOARD, EXPRESSIONS, GRAPHS, PANELS, VARIABLES, with_values

MOST_SERIES = 200
QUERIES = {name: data["query"] for name, data in VARIABLES.items() if data["type"] == "query"}
Labels = dict[str, str]


def test_the_json_is_up_to_date() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="no wheel for Python 3.10")
    from tools import dashboard

    assert dashboard.DASHBOARD.read_text() == dashboard.rendered()


def test_grafanas_schema_has_every_field() -> None:
    """Grafana's SDK is generated from the schema; it drops fields that it does not know."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder").JSONEncoder
    decoded = models.Dashboard.from_json(DASHBOARD)
    assert json.loads(json.dumps(decoded, cls=encoder)) == DASHBOARD


def test_every_metric_but_a_few_is_shown() -> None:
    demo = [sys.executable, "-m", "sriov_textfile", "demo", "--collector.vfinfo"]
    written = subprocess.run(demo, capture_output=True, text=True, check=True).stdout
    rules = "".join([path.read_text() for path in RULES])
    shown = set(re.findall(r"\bsriov_\w+", json.dumps(DASHBOARD) + rules))
    names = set(re.findall(r"# TYPE (\S+)", written))
    assert names - shown == {
        "sriov_vf_rx_broadcast",
        "sriov_vf_rx_multicast",
        "sriov_vf_max_tx_rate_mbps",
        "sriov_pf_total_vfs",
        "sriov_cpu_info",
    }


def test_every_query_keeps_the_cluster_and_the_node() -> None:
    for name, expression in EXPRESSIONS.items():
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            if labels in ("version, python", "cluster, dev_type"):  # sums over nodes
                continue
            assert labels.startswith("cluster, instance"), name


# --- Three nodes, one of them healthy, one with all kinds of trouble, one without its file.


def value(prometheus: Prometheus, title: str, node: str = FAULTY) -> float:
    """Return the value of a panel with one number."""
    (sample,) = prometheus.wait_for(with_values(EXPRESSIONS[f"{title} A"], node))
    return float(sample["value"][1])


def rows(prometheus: Prometheus, title: str, *columns: str, node: str = FAULTY) -> set[object]:
    """Return the columns of a table."""
    series = prometheus.wait_for(with_values(EXPRESSIONS[f"{title} A"], node))
    return {tuple([sample["metric"].get(column) for column in columns]) for sample in series}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_panel_shows_something(three_nodes: Prometheus, name: str) -> None:
    assert three_nodes.wait_for(with_values(EXPRESSIONS[name], FAULTY))


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - {"cluster"}))
def test_every_variable_has_values(three_nodes: Prometheus, name: str) -> None:
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", with_values(QUERIES[name], HEALTHY))
    assert match
    series = three_nodes.get("series", **{"match[]": match[1]})
    assert {labels.get(match[2]) for labels in series} - {None}


def test_the_numbers_about_the_fleet(three_nodes: Prometheus) -> None:
    titles = [panel["title"] for panel in PANELS if panel["type"] == "stat"][:8]
    expected = {
        "Nodes": 2,
        "Nodes that stopped reporting": 1,
        "Nodes with failed collectors": 1,
        "Nodes with an old file": 1,
        "VFs": 24 + 15,  # Two of them on the PF that rtnetlink does not know: without counters.
        "VFs used by pods": 31,
        "VFs that drop packets": 6,
        "Pods on the wrong NUMA node": 1,
    }

    def shown() -> dict[str, float]:
        return {title: value(three_nodes, title) for title in titles}

    assert settled(shown, expected) == expected


def test_the_lists_name_the_nodes_in_trouble(three_nodes: Prometheus) -> None:
    failed = rows(three_nodes, "Failed collectors", "instance", "collector")
    assert failed == {(FAULTY, "vfstats"), (FAULTY, "vfinfo")}
    both = {(FAULTY,), (HEALTHY,)}
    assert settled(lambda: rows(three_nodes, "Oldest files", "instance"), both) == both
    misaligned = "Pods with CPUs and VFs on different NUMA nodes"
    assert rows(three_nodes, misaligned, "instance", "pod") == {(FAULTY, "gw-0")}
    assert (FAULTY, "gw-0") in rows(three_nodes, "Pods with the most drops", "instance", "pod")
    dropping = rows(three_nodes, "VFs with the most drops", "instance", "pf", "vf", "pod")
    assert dropping == {
        (FAULTY, "ens7f0", "0", "gw-0"),
        *((FAULTY, "ens9f0", str(vf), "gw-0") for vf in range(5)),
    }


def test_resources_show_how_many_devices_are_in_use_and_how_many_are_left(
    three_nodes: Prometheus,
) -> None:
    devices = "sum by (dev_type) (sriov_device_{})"

    def by_resource(query: str) -> dict[str, float]:
        found = three_nodes.wait_for(query)
        return {series["metric"]["dev_type"]: float(series["value"][1]) for series in found}

    panel = [EXPRESSIONS[f"Devices in use and free {ref}"] for ref in "AB"]
    queries = [with_values(expression, FAULTY) for expression in panel]
    queries += [devices.format("allocated"), devices.format("allocatable")]

    def agree() -> bool:
        used, free, allocated, allocatable = map(by_resource, queries)
        left = {name: count - allocated[name] for name, count in allocatable.items()}
        return used == allocated and free == left

    assert settled(agree, True)


def test_pods_are_found_by_a_part_of_their_name(three_nodes: Prometheus) -> None:
    expression = with_values(EXPRESSIONS["Busiest pods A"], FAULTY, search="upf")
    found = {sample["metric"]["pod"] for sample in three_nodes.wait_for(expression)}
    assert found == {"upf-0", "upf-1", "upf-2"}


def test_a_node_is_shown_without_the_others(three_nodes: Prometheus) -> None:
    assert value(three_nodes, "VFs of the node", HEALTHY) == 24
    assert value(three_nodes, "VFs of the node", FAULTY) == 15
    pfs = rows(three_nodes, "Received per PF (all VFs)", "instance", "pf")
    assert pfs == {(FAULTY, "ens7f0"), (FAULTY, "ens9f0")}
    inventory = rows(three_nodes, "VFs and the pods that use them", "pf", "vf", "pod")
    assert len(inventory) == 15
    assert inventory >= {("ens7f0", "0", "gw-0"), ("ens8f0", "1", None)}
    pods = rows(three_nodes, "NUMA nodes of pods", "pod", node=HEALTHY)
    assert pods == {("upf-0",), ("du-0",), ("upf-1",), ("du-1",)}


def test_the_share_of_the_link_is_that_of_the_busier_direction(three_nodes: Prometheus) -> None:
    titles = ["Share of the link", "Received per PF (all VFs)", "Sent per PF (all VFs)"]
    titles.append("Traffic inside the NIC")  # Nothing leaves it.
    queries = [with_values(EXPRESSIONS[f"{title} A"], HEALTHY, pf="ens1f0") for title in titles]
    three_nodes.wait_for(queries[0])
    now = time.time() - 1
    found = [three_nodes.get("query", query=query, time=now)["result"] for query in queries]
    share, received, sent, inside = [float(series["value"][1]) for (series,) in found]
    assert share == pytest.approx(max(received, sent) / 25e9)
    assert inside == pytest.approx(sent)


# --- Many nodes with the same name in as many clusters, and one node with many VFs.

CLUSTERS = MOST_SERIES + 20
WIDE = "wide"


@pytest.fixture(scope="module")
def large(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    work = tmp_path_factory.mktemp("large")
    small, wide = nodes.pfs(8, dropping=8), nodes.pfs(512, dropping=512)
    with nodes.served(small) as address, nodes.served(wide) as other:
        clusters = dict.fromkeys([f"c{number}" for number in range(CLUSTERS)], 1)
        jobs = nodes.scrape_configs(address, clusters)
        for job, more in zip(jobs, nodes.scrape_configs(other, {WIDE: 1}), strict=True):
            job["static_configs"] += more["static_configs"]
        rules = quick_rules(work / "rules", interval="2s", window="20s")
        config = {
            "global": {"scrape_interval": "2s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": jobs,
        }
        with running_prometheus(debian / "usr/bin/prometheus", work, config) as prometheus:
            all_vfs = 8 * CLUSTERS + 512
            prometheus.wait_for(f"count(vf:sriov_vf_dropping:rate5m) == {all_vfs}")
            prometheus.wait_for(
                f"count(count_over_time(sriov_pf_info[30s]) > 4) == {2 * CLUSTERS + 2}"
            )
            yield prometheus


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_no_panel_has_too_many_series(large: Prometheus, name: str) -> None:
    expression = with_values(EXPRESSIONS[name], "node-0001", range="30s", rate_interval="10s")

    def found() -> int:
        if name in GRAPHS:
            now = time.time()
            answer = large.get("query_range", query=expression, start=now - 20, end=now, step=2)
            return len(answer["result"])
        return len(large.query(expression))

    with_failures = {"Failed collectors A", "Pods with CPUs and VFs on different NUMA nodes A"}
    some = range(name not in with_failures, MOST_SERIES + 1)
    assert settled(lambda: found() in some, True)


@pytest.mark.parametrize(
    ("chosen", "vfs", "vfs_of_the_node"),
    [
        ({}, 8 * CLUSTERS + 512, 8 * CLUSTERS + 512),
        ({"cluster": WIDE}, 512, 512),
        ({"cluster": "c1|c2"}, 16, 16),
        ({"cluster": "c1", "pf": "ens1f0"}, 8, 4),
        ({"job": "another"}, None, None),
    ],
    ids=str,
)
def test_the_variables_select(
    large: Prometheus, chosen: Labels, vfs: int | None, vfs_of_the_node: int | None
) -> None:
    def shown(title: str) -> float | None:
        found = large.query(with_values(EXPRESSIONS[title], "node-0001", **chosen))
        return float(found[0]["value"][1]) if found else None

    expected = {"VFs": vfs, "VFs that drop packets": vfs or 0}
    if "pf" not in chosen:
        expected["VFs of the node"] = vfs_of_the_node
    assert settled(lambda: {title: shown(f"{title} A") for title in expected}, expected) == expected
