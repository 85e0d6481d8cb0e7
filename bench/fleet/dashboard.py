"""Times the queries of the dashboard, as Grafana sends them."""

from __future__ import annotations

import json
import re
import statistics
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent.parent.parent / "deployment/grafana/sriov.json"
RANGE_SECONDS = 3600  # the dashboard's own
POINTS = 240  # of a graph: Grafana asks for a step of 15 seconds in an hour
REPEATS = 3
LIMIT_SECONDS = 150  # Prometheus gives up a query after 120


@dataclass(frozen=True)
class Timing:
    """What a query took: seconds (the median), and the number of series that it returned."""

    panel: str
    variables: str
    kind: str
    expression: str
    seconds: float
    series: int
    error: str = ""


def timings(url: str, node: Mapping[str, str], history: float) -> Iterator[Timing]:
    """Run every query with all variables set to All, then with the labels of one node selected.

    `history` is for how many seconds Prometheus has been scraping. If it is less than the
    dashboard's time range, graphs ask for the same number of points in that time instead.
    """
    dashboard = json.loads(DASHBOARD.read_text())
    span = min(RANGE_SECONDS, history)
    for name, labels in (("All", {}), ("one node", node)):
        values = _values(dashboard, labels, node) | {"__range": f"{span:.0f}s"}
        for panel, kind, expression in _queries(dashboard):
            yield _timing(url, panel, name, kind, _fill(expression, values), span)


def _queries(dashboard: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the panel, the kind and the expression of every query."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"${variable['name']}", "values", _query(variable)
    for outer in dashboard["panels"]:
        for panel in [outer, *outer.get("panels", [])]:  # a collapsed row has panels of its own
            for target in panel.get("targets", ()):
                kind = "instant" if target.get("instant") else "range"
                yield f"{panel['title']} {target['refId']}", kind, target["expr"]


def _query(variable: Any) -> str:
    query = variable["query"]
    return str(query if isinstance(query, str) else query["query"])


def _label(query: str) -> str:
    """Return the label whose values a variable's query asks for."""
    match = re.search(r"(\w+)\)$", query)
    if not match:
        raise ValueError(f"not a query for the values of a label: {query}")
    return match[1]


def _values(dashboard: Any, labels: Mapping[str, str], node: Mapping[str, str]) -> dict[str, str]:
    """Return the variables' values: of the labels, or All, or the node's if there is no All."""
    values = {"__rate_interval": "1m", "__interval": "15s"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            label = _label(_query(variable))
            values[variable["name"]] = labels.get(label) or variable.get("allValue") or node[label]
        elif variable["type"] != "datasource":
            values[variable["name"]] = str(variable.get("current", {}).get("value", ""))
    return values


def _fill(expression: str, values: Mapping[str, str]) -> str:
    variable = r"\$(?:\{(\w+)(?::\w+)?\}|([a-z_]\w*))"
    return re.sub(variable, lambda match: values[match[1] or match[2]], expression)


def _timing(
    url: str, panel: str, variables: str, kind: str, expression: str, span: float
) -> Timing:
    taken: list[float] = []
    series, error = 0, ""
    while len(taken) < REPEATS and sum(taken) < 10 and not error:
        start = time.monotonic()
        try:
            body = _get(url, kind, expression, span)
        except urllib.error.HTTPError as refused:
            error = json.load(refused)["error"]
        except OSError as failed:
            error = str(failed)
        taken.append(time.monotonic() - start)
        if not error:
            data = json.loads(body)["data"]
            series = len(data if kind == "values" else data["result"])
    return Timing(panel, variables, kind, expression, statistics.median(taken), series, error)


def _get(url: str, kind: str, expression: str, span: float) -> bytes:
    now = time.time()
    parameters: dict[str, object]
    if kind == "values":
        path = f"label/{_label(expression)}/values"
        selector = re.sub(r"^label_values\(|,? *\w+\)$", "", expression)
        parameters = {"start": now - span, "end": now}
        parameters |= {"match[]": selector} if selector else {}
    elif kind == "instant":
        path, parameters = "query", {"query": expression, "time": now}
    else:
        path = "query_range"
        step = span / POINTS
        parameters = {"query": expression, "start": now - span, "end": now, "step": step}
    full = f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(full, timeout=LIMIT_SECONDS) as answer:
        body: bytes = answer.read()
        return body
