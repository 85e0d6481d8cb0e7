"""Draws the dashboard's main panels for the documentation: `make pictures`.

The expressions are the dashboard's, the values those of a real Prometheus that scraped simulated
nodes (fleet.py) for some minutes. Grafana draws them in its own way.
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

# As many panels as a page takes; what they show is the dashboard's business.
LINES = [
    *("Received by VFs", "Drops of VFs"),
    *("Received by all VFs of a PF", "Received by all VFs of a pod"),
    *("Age of the file", "VFs of a PF"),
]
BARS = ["Busiest VFs"]
TABLES = ["Pods' CPUs and VFs"]


def main() -> None:
    """Let the nodes run, ask Prometheus, and draw."""
    debian = debian_packages(["prometheus", "prometheus-node-exporter"], CACHE / "prometheus")
    with tempfile.TemporaryDirectory(prefix="sriov-") as work, fleet(debian, Path(work)) as answers:
        for minute in range(MINUTES):
            say(f"the nodes run for {MINUTES} minutes, {minute} are over")
            time.sleep(60)
        draw(answers)
    say(f"drew {PICTURE.relative_to(PROJECT)}")


def draw(prometheus: Prometheus) -> None:
    """Write the picture."""
    # Text stays text, and the same data give the same file.
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
        answer = prometheus.ask(
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
        key=lambda one: float(one["value"][1]),
    )
    values = [float(one["value"][1]) * factor for one in series]
    axes.barh([_legend(target, one["metric"]) for one in series], values)
    axes.set_xlabel(unit)


def _table(axes: Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    (target,) = panel["targets"]
    (override,) = panel["fieldConfig"]["overrides"]
    ((mapping,),) = [one["value"] for one in override["properties"] if one["id"] == "mappings"]
    labels = ["instance", "namespace", "pod", "numa_node"]
    rows, colours = [], []
    for one in prometheus.query(with_values(target["expr"], RATE_INTERVAL)):
        said = mapping["options"][one["value"][1]]
        rows.append([*[one["metric"][label] for label in labels], said["text"]])
        colours.append(["white"] * 4 + [{"green": "#c8e6c9", "red": "#ffcdd2"}[said["color"]]])
    axes.axis("off")
    axes.table(rows, cellColours=colours, colLabels=[*labels, "CPUs"], loc="upper center")


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    text: str = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _largest(series: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the series with the highest values: a page cannot tell 26 lines apart."""
    return sorted(series, key=lambda one: max(float(v) for _, v in one["values"]))[: -most - 1 : -1]


if __name__ == "__main__":
    main()
