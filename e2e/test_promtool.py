"""promtool, Prometheus' own checker, has nothing to say but what parity asks for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

GOLDEN = sorted((Path(__file__).parent.parent / "tests/golden").glob("*.prom"))

# The names of the Go exporter, which its users' dashboards have: counters without _total, and
# a label pciAddr.
PARITY = (r'counter metrics should have "_total" suffix', r"label names should be written in .*")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_promtool_complains_of_parity_and_nothing_else(path: Path, debian: Path) -> None:
    done = subprocess.run(
        [debian / "usr/bin/promtool", "check", "metrics"],
        input=path.read_text(),
        capture_output=True,
        text=True,
    )
    complaints = done.stderr.splitlines()
    assert [c for c in complaints if not re.search("|".join(PARITY), c)] == []
    assert "error while linting" not in done.stderr
    if path.name != "empty.prom":
        assert len(complaints) > 0  # it did read the file
