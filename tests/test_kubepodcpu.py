"""kubepodcpu: the exclusive CPUs of containers, in every layout of cgroups."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.simulate.host import SimulatedHost, SimulatedPf
from sriov_textfile.simulate.kubernetes import Layout, SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from tests.conftest import Host, MakeHost, Run

A, B, C, D = (letter * 64 for letter in "abcd")
UID = "12345678-9abc-def0-1234-56789abcdef0"
STATIC_UID = "0123456789abcdef0123456789abcdef"

PODS = [
    SimulatedPod(
        "upf-0",
        "core",
        UID,
        [
            SimulatedContainer("dataplane", A, "2-3,6", {"intel.com/sriov": ["0000:11:00.0"]}),
            SimulatedContainer("sidecar", B),  # runs in the shared pool
        ],
    ),
    SimulatedPod(
        "shared-0", "core", "22222222-2222-2222-2222-222222222222", [SimulatedContainer("c", C)]
    ),
    SimulatedPod(
        "burst-0",
        "core",
        "33333333-3333-3333-3333-333333333333",
        [SimulatedContainer("c", "3" * 64)],
        "burstable",
    ),
    SimulatedPod(
        "best-0",
        "core",
        "44444444-4444-4444-4444-444444444444",
        [SimulatedContainer("c", "4" * 64)],
        "besteffort",
    ),
    SimulatedPod(
        "etcd-node-1", "kube-system", STATIC_UID, [SimulatedContainer("etcd", D, "12")], "burstable"
    ),
]

LAYOUTS = [
    Layout(1, "systemd", "cri-containerd"),
    Layout(1, "systemd", "crio"),
    Layout(1, "systemd", "docker"),
    Layout(1, "cgroupfs"),
    Layout(2, "systemd", "cri-containerd"),
    Layout(2, "systemd", "crio"),
    Layout(2, "systemd", "crio", nested=True),
    Layout(2, "systemd", "docker"),
    Layout(2, "cgroupfs"),
]


def layout_id(layout: Layout) -> str:
    return f"v{layout.version}-{layout.driver}-{layout.runtime}" + "-nested" * layout.nested


def pod_cpus(run: Run) -> list[tuple[str, str, str, str]]:
    """Return uid, container, CPU and NUMA node of each sample."""
    found = []
    for line in run.out.splitlines():
        if line.startswith("sriov_kubepodcpu{"):
            container, cpu, numa, uid = line.split('"')[1:8:2]
            found.append((uid, container, cpu, numa))
    return found


EXPECTED = [
    (UID, A, "2", "0"),
    (UID, A, "3", "0"),
    (UID, A, "6", "1"),
    (STATIC_UID, D, "12", "1"),
]


def success(run: Run) -> str | None:
    return run.value("sriov_scrape_collector_success", collector="kubepodcpu")


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host()


def collect(host: Host, node: SimulatedNode, *flags: str) -> Run:
    """Collect into a file, as on a node."""
    path = host.root / "sriov.prom"
    arguments = [*node.flags, "--no-collector.kubepoddevice", f"--textfile.path={path}", *flags]
    run = host.collect(*arguments)
    return Run(run.code, path.read_text(), run.log)


# --- every layout ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_every_layout_has_the_same_output(
    host: Host, tmp_path: Path, layout: Layout, golden: Callable[[str, str], None]
) -> None:
    run = collect(host, SimulatedNode(tmp_path / "node", PODS, layout=layout))
    assert (run.code, run.log) == (0, "")
    assert sorted(pod_cpus(run)) == sorted(EXPECTED)
    golden("kubepodcpu.prom", run.out)


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_the_go_exporters_default_path_works_for_every_layout(
    host: Host, tmp_path: Path, layout: Layout
) -> None:
    node = SimulatedNode(tmp_path / "node", PODS, layout=layout)
    path = tmp_path / "node/sys/fs/cgroup/cpuset/kubepods/"
    run = collect(host, node, f"--path.kubecgroup={path}")
    assert sorted(pod_cpus(run)) == sorted(EXPECTED)
    assert run.log == ""
    run = collect(host, node, f"--path.kubecgroup={path}", "--log.level=debug")
    assert f"path={node.cgroups}\n" in run.log


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_the_path_may_be_the_root_of_the_cgroup_tree(
    host: Host, tmp_path: Path, layout: Layout
) -> None:
    """A pod can mount /sys/fs/cgroup on nodes of any layout."""
    node = SimulatedNode(tmp_path / "node", PODS, layout=layout)
    run = collect(host, node, f"--path.kubecgroup={tmp_path}/node/sys/fs/cgroup")
    assert sorted(pod_cpus(run)) == sorted(EXPECTED)


def test_all_exclusive_cpus_of_a_full_node_are_exported(host: Host, tmp_path: Path) -> None:
    pods = [
        SimulatedPod(
            f"pod-{pod}",
            "core",
            f"{pod:08x}-0000-4000-8000-000000000000",
            [
                SimulatedContainer(f"c{n}", f"{pod:032x}{n:032x}", str(pod * 4 + n))
                for n in range(4)
            ],
        )
        for pod in range(110)
    ]
    node = SimulatedNode(tmp_path / "node", pods, numa=("0-255", "256-511"), pool="500-511")
    run = collect(host, node)
    assert (run.code, run.log) == (0, "")
    assert sorted(int(cpu) for _, _, cpu, _ in pod_cpus(run)) == list(range(440))
    assert len({uid for uid, *_ in pod_cpus(run)}) == 110


def test_cgroup_names_may_have_a_prefix(host: Host, tmp_path: Path) -> None:
    """In kind they are called kubelet-kubepods-burstable-pod<uid>.slice."""
    node = SimulatedNode(tmp_path / "node", PODS)
    for path in sorted(node.cgroups.rglob("kubepods-*"), reverse=True):
        path.rename(path.with_name(f"kubelet-{path.name}"))
    assert sorted(pod_cpus(collect(host, node))) == sorted(EXPECTED)


# --- exclusive CPUs ---------------------------------------------------------------------------


def test_cpusets_are_compared_as_sets(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS, pool="0-1,8-9")
    for pod, container in ((PODS[0], PODS[0].containers[1]), (PODS[1], PODS[1].containers[0])):
        (node.container(pod, container) / "cpuset.cpus").write_text("8,9,0-1\n")
    assert sorted(pod_cpus(collect(host, node))) == sorted(EXPECTED)


def test_a_container_with_an_outdated_shared_pool_has_no_exclusive_cpus(
    host: Host, tmp_path: Path
) -> None:
    """The kubelet writes the checkpoint first, and the cpusets of the pool some seconds later."""
    node = SimulatedNode(tmp_path / "node", PODS, pool="0-1,8-9")
    for pod, container in ((PODS[0], PODS[0].containers[1]), (PODS[1], PODS[1].containers[0])):
        (node.container(pod, container) / "cpuset.cpus").write_text("0-3,8-9\n")
    assert sorted(pod_cpus(collect(host, node))) == sorted(EXPECTED)


def test_a_container_that_may_use_all_pod_cpus_has_no_exclusive_cpus(
    host: Host, tmp_path: Path
) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    (node.container(PODS[1], PODS[1].containers[0]) / "cpuset.cpus").write_text("0-15\n")
    assert sorted(pod_cpus(collect(host, node))) == sorted(EXPECTED)


@pytest.mark.parametrize("missing", [True, False], ids=["no file", "empty file"])
def test_a_container_without_cpuset_has_no_exclusive_cpus(
    host: Host, tmp_path: Path, missing: bool
) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    cpuset = node.container(PODS[0], PODS[0].containers[0]) / "cpuset.cpus"
    if missing:
        cpuset.unlink()
    else:
        cpuset.write_text("\n")
    run = collect(host, node)
    assert (pod_cpus(run), run.log) == (EXPECTED[3:], "")


def test_conmon_is_not_a_container(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS, layout=Layout(runtime="crio"))
    assert list(node.cgroups.rglob("crio-conmon-*.scope"))
    assert {cpu for _, _, cpu, _ in pod_cpus(collect(host, node))} == {"2", "3", "6", "12"}


# --- the CPU manager's checkpoint ---------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        '{"policyName":"static","defaultCpuSet":"0-1,',
        "[]",
        "{}",
        "\0\xff",
        '{"defaultCpuSet":"x"}',
    ],
    ids=["missing", "empty", "half-written", "list", "no cpuset", "binary", "invalid cpuset"],
)
def test_without_a_checkpoint_cpusets_are_compared_with_that_of_kubepods(
    host: Host, tmp_path: Path, content: str | None
) -> None:
    node = SimulatedNode(tmp_path / "node", PODS[:1], pool="0-15")
    if content is None:
        node.checkpoint.unlink()
    else:
        node.checkpoint.write_text(content)
    run = collect(host, node)
    assert pod_cpus(run) == EXPECTED[:3]
    assert success(run) == "1"
    assert run.value("sriov_scrape_collector_skipped", collector="kubepodcpu") == "1"
    assert len(run.log.splitlines()) == 1
    assert f"cannot read {node.checkpoint}: " in run.log
    assert "level=warn" in run.log


def test_a_checkpoint_of_100_kb_is_read(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    state = json.loads(node.checkpoint.read_text())
    state["entries"] = {f"{n:036x}": {"c": "0-1"} for n in range(2000)} | state["entries"]
    node.checkpoint.write_text(json.dumps(state))
    run = collect(host, node)
    assert (sorted(pod_cpus(run)), run.log) == (sorted(EXPECTED), "")


# --- the host's CPUs ----------------------------------------------------------------------------


def cpu_info(run: Run) -> dict[str, str]:
    lines = [line for line in run.out.splitlines() if line.startswith("sriov_cpu_info{")]
    return {line.split('"')[1]: line.split('"')[3] for line in lines}


def test_offline_cpus_and_memory_only_nodes_are_left_out(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", [], numa=("0,2-3", "", "16-17"))
    assert cpu_info(collect(host, node)) == {
        "cpu0": "0",
        "cpu2": "0",
        "cpu3": "0",
        "cpu16": "2",
        "cpu17": "2",
    }


def test_cpus_are_sorted_by_number(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", [], numa=("0-1,8-11", "2-7"))
    assert list(cpu_info(collect(host, node))) == [f"cpu{n}" for n in range(12)]


def test_cpu_links_are_read_if_cpulist_is_missing(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", [], numa=("0-1",))
    (node.nodes / "node0/cpulist").unlink()
    for name in ("cpu0", "cpu7", "cpumap", "cpulist.old"):
        (node.nodes / "node0" / name).mkdir()
    assert cpu_info(collect(host, node)) == {"cpu0": "0", "cpu7": "0"}


def test_a_cpu_without_a_known_numa_node_has_an_empty_label(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS[:1], numa=("0-3",), pool="0-1")
    assert pod_cpus(collect(host, node)) == [*EXPECTED[:2], (UID, A, "6", "")]


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", set()),
        ("\n", set()),
        ("0", {0}),
        ("0-3", {0, 1, 2, 3}),
        ("0-1,8-9\n", {0, 1, 8, 9}),
        ("3,1,2,1-2", {1, 2, 3}),
        ("8191", {8191}),
    ],
)
def test_cpu_lists_are_parsed(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1-2-3", "0x1", "1;2", "0-99999999999", "٣"])
def test_invalid_cpu_lists_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a range of CPUs"):
        parse_cpu_list(text)


@pytest.mark.parametrize("with_pods", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_the_other_drivers_directory_does_not_hide_the_pods(
    host: Host, tmp_path: Path, layout: Layout, with_pods: bool
) -> None:
    """It remains when a node's cgroup driver is changed without a reboot, perhaps with old pods."""
    node = SimulatedNode(tmp_path / "node", PODS, layout=layout)
    if layout.driver == "systemd":
        other, pod = "kubepods", f"pod{'1' * 32}"
    else:
        other, pod = "kubepods.slice", f"kubepods-pod{'1' * 32}.slice"
    (node.cgroups.parent / other).mkdir()
    (node.cgroups.parent / other / "cpuset.cpus").write_text("\n")
    if with_pods:
        (node.cgroups.parent / other / pod).mkdir()
    path = tmp_path / "node/sys/fs/cgroup/cpuset/kubepods/"
    run = collect(host, node, f"--path.kubecgroup={path}")
    assert sorted(pod_cpus(run)) == sorted(EXPECTED)
    assert (run.log, success(run)) == ("", "1")


def test_cpus_that_containers_of_a_pod_share_are_not_exclusive(host: Host, tmp_path: Path) -> None:
    """As with the kubelet's feature gate PodLevelResourceManagers."""
    containers = [
        SimulatedContainer("app", A, "2-3"),
        SimulatedContainer("helper", B, "4-5"),
        SimulatedContainer("log", C, "4-5"),
    ]
    run = collect(
        host, SimulatedNode(tmp_path / "node", [SimulatedPod("p", "core", UID, containers)])
    )
    assert pod_cpus(run) == [(UID, A, "2", "0"), (UID, A, "3", "0")]
    assert (run.log, success(run)) == ("", "1")


# --- failures -----------------------------------------------------------------------------------


def test_missing_cgroups_are_logged_with_every_path_tried(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    run = collect(host, node, "--path.kubecgroup=/nowhere/cpuset/kubepods")
    assert success(run) == "0"
    assert len(cpu_info(run)) == 16  # the host's CPUs are still exported
    assert (
        "there are no pod cgroups at /nowhere/cpuset/kubepods or"
        " /nowhere/cpuset/kubepods.slice or /nowhere/kubepods.slice or /nowhere/kubepods;"
        " set --path.kubecgroup; in a container, mount it from the host" in run.log
    )


def test_a_cgroup_tree_without_pods_fails_the_collector(host: Host, tmp_path: Path) -> None:
    """A kubelet with --cgroup-root has them elsewhere, which the program cannot guess."""
    (tmp_path / "cgroup/kubelet.slice/kubelet-kubepods.slice").mkdir(parents=True)
    node = SimulatedNode(tmp_path / "node", PODS)
    run = collect(host, node, f"--path.kubecgroup={tmp_path}/cgroup")
    assert success(run) == "0"
    assert f"{tmp_path}/cgroup/kubepods.slice or " in run.log


def test_a_missing_numa_topology_fails_the_collector(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    run = collect(host, node, "--path.nodecpuinfo=/nowhere")
    assert success(run) == "0"
    assert "/nowhere" in run.log


@pytest.mark.parametrize("level", ["container", "pod", "qos"])
def test_cgroups_removed_during_a_collection_are_left_out(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    scandir = os.scandir
    victim = {
        "container": node.container(PODS[4], PODS[4].containers[0]),
        "pod": node.cgroups / node.layout.pod(PODS[4]),
        "qos": node.cgroups / "kubepods-burstable.slice",
    }[level]

    def vanish(path: str) -> object:
        entries = scandir(path)
        if str(path) == str(victim.parent):
            shutil.rmtree(victim, ignore_errors=True)
        return entries

    monkeypatch.setattr(os, "scandir", vanish)
    if level == "qos":
        shutil.rmtree(victim)
    run = collect(host, node)
    assert pod_cpus(run) == EXPECTED[:3]
    assert (run.log, success(run)) == ("", "1")


def test_an_invalid_cpuset_skips_only_its_container(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    (node.container(PODS[4], PODS[4].containers[0]) / "cpuset.cpus").write_text("2-1-0\n")
    run = collect(host, node)
    assert pod_cpus(run) == EXPECTED[:3]
    assert f"cannot read the cpuset of container {D}: '2-1-0' is not a range of CPUs" in run.log
    assert run.value("sriov_scrape_collector_skipped", collector="kubepodcpu") == "1"


def test_a_symlink_instead_of_a_cpuset_is_not_followed(host: Host, tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    (tmp_path / "secret").write_text("a secret\n")
    cpuset = node.container(PODS[4], PODS[4].containers[0]) / "cpuset.cpus"
    cpuset.unlink()
    cpuset.symlink_to(tmp_path / "secret")
    run = collect(host, node)
    assert pod_cpus(run) == EXPECTED[:3]
    assert "code=unreadable" in run.log
    assert "a secret" not in run.log


# --- imports ------------------------------------------------------------------------------------


def test_kubepodcpu_does_not_import_grpc(tmp_path: Path) -> None:
    node = SimulatedNode(tmp_path / "node", PODS)
    host = SimulatedHost(tmp_path / "host", [SimulatedPf(vfs=1)])
    flags = [*host.flags, *node.flags, "--no-collector.kubepoddevice"]
    code = (
        "import sys; from sriov_textfile.cli import main; main(sys.argv[1:])\n"
        "assert not {'grpc', 'google.protobuf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sriov_kubepodcpu{" in done.stdout
