"""Writes the Grafana dashboard: `python -m tools.dashboard` makes deployment/grafana/sriov.json.

The dashboard asks the metrics themselves and needs no recording rules.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DASHBOARD = Path(__file__).parent.parent / "deployment/grafana/sriov.json"

# Selectors: VFs by node and PF, pods by node, namespace and name.
VF = 'instance=~"$node", pf=~"$pf"'
NODE = 'instance=~"$node"'
POD = 'instance=~"$node", namespace=~"$namespace", pod=~"$pod"'

# What a series is called in a panel.
VF_LEGEND = "{{instance}} {{pf}} VF {{vf}}"
PF_LEGEND = "{{instance}} {{pf}}"

# Who holds which VF. Containers of one pod may share it, and so, by a claim, may pods: in a join
# with the VFs' counters this is the side that has many.
HELD = f"max by (instance, namespace, pod, pciAddr) (sriov_kubepoddevice{{{POD}}})"

_VF_NODES = f"""\
group by (instance, namespace, pod, numa_node) (
  {HELD}
  * on (instance, pciAddr) group_left (numa_node)
  group by (instance, pciAddr, numa_node) (sriov_vf_rx_packets{{{NODE}, numa_node!=""}})
)"""
_CPU_NODES = f"""\
group by (namespace, pod, numa_node) (
  sriov_kubepodcpu{{{NODE}, numa_node!=""}}
  * on (uid) group_left (namespace, pod)
  group by (uid, namespace, pod) (kube_pod_info)
)"""


def rate(*counters: str, selector: str = VF) -> str:
    """Return the sum of some counters' rates, for each VF."""
    rates = [f"rate(sriov_vf_{name}{{{selector}}}[$__rate_interval])" for name in counters]
    return " + ".join(rates)


def of_vfs(expression: str) -> str:
    """Return an expression without labels that say nothing to a person."""
    return f"sum by (instance, pf, vf) ({expression})"


def of_pfs(expression: str) -> str:
    """Return the sum over each PF's VFs."""
    return f"sum by (instance, pf) ({expression})"


def of_pods(expression: str) -> str:
    """Return the sum over the VFs that each pod holds."""
    by_address = f"sum by (instance, pciAddr) ({expression})"
    return f"""\
sum by (namespace, pod) (
  {HELD}
  * on (instance, pciAddr) group_left ()
  {by_address}
)"""


@dataclass
class Panel:
    """One panel: its kind of picture, and an expression for each name in the legend."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12  # of 24
    height: int = 8
    description: str = ""
    red_from: float | None = None
    decimals: int | None = None
    words: dict[str, tuple[str, str]] = field(default_factory=dict)  # value: text, colour


def traffic(what: str, of: Any, selector: str, legend: str) -> list[Panel]:
    """Return the panels of traffic, drops and errors for VFs, PFs or pods."""

    def panel(title: str, unit: str, expression: str, width: int, description: str = "") -> Panel:
        return Panel(title, {legend: of(expression)}, unit, width=width, description=description)

    def bits(way: str) -> str:
        return f"8 * {rate(f'{way}_bytes', selector=selector)}"

    return [
        panel(f"Received by {what}", "bps", bits("rx"), 12),
        panel(f"Sent by {what}", "bps", bits("tx"), 12),
        panel(f"Packets of {what}", "pps", rate("rx_packets", "tx_packets", selector=selector), 8),
        panel(f"Drops of {what}", "pps", rate("rx_dropped", "tx_dropped", selector=selector), 8),
        panel(
            f"Errors of {what}",
            "pps",
            rate("tx_errors", selector=selector),
            8,
            "On sending. Only drivers with statistics in sysfs count them.",
        ),
    ]


ROWS = {
    "Overview": [
        Panel("PFs", {"": f"count(sriov_pf_info{{{VF}}})"}, kind="stat", width=3, height=4),
        Panel("VFs", {"": f"sum(sriov_pf_num_vfs{{{VF}}})"}, kind="stat", width=3, height=4),
        Panel(
            "VFs that pods hold",
            {
                "": f"count(group by (instance, pciAddr) (sriov_vf_rx_packets{{{VF}}})"
                f" and on (instance, pciAddr) {HELD})"
            },
            kind="stat",
            width=3,
            height=4,
        ),
        Panel("Received", {"": f"sum(8 * {rate('rx_bytes')})"}, "bps", "stat", width=4, height=4),
        Panel("Sent", {"": f"sum(8 * {rate('tx_bytes')})"}, "bps", "stat", width=4, height=4),
        Panel(
            "Drops",
            {"": f"sum({rate('rx_dropped', 'tx_dropped')})"},
            "pps",
            "stat",
            width=3,
            height=4,
        ),
        Panel(
            "Failed collectors",
            {"": f"count(sriov_scrape_collector_success{{{NODE}}} == 0) or vector(0)"},
            kind="stat",
            width=4,
            height=4,
            red_from=1,
        ),
    ],
    "VFs": [
        *traffic("VFs", of_vfs, VF, VF_LEGEND),
        Panel(
            "Busiest VFs",
            {VF_LEGEND: f"topk(10, 8 * {of_vfs(rate('rx_bytes', 'tx_bytes'))})"},
            "bps",
            "bargauge",
            description="Received and sent together.",
        ),
        Panel(
            "VFs that drop most",
            {VF_LEGEND: f"topk(10, {of_vfs(rate('rx_dropped', 'tx_dropped'))})"},
            "pps",
            "bargauge",
        ),
    ],
    "PFs": [
        *traffic("all VFs of a PF", of_pfs, VF, PF_LEGEND),
        Panel(
            "VFs of a PF",
            {
                f"{PF_LEGEND} exist": of_pfs(f"sriov_pf_num_vfs{{{VF}}}"),
                f"{PF_LEGEND} possible": of_pfs(f"sriov_pf_total_vfs{{{VF}}}"),
            },
            width=24,
            height=6,
            decimals=0,
        ),
    ],
    "Pods": traffic("all VFs of a pod", of_pods, NODE, "{{namespace}}/{{pod}}"),
    "NUMA alignment": [
        Panel(
            "Pods' CPUs and VFs",
            {
                "": f"""\
(
  {_VF_NODES}
  and on (namespace, pod, numa_node)
  {_CPU_NODES}
)
or
0 * (
  {_VF_NODES}
  and on (namespace, pod)
  {_CPU_NODES}
)"""
            },
            kind="table",
            width=24,
            description="For a pod with CPUs to itself, and each NUMA node of its VFs: whether it"
            " has CPUs there. Needs the collectors kubepoddevice and kubepodcpu, and"
            " kube-state-metrics.",
            words={"0": ("other node", "red"), "1": ("same node", "green")},
        ),
    ],
    "Inventory": [
        Panel(
            "PFs",
            {"": f"sriov_pf_info{{{VF}}}"},
            kind="table",
            width=24,
            height=6,
        ),
        Panel(
            "VFs, and the pods that hold them",
            {
                "": f"""\
sriov_vf_info{{{VF}}}
* on (instance, pciAddr) group_left (namespace, pod)
topk by (instance, pciAddr) (1, {HELD})
or on (instance, pf, vf)
sriov_vf_info{{{VF}}}"""
            },
            kind="table",
            width=24,
            height=12,
            description="Needs --collector.vfinfo. Of pods that share a VF, one.",
        ),
    ],
    "The collection itself": [
        Panel(
            "Age of the file",
            {
                "{{instance}}": f"time() - node_textfile_mtime_seconds{{{NODE},"
                ' file=~".*/sriov[^/]*"}'
            },
            "s",
            width=8,
            description="Where node_exporter reads it.",
            red_from=300,
        ),
        Panel(
            "Collectors that succeed",
            {"{{instance}} {{collector}}": f"sriov_scrape_collector_success{{{NODE}}}"},
            width=8,
            decimals=0,
        ),
        Panel(
            "Time that collectors take",
            {"{{instance}} {{collector}}": f"sriov_scrape_collector_duration_seconds{{{NODE}}}"},
            "s",
            width=8,
        ),
        Panel(
            "Inputs that were left out",
            {"{{instance}} {{collector}}": f"sriov_scrape_collector_skipped{{{NODE}}}"},
            width=12,
            height=6,
            decimals=0,
            red_from=1,
        ),
        Panel("Versions", {"": f"sriov_textfile_build_info{{{NODE}}}"}, kind="table", height=6),
    ],
}

# Of what a table shows: labels that say nothing to a person.
_HIDDEN = {"Time": True, "__name__": True, "job": True}

_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def build() -> dashboard.Dashboard:
    """Return the dashboard's builder."""
    board: dashboard.Dashboard = (
        dashboard.Dashboard("SR-IOV virtual functions")
        .uid("sriov-textfile")
        .description("VFs, PFs and pods, from sriov-textfile.")
        .tags(["sriov", "network"])
        .time("now-1h", "now")
        .refresh("1m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for name, label, query in (
        ("node", "Node", "label_values(sriov_pf_info, instance)"),
        ("pf", "PF", f"label_values(sriov_pf_info{{{NODE}}}, pf)"),
        ("namespace", "Namespace", f"label_values(sriov_kubepoddevice{{{NODE}}}, namespace)"),
        (
            "pod",
            "Pod",
            f'label_values(sriov_kubepoddevice{{{NODE}, namespace=~"$namespace"}}, pod)',
        ),
    ):
        board.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(_DATASOURCE)
            .query(query)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        board.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            board.with_panel(_built(panel).id(next(numbers)))
    return board


def _built(panel: Panel) -> Any:
    builders: dict[str, Any] = {
        "timeseries": timeseries.Panel,
        "stat": stat.Panel,
        "table": table.Panel,
        "bargauge": bargauge.Panel,
    }
    built = builders[panel.kind]()
    built.title(panel.title).unit(panel.unit).datasource(_DATASOURCE)
    built.span(panel.width).height(panel.height)
    if panel.description:
        built.description(panel.description)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.red_from is not None:
        steps = [model.Threshold(None, "green"), model.Threshold(panel.red_from, "red")]
        built.thresholds(dashboard.ThresholdsConfig().steps(steps))
    if panel.words:
        options = {
            value: model.ValueMappingResult(text=text, color=color)
            for value, (text, color) in panel.words.items()
        }
        built.mappings([model.ValueMap(options=options)])
    for number, (legend, expression) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().ref_id("ABC"[number]).expr(expression)
        if panel.kind == "timeseries":
            query.range().legend_format(legend)
        else:
            query.instant().legend_format(legend)
        if panel.kind == "table":
            query.format(PromQueryFormat.TABLE)
        built.with_target(query)
    if panel.kind == "table":
        organize = model.DataTransformerConfig("organize", options={"excludeByName": _HIDDEN})
        built.with_transformation(organize)
    return built


def rendered() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    text = JSONEncoder(sort_keys=True, indent=2).encode(build().build())
    return json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(rendered())
