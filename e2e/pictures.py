"""`make pictures`: draws the dashboard's main panels for the documentation.

The queries are the dashboard's own, run on a real Prometheus that has scraped simulated nodes for
some minutes. matplotlib draws them, so Grafana's panels look different.
"""

from __future__ import annotations

import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from e2e import nodes
from e2e.conftest import Prometheus, running_prometheus
from e2e.fleet import quick_rules
from e2e.grafana import PANELS, with_values
from tools.fetch import CACHE, debian_packages, say

PROJECT = Path(__file__).parent.parent
PICTURE = PROJECT / "docs/dashboard.svg"
CLUSTERS = {"east": 60, "west": 40}  # number of nodes
VFS = 64
CLUSTER, NODE = "west", "node-0007"
MINUTES = 5
SCRAPE_SECONDS = 5
RATE_INTERVAL = "20s"
UNITS = {
    "bps": ("Gbit/s", 1e-9),
    "pps": ("packets/s", 1.0),
    "percentunit": ("%", 100.0),
    "none": ("", 1.0),
}

# A selection that fits on one page.
GRAPHS = [
    "Traffic of all VFs",
    "Drops of all VFs",
    "Received per PF (all VFs)",
    "Share of the link",
    "Received per VF",
    "Received per pod (all VFs)",
]
LISTS = ["PFs with the busiest links", "Busiest pods", "Busiest VFs", "Devices in use"]
SHOWN = 8  # rows of a list, and lines of a graph


def main() -> None:
    """Run the nodes for some minutes, then draw."""
    debian = debian_packages(["prometheus", "prometheus-node-exporter"], CACHE / "prometheus")
    with (
        tempfile.TemporaryDirectory(prefix="sriov-") as name,
        nodes.served(nodes.pfs(VFS)) as address,
    ):
        work = Path(name)
        rules = quick_rules(work / "rules", interval=f"{SCRAPE_SECONDS}s", window="30s")
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": nodes.scrape_configs(address, CLUSTERS),
        }
        with running_prometheus(debian / "usr/bin/prometheus", work, config) as prometheus:
            for minute in range(MINUTES):
                say(f"collecting data: {minute} of {MINUTES} minutes")
                time.sleep(60)
            draw(prometheus)
    say(f"drew {PICTURE.relative_to(PROJECT)}")


def draw(prometheus: Prometheus) -> None:
    """Draw the panels into one SVG file."""
    # Keep text as text, and make the output reproducible.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 8})
    panels = {panel["title"]: panel for panel in PANELS}
    figure = plt.figure(figsize=(15, 16), layout="constrained")
    grid = figure.add_gridspec(6, 2, height_ratios=[0.35, 1, 1, 1, 1, 1])
    _numbers(figure.add_subplot(grid[0, :]), prometheus)
    places = iter(
        [figure.add_subplot(grid[row, column]) for row in range(1, 6) for column in (0, 1)]
    )
    order = [*GRAPHS[:2], *LISTS, *GRAPHS[2:]]
    for title in order:
        place = next(places)
        of_fleet = title in LISTS or title in GRAPHS[:2]
        about = title if of_fleet else f"{title}, on {NODE} in {CLUSTER}"
        place.set_title(about, loc="left", fontweight="bold")
        (_bars if title in LISTS else _lines)(place, panels[title], prometheus)
    figure.savefig(PICTURE, metadata={"Date": None})


def _query(expression: str) -> str:
    """Return a query with a node selected, if it is about a node, or else about all clusters."""
    return with_values(
        expression,
        NODE,
        range=f"{MINUTES - 1}m",
        rate_interval=RATE_INTERVAL,
        cluster=CLUSTER if "$node" in expression else ".*",
    )


def _numbers(axes: Axes, prometheus: Prometheus) -> None:
    """Write the first row of numbers."""
    axes.axis("off")
    numbers = [panel for panel in PANELS if panel["type"] == "stat"][:8]
    for place, panel in enumerate(numbers):
        (sample,) = prometheus.query(_query(panel["targets"][0]["expr"]))
        x = (place + 0.5) / len(numbers)
        red = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
        bad = red and float(sample["value"][1]) >= red[0]["value"]
        axes.text(x, 0.8, textwrap.fill(panel["title"], 18), ha="center", fontsize=8)
        axes.text(
            x, 0.25, sample["value"][1], ha="center", fontsize=18, color="C3" if bad else "C0"
        )


def _lines(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    now = time.time()
    unit, factor = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    for target in panel["targets"]:
        answer = prometheus.get(
            "query_range",
            query=_query(target["expr"]),
            start=now - (MINUTES - 1) * 60,
            end=now,
            step=5,
        )
        for series in _largest(answer["result"]):
            minutes = [(float(moment) - now) / 60 for moment, _ in series["values"]]
            values = [float(value) * factor for _, value in series["values"]]
            axes.plot(minutes, values, linewidth=1, label=_legend(target, series["metric"]))
    axes.set_xlabel("minutes")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)


def _bars(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    (target,) = panel["targets"]
    units = panel["fieldConfig"]["defaults"].get("unit") or _unit_of_table(panel)
    unit, factor = UNITS[units]
    series = sorted(
        prometheus.query(_query(target["expr"])), key=lambda sample: float(sample["value"][1])
    )[-SHOWN:]
    values = [float(sample["value"][1]) * factor for sample in series]
    axes.barh([_name(target, sample["metric"]) for sample in series], values)
    axes.set_xlabel(unit)


def _unit_of_table(panel: dict[str, Any]) -> str:
    """Return the unit of a table's column of values."""
    units = [
        str(entry["value"])
        for override in panel["fieldConfig"]["overrides"]
        for entry in override["properties"]
        if entry["id"] == "unit"
    ]
    return units[0]


def _name(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Return the name of a row: the legend, or the labels that identify it."""
    if target.get("legendFormat"):
        return _legend(target, labels)
    names = ("cluster", "instance", "pf", "vf", "pod")
    return " ".join([labels[name] for name in names if name in labels])


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    text: str = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _largest(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the series with the highest peaks: more lines in one plot are unreadable."""

    def peak(entry: dict[str, Any]) -> float:
        return max(float(value) for _, value in entry["values"])

    return sorted(series, key=peak)[: -SHOWN - 1 : -1]


if __name__ == "__main__":
    main()
