"""Writes the Grafana dashboard: `python -m tools.dashboard` makes deployment/grafana/sriov.json.

The dashboard asks the metrics themselves and needs no recording rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    VizOrientation,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DASHBOARD = Path(__file__).parent.parent / "deployment/grafana/sriov.json"

# Selectors: VFs by node and PF, pods by node, namespace and name.
VF = 'instance=~"$node", pf=~"$pf"'
NODE = 'instance=~"$node"'
POD = 'instance=~"$node", namespace=~"$namespace", pod=~"$pod"'

# A series of each VF, also of those without counters where vfinfo is on.
ANY_VF = '__name__=~"sriov_vf_(rx_packets|info)"'

# What a series is called in a panel.
VF_LEGEND = "{{instance}} {{pf}} VF {{vf}}"
PF_LEGEND = "{{instance}} {{pf}}"
POD_LEGEND = "{{namespace}}/{{pod}}"
COLLECTOR_LEGEND = "{{instance}} {{collector}}"

# Who holds which VF. Containers of one pod may share it, and so, by a claim, may pods: in a join
# with the VFs' counters this is the side that has many.
HELD = f"max by (instance, namespace, pod, pciAddr) (sriov_kubepoddevice{{{POD}}})"

# What is known of each VF and PF, without the labels of the target that told it: they may be of
# the same names as a pod's.
_VF_LABELS = "instance, pf, vf, pciAddr, numa_node, driver, netdev"
_VF_LABELS += ", mac, vlan, trust, spoofchk, link_state"
VF_INFO = f"group by ({_VF_LABELS}) (sriov_vf_info{{{VF}}})"
PF_INFO = f"""\
group by (instance, pf, pciAddr, numa_node, driver, reader, eswitch_mode) (
  sriov_pf_info{{{VF}}}
)"""

_VF_NODES = f"""\
group by (instance, namespace, pod, numa_node) (
  {HELD}
  * on (instance, pciAddr) group_left (numa_node)
  group by (instance, pciAddr, numa_node) ({{{ANY_VF}, {NODE}, numa_node!=""}})
)"""
_CPU_NODES = f"""\
group by (instance, namespace, pod, numa_node) (
  sriov_kubepodcpu{{{NODE}, numa_node!=""}}
  * on (uid) group_left (namespace, pod)
  group by (uid, namespace, pod) (kube_pod_info)
)"""


def rate(*counters: str, selector: str = VF) -> str:
    """Return the sum of some counters' rates for each VF, counted once if two jobs scrape it."""
    rates = [f"rate(sriov_vf_{name}{{{selector}}}[$__rate_interval])" for name in counters]
    return " + ".join(f"max by (instance, pf, vf, pciAddr) ({one})" for one in rates)


def of_vfs(expression: str) -> str:
    """Return an expression without labels that say nothing to a person."""
    return f"sum by (instance, pf, vf) ({expression})"


def of_pfs(expression: str) -> str:
    """Return the sum over each PF's VFs."""
    return f"sum by (instance, pf) ({expression})"


def of_pods(expression: str) -> str:
    """Return the sum over the VFs that each pod holds; a pod is on one node."""
    by_address = f"sum by (instance, pciAddr) ({expression})"
    return f"""\
max by (namespace, pod) (
  sum by (instance, namespace, pod) (
    {HELD}
    * on (instance, pciAddr) group_left ()
    {by_address}
  )
)"""


def vfs_of_pfs(metric: str) -> str:
    """Return one of pfinfo's numbers for each PF, counted once if two jobs scrape it."""
    return f"max by (instance, pf, pciAddr) ({metric}{{{VF}}})"


def of_collectors(aggregation: str, metric: str) -> str:
    """Return one of the numbers about each collector, once if two jobs scrape it."""
    return f"{aggregation} by (instance, collector) (sriov_scrape_collector_{metric}{{{NODE}}})"


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
    columns: tuple[str, ...] = ()  # of a table, in this order; others follow


def traffic(what: str, of: Callable[[str], str], selector: str, legend: str) -> list[Panel]:
    """Return the panels of traffic, drops and errors for VFs, PFs or pods."""

    def panel(title: str, unit: str, expression: str, width: int, description: str = "") -> Panel:
        return Panel(title, {legend: of(expression)}, unit, width=width, description=description)

    def bits(way: str) -> str:
        return f"8 * {rate(f'{way}_bytes', selector=selector)}"

    return [
        panel(f"Received by {what}", "bps", bits("rx"), 12),
        panel(f"Sent by {what}", "bps", bits("tx"), 12),
        panel(f"Packets of {what}", "pps", rate("rx_packets", "tx_packets", selector=selector), 8),
        panel(
            f"Drops of {what}",
            "pps",
            rate("rx_dropped", "tx_dropped", selector=selector),
            8,
            "Only where the kernel and the driver count both.",
        ),
        panel(
            f"Errors of {what}",
            "pps",
            rate("tx_errors", selector=selector),
            8,
            "On sending. Only drivers with statistics in sysfs count them.",
        ),
    ]


# A line for each VF is a lot to ask and to look at: this row is closed until somebody opens it.
EACH_VF = "Each VF: choose nodes and PFs first"

AGE = f'time() - node_textfile_mtime_seconds{{{NODE}, file=~"(.*/)?sriov[^/]*"}}'


def number(title: str, query: str, unit: str = "none", red_from: float | None = None) -> Panel:
    """Return a panel with one number."""
    return Panel(title, {"": query}, unit, kind="stat", width=3, height=4, red_from=red_from)


ROWS = {
    "Overview": [
        number("PFs", f"count({PF_INFO})"),
        number("VFs", f"sum({vfs_of_pfs('sriov_pf_num_vfs')})"),
        number(
            "VFs that pods hold",
            f"count(group by (instance, pciAddr) ({{{ANY_VF}, {VF}}})"
            f" and on (instance, pciAddr) {HELD}) or vector(0)",
        ),
        number("Received", f"8 * sum({rate('rx_bytes')})", "bps"),
        number("Sent", f"8 * sum({rate('tx_bytes')})", "bps"),
        number("Drops", f"sum({rate('rx_dropped', 'tx_dropped')})", "pps"),
        number(
            "Failed collectors",
            f"sum(1 - {of_collectors('min', 'success')})",
            red_from=1,
        ),
        number("Age of the oldest file", f"max({AGE})", "s", red_from=300),
    ],
    "PFs": [
        *traffic("all VFs of a PF", of_pfs, VF, PF_LEGEND),
        Panel(
            "VFs of a PF",
            {
                f"{PF_LEGEND} exist": vfs_of_pfs("sriov_pf_num_vfs"),
                f"{PF_LEGEND} possible": vfs_of_pfs("sriov_pf_total_vfs"),
            },
            width=24,
            height=6,
            decimals=0,
        ),
    ],
    "Pods": traffic("all VFs of a pod", of_pods, NODE, POD_LEGEND),
    "The busiest VFs": [
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
    EACH_VF: traffic("VFs", of_vfs, VF, VF_LEGEND),
    "NUMA alignment": [
        Panel(
            "Pods' CPUs and VFs",
            {
                "": f"""\
(
  {_VF_NODES}
  and on (instance, namespace, pod, numa_node)
  {_CPU_NODES}
)
or
0 * (
  {_VF_NODES}
  and on (instance, namespace, pod)
  {_CPU_NODES}
)"""
            },
            kind="table",
            width=24,
            description="For a pod with CPUs to itself, and each NUMA node of its VFs: whether it"
            " has CPUs there. Needs the collectors kubepoddevice and kubepodcpu, and"
            " kube-state-metrics.",
            words={"0": ("other node", "red"), "1": ("same node", "green")},
            columns=("instance", "namespace", "pod", "numa_node", "Value"),
        ),
    ],
    "Inventory": [
        Panel(
            "PFs",
            {"": PF_INFO},
            kind="table",
            width=24,
            height=6,
            columns=("instance", "pf", "pciAddr", "numa_node", "driver", "reader", "eswitch_mode"),
        ),
        Panel(
            "VFs, and the pods that hold them",
            {
                "": f"""\
{VF_INFO}
* on (instance, pciAddr) group_left (namespace, pod)
topk by (instance, pciAddr) (1, {HELD})
or
({VF_INFO} unless on (instance, pciAddr) sriov_kubepoddevice)"""
            },
            kind="table",
            width=24,
            height=12,
            description="Those of the chosen pods, and those that nobody holds; of pods that share"
            " a VF, one. Needs --collector.vfinfo.",
            columns=(
                "instance",
                "pf",
                "vf",
                "pciAddr",
                "namespace",
                "pod",
                "driver",
                "mac",
                "vlan",
            ),
        ),
    ],
    "The collection itself": [
        Panel(
            "Age of the file",
            {"{{instance}}": AGE},
            "s",
            width=8,
            description="Where node_exporter reads it.",
            red_from=300,
        ),
        Panel(
            "Collectors that succeed",
            {COLLECTOR_LEGEND: of_collectors("min", "success")},
            width=8,
            decimals=0,
        ),
        Panel(
            "Time that collectors take",
            {COLLECTOR_LEGEND: of_collectors("max", "duration_seconds")},
            "s",
            width=8,
        ),
        Panel(
            "Inputs that were left out",
            {COLLECTOR_LEGEND: of_collectors("max", "skipped")},
            width=12,
            height=6,
            decimals=0,
            red_from=1,
        ),
        Panel(
            "Versions",
            {"": f"group by (instance, version, python) (sriov_textfile_build_info{{{NODE}}})"},
            kind="table",
            height=6,
        ),
    ],
}

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
            .current(model.VariableOption(selected=True, text="All", value="$__all"))
            .all_value(".*")
        )
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        row = dashboard.Row(title).id(next(numbers))
        built = [_built(panel).id(next(numbers)) for panel in panels]
        if title == EACH_VF:
            row.collapsed(True)
            for panel in built:
                row.with_panel(panel)
        board.with_row(row)
        if title != EACH_VF:
            for panel in built:
                board.with_panel(panel)
    return board


def _built(panel: Panel) -> Any:
    built = {"timeseries": _lines, "stat": _number, "bargauge": _bars, "table": _table}[panel.kind](
        panel
    )
    built.title(panel.title).datasource(_DATASOURCE).span(panel.width).height(panel.height)
    if panel.description:
        built.description(panel.description)
    for letter, (legend, expression) in zip("AB", panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend)
        if panel.kind == "timeseries":
            query.range()
        else:
            query.instant()
        if panel.kind == "table":
            query.format(PromQueryFormat.TABLE)
        built.with_target(query)
    return built


def _lines(panel: Panel) -> Any:
    legend = common.VizLegendOptions().as_table(True).show_legend(True)
    legend.display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    legend.calcs(["max", "lastNotNull"]).sort_by("Max").sort_desc(True)
    built = timeseries.Panel().unit(panel.unit).legend(legend).min(0)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.red_from is not None:
        style: Any = common.GraphThresholdsStyleConfig()
        built.thresholds(_thresholds(panel))
        built.thresholds_style(style.mode(GraphThresholdsStyleMode.LINE))
    return built


def _number(panel: Panel) -> Any:
    return stat.Panel().unit(panel.unit).thresholds(_thresholds(panel))


def _bars(panel: Panel) -> Any:
    built = bargauge.Panel().unit(panel.unit).thresholds(_thresholds(panel)).min(0)
    return built.orientation(VizOrientation.HORIZONTAL)


def _table(panel: Panel) -> Any:
    hidden = {"Time": True} if panel.words else {"Time": True, "Value": True}
    order = {name: position for position, name in enumerate(panel.columns)}
    organize = model.DataTransformerConfig(
        "organize", options={"excludeByName": hidden, "indexByName": order}
    )
    built = table.Panel().with_transformation(organize)
    if "vf" in panel.columns:  # 10 is to come after 9
        numbers = {"conversions": [{"targetField": "vf", "destinationType": "number"}]}
        built.with_transformation(model.DataTransformerConfig("convertFieldType", options=numbers))
    if panel.columns:
        by = {"sort": [{"field": panel.columns[0]}]}
        built.with_transformation(model.DataTransformerConfig("sortBy", options=by))
    if panel.words:
        # On the column of values alone: the others are labels, and some of them numbers.
        texts = {
            value: model.ValueMappingResult(text=text, color=colour)
            for value, (text, colour) in panel.words.items()
        }
        properties = [
            model.DynamicConfigValue("mappings", [model.ValueMap(options=texts)]),
            model.DynamicConfigValue("custom.cellOptions", {"type": "color-background"}),
        ]
        built.override_by_name("Value", properties)
    return built


def _thresholds(panel: Panel) -> Any:
    """Return red from where the panel says; Grafana's own default is red from 80."""
    steps = [model.Threshold(None, "blue" if panel.red_from is None else "green")]
    if panel.red_from is not None:
        steps.append(model.Threshold(panel.red_from, "red"))
    thresholds: Any = dashboard.ThresholdsConfig()
    return thresholds.mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def rendered() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(build().build())
    return f"{text}\n"


if __name__ == "__main__":
    DASHBOARD.write_text(rendered())
