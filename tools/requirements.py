"""The packages that an extra of pyproject.toml names, from the installed project's metadata."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

NAME = "sriov-textfile"


def of(extra: str = "") -> list[str]:
    """Return the requirements of an extra, or without one those of every installation.

    An extra that an extra names is replaced by its requirements. Versions are kept.
    """
    found: dict[str, None] = {}
    for text in metadata.requires(NAME) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker.evaluate({"extra": extra}) if marker else not extra:
            if requirement.name == NAME:
                for other in sorted(requirement.extras):
                    found.update(dict.fromkeys(of(other)))
            else:
                found[text.partition(";")[0]] = None
    return list(found)
