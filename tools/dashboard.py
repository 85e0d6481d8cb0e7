"""Generates deployment/grafana/sriov.json, the Grafana dashboard: `python -m tools.dashboard`.

First the fleet, by the recording rules; then one node, by the metrics themselves. No query returns
more than 200 series, however many nodes there are: lists are cut off after the first 20 or so, and
what draws one line per VF or pod is about the selected node.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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
UID = "sriov-textfile"
TOP = 20  # rows of a list, and lines of a graph
STALE_SECONDS = 300

# Selectors of metrics: the fleet; a node; some of its PFs; some of its pods.
FLEET = 'cluster=~"$cluster", job=~"$job"'
NODE = f'{FLEET}, instance="$node"'
PFS = f'{NODE}, pf=~"$pf"'
PODS = f'{NODE}, namespace=~"$namespace", pod=~"$pod"'

# Recorded series have no label `job`, because a node that two jobs scrape is recorded once.
NODES = f"group by (cluster, instance) (sriov_textfile_build_info{{{FLEET}}})"
VERSIONS = f"group by (cluster, instance, version, python) (sriov_textfile_build_info{{{FLEET}}})"
RECORDED_PODS = 'cluster=~"$cluster", namespace=~"$namespace", pod=~".*$search.*"'

# One series per VF. With vfinfo enabled, this includes VFs without counters.
ANY_VF = '__name__=~"sriov_vf_(rx_packets|info)"'

PF_LEGEND = "{{cluster}} {{pf}}"
VF_LEGEND = "{{cluster}} {{pf}} VF {{vf}}"
POD_LEGEND = "{{cluster}} {{namespace}}/{{pod}}"
COLLECTOR_LEGEND = "{{cluster}} {{collector}}"


def recorded(name: str, selector: str = 'cluster=~"$cluster"') -> str:
    """Return a recorded series, of the nodes of the selected jobs."""
    return f"({name}{{{selector}}} and on (cluster, instance) {NODES})"


def rate(*counters: str) -> str:
    """Return the sum of counters' rates per VF of the node, once if two jobs scrape it."""
    rates = [f"rate(sriov_vf_{name}{{{PFS}}}[$__rate_interval])" for name in counters]
    return " + ".join(f"max by (cluster, instance, pf, vf, pciAddr) ({term})" for term in rates)


def of_vfs(expression: str) -> str:
    """Return an expression without the labels that people do not need."""
    return f"sum by (cluster, instance, pf, vf) ({expression})"


def of_pfs(expression: str) -> str:
    """Return the sum over the VFs of each PF."""
    return f"sum by (cluster, instance, pf) ({expression})"


def of_pods(expression: str) -> str:
    """Return the sum over the VFs that each pod uses; a VF that pods share counts for each."""
    return f"""\
sum by (cluster, instance, namespace, pod) (
  {USED}
  * on (cluster, instance, pciAddr) group_left ()
  sum by (cluster, instance, pciAddr) ({expression})
)"""


# VFs and the pods that use them. Containers of a pod can share a VF, and so can pods that share a
# resource claim: in joins with VF counters this is the "many" side.
USED = f"group by (cluster, instance, namespace, pod, pciAddr) (sriov_kubepoddevice{{{PODS}}})"


def with_pods(vfs: str) -> str:
    """Return VFs with the pods that use them. There are few VFs, on any node."""
    return f"""\
group by (cluster, instance, namespace, pod, pciAddr) (sriov_kubepoddevice{{{FLEET}}})
* on (cluster, instance, pciAddr) group_left (pf, vf)
topk by (cluster, instance, pciAddr) (1, {vfs})
or on (cluster, instance, pciAddr)
{vfs}"""


def top(expression: str, labels: str) -> str:
    """Return an expression for the series that are highest on average over the whole time range.

    topk alone selects other series at each point of a graph, and the graph shows all of them.
    """
    whole = expression.replace("[$__rate_interval]", "[$__range] @ end()")
    return f"{expression}\nand on ({labels}) topk({TOP}, {whole})"


def devices(by: str, state: str) -> str:
    """Return the number of devices of each resource; a node scraped by two jobs counts once."""
    inner = f"max by (cluster, instance, dev_type, numa_node) (sriov_device_{state}{{{FLEET}}})"
    return f"sum by ({by}) ({inner})"


def age(selector: str) -> str:
    """Return how many seconds ago each metrics file was written."""
    metric = f'node_textfile_mtime_seconds{{{selector}, file=~"(.*/)?sriov[^/]*"}}'
    return f"(time() - max by (cluster, instance, file) ({metric}))"


def succeeded(selector: str) -> str:
    """Return whether each collector succeeded; one that fails for either of two jobs has not."""
    metric = f"sriov_scrape_collector_success{{{selector}}}"
    return f"min by (cluster, instance, collector) ({metric})"


def vfs(selector: str) -> str:
    """Return the number of VFs that exist; two ports of a NIC may share an address and its VFs."""
    return f"sum(max by (cluster, instance, pciAddr) (sriov_pf_num_vfs{{{selector}}}))"


def vfs_in_use(selector: str, pods: str) -> str:
    """Return the number of VFs that pods use."""
    return f"""\
count(
  group by (cluster, instance, pciAddr) ({{{ANY_VF}, {selector}}})
  and on (cluster, instance, pciAddr) sriov_kubepoddevice{{{pods}}}
) or vector(0)"""


# What the VFs of a PF send or receive, whichever is more, as a share of the speed of its link.
LINK_SHARE = f"""\
(
  {of_pfs(rate("rx_bytes"))} > {of_pfs(rate("tx_bytes"))}
  or {of_pfs(rate("tx_bytes"))}
)
/ on (cluster, instance, pf)
max by (cluster, instance, pf) (
  label_replace(
    node_network_speed_bytes{{cluster=~"$cluster", instance="$node"}} > 0,
    "pf", "$1", "device", "(.+)"
  )
)"""


def of_device(metric: str) -> str:
    """Return the rate of node_exporter's metric about a network device, per PF of the node."""
    selector = f'{{__name__=~"{metric}", cluster=~"$cluster", instance="$node"}}'
    return f"""\
sum by (cluster, instance, pf) (
  label_replace(rate({selector}[$__rate_interval]), "pf", "$1", "device", "(.+)")
)"""


# What the VFs and the PF send, less what the port sends to the wire.
AT_THE_PORT = "node_ethtool_(transmitted_bytes_phy|transmitted_bytes_nic|port_transmitted_bytes)"
INSIDE_THE_NIC = f"""\
clamp_min(
  8 * (
    {of_pfs(rate("tx_bytes"))}
    + on (cluster, instance, pf)
    {of_device("node_network_transmit_bytes_total")}
    - on (cluster, instance, pf)
    {of_device(AT_THE_PORT)}
  ),
  0
)"""

# The info metrics of VFs and PFs, without target labels: those can clash with the labels of a pod.
VF_INFO = f"""\
group by (cluster, instance, pf, vf, pciAddr, numa_node, driver, netdev, mac, vlan, trust) (
  sriov_vf_info{{{PFS}}}
)"""
PF_INFO = f"""\
group by (cluster, instance, pf, pciAddr, numa_node, driver, reader, eswitch_mode) (
  sriov_pf_info{{{PFS}}}
)"""


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
    value: str = ""  # title of a table's column of values; "" hides it
    empty: str = ""  # what is shown if there are no series


def number(
    title: str,
    query: str,
    unit: str = "none",
    red_from: float | None = None,
    description: str = "",
    width: int = 3,
) -> Panel:
    """Return a panel with one number."""
    return Panel(
        title,
        {"": query},
        unit,
        kind="stat",
        width=width,
        height=4,
        red_from=red_from,
        description=description,
    )


def ranking(
    title: str,
    query: str,
    columns: tuple[str, ...],
    value: str,
    unit: str = "short",
    description: str = "",
    red_from: float | None = None,
    empty: str = "none",
) -> Panel:
    """Return a panel with a list, of which a click on a node selects the node."""
    return Panel(
        title,
        {"": query},
        unit,
        kind="table",
        description=description,
        red_from=red_from,
        columns=("cluster", "instance", *columns),
        value=value,
        empty=empty,
    )


def graphs(per: str, of: Callable[[str], str], labels: str, legend: str) -> list[Panel]:
    """Return the graphs of traffic, drops and errors per PF, VF or pod of the node."""

    def graph(title: str, unit: str, width: int, expression: str, description: str = "") -> Panel:
        query = top(of(expression), f"cluster, instance, {labels}")
        return Panel(title, {legend: query}, unit, width=width, description=description)

    return [
        graph(f"Received per {per}", "bps", 12, f"8 * {rate('rx_bytes')}"),
        graph(f"Sent per {per}", "bps", 12, f"8 * {rate('tx_bytes')}"),
        graph(f"Packets per {per}", "pps", 8, rate("rx_packets", "tx_packets")),
        graph(
            f"Drops per {per}",
            "pps",
            8,
            rate("rx_dropped", "tx_dropped"),
            "Received and sent packets. Requires a kernel and driver that count both.",
        ),
        graph(
            f"Errors per {per}",
            "pps",
            8,
            rate("tx_errors"),
            "Transmit errors. Requires a driver with VF counters in sysfs.",
        ),
    ]


VF_TRAFFIC = f"8 * {recorded('vf:sriov_vf_bytes:rate5m')}"
# What pods send needs no selection: + leaves out what only one side has.
PODS_RECEIVE = recorded("pod:sriov_vf_rx_bytes:rate5m", RECORDED_PODS)
POD_TRAFFIC = f"8 * ({PODS_RECEIVE} + pod:sriov_vf_tx_bytes:rate5m)"
PODS_DROP_RECEIVED = recorded("pod:sriov_vf_rx_dropped:rate5m", RECORDED_PODS)
PODS_DROP = f"({PODS_DROP_RECEIVED} + pod:sriov_vf_tx_dropped:rate5m)"
# Devices of each resource of a cluster, and the resources of which the largest share is in use.
ALLOCATABLE = devices("cluster, dev_type", "allocatable")
ALLOCATED = devices("cluster, dev_type", "allocated")
FULLEST = f"topk({TOP}, {ALLOCATED}\n/ {ALLOCATABLE})"
FREE = devices("cluster, instance, dev_type", "allocatable")
FREE += f"\n- {devices('cluster, instance, dev_type', 'allocated')}"

ROWS = {
    "Fleet": [
        number("Nodes", f"count({NODES})", description="Nodes that report VF metrics."),
        number(
            "Nodes that stopped reporting",
            f"""\
count(
  group by (cluster, instance) (last_over_time(sriov_textfile_build_info{{{FLEET}}}[$__range]))
  unless on (cluster, instance) sriov_textfile_build_info
) or vector(0)""",
            red_from=1,
            description="Nodes with metrics in the selected time range, but not now.",
        ),
        number(
            "Nodes with failed collectors",
            f"count(min by (cluster, instance) ({succeeded(FLEET)}) == 0) or vector(0)",
            red_from=1,
        ),
        number(
            "Nodes with an old file",
            f"count(max by (cluster, instance) ({age(FLEET)}) > {STALE_SECONDS}) or vector(0)",
            red_from=1,
            description="Requires node_exporter's textfile collector.",
        ),
        number("VFs", vfs(FLEET)),
        number("VFs used by pods", vfs_in_use(FLEET, FLEET)),
        number(
            "VFs that drop packets",
            f"count({recorded('vf:sriov_vf_dropping:rate5m')}) or vector(0)",
            red_from=1,
            description="More than 1 in 1,000 packets, and more than one per second.",
        ),
        number(
            "Pods on the wrong NUMA node",
            f"count({recorded('pod:sriov_numa_aligned:bool')} == 0) or vector(0)",
            red_from=1,
            description="Pods with a VF on a NUMA node where they have none of their CPUs.",
        ),
        Panel(
            "Traffic of all VFs",
            {
                "received": f"8 * sum({recorded('pf:sriov_vf_rx_bytes:rate5m')})",
                "sent": f"8 * sum({recorded('pf:sriov_vf_tx_bytes:rate5m')})",
            },
            "bps",
        ),
        Panel(
            "Drops of all VFs",
            {
                "received": f"sum({recorded('pf:sriov_vf_rx_dropped:rate5m')})",
                "sent": f"sum({recorded('pf:sriov_vf_tx_dropped:rate5m')})",
            },
            "pps",
        ),
    ],
    f"Top {TOP} (click a node to see it below)": [
        ranking(
            "PFs with the busiest links",
            f"topk({TOP}, {recorded('pf:sriov_link_utilization:ratio')})",
            ("pf",),
            "of the link",
            "percentunit",
            "What the VFs send or receive, whichever is more, compared with the speed of the link."
            " Packets between VFs of one PF do not use the link, so it may be more than 100%."
            " Requires node_network_speed_bytes of node_exporter, with the same instance.",
            red_from=0.8,
            empty="no speeds of links",
        ),
        ranking(
            "Busiest pods",
            f"topk({TOP}, {POD_TRAFFIC})",
            ("namespace", "pod"),
            "traffic",
            "bps",
            "Received plus sent. To find a pod, enter a part of its name at the top.",
        ),
        ranking(
            "Busiest VFs",
            with_pods(f"topk({TOP}, {VF_TRAFFIC})"),
            ("pf", "vf", "namespace", "pod"),
            "traffic",
            "bps",
            "Received plus sent.",
        ),
        ranking(
            "VFs with the most drops",
            with_pods(f"topk({TOP}, {recorded('vf:sriov_vf_dropping:rate5m')})"),
            ("pf", "vf", "namespace", "pod"),
            "drops",
            "pps",
            "VFs that drop more than 1 in 1,000 packets, and more than one per second.",
        ),
        ranking(
            "Pods with the most drops",
            f"topk({TOP}, {PODS_DROP} > 0)",
            ("namespace", "pod"),
            "drops",
            "pps",
            "Received and sent packets that the VFs of the pod drop.",
        ),
        Panel(
            "Devices in use",
            {"{{cluster}} {{dev_type}}": FULLEST},
            "percentunit",
            "bargauge",
            description="Of the devices that device plugins can assign to pods.",
            red_from=0.9,
        ),
        Panel(
            "Devices in use and free",
            {
                "{{cluster}} {{dev_type}} in use": f"{ALLOCATED}\nand {FULLEST}",
                "{{cluster}} {{dev_type}} free": f"({ALLOCATABLE}\n- {ALLOCATED})\nand {FULLEST}",
            },
            "none",
            "bargauge",
            description="Of the same resources: how many pods have, and how many are left.",
        ),
        ranking(
            "Nodes with the fewest free devices",
            f"bottomk({TOP}, {FREE})",
            ("dev_type",),
            "free",
            "none",
            "Devices that device plugins can assign to pods.",
        ),
    ],
    "What needs a look": [
        ranking(
            "Failed collectors",
            f"topk({TOP}, {succeeded(FLEET)} == 0)",
            ("collector",),
            "",
            description="The log of sriov-textfile on the node has the reason.",
        ),
        ranking(
            "Oldest files",
            f"topk({TOP}, {age(FLEET)})",
            ("file",),
            "age",
            "s",
            "Requires node_exporter's textfile collector.",
            red_from=STALE_SECONDS,
        ),
        ranking(
            "Pods with CPUs and VFs on different NUMA nodes",
            f"topk({TOP}, {recorded('pod:sriov_numa_aligned:bool')} == 0)",
            ("namespace", "pod", "numa_node"),
            "",
            description="The pod uses a VF on this NUMA node, and has CPUs, but none there.",
        ),
        Panel(
            "Versions",
            {"": f"topk({TOP}, count by (version, python) ({VERSIONS}))"},
            kind="table",
            columns=("version", "python"),
            value="nodes",
        ),
    ],
    "Node $node": [
        number("VFs of the node", vfs(NODE), width=4),
        number("VFs of the node used by pods", vfs_in_use(NODE, NODE), width=4),
        number("Received", f"8 * sum({rate('rx_bytes')})", "bps", width=4),
        number("Sent", f"8 * sum({rate('tx_bytes')})", "bps", width=4),
        number("Drops", f"sum({rate('rx_dropped', 'tx_dropped')})", "pps", width=4),
        number("Age of the file", f"max({age(NODE)})", "s", STALE_SECONDS, width=4),
        *graphs("PF (all VFs)", of_pfs, "pf", PF_LEGEND),
        Panel(
            "Share of the link",
            {PF_LEGEND: top(LINK_SHARE, "cluster, instance, pf")},
            "percentunit",
            description="What the VFs send or receive, whichever is more. Packets between VFs of"
            " one PF do not use the link. Requires node_network_speed_bytes of node_exporter.",
        ),
        Panel(
            "Traffic inside the NIC",
            {PF_LEGEND: top(INSIDE_THE_NIC, "cluster, instance, pf")},
            "bps",
            description="From one VF or the PF to another: what they send, less what the port sends"
            " to the wire. Requires node_exporter with --collector.ethtool, and mlx5_core, ice or"
            " i40e.",
        ),
        Panel(
            "Collector duration",
            {
                COLLECTOR_LEGEND: f"topk({TOP}, max by (cluster, instance, collector) "
                f"(sriov_scrape_collector_duration_seconds{{{NODE}}}))"
            },
            "s",
        ),
        Panel(
            "Skipped inputs",
            {
                COLLECTOR_LEGEND: f"topk({TOP}, max by (cluster, instance, collector) "
                f"(sriov_scrape_collector_skipped{{{NODE}}}))"
            },
            decimals=0,
            red_from=1,
        ),
    ],
    "VFs of $node": graphs("VF", of_vfs, "pf, vf", VF_LEGEND),
    "Pods of $node": graphs("pod (all VFs)", of_pods, "namespace, pod", POD_LEGEND),
    "Inventory of $node": [
        Panel(
            "PFs",
            {"": f"topk({TOP}, {PF_INFO})"},
            kind="table",
            width=24,
            height=6,
            columns=("cluster", "instance", "pf", "pciAddr", "numa_node", "driver", "reader"),
        ),
        Panel(
            "VFs and the pods that use them",
            {
                "": f"""\
topk(200,
  {VF_INFO}
  * on (cluster, instance, pciAddr) group_left (namespace, pod)
  topk by (cluster, instance, pciAddr) (1, {USED})
  or
  ({VF_INFO} unless on (cluster, instance, pciAddr) sriov_kubepoddevice)
)"""
            },
            kind="table",
            width=24,
            height=12,
            description="At most 200 VFs: those of the selected PFs and pods, and those that no pod"
            " uses. If pods share a VF, one of them is shown. Requires --collector.vfinfo.",
            columns=("cluster", "instance", "pf", "vf", "pciAddr", "namespace", "pod", "driver"),
        ),
        Panel(
            "NUMA nodes of pods",
            {
                "": f"topk({TOP * 2}, pod:sriov_numa_aligned:bool"
                '{cluster=~"$cluster", instance="$node", namespace=~"$namespace", pod=~"$pod"})'
            },
            kind="table",
            width=24,
            description="For pods with CPUs of their own: whether they have some on each NUMA node"
            " where they use VFs.",
            words={"0": ("other node", "red"), "1": ("same node", "green")},
            columns=("cluster", "instance", "namespace", "pod", "numa_node"),
            value="CPUs",
        ),
    ],
}
COLLAPSED = {"VFs of $node", "Pods of $node", "Inventory of $node"}

_DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# What a click on a node selects. The fields are those of the row.
_SELECT_NODE = (
    f"/d/{UID}?${{__url_time_range}}&var-datasource=${{datasource}}&${{job:queryparam}}"
    "&var-cluster=${__data.fields.cluster}&var-node=${__data.fields.instance}"
)


def build() -> dashboard.Dashboard:
    """Return the dashboard's builder."""
    board: dashboard.Dashboard = (
        dashboard.Dashboard("SR-IOV virtual functions")
        .uid(UID)
        .description(
            "SR-IOV VFs and PFs, and the pods that use them. Metrics from sriov-textfile, and its"
            " recording rules for the fleet."
        )
        .tags(["sriov", "network"])
        .time("now-1h", "now")
        .refresh("1m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for variable in _variables():
        board.with_variable(variable)
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        row = dashboard.Row(title).id(next(numbers))
        built = [_built(panel).id(next(numbers)) for panel in panels]
        if title in COLLAPSED:
            row.collapsed(True)
            for panel in built:
                row.with_panel(panel)
        board.with_row(row)
        if title not in COLLAPSED:
            for panel in built:
                board.with_panel(panel)
    return board


def _variables() -> Iterator[Any]:
    """Yield the variables. Only the node has no All: a graph of all nodes' VFs is too expensive."""
    for name, label, query in (
        ("cluster", "Cluster", "label_values(sriov_textfile_build_info, cluster)"),
        ("job", "Job", 'label_values(sriov_textfile_build_info{cluster=~"$cluster"}, job)'),
        ("node", "Node", f"label_values(sriov_textfile_build_info{{{FLEET}}}, instance)"),
        ("pf", "PF of the node", f"label_values(sriov_pf_info{{{NODE}}}, pf)"),
        ("namespace", "Namespace", f"label_values(sriov_kubepoddevice{{{FLEET}}}, namespace)"),
        (
            "pod",
            "Pod of the node",
            f'label_values(sriov_kubepoddevice{{{NODE}, namespace=~"$namespace"}}, pod)',
        ),
    ):
        variable = (
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(_DATASOURCE)
            .query(query)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )
        if name != "node":
            variable.multi(True).include_all(True).all_value(".*")
            variable.current(model.VariableOption(selected=True, text="All", value="$__all"))
        yield variable
    yield dashboard.TextBoxVariable("search").label("Find pods")


def _built(panel: Panel) -> Any:
    built = {"timeseries": _lines, "stat": _number, "bargauge": _bars, "table": _table}[panel.kind](
        panel
    )
    built.title(panel.title).datasource(_DATASOURCE).span(panel.width).height(panel.height)
    if panel.description:
        built.description(panel.description)
    if panel.empty:
        built.no_value(panel.empty)
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
    built = table.Panel()
    if "vf" in panel.columns:  # sort 10 after 9
        numbers = {"conversions": [{"targetField": "vf", "destinationType": "number"}]}
        built.with_transformation(model.DataTransformerConfig("convertFieldType", options=numbers))
    (query,) = panel.queries.values()
    by_value = panel.value and not panel.words
    order = {"field": "Value", "desc": not query.startswith("bottomk")}
    by = {"sort": [order if by_value else {"field": panel.columns[0]}]}
    built.with_transformation(model.DataTransformerConfig("sortBy", options=by))
    organize = {
        "excludeByName": {"Time": True, "Value": not panel.value},
        "indexByName": {name: position for position, name in enumerate(panel.columns)},
        "renameByName": {"Value": panel.value} if panel.value else {},
    }
    built.with_transformation(model.DataTransformerConfig("organize", options=organize))
    if "instance" in panel.columns:
        link = {"title": "Select ${__data.fields.instance}", "url": _SELECT_NODE}
        built.override_by_name("instance", [model.DynamicConfigValue("links", [link])])
    if panel.value:  # Only this column: some of the labels are numbers, too.
        built.override_by_name(panel.value, [*_value_column(panel)])
    return built


def _value_column(panel: Panel) -> Iterator[model.DynamicConfigValue]:
    """Yield how a table shows its values: as words, or as a number that may turn red."""
    if panel.words:
        texts = {
            value: model.ValueMappingResult(text=text, color=color)
            for value, (text, color) in panel.words.items()
        }
        yield model.DynamicConfigValue("mappings", [model.ValueMap(options=texts)])
    else:
        yield model.DynamicConfigValue("unit", panel.unit)
        yield model.DynamicConfigValue("thresholds", _thresholds(panel).build())
    if panel.words or panel.red_from is not None:
        yield model.DynamicConfigValue("custom.cellOptions", {"type": "color-background"})


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
