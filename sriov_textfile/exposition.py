"""Writes metric families in the Prometheus text exposition format, version 0.0.4.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sriov_textfile.metrics import Family


def render(families: Iterable[Family]) -> bytes:
    """Return the families as text, in the given order; a family without samples is left out.

    Raises ValueError if two families have the same name, which Prometheus rejects.
    """
    lines = []
    names = set()
    for family in families:
        if not family.samples:
            continue
        name = family.name
        if name in names:
            raise ValueError(f"two families are called {name}")
        names.add(name)
        lines.append(f"# HELP {name} {_escape_help(family.help)}\n")
        lines.append(f"# TYPE {name} {family.type}\n")
        lines += [f"{name}{labels} {value}\n" for labels, value in family.samples.items()]
    return "".join(lines).encode("utf-8")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
