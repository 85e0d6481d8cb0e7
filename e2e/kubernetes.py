"""Builds kustomizations with Debian's kustomize, and validates manifests by their schemas."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tools.fetch import CACHE, debian_packages

Manifest = dict[str, Any]


def kustomize() -> Path:
    """Return Debian 13's kustomize: Debian 12 has none."""
    return debian_packages(["kustomize"], CACHE / "kustomize", suite="trixie") / "usr/bin/kustomize"


def build(folder: Path) -> list[Manifest]:
    """Return the manifests of a kustomization."""
    done = subprocess.run([kustomize(), "build", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def only(kind: str, manifests: list[Manifest]) -> Manifest:
    """Return the one manifest of a kind."""
    (manifest,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return manifest


def validate(manifest: Manifest, version: str = "1.34") -> None:
    """Raise an error for a manifest that Kubernetes or prometheus-operator would not accept.

    Unknown fields are errors, too: the API server only drops them.
    """
    if manifest["apiVersion"] != "monitoring.coreos.com/v1":
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    from cloudcoil.models.prometheus_operator import v1  # takes two seconds

    model = getattr(v1, manifest["kind"]).model_validate(manifest)
    known = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert manifest == known, f"fields that the CRD does not have in {manifest}"
