"""The textfile, read by a real node_exporter that a real Prometheus scrapes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Prometheus, get, prometheus_reading


@pytest.fixture(scope="module")
def prometheus(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a node_exporter, which reads the demo's metrics."""
    work = tmp_path_factory.mktemp("prometheus")
    folder = work / "textfile"
    folder.mkdir()
    demo = [sys.executable, "-m", "sriov_textfile", "demo"]
    subprocess.run([*demo, f"--textfile.path={folder}/sriov.prom"], check=True)
    with prometheus_reading([folder], debian, work) as prometheus:
        yield prometheus


def test_node_exporter_reads_the_file_without_errors(prometheus: Prometheus) -> None:
    page = get(prometheus.node_exporters[0])
    assert "node_textfile_scrape_error 0\n" in page
    assert re.search(r'node_textfile_mtime_seconds\{file=".*/sriov.prom"\} ', page)
    assert prometheus.wait_for('up{job="node"} == 1')


def test_doctor_finds_the_node_exporter_that_reads_the_file(
    prometheus: Prometheus, tmp_path: Path
) -> None:
    page = get(prometheus.node_exporters[0])
    match = re.search(r'node_textfile_mtime_seconds\{file="(.*/sriov.prom)"\} ', page)
    assert match
    doctor = [sys.executable, "-m", "sriov_textfile", "demo", "doctor", "--json"]
    command = [*doctor, f"--textfile.path={match[1]}"]
    done = subprocess.run(command, capture_output=True, text=True)
    codes = [finding["code"] for finding in json.loads(done.stdout)["findings"]]
    assert codes == ["only-zeros"]  # of the demo's own PF, not of the file
    command = [*doctor, f"--textfile.path={tmp_path}/sriov.prom"]
    done = subprocess.run(command, capture_output=True, text=True)
    codes = [finding["code"] for finding in json.loads(done.stdout)["findings"]]
    assert codes == ["only-zeros", "textfile-not-read", "textfile-missing"]
