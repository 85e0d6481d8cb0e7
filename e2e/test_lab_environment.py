"""What the lab passes on of its caller's environment. No root needed: nothing is run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import debian


def test_chroots_get_no_variable_of_the_caller_except_proxies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TMPDIR", "PYTHONPATH", "PERL5LIB", "MAKEFLAGS", "APT_CONFIG", "LD_PRELOAD"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("HOME", "/home/developer")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    for name in debian.PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "mirror.example")
    environments = []

    def record(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        environments.append(options["env"])
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", record)
    debian.chroot(tmp_path, "true")
    assert environments == [
        {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "http_proxy": "http://proxy.example:3128",
            "NO_PROXY": "mirror.example",
        }
    ]
