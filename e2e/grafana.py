"""The dashboard as Grafana would run it: its variables have a value, its expressions none left."""

from __future__ import annotations

import json
import re
from pathlib import Path

DASHBOARD = json.loads((Path(__file__).parent.parent / "deployment/grafana/sriov.json").read_text())
# Those of a row that is closed are inside it.
PANELS = [
    panel
    for outer in DASHBOARD["panels"]
    for panel in [outer, *outer.get("panels", [])]
    if panel["type"] != "row"
]


def with_values(expression: str, rate_interval: str = "1m") -> str:
    """Return an expression with All chosen in each variable. Raises KeyError for an unknown one."""
    names = [one["name"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    values = {"__rate_interval": rate_interval, **dict.fromkeys(names, ".*")}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)
