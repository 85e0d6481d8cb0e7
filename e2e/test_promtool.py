"""promtool, Prometheus' own checker, has nothing to say but what parity asks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = sorted((Path(__file__).parent.parent / "tests/golden").glob("*.prom"))

# The names of the Go exporter, which its users' dashboards have: counters without _total, and
# a label pciAddr.
PARITY = (r'counter metrics should have "_total" suffix', r"label names should be written in .*")


def complaints(metrics: str, debian: Path) -> list[str]:
    """Return what promtool has to say, but for what parity asks for."""
    done = subprocess.run(
        [debian / "usr/bin/promtool", "check", "metrics"],
        input=metrics,
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert bool(lines) == ("pciAddr" in metrics), "promtool did not read the metrics"
    return [line for line in lines if not re.search("|".join(PARITY), line)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_promtool_complains_of_parity_and_nothing_else(path: Path, debian: Path) -> None:
    assert complaints(path.read_text(), debian) == []


def test_promtool_on_all_collectors_together(debian: Path) -> None:
    demo = [sys.executable, "-m", "sriov_textfile", "demo"]
    done = subprocess.run(demo, capture_output=True, text=True, check=True)
    assert "sriov_kubepoddevice{" in done.stdout
    assert complaints(done.stdout, debian) == []
