"""The queries of docs/queries.md return the right value for every series of several clusters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.clusters import (
    FILE_AGE,
    LINK_SPEED,
    NOW,
    SCRAPES,
    TRAFFIC,
    VF_0,
    VF_1,
    VF_2,
    VF_WITH_TWO_PORTS,
    clusters,
)
from e2e.conftest import Prometheus
from sriov_textfile.simulate.rdma import HW_COUNTERS

PAGE = (Path(__file__).parent.parent / "docs/queries.md").read_text()
# Each query, by the first sentence of the paragraph above it.
DOCUMENTED: dict[str, str] = dict(
    re.findall(r"\n\n([^\n.:;]+)[^\n]*\n(?:[^\n]+\n)*\n```promql\n(.*?)\n```", PAGE, re.DOTALL)
)
SECONDS = SCRAPES[-1]  # how long the VFs have counted


@dataclass
class Expected:
    """The values of a query, by instance and by the values of some labels.

    They are those of a node with traffic 1.
    """

    labels: str
    nodes: dict[str, dict[str, float]]
    grows: bool = True  # with traffic

    @property
    def series(self) -> dict[str, float]:
        """The values of all clusters, by cluster, instance and the labels."""
        return {
            f"{cluster} {instance} {labels}": value * (traffic if self.grows else 1)
            for (cluster, instance), traffic in TRAFFIC.items()
            for labels, value in self.nodes.get(instance, {}).items()
        }


def on_every_node(values: dict[str, float]) -> dict[str, dict[str, float]]:
    return {instance: values for _, instance in TRAFFIC}


# How much VF 0's RDMA counters grow per second.
ROCE = {
    "CNPs": HW_COUNTERS["np_cnp_sent"],
    "out of sequence": HW_COUNTERS["out_of_sequence"],
    "RNR NAKs": HW_COUNTERS["rnr_nak_retry_err"],
}
CPUS = {
    "node-1": {"core upf-0 2": 1.0, "core upf-0 3": 1.0},
    "node-2": {"core upf-1 4": 1.0},
}
EXPECTED = {
    "Bytes per second received by each VF": Expected(
        "pf vf",
        on_every_node(
            {
                "ens1f0 0": 500,
                "ens1f0 1": 2 * 500,
                "ens1f0 2": 3 * 500,
                "ens1f0 3": 4 * 500,
                "ens2f0 0": 500,
                "ens2f0d1 0": 500,
            }
        ),
    ),
    "Dropped packets per second for each PF, both directions": Expected(
        "pf",
        on_every_node(
            {"ens1f0": (1 + 2 + 3 + 4) * (2 + 4), "ens2f0": 2 + 4, "ens2f0d1": 2 + 4},
        ),
    ),
    "How many more VFs each PF supports": Expected(
        "pf", on_every_node({"ens1f0": 60, "ens2f0": 63, "ens2f0d1": 63}), grows=False
    ),
    "Share of the link's speed that the VFs of each PF send, from 0 to 1": Expected(
        "pf",
        on_every_node(
            {
                "ens1f0": (1 + 2 + 3 + 4) * 300 / LINK_SPEED,
                "ens2f0": 300 / LINK_SPEED,
                "ens2f0d1": 300 / LINK_SPEED,
            }
        ),
    ),
    "Bytes per second that stay inside the NIC, from one VF or the PF to another": Expected(
        "pf",
        on_every_node(
            {
                "ens1f0": (1 + 2 + 3 + 4) * 300 + 700 - 2_500,
                "ens2f0": 300 + 100 - 390,
                "ens2f0d1": 0,  # more on the wire, because of the checksums
            }
        ),
    ),
    "A VF's counter with the pod that uses the VF": Expected(
        "namespace pod pciAddr",
        {
            "node-1": {
                f"core upf-0 {VF_0}": 3 * SECONDS,
                f"core upf-0 {VF_1}": 2 * 3 * SECONDS,
                f"edge router-0 {VF_2}": 3 * 3 * SECONDS,
                f"edge router-1 {VF_2}": 3 * 3 * SECONDS,
            },
            "node-2": {
                f"core upf-1 {VF_1}": 2 * 3 * SECONDS,
                f"core upf-1 {VF_WITH_TWO_PORTS}": (3 + 3) * SECONDS,
            },
        },
    ),
    "Bytes per second that each pod sends through all of its VFs": Expected(
        "namespace pod",
        {
            "node-1": {
                "core upf-0": 300 + 2 * 300,
                "edge router-0": 3 * 300,
                "edge router-1": 3 * 300,
            },
            "node-2": {"core upf-1": 2 * 300 + (300 + 300)},
        },
    ),
    # The card with two ports is read by netlink, which has no tx_errors.
    "Transmit errors of each VF, with its pod": Expected(
        "namespace pod pciAddr",
        {
            "node-1": {
                f"core upf-0 {VF_0}": 7 * SECONDS,
                f"core upf-0 {VF_1}": 2 * 7 * SECONDS,
                f"edge router-0 {VF_2}": 3 * 7 * SECONDS,
                f"edge router-1 {VF_2}": 3 * 7 * SECONDS,
            },
            "node-2": {f"core upf-1 {VF_1}": 2 * 7 * SECONDS},
        },
    ),
    "The same with a label of the pod": Expected(
        "namespace pod label_app_kubernetes_io_name pciAddr",
        {
            "node-1": {
                f"core upf-0 upf {VF_0}": 7 * SECONDS,
                f"core upf-0 upf {VF_1}": 2 * 7 * SECONDS,
                f"edge router-0 router {VF_2}": 3 * 7 * SECONDS,
                f"edge router-1 router {VF_2}": 3 * 7 * SECONDS,
            },
            "node-2": {f"core upf-1 upf {VF_1}": 2 * 7 * SECONDS},
        },
    ),
    "Signs of RoCE congestion per second, for each pod": Expected(
        "namespace pod signal",
        {
            "node-1": {
                f"{pod} {signal}": vfs * rate
                for pod, vfs in (("core upf-0", 1 + 2), ("edge router-0", 3), ("edge router-1", 3))
                for signal, rate in ROCE.items()
            },
            "node-2": {f"core upf-1 {signal}": 2 * rate for signal, rate in ROCE.items()},
        },
    ),
    "Exclusive CPUs of each pod": Expected("namespace pod cpu_id", CPUS, grows=False),
    "The same from the cgroups, for a kubelet that does not report CPUs": Expected(
        "namespace pod cpu_id", CPUS, grows=False
    ),
    "Free devices of each resource": Expected(
        "dev_type",
        {"node-1": {"vendor.example/vf": 2}, "node-2": {"vendor.example/vf": 1}},
        grows=False,
    ),
    "Whether each collector completed without errors": Expected(
        "collector",
        {
            **on_every_node(
                {"vfstats": 1, "vfrdma": 1, "pfinfo": 1, "kubepoddevice": 1, "kubepodcpu": 1}
            ),
            "bare": {"vfstats": 1, "vfrdma": 1, "pfinfo": 1},
        },
        grows=False,
    ),
    "Seconds since the file was written": Expected(
        "file", on_every_node({"/var/lib/node_exporter/sriov.prom": FILE_AGE}), grows=False
    ),
}


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    # A short path: the nodes put unix sockets below it, whose paths are limited to 107 characters.
    with clusters(debian, tmp_path_factory.mktemp("clusters")) as prometheus:
        yield prometheus


def check(prometheus: Prometheus, query: str, expected: Expected) -> None:
    names = ["cluster", "instance", *expected.labels.split()]
    series = prometheus.get("query", query=query, time=NOW)["result"]
    values = {
        " ".join(sample["metric"].get(name, "") for name in names): float(sample["value"][1])
        for sample in series
    }
    assert len(values) == len(series), f"some series have the same {', '.join(names)}"
    assert values == pytest.approx(expected.series)


def test_every_documented_query_has_expected_values() -> None:
    assert list(DOCUMENTED) == list(EXPECTED)
    assert len(DOCUMENTED) == PAGE.count("```promql")


@pytest.mark.parametrize("title", DOCUMENTED)
def test_every_documented_query_returns_the_expected_values(
    prometheus: Prometheus, title: str
) -> None:
    check(prometheus, DOCUMENTED[title], EXPECTED[title])


@pytest.mark.parametrize(
    ("title", "query"),
    [
        pytest.param(title, query[: label.start()] + query[label.end() :], id=f"{title} {number}")
        for title, query in DOCUMENTED.items()
        for number, label in enumerate(re.finditer("cluster, |instance, ", query))
    ],
)
def test_a_query_that_lacks_a_cluster_or_instance_is_wrong(
    prometheus: Prometheus, title: str, query: str
) -> None:
    """Shows that the nodes are alike enough for the test above to fail."""
    with pytest.raises(AssertionError):
        check(prometheus, query, EXPECTED[title])
