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

from e2e.grafana import EXPRESSIONS, GRAPHS, VARIABLES, with_values

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
    """Run every query with a node of all clusters selected, then with that of one cluster.

    `node` has its labels. `history` is for how many seconds Prometheus has been scraping. If it is
    less than the dashboard's time range, graphs ask for the same number of points in that time
    instead.
    """
    span = min(RANGE_SECONDS, history)
    queries = [
        (f"${name}", "values", variable["query"])
        for name, variable in VARIABLES.items()
        if variable["type"] == "query"
    ]
    queries += [
        (name, "range" if name in GRAPHS else "instant", expression)
        for name, expression in EXPRESSIONS.items()
    ]
    for variables, chosen in (("All", {}), ("one node", {"cluster": node["cluster"]})):
        for panel, kind, expression in queries:
            filled = with_values(expression, node["instance"], range=f"{span:.0f}s", **chosen)
            yield _timing(url, panel, variables, kind, filled, span)


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
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", expression)
        if not match:
            raise ValueError(f"not a query for the values of a label: {expression}")
        path = f"label/{match[2]}/values"
        parameters = {"match[]": match[1], "start": now - span, "end": now}
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
