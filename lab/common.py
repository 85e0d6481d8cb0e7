"""Shared by the tests in both machines: running commands, and parsing metrics."""

from __future__ import annotations

import re
import subprocess

import pytest

PROGRAM = "/opt/venv/bin/sriov-textfile"

Labels = dict[str, str]


def sh(command: str) -> str:
    """Run a shell command and return its output. Fail the test if the command fails."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.fail(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def parse(text: str) -> list[tuple[str, Labels, int | float]]:
    """Parse metrics. Integers stay integers: a float would round those above 2^53."""
    samples: list[tuple[str, Labels, int | float]] = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            assert match, line
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            value = int(match[3]) if match[3].isdigit() else float(match[3])
            samples.append((match[1], labels, value))
    return samples
