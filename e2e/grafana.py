"""The dashboard's panels and queries, with variables replaced as Grafana replaces them."""

from __future__ import annotations

import json
import re
from pathlib import Path

DASHBOARD = json.loads((Path(__file__).parent.parent / "deployment/grafana/sriov.json").read_text())
# A collapsed row contains its panels.
PANELS = [
    panel
    for outer in DASHBOARD["panels"]
    for panel in [outer, *outer.get("panels", [])]
    if panel["type"] != "row"
]


def with_values(expression: str, rate_interval: str = "1m") -> str:
    """Return an expression with every variable set to All. Raises KeyError for an unknown one."""
    names = [
        variable["name"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    values = {"__rate_interval": rate_interval, **dict.fromkeys(names, ".*")}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)
