"""Validates deployment/ by schema, with promtool and with hadolint, and .github/ by schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.kubernetes import build, only, validate
from sriov_textfile import __version__, flags

PROJECT = Path(__file__).parent.parent
DEPLOYMENT = PROJECT / "deployment"
# Without those that need a node_exporter: test_manifests.py has one.
KUSTOMIZATIONS = sorted(
    {path.parent.name for path in DEPLOYMENT.rglob("kustomization.yaml")}
    - {"sidecar", "kube-prometheus-stack"}
)
DAEMONSETS = sorted(DEPLOYMENT.rglob("daemonset.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(DEPLOYMENT))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def mebibytes(quantity: str) -> int:
    """Return an amount of memory as Kubernetes (64Mi) or systemd (64M) write it."""
    return int(quantity.removesuffix("i").removesuffix("M"))


def containers(path: Path) -> list[dict[str, Any]]:
    (daemonset,) = documents(path)
    found: list[dict[str, Any]] = daemonset["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("version", ["1.28", "1.34"])
@pytest.mark.parametrize("name", ["namespace.yaml", "hpa/hpa.yaml"])
def test_manifests_are_valid(name: str, version: str) -> None:
    for document in documents(DEPLOYMENT / name):
        validate(document, version)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_kustomizations_build_valid_manifests(folder: str) -> None:
    for document in build(DEPLOYMENT / folder):
        for version in ("1.28", "1.34"):
            validate(document, version)


@pytest.mark.parametrize("folder", ["textfile", "http"])
def test_daemonsets_run_this_version(folder: str) -> None:
    pod = only("DaemonSet", build(DEPLOYMENT / folder))["spec"]["template"]["spec"]
    images = [each["image"] for each in pod["containers"] if each["name"] != "node-exporter"]
    assert images == [f"registry.example/sriov-textfile:{__version__}"]


def test_the_dockerfile_has_this_version() -> None:
    dockerfile = (DEPLOYMENT / "Dockerfile").read_text()
    assert f"-t registry.example/sriov-textfile:{__version__} ." in dockerfile
    assert f'org.opencontainers.image.version="{__version__}"' in dockerfile


# The arguments of the sriov-network-operator's DaemonSet, which has no command.
OPERATOR = [
    "--web.listen-address=127.0.0.1:9110",
    "--path.kubecgroup=/sys/fs/cgroup",
    "--path.sysbuspci=/host/sys/bus/pci/devices/",
    "--path.sysclassnet=/host/sys/class/net/",
    "--path.cpucheckpoint=/host/cpu_manager_state",
    "--path.kubeletsocket=/host/kubelet.sock",
    "--collector.kubepoddevice=true",
    "--collector.vfstatspriority=netlink,sysfs",
]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "serve"),
        (OPERATOR, "serve"),
        (["doctor", "--json"], "doctor"),
        (["version"], "version"),
    ],
)
def test_the_image_serves_unless_it_is_given_a_command(
    tmp_path: Path, arguments: list[str], command: str
) -> None:
    program = tmp_path / "sriov-textfile"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [DEPLOYMENT / "entrypoint", *arguments],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    words = done.stdout.split()
    assert words == ([command, *arguments] if command == "serve" else arguments)
    parsed, values = flags.parse(words)
    assert parsed == [command]
    values.check(command)


@pytest.mark.parametrize("path", DAEMONSETS, ids=name_of)
def test_the_program_accepts_its_containers_arguments(path: Path) -> None:
    (ours,) = [
        container
        for container in containers(path)
        if container.get("command", [""])[0] == "sriov-textfile"
    ]
    words, values = flags.parse([*ours["command"][1:], *ours["args"]])
    assert words in ([], ["serve"])
    assert values[flags.COLLECTOR_FLAGS["kubepoddevice"]] is True


@pytest.mark.parametrize("path", DAEMONSETS, ids=name_of)
def test_every_container_is_hardened_and_every_mount_has_a_volume(path: Path) -> None:
    (daemonset,) = documents(path)
    spec = daemonset["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        assert set(requests) == {"cpu", "memory"}
        assert set(limits) == {"memory"}  # A limit of CPU time would only make collections slower.
        assert mebibytes(requests["memory"]) <= mebibytes(limits["memory"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert spec["hostNetwork"] is True


def test_the_cron_job_runs_the_program_as_its_user() -> None:
    *_, job = (PROJECT / "cron/sriov-textfile").read_text().splitlines()
    *minutes, user, program = job.split(" 2>&1 | ")[0].split(maxsplit=6)
    assert (minutes, user) == (["*"] * 5, "sriov-textfile")
    words, values = flags.parse(program.split()[1:])
    assert words == ["collect"]
    assert values[flags.TEXTFILE_PATH] == "/var/lib/prometheus/node-exporter/sriov.prom"


def test_the_http_daemonset_passes_the_go_exporters_arguments() -> None:
    (container,) = containers(DEPLOYMENT / "http/daemonset.yaml")
    assert container["args"] == [
        "--path.kubecgroup=/host/kubecgroup",
        "--path.sysbuspci=/host/sys/bus/pci/devices",
        "--path.sysclassnet=/host/sys/class/net",
        "--path.cpucheckpoint=/host/cpu_manager_state",
        "--path.kubeletsocket=/host/kubelet.sock",
        "--collector.kubepoddevice=true",
        "--collector.vfstatspriority=sysfs,netlink",
    ]


def test_the_service_selects_the_http_daemonset() -> None:
    (daemonset,) = documents(DEPLOYMENT / "http/daemonset.yaml")
    (service,) = documents(DEPLOYMENT / "http/service.yaml")
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["port"] == 9808


@pytest.mark.parametrize("path", sorted(DEPLOYMENT.glob("prometheus/*.yml")), ids=name_of)
def test_promtool_accepts_the_scrape_configurations(
    path: Path, debian: Path, tmp_path: Path
) -> None:
    """Without kubernetes_sd_configs: Debian builds Prometheus without Kubernetes discovery."""
    (config,) = documents(path)
    for job in config["scrape_configs"]:
        for discovery in job.pop("kubernetes_sd_configs", []):
            assert discovery == {"role": "endpoints", "namespaces": {"names": ["monitoring"]}}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool = [str(debian / "usr/bin/promtool"), "check", "config", f"{tmp_path}/prometheus.yml"]
    done = subprocess.run(promtool, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(DEPLOYMENT.glob("prometheus/rules/*.yml")), ids=name_of)
def test_promtool_accepts_the_rules(path: Path, debian: Path) -> None:
    promtool = [str(debian / "usr/bin/promtool"), "check", "rules", str(path)]
    done = subprocess.run(promtool, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, f"{DEPLOYMENT}/Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*_*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_github_accepts_its_files(schema: str, files: str) -> None:
    paths = sorted((PROJECT / ".github").glob(files))
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", f"--builtin-schema=vendor.{schema}"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
