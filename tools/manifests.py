"""Generates the files in deployment/ that repeat others: `make manifests`.

    deployment/runbook_url            -> runbook_url of every alert, and of the rules' tests
    deployment/prometheus/**/*.yml    -> deployment/prometheus-operator/rules/*.yaml
    deployment/textfile/              -> deployment/sidecar/sidecar.yaml

With an argument, that becomes the runbook's URL.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parent.parent
DEPLOYMENT = PROJECT / "deployment"
RUNBOOK_URL = DEPLOYMENT / "runbook_url"
RULES = [
    *sorted(DEPLOYMENT.glob("prometheus/compatibility/*.yml")),
    *sorted(DEPLOYMENT.glob("prometheus/rules/*.yml")),
]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, as people do."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def rendered() -> dict[Path, str]:
    """Return the generated files with their texts."""
    url = RUNBOOK_URL.read_text().strip()
    files = {
        path: re.sub(r"(?<=runbook_url: )[^#\n]*", lambda _: url, path.read_text())
        for path in [*RULES, *PROJECT.glob("e2e/*_test.yml")]
    }
    for path in RULES:
        name = f"prometheus-operator/rules/{path.stem}.yaml"
        files[DEPLOYMENT / name] = _manifest(path, prometheus_rule(path.stem, files[path]))
    daemonset = DEPLOYMENT / "textfile/daemonset.yaml"
    files[DEPLOYMENT / "sidecar/sidecar.yaml"] = _manifest(daemonset, sidecar(daemonset))
    return files


def prometheus_rule(name: str, rules: str) -> dict[str, Any]:
    """Return a file of rules as prometheus-operator takes it."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"sriov-{name.removeprefix('sriov-')}", "namespace": "monitoring"},
        "spec": yaml.safe_load(rules),
    }


def sidecar(path: Path) -> dict[str, Any]:
    """Return a patch that adds the sidecar of a DaemonSet, and its volumes, to another one.

    node_exporter gets the mounts of the volumes that both use. The image is the one that the
    kustomization next to the DaemonSet names.
    """
    spec = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]
    node_exporter, container = spec["containers"]
    for image in yaml.safe_load(path.with_name("kustomization.yaml").read_text())["images"]:
        if image["name"] == container["image"]:
            container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    shared = [mount for mount in node_exporter["volumeMounts"] if mount["name"] in mounted]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "node-exporter"},  # the patch's target is in kustomization.yaml
        "spec": {
            "template": {
                "spec": {
                    "hostNetwork": True,
                    "containers": [
                        {"name": node_exporter["name"], "volumeMounts": shared},
                        container,
                    ],
                    "volumes": [volume for volume in spec["volumes"] if volume["name"] in mounted],
                }
            }
        },
    }


def _manifest(source: Path, manifest: dict[str, Any]) -> str:
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=100)
    return f"# Generated from {source.relative_to(PROJECT)} by `make manifests`.\n{text}"


def main(arguments: list[str]) -> None:
    """Write the generated files. Raises SystemExit if the runbook's URL is not one."""
    for url in arguments:
        if not re.fullmatch(r"https?://[^\s#]+", url):
            raise SystemExit(f"RUNBOOK_URL is {url!r}: it must be a http(s) URL without #")
        RUNBOOK_URL.write_text(f"{url}\n")
    for path, text in rendered().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
