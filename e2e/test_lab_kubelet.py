"""Which kubelet the lab takes. No root needed: nothing is fetched or built."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lab import kubelet

PROGRAM = b"#!/bin/sh\necho Kubernetes v1.30.0\n"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the empty cache of a host without a packed kubelet."""
    monkeypatch.delenv("KUBELET", raising=False)
    monkeypatch.setattr(kubelet, "PACKED", tmp_path / "shared/kubelet.xz")
    monkeypatch.setattr(kubelet, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def pack(content: bytes, program: bytes = PROGRAM) -> str:
    """Write a packed kubelet with the checksum of a program, and return the checksum."""
    checksum = hashlib.sha256(program).hexdigest()
    kubelet.PACKED.parent.mkdir(exist_ok=True)
    kubelet.PACKED.write_bytes(content)
    kubelet.PACKED.with_name("kubelet.sha256").write_text(f"{checksum}  kubelet\n")
    return checksum


def test_no_kubelet_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(lzma.compress(PROGRAM))
    monkeypatch.setenv("KUBELET", "none")
    assert kubelet.find() is None


def test_a_named_kubelet_goes_before_the_packed_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pack(lzma.compress(PROGRAM))
    named = tmp_path / "kubelet"
    named.write_bytes(PROGRAM)
    named.chmod(0o755)
    monkeypatch.setenv("KUBELET", str(named))
    assert kubelet.find() == named


@pytest.mark.parametrize("name", ["missing", "folder", "data"])
def test_a_named_kubelet_must_be_an_executable_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "data").write_bytes(PROGRAM)
    monkeypatch.setenv("KUBELET", str(tmp_path / name))
    with pytest.raises(SystemExit, match=f"^KUBELET=.*/{name} is not an executable file$"):
        kubelet.find()


def test_a_packed_kubelet_is_unpacked_once_for_each_checksum(cache: Path) -> None:
    checksum = pack(lzma.compress(PROGRAM))
    found = kubelet.find()
    assert found == cache / f"kubelet-{checksum[:12]}"
    assert found.read_bytes() == PROGRAM
    assert found.stat().st_mode & 0o777 == 0o755
    pack(b"not read again")
    assert kubelet.find() == found
    pack(lzma.compress(b"another"), b"another")
    other = kubelet.find()
    assert other is not None
    assert other.read_bytes() == b"another"
    assert set(cache.iterdir()) == {found, other}


@pytest.mark.parametrize(
    "content", [lzma.compress(b"another"), lzma.compress(PROGRAM)[:-9], b"not packed"]
)
def test_a_damaged_packed_kubelet_is_refused(cache: Path, content: bytes) -> None:
    pack(content)
    with pytest.raises(SystemExit, match=r"kubelet\.xz (is damaged|does not contain)"):
        kubelet.find()
    assert not cache.exists()


def test_one_is_built_once_and_nothing_else_of_the_build_is_kept(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for name in ("GOFLAGS", "GOPROXY", "GOTOOLCHAIN", "TMPDIR"):
        monkeypatch.setenv(name, "/nowhere")
    environments = []

    def unpack(_packages: object, folder: Path, _suite: str) -> Path:
        folder.mkdir(parents=True)
        return folder

    def build(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        assert cwd.is_relative_to(env["GOPATH"])
        environments.append(env)
        Path(command[command.index("-o") + 1]).write_bytes(PROGRAM)

    monkeypatch.setattr(kubelet, "debian_source", unpack)
    monkeypatch.setattr(kubelet, "debian_packages", unpack)
    monkeypatch.setattr(kubelet, "run", build)
    found = kubelet.find()
    assert found is not None
    assert found.read_bytes() == PROGRAM
    assert list(cache.iterdir()) == [found]
    assert kubelet.find() == found
    [environment] = environments
    assert "/nowhere" not in environment.values()
    assert environment["TMPDIR"] == environment["HOME"] == environment["GOPATH"]


def test_a_failed_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def fail(*_: object) -> Path:
        raise SystemExit(1)

    monkeypatch.setattr(kubelet, "debian_source", fail)
    with pytest.raises(SystemExit):
        kubelet.find()
    assert not list(cache.iterdir())
