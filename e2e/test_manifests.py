"""What make manifests generates, kustomize builds and jsonnet evaluates, from one source of rules.

The CRDs' schemas are those of prometheus-operator 0.80.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.kubernetes import Manifest, build, kustomize, only, validate
from sriov_textfile import __version__, flags
from tools import manifests
from tools.fetch import CACHE, debian_packages, with_own_libraries

PROJECT = Path(__file__).parent.parent
DEPLOYMENT = PROJECT / "deployment"
RULES = sorted(DEPLOYMENT.glob("prometheus/rules/*.yml"))
OPTIONAL_RULES = sorted(DEPLOYMENT.glob("prometheus/compatibility/*.yml"))
OPTIONAL_RULES_TEST = PROJECT / "e2e/compatibility_test.yml"
NODE_EXPORTERS = Path(__file__).parent / "node_exporters"


def rules(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def operator() -> list[Manifest]:
    return build(DEPLOYMENT / "prometheus-operator")


def jsonnet(source: str, folder: Path = PROJECT) -> Any:
    """Evaluate jsonnet with Debian 13's: Debian 12's cannot parse YAML with text in blocks."""
    packages = ["jsonnet", "libc6", "libgcc-s1", "libstdc++6"]
    tree = debian_packages(packages, CACHE / "jsonnet", suite="trixie")
    command = [*with_own_libraries(tree, "usr/bin/jsonnet"), "-e", source]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_generated_files_are_up_to_date() -> None:
    """Run `make manifests` if not."""
    for path, text in manifests.rendered().items():
        assert path.read_text() == text, path


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("PodMonitor", "podMetricsEndpoints", {"honourLabels": True}),
        ("PodMonitor", "podMetricsEndpoints", {"interval": "15 seconds"}),
        ("ServiceMonitor", "endpoints", {"relabelings": [{"action": "dropLabel"}]}),
        ("PrometheusRule", "groups", {"name": "sriov", "intervall": "1m"}),
    ],
)
def test_a_manifest_that_its_crd_does_not_allow_is_an_error(
    operator: list[Manifest], kind: str, field: str, value: dict[str, Any]
) -> None:
    manifest = copy.deepcopy(next(each for each in operator if each["kind"] == kind))
    validate(manifest)
    manifest["spec"][field].append(value)
    with pytest.raises((AssertionError, ValueError), match=list(value)[-1]):
        validate(manifest)


def test_rules_for_prometheus_operator_are_those_for_prometheus(operator: list[Manifest]) -> None:
    built = {
        manifest["metadata"]["name"]: manifest["spec"]
        for manifest in operator
        if manifest["kind"] == "PrometheusRule"
    }
    assert built == {f"sriov-{path.stem}": rules(path) for path in RULES}


@pytest.mark.parametrize("path", OPTIONAL_RULES, ids=lambda path: path.stem)
def test_optional_rules_for_prometheus_operator_are_those_for_prometheus(path: Path) -> None:
    name = f"rules/{path.stem}.yaml"
    (manifest,) = yaml.safe_load_all((DEPLOYMENT / "prometheus-operator" / name).read_text())
    validate(manifest)
    assert manifest["spec"] == rules(path)
    assert f"# - {name}" in (DEPLOYMENT / "prometheus-operator/kustomization.yaml").read_text()


def test_the_dashboards_configmap_is_for_grafanas_sidecar(operator: list[Manifest]) -> None:
    configmap = only("ConfigMap", operator)
    assert configmap["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert configmap["data"] == {"sriov.json": (DEPLOYMENT / "grafana/sriov.json").read_text()}
    # kubectl apply copies the manifest into an annotation, and Kubernetes limits annotations.
    assert len(json.dumps(configmap)) < 256 * 1024


def test_everything_has_the_label_that_kube_prometheus_stack_selects(
    operator: list[Manifest],
) -> None:
    assert {m["metadata"]["labels"]["release"] for m in operator} == {"kube-prometheus-stack"}


def test_the_podmonitor_selects_the_daemonset_with_the_sidecar(operator: list[Manifest]) -> None:
    spec = only("PodMonitor", operator)["spec"]
    pods = only("DaemonSet", build(DEPLOYMENT / "textfile"))["spec"]["template"]
    labels = pods["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["jobLabel"] in labels
    ports = [port["name"] for each in pods["spec"]["containers"] for port in each.get("ports", [])]
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ports


def test_the_servicemonitor_selects_the_service_of_the_http_exporter(
    operator: list[Manifest],
) -> None:
    spec = only("ServiceMonitor", operator)["spec"]
    service = only("Service", build(DEPLOYMENT / "http"))
    labels = service["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["jobLabel"] in labels
    ports = [port["name"] for port in service["spec"]["ports"]]
    assert [endpoint["port"] for endpoint in spec["endpoints"]] == ports


def patched_by_kustomization(folder: Path, input: Path) -> list[Manifest]:
    """Build the kustomization that docs/kubernetes-monitoring.md has for kube-prometheus."""
    page = (PROJECT / "docs/kubernetes-monitoring.md").read_text()
    (text,) = re.findall(r"```yaml\n(resources:.*?)```", page, re.DOTALL)
    checkout = folder / "kube-prometheus"
    (checkout / "manifests").mkdir(parents=True)
    kustomization = yaml.safe_load(text)
    parts = input.read_text().split("---\n")
    for name, part in zip(kustomization["resources"], parts, strict=True):
        (checkout / name).write_text(part)
    (checkout / "kustomization.yaml").write_text(text)
    shutil.copytree(DEPLOYMENT, folder / "sriov-textfile/deployment")
    return build(checkout)


def patched_by_post_renderer(folder: Path, input: Path) -> list[Manifest]:
    """Run the post-renderer for Helm."""
    shutil.copytree(DEPLOYMENT, folder / "deployment")
    done = subprocess.run(
        [folder / "deployment/kube-prometheus-stack/post-renderer"],
        input=input.read_text(),
        env={"PATH": "/usr/bin:/bin", "KUSTOMIZE": f"{kustomize()} build"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "deployment/kube-prometheus-stack/helm.yaml").exists()  # has passwords
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize(
    ("name", "patched"),
    [
        ("kube-prometheus", patched_by_kustomization),
        ("kube-prometheus-stack", patched_by_post_renderer),
    ],
)
def test_the_component_adds_the_sidecar_and_changes_nothing_else(
    tmp_path: Path, name: str, patched: Any
) -> None:
    input = NODE_EXPORTERS / f"{name}.yaml"
    before = list(yaml.safe_load_all(input.read_text()))
    after = patched(tmp_path, input)
    for manifest in after:
        validate(manifest)
    ours = only("DaemonSet", build(DEPLOYMENT / "textfile"))["spec"]["template"]["spec"]
    (sidecar,) = [each for each in ours["containers"] if each["name"] == "sriov-textfile"]
    mounted = {mount["name"] for mount in sidecar["volumeMounts"]}

    pod = only("DaemonSet", after)["spec"]["template"]["spec"]
    (added,) = [each for each in pod["containers"] if each["name"] == "sriov-textfile"]
    assert added.pop("image").endswith(f"/sriov-textfile:{__version__}")
    assert added == {key: value for key, value in sidecar.items() if key != "image"}
    # The pod's other containers must not run as root, and this one must.
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (added["securityContext"]["runAsUser"], added["securityContext"]["runAsNonRoot"]) == (
        0,
        False,
    )
    volumes = [volume for volume in pod["volumes"] if volume["name"] in mounted]
    assert volumes == [volume for volume in ours["volumes"] if volume["name"] in mounted]
    node_exporter = pod["containers"][0]
    assert node_exporter["args"].pop() == "--collector.textfile.directory=/textfile"
    assert node_exporter["volumeMounts"].pop(0) == {
        "name": "textfile",
        "mountPath": "/textfile",
        "readOnly": True,
    }
    assert only("ServiceMonitor", after)["spec"]["endpoints"][0].pop("honorLabels") is True

    # Without the additions, all is as before.
    pod["containers"] = [each for each in pod["containers"] if each is not added]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume not in volumes]
    assert sorted(after, key=str) == sorted(before, key=str)


def test_the_mixin_has_the_rules_and_the_dashboard() -> None:
    built = jsonnet(
        "local mixin = import 'deployment/mixin.libsonnet';"
        "{ [part]: mixin[part] for part in std.objectFieldsAll(mixin) }"
    )
    groups = [*built.pop("prometheusAlerts")["groups"], *built.pop("prometheusRules")["groups"]]
    assert groups == [group for path in RULES for group in rules(path)["groups"]]
    dashboard = json.loads((DEPLOYMENT / "grafana/sriov.json").read_text())
    assert built == {
        "_config": {"runbookURL": manifests.RUNBOOK_URL.read_text().strip()},
        "grafanaDashboards": {"sriov.json": dashboard},
    }


def runbook_urls(groups: list[Any]) -> set[str]:
    """Return the URLs without their fragments, which are the names of the alerts."""
    urls = set()
    for rule in [rule for group in groups for rule in group["rules"] if "alert" in rule]:
        url, _, fragment = rule["annotations"]["runbook_url"].partition("#")
        assert fragment == rule["alert"].lower()
        urls.add(url)
    return urls


def test_the_runbooks_url_is_changed_in_one_place(tmp_path: Path) -> None:
    for folder in ("deployment", "e2e", "tools"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    url = "https://wiki.example/sriov/runbook.md"
    command = [sys.executable, "-m", "tools.manifests"]
    subprocess.run([*command, url], cwd=tmp_path, check=True)
    deployment = tmp_path / "deployment"
    old = manifests.RUNBOOK_URL.read_text().strip()
    files = [*deployment.rglob("*"), *tmp_path.glob("e2e/*.yml")]
    assert [path for path in files if path.is_file() and old in path.read_text()] == []
    groups = [
        group for path in RULES for group in rules(tmp_path / path.relative_to(PROJECT))["groups"]
    ]
    assert runbook_urls(groups) == {url}
    operator = build(deployment / "prometheus-operator")
    built = [group for each in operator for group in each.get("spec", {}).get("groups", [])]
    assert runbook_urls(built) == {url}
    alerts = jsonnet("(import 'deployment/mixin.libsonnet').prometheusAlerts", tmp_path)
    assert runbook_urls(alerts["groups"]) == {url}
    # Later runs keep it.
    subprocess.run(command, cwd=tmp_path, check=True)
    assert runbook_urls(rules(deployment / "prometheus/rules/alerts.yml")["groups"]) == {url}


def test_the_documented_jsonnet_has_the_runbooks_url_as_a_setting() -> None:
    page = (PROJECT / "docs/kubernetes-monitoring.md").read_text()
    (source,) = re.findall(r'jsonnet -e "(.*?)"\n', page, re.DOTALL)
    assert runbook_urls(jsonnet(source)["groups"]) == {"https://wiki.example/sriov/runbook.md"}


ALERTS = [
    rule["alert"]
    for path in RULES
    for group in rules(path)["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_first_what_to_type(alert: str) -> None:
    page = (PROJECT / "docs/runbook.md").read_text()
    (commands,) = re.findall(rf"^## {alert}\n\n```sh\n(.*?)```\n", page, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-n", "-c", commands], check=True)
    for arguments in re.findall(r"^sriov-textfile (.*)", commands, re.MULTILINE):
        words, values = flags.parse(arguments.split())
        assert words == ["doctor"]
        values.check("doctor")


@pytest.mark.parametrize("url", ["wiki.example/runbook", "https://wiki.example/#runbook", "a b"])
def test_what_is_no_url_of_a_page_is_refused(url: str) -> None:
    command = [sys.executable, "-m", "tools.manifests", url]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("RUNBOOK_URL")
    assert len(done.stderr.splitlines()) == 1


def test_promtools_tests_of_the_optional_rules_pass(debian: Path) -> None:
    promtool = [str(debian / "usr/bin/promtool"), "test", "rules", str(OPTIONAL_RULES_TEST)]
    done = subprocess.run(promtool, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", OPTIONAL_RULES, ids=lambda path: path.stem)
def test_every_optional_rule_has_a_test(path: Path) -> None:
    recorded = {rule["record"] for group in rules(path)["groups"] for rule in group["rules"]}
    assert recorded <= set(re.findall(r"expr: (\S+)", OPTIONAL_RULES_TEST.read_text()))
