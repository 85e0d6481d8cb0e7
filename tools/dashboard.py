"""Generates deployment/grafana/sriov.json, the Grafana dashboard: `python -m tools.dashboard`.

The dashboard queries the raw metrics, so it needs no recording rules.
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

# Selectors: VFs by node and PF; by node alone; pods by node, namespace and name.
VF = 'instance=~"$node", pf=~"$pf"'
NODE = 'instance=~"$node"'
POD = 'instance=~"$node", namespace=~"$namespace", pod=~"$pod"'

# One series per VF. With vfinfo enabled, this includes VFs without counters.
ANY_VF = '__name__=~"sriov_vf_(rx_packets|info)"'

# Legends.
VF_LEGEND = "{{instance}} {{pf}} VF {{vf}}"
PF_LEGEND = "{{instance}} {{pf}}"
POD_LEGEND = "{{namespace}}/{{pod}}"
COLLECTOR_LEGEND = "{{instance}} {{collector}}"

# VFs and the pods that use them. Containers of a pod can share a VF, and so can pods that share a
# resource claim: in joins with VF counters this is the "many" side.
USED = f"max by (instance, namespace, pod, pciAddr) (sriov_kubepoddevice{{{POD}}})"

# The info metrics of VFs and PFs, without target labels: those can clash with the labels of a pod.
_VF_LABELS = "instance, pf, vf, pciAddr, numa_node, driver, netdev"
_VF_LABELS += ", mac, vlan, trust, spoofchk, link_state"
VF_INFO = f"group by ({_VF_LABELS}) (sriov_vf_info{{{VF}}})"
PF_INFO = f"""\
group by (instance, pf, pciAddr, numa_node, driver, reader, eswitch_mode) (
  sriov_pf_info{{{VF}}}
)"""

_VF_NODES = f"""\
group by (instance, namespace, pod, numa_node) (
  {USED}
  * on (instance, pciAddr) group_left (numa_node)
  group by (instance, pciAddr, numa_node) ({{{ANY_VF}, {NODE}, numa_node!=""}})
)"""
# From the kubelet, or else from the cgroups, with the pod's name from kube-state-metrics.
_CPU_NODES = f"""\
(
  group by (instance, namespace, pod, numa_node) (sriov_container_cpu{{{POD}, numa_node!=""}})
  or
  group by (instance, namespace, pod, numa_node) (
    sriov_kubepodcpu{{{NODE}, numa_node!=""}}
    * on (uid) group_left (namespace, pod)
    group by (uid, namespace, pod) (kube_pod_info)
  )
  unless on (instance, namespace, pod) sriov_container_cpu
)"""


def _devices(state: str) -> str:
    """Return the number of devices of each resource; a node scraped by two jobs counts once."""
    inner = "max by (instance, dev_type, numa_node)"
    return f"sum by (instance, dev_type) ({inner} (sriov_device_{state}{{{NODE}}}))"


def rate(*counters: str, selector: str = VF) -> str:
    """Return the sum of counters' rates per VF. A VF scraped by two jobs counts once."""
    rates = [f"rate(sriov_vf_{name}{{{selector}}}[$__rate_interval])" for name in counters]
    return " + ".join(f"max by (instance, pf, vf, pciAddr) ({term})" for term in rates)


def of_vfs(expression: str) -> str:
    """Return an expression without the labels that people do not need."""
    return f"sum by (instance, pf, vf) ({expression})"


def of_pfs(expression: str) -> str:
    """Return the sum over the VFs of each PF."""
    return f"sum by (instance, pf) ({expression})"


def of_pods(expression: str) -> str:
    """Return the sum over the VFs that each pod uses. A pod runs on one node."""
    by_address = f"sum by (instance, pciAddr) ({expression})"
    return f"""\
max by (namespace, pod) (
  sum by (instance, namespace, pod) (
    {USED}
    * on (instance, pciAddr) group_left ()
    {by_address}
  )
)"""


def vfs_of_pfs(metric: str) -> str:
    """Return a pfinfo metric per PF. A PF scraped by two jobs counts once."""
    return f"max by (instance, pf, pciAddr) ({metric}{{{VF}}})"


def of_collectors(aggregation: str, metric: str) -> str:
    """Return a metric per collector. A collector scraped by two jobs counts once."""
    return f"{aggregation} by (instance, collector) (sriov_scrape_collector_{metric}{{{NODE}}})"


@dataclass
class Panel:
    """One panel: its title, its queries by legend, and how to draw them."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12  # of 24
    height: int = 8
    description: str = ""
    red_from: float | None = None
    decimals: int | None = None
    words: dict[str, tuple[str, str]] = field(default_factory=dict)  # value: text, color
    columns: tuple[str, ...] = ()  # first columns of a table, in this order


def traffic(per: str, of: Callable[[str], str], selector: str, legend: str) -> list[Panel]:
    """Return the panels for traffic, drops and errors per VF, PF or pod."""

    def panel(title: str, unit: str, expression: str, width: int, description: str = "") -> Panel:
        return Panel(title, {legend: of(expression)}, unit, width=width, description=description)

    def bits(direction: str) -> str:
        return f"8 * {rate(f'{direction}_bytes', selector=selector)}"

    return [
        panel(f"Received per {per}", "bps", bits("rx"), 12),
        panel(f"Sent per {per}", "bps", bits("tx"), 12),
        panel(f"Packets per {per}", "pps", rate("rx_packets", "tx_packets", selector=selector), 8),
        panel(
            f"Drops per {per}",
            "pps",
            rate("rx_dropped", "tx_dropped", selector=selector),
            8,
            "Received and sent packets. Requires a kernel and driver that count both.",
        ),
        panel(
            f"Errors per {per}",
            "pps",
            rate("tx_errors", selector=selector),
            8,
            "Transmit errors. Requires a driver with VF counters in sysfs.",
        ),
    ]


# One line per VF is expensive to query and hard to read, so this row starts collapsed.
PER_VF = "Per VF (select nodes and PFs first)"

AGE = f'time() - node_textfile_mtime_seconds{{{NODE}, file=~"(.*/)?sriov[^/]*"}}'


def number(title: str, query: str, unit: str = "none", red_from: float | None = None) -> Panel:
    """Return a panel with one number."""
    return Panel(title, {"": query}, unit, kind="stat", width=3, height=4, red_from=red_from)


ROWS = {
    "Overview": [
        number("PFs", f"count({PF_INFO})"),
        number("VFs", f"sum({vfs_of_pfs('sriov_pf_num_vfs')})"),
        number(
            "VFs used by pods",
            f"count(group by (instance, pciAddr) ({{{ANY_VF}, {VF}}})"
            f" and on (instance, pciAddr) {USED}) or vector(0)",
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
        *traffic("PF (all VFs)", of_pfs, VF, PF_LEGEND),
        Panel(
            "VFs per PF",
            {
                f"{PF_LEGEND} created": vfs_of_pfs("sriov_pf_num_vfs"),
                f"{PF_LEGEND} maximum": vfs_of_pfs("sriov_pf_total_vfs"),
            },
            width=24,
            height=6,
            decimals=0,
        ),
    ],
    "Pods": traffic("pod (all VFs)", of_pods, NODE, POD_LEGEND),
    "Top VFs": [
        Panel(
            "Busiest VFs",
            {VF_LEGEND: f"topk(10, 8 * {of_vfs(rate('rx_bytes', 'tx_bytes'))})"},
            "bps",
            "bargauge",
            description="Received plus sent traffic.",
        ),
        Panel(
            "VFs with the most drops",
            {VF_LEGEND: f"topk(10, {of_vfs(rate('rx_dropped', 'tx_dropped'))})"},
            "pps",
            "bargauge",
        ),
    ],
    PER_VF: traffic("VF", of_vfs, VF, VF_LEGEND),
    "NUMA alignment": [
        Panel(
            "NUMA alignment per pod",
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
            description="For pods with exclusive CPUs: whether the pod has CPUs on each NUMA node"
            " where it uses VFs. Requires the collector kubepoddevice.",
            words={"0": ("other node", "red"), "1": ("same node", "green")},
            columns=("instance", "namespace", "pod", "numa_node", "Value"),
        ),
    ],
    "Inventory": [
        Panel(
            "Devices in use, per resource",
            {"{{instance}} {{dev_type}}": f"{_devices('allocated')} / {_devices('allocatable')}"},
            "percentunit",
            "bargauge",
            width=24,
            height=6,
            description="Of the devices that device plugins can assign to pods. Requires the"
            " collector kubepoddevice.",
        ),
        Panel(
            "PFs",
            {"": PF_INFO},
            kind="table",
            width=24,
            height=6,
            columns=("instance", "pf", "pciAddr", "numa_node", "driver", "reader", "eswitch_mode"),
        ),
        Panel(
            "VFs and the pods that use them",
            {
                "": f"""\
{VF_INFO}
* on (instance, pciAddr) group_left (namespace, pod)
topk by (instance, pciAddr) (1, {USED})
or
({VF_INFO} unless on (instance, pciAddr) sriov_kubepoddevice)"""
            },
            kind="table",
            width=24,
            height=12,
            description="VFs of the selected pods, and VFs that no pod uses. If pods share a VF,"
            " only one of them is shown. Requires --collector.vfinfo.",
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
    "Collection": [
        Panel(
            "Age of the metrics file",
            {"{{instance}}": AGE},
            "s",
            width=8,
            description="Requires node_exporter's textfile collector.",
            red_from=300,
        ),
        Panel(
            "Collector success",
            {COLLECTOR_LEGEND: of_collectors("min", "success")},
            width=8,
            decimals=0,
        ),
        Panel(
            "Collector duration",
            {COLLECTOR_LEGEND: of_collectors("max", "duration_seconds")},
            "s",
            width=8,
        ),
        Panel(
            "Skipped inputs",
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
        .description("SR-IOV VFs and PFs, and the pods that use them. Metrics from sriov-textfile.")
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
        if title == PER_VF:
            row.collapsed(True)
            for panel in built:
                row.with_panel(panel)
        board.with_row(row)
        if title != PER_VF:
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
    if "vf" in panel.columns:  # sort 10 after 9
        numbers = {"conversions": [{"targetField": "vf", "destinationType": "number"}]}
        built.with_transformation(model.DataTransformerConfig("convertFieldType", options=numbers))
    if panel.columns:
        by = {"sort": [{"field": panel.columns[0]}]}
        built.with_transformation(model.DataTransformerConfig("sortBy", options=by))
    if panel.words:
        # Only for the value column: some of the label columns contain numbers, too.
        texts = {
            value: model.ValueMappingResult(text=text, color=color)
            for value, (text, color) in panel.words.items()
        }
        properties = [
            model.DynamicConfigValue("mappings", [model.ValueMap(options=texts)]),
            model.DynamicConfigValue("custom.cellOptions", {"type": "color-background"}),
        ]
        built.override_by_name("Value", properties)
    return built


def _thresholds(panel: Panel) -> Any:
    """Return thresholds that turn red at `red_from`. Grafana's default is red from 80."""
    steps = [model.Threshold(None, "blue" if panel.red_from is None else "green")]
    if panel.red_from is not None:
        steps.append(model.Threshold(panel.red_from, "red"))
    thresholds: Any = dashboard.ThresholdsConfig()
    return thresholds.mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def rendered() -> str:
    """Return the dashboard as JSON for import into Grafana."""
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(build().build())
    return f"{text}\n"


if __name__ == "__main__":
    DASHBOARD.write_text(rendered())
