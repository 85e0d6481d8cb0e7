"""`make pictures`: draws the dashboard's main panels for the documentation.

The queries are the dashboard's own, run on a real Prometheus that scraped simulated nodes
(fleet.py) for some minutes. matplotlib draws them, so Grafana's panels look different.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from e2e.conftest import Prometheus
from e2e.fleet import fleet
from e2e.grafana import PANELS, with_values
from tools.fetch import CACHE, debian_packages, say

PROJECT = Path(__file__).parent.parent
PICTURE = PROJECT / "docs/dashboard.svg"
MINUTES = 4
RATE_INTERVAL = "15s"
UNITS = {"bps": ("Mbit/s", 1e-6), "pps": ("packets/s", 1.0), "s": ("s", 1.0), "short": ("", 1.0)}

# A selection that fits on one page.
LINES = [
    *("Received per VF", "Drops per VF"),
    *("Received per PF (all VFs)", "Received per pod (all VFs)"),
    *("Age of the metrics file", "VFs per PF"),
]
BARS = ["Busiest VFs"]
TABLES = ["NUMA alignment per pod"]


def main() -> None:
    """Run the nodes for some minutes, then draw."""
    debian = debian_packages(["prometheus", "prometheus-node-exporter"], CACHE / "prometheus")
    with (
        tempfile.TemporaryDirectory(prefix="sriov-") as work,
        fleet(debian, Path(work)) as prometheus,
    ):
        for minute in range(MINUTES):
            say(f"collecting data: {minute} of {MINUTES} minutes")
            time.sleep(60)
        draw(prometheus)
    say(f"drew {PICTURE.relative_to(PROJECT)}")


def draw(prometheus: Prometheus) -> None:
    """Draw all panels into one SVG file."""
    # Keep text as text, and make the output reproducible.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 8})
    panels = {panel["title"]: panel for panel in PANELS}
    figure, axes = plt.subplots(4, 2, figsize=(12, 13), layout="constrained")
    places = iter(axes.flat)
    for drawing, titles in ((_lines, LINES), (_bars, BARS), (_table, TABLES)):
        for title in titles:
            place = next(places)
            place.set_title(title, loc="left", fontweight="bold")
            drawing(place, panels[title], prometheus)
    figure.savefig(PICTURE, metadata={"Date": None})


def _lines(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    now = time.time()
    unit, factor = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    for target in panel["targets"]:
        answer = prometheus.get(
            "query_range",
            query=with_values(target["expr"], RATE_INTERVAL),
            start=now - (MINUTES - 0.5) * 60,
            end=now,
            step=2,
        )
        for series in _largest(answer["result"], 6):
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
    unit, factor = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    series = sorted(
        prometheus.query(with_values(target["expr"], RATE_INTERVAL)),
        key=lambda sample: float(sample["value"][1]),
    )
    values = [float(sample["value"][1]) * factor for sample in series]
    axes.barh([_legend(target, sample["metric"]) for sample in series], values)
    axes.set_xlabel(unit)


def _table(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    (target,) = panel["targets"]
    (override,) = panel["fieldConfig"]["overrides"]
    properties = {entry["id"]: entry["value"] for entry in override["properties"]}
    (mapping,) = properties["mappings"]
    labels = ["instance", "namespace", "pod", "numa_node"]
    rows, colors = [], []
    for sample in prometheus.query(with_values(target["expr"], RATE_INTERVAL)):
        cell = mapping["options"][sample["value"][1]]
        rows.append([*[sample["metric"][label] for label in labels], cell["text"]])
        colors.append(["white"] * 4 + [{"green": "#c8e6c9", "red": "#ffcdd2"}[cell["color"]]])
    axes.axis("off")
    axes.table(rows, cellColours=colors, colLabels=[*labels, "CPUs"], loc="upper center")


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    text: str = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _largest(series: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the `count` series with the highest peaks: 26 lines in one plot are unreadable."""

    def peak(entry: dict[str, Any]) -> float:
        return max(float(value) for _, value in entry["values"])

    return sorted(series, key=peak)[: -count - 1 : -1]


if __name__ == "__main__":
    main()
