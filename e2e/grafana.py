"""The dashboard's panels and queries, with variables replaced as Grafana replaces them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DASHBOARD = json.loads((Path(__file__).parent.parent / "deployment/grafana/sriov.json").read_text())
# A collapsed row contains its panels.
PANELS: list[dict[str, Any]] = [
    panel
    for outer in DASHBOARD["panels"]
    for panel in [outer, *outer.get("panels", [])]
    if panel["type"] != "row"
]
VARIABLES: dict[str, dict[str, Any]] = {
    variable["name"]: variable
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] != "datasource"
}
EXPRESSIONS: dict[str, str] = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}

GRAPHS = {
    f"{panel['title']} {target['refId']}"
    for panel in PANELS
    for target in panel["targets"]
    if not target.get("instant")
}


def with_values(
    expression: str, node: str, range: str = "1h", rate_interval: str = "1m", **chosen: str
) -> str:
    """Return an expression with its variables replaced: those not chosen by All, if they have it.

    Raises KeyError for an unknown variable.
    """
    values = {"__rate_interval": rate_interval, "__range": range}
    for name, variable in VARIABLES.items():
        values[name] = variable.get("allValue", "")
    values |= {"node": node, **chosen}
    return re.sub(r"\$([a-z_]\w*)", lambda match: values[match[1]], expression)
