"""Finds or builds the kubelet for the lab's Kubernetes node."""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.debian import environment
from tools.fetch import CACHE, debian_packages, debian_source, key, run, say

PROJECT = Path(__file__).parent.parent
# A kubelet that somebody has built before, with its checksum in kubelet.sha256.
PACKED = PROJECT.parent / "shared/kubelet/kubelet.xz"

# Debian 12 packages only kubectl, but its source is that of all Kubernetes, with the Go libraries.
# Debian's patches concern only kubectl.
SUITE = "bookworm"
VERSION = "1.20.2"
GO = "1.19"
# Without a version, the kubelet calls itself v0.0.0.
VARIABLES = "k8s.io/kubernetes/vendor/k8s.io/component-base/version"
LINKER_FLAGS = (
    f"-s -w -X {VARIABLES}.gitVersion=v{VERSION} -X {VARIABLES}.gitMajor=1"
    f" -X {VARIABLES}.gitMinor=20"
)


def find() -> Path | None:
    """Return the path of a kubelet, or None if the environment has KUBELET=none.

    It is the file that KUBELET names, else the packed one, else one built from Debian's source.
    Raises SystemExit if that fails.
    """
    named = os.environ.get("KUBELET")
    if named == "none":
        return None
    if named:
        kubelet = Path(named)
        if not (kubelet.is_file() and os.access(kubelet, os.X_OK)):
            raise SystemExit(f"KUBELET={named} is not an executable file")
        return kubelet
    return _unpacked() if PACKED.exists() else _built()


def _unpacked() -> Path:
    """Return the packed kubelet, unpacked into the cache."""
    checksum = PACKED.with_name("kubelet.sha256").read_text().split()[0]
    kubelet = CACHE / f"kubelet-{checksum[:12]}"
    if not kubelet.exists():
        say(f"unpacking {PACKED}")
        try:
            content = lzma.decompress(PACKED.read_bytes())
        except lzma.LZMAError as error:
            raise SystemExit(f"{PACKED} is damaged: {error}") from None
        if hashlib.sha256(content).hexdigest() != checksum:
            raise SystemExit(f"{PACKED} does not contain the kubelet that kubelet.sha256 describes")
        with _new(kubelet) as folder:
            new = folder / "kubelet"
            new.write_bytes(content)
            new.chmod(0o755)
    return kubelet


def _built() -> Path:
    """Return a kubelet built from Debian's source package with Debian's Go."""
    kubelet = CACHE / f"kubelet-{VERSION}-{key(SUITE, GO, LINKER_FLAGS)}"
    if not kubelet.exists():
        with _new(kubelet) as folder:
            # The import paths are those of a tree at this place in the GOPATH.
            source = debian_source("kubernetes", folder / "src/k8s.io/kubernetes", SUITE)
            packages = [f"golang-{GO}-go", f"golang-{GO}-src"]
            go = debian_packages(packages, folder / "go", SUITE) / f"usr/lib/go-{GO}"
            say(f"building kubelet {VERSION} (about six minutes of CPU, once)")
            build = [str(go / "bin/go"), "build", "-o", str(folder / "kubelet")]
            build += ["-ldflags", LINKER_FLAGS, "./cmd/kubelet"]
            settings = {"GOROOT": str(go), "GOPATH": str(folder), "GO111MODULE": "off"}
            settings |= {"CGO_ENABLED": "0", "HOME": str(folder), "TMPDIR": str(folder)}
            run(build, cwd=source, env={**environment(), **settings})
    return kubelet


@contextmanager
def _new(kubelet: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename the `kubelet` in it once it is complete."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{kubelet.name}.") as folder:
        yield Path(folder)
        (Path(folder) / "kubelet").rename(kubelet)
