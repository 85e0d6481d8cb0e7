"""promtool check metrics: no complaints, except about names kept from the Go exporter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = sorted((Path(__file__).parent.parent / "tests/golden").glob("*.prom"))

# Names kept from the Go exporter, because dashboards use them: counters without _total, and the
# label pciAddr.
ACCEPTED = (r'counter metrics should have "_total" suffix', r"label names should be written in .*")


def complaints(metrics: str, debian: Path) -> list[str]:
    """Return promtool's complaints, without the accepted ones."""
    done = subprocess.run(
        [debian / "usr/bin/promtool", "check", "metrics"],
        input=metrics,
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert bool(lines) == ("pciAddr" in metrics), "promtool did not read the metrics"
    return [line for line in lines if not re.search("|".join(ACCEPTED), line)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_promtool_accepts_the_golden_files(path: Path, debian: Path) -> None:
    assert complaints(path.read_text(), debian) == []


def test_promtool_accepts_the_output_of_all_collectors(debian: Path) -> None:
    demo = [sys.executable, "-m", "sriov_textfile", "demo"]
    done = subprocess.run(demo, capture_output=True, text=True, check=True)
    assert "sriov_kubepoddevice{" in done.stdout
    assert complaints(done.stdout, debian) == []
