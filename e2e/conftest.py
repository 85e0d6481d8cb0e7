"""The programs of Debian's packages, unpacked into the cache without installing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.fetch import CACHE, debian_packages


@pytest.fixture(scope="session")
def debian() -> Path:
    """Return the folder below which /usr/bin has promtool, prometheus and node_exporter."""
    return debian_packages(["prometheus", "prometheus-node-exporter"], CACHE / "prometheus")
