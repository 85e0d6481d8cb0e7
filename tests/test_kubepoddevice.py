"""kubepoddevice: the VFs of pods from the kubelet's PodResources API, and its failures."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from sriov_textfile.kubelet.podresources_pb2 import (
    ClaimResource,
    ContainerResources,
    DynamicResource,
    ListPodResourcesResponse,
    PodResources,
)
from sriov_textfile.simulate.host import SimulatedPf
from sriov_textfile.simulate.kubelet import response
from sriov_textfile.simulate.kubernetes import SimulatedNode
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod
from tests.conftest import WITHOUT_PRIVILEGE, Host, MakeHost, Run
from tools import proto

PROJECT = Path(__file__).parent.parent


def pod(name: str, devices: dict[str, list[str]], **claims: list[str]) -> SimulatedPod:
    container = SimulatedContainer("app", "c" * 64, devices=devices, claims=claims)
    return SimulatedPod(name, "core", "12345678-9abc-def0-1234-56789abcdef0", [container])


def node(tmp_path: Path, *pods: SimulatedPod) -> SimulatedNode:
    return SimulatedNode(tmp_path / "node", pods)


def pod_devices(run: Run) -> list[str]:
    return [line for line in run.out.splitlines() if line.startswith("sriov_kubepoddevice{")]


def success(run: Run) -> str | None:
    return run.value("sriov_scrape_collector_success", collector="kubepoddevice")


@pytest.fixture
def collect(make_host: MakeHost) -> Callable[..., Run]:
    """Collect on a host with one PF from the kubelet socket of a node."""
    host = make_host(SimulatedPf(vfs=2))

    def collect(node: SimulatedNode, *flags: str) -> Run:
        paths = [f"--path.kubeletSocket={node.socket}", f"--path.nodecpuinfo={node.nodes}"]
        return host.collect("--collector.kubepoddevice", *paths, *flags)

    return collect


# --- exported devices -----------------------------------------------------------------------


def test_a_vf_of_the_device_plugin_is_exported(collect: Callable[..., Run], tmp_path: Path) -> None:
    simulated = node(tmp_path, pod("upf-0", {"intel.com/sriov": ["0000:3b:02.1"]}))
    with simulated.running():
        run = collect(simulated)
    assert (run.code, run.log) == (0, "")
    assert pod_devices(run) == [
        'sriov_kubepoddevice{container="app",dev_type="intel.com/sriov",namespace="core",'
        'pciAddr="0000:3b:02.1",pod="upf-0"} 1'
    ]
    assert success(run) == "1"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("0000-08-00-1", "0000:08:00.1"),  # dra-driver-sriov
        ("10000-af-1f-7", "10000:af:1f.7"),
        ("pci-0000-8a-00-0", "0000:8a:00.0"),  # dranet
    ],
)
def test_a_vf_of_a_dra_claim_is_exported(
    collect: Callable[..., Run], tmp_path: Path, name: str, address: str
) -> None:
    simulated = node(tmp_path, pod("du-0", {}, **{"sriovnetwork.k8snetworkplumbingwg.io": [name]}))
    with simulated.running():
        run = collect(simulated)
    assert pod_devices(run) == [
        "sriov_kubepoddevice{"
        'container="app",dev_type="sriovnetwork.k8snetworkplumbingwg.io",namespace="core",'
        f'pciAddr="{address}",pod="du-0"}} 1'
    ]


def test_devices_without_a_pci_address_are_left_out(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    devices = {
        "nvidia.com/gpu": ["GPU-8f6d3a5c-2b1e", "gpu-0"],
        "intel.com/qat": ["qat-0000:3d:01.0", "0000:3d:01.0-1"],
        "vendor.example/odd": ["", "0000:3b:02.8", "000:3b:02.1"],
        "intel.com/sriov": ["10000:01:00.5", "0000:3B:02.1"],
    }
    simulated = node(tmp_path, pod("p", devices, **{"gpu.example": ["gpu-3", "0000-08-00-9"]}))
    with simulated.running():
        run = collect(simulated)
    assert [line.split('pciAddr="')[1].split('"')[0] for line in pod_devices(run)] == [
        "0000:3B:02.1",
        "10000:01:00.5",
    ]
    assert run.log == ""


def test_a_device_listed_twice_is_exported_once(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path, pod("p", {"intel.com/sriov": ["0000:3b:02.1"] * 2}))
    with simulated.running():
        run = collect(simulated)
    assert len(pod_devices(run)) == 1
    assert "code=repeated-series" in run.log


def test_all_5000_devices_of_a_full_node_are_exported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    addresses = [f"{n >> 8:04x}:{n & 255:02x}:1f.7" for n in range(5000)]
    pods = []
    for number in range(110):
        containers = [
            SimulatedContainer(
                f"c{part}",
                f"{number:060x}{part:04x}",
                devices={"intel.com/sriov": addresses[number * 4 + part :: 440]},
            )
            for part in range(4)
        ]
        pods.append(SimulatedPod(f"pod-{number}", "core", f"{number:032x}", containers))
    simulated = node(tmp_path, *pods)
    with simulated.running():
        run = collect(simulated)
    assert (run.code, run.log) == (0, "")
    written = {line.split('pciAddr="')[1].split('"')[0] for line in pod_devices(run)}
    assert len(pod_devices(run)) == 5000
    assert written == set(addresses)
    assert len({line.split('pod="')[1] for line in pod_devices(run)}) == 110


def test_a_response_larger_than_4_mib_is_accepted(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    devices = {f"vendor.example/{'x' * 2000}{n}": [f"0000:{n:02x}:00.0"] * 10 for n in range(256)}
    simulated = node(tmp_path, *[pod(f"p{n}", devices) for n in range(16)])
    assert 4 << 20 < response(simulated.pods).ByteSize() < 16 << 20
    with simulated.running():
        run = collect(simulated, "--log.level=error")
    assert success(run) == "1"
    assert len(pod_devices(run)) == 16 * 256


def test_a_device_of_which_a_container_has_two_shares_is_exported_once(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    claims = [
        ClaimResource(driver_name="dra.net", device_name="pci-0000-8a-00-0", share_id=share)
        for share in ("one", "two")
    ]
    container = ContainerResources(
        name="app", dynamic_resources=[DynamicResource(claim_resources=claims)]
    )
    answer = ListPodResourcesResponse(
        pod_resources=[PodResources(name="p", namespace="core", containers=[container])]
    )
    simulated = node(tmp_path)
    with serving(simulated.socket, answer.SerializeToString()):
        run = collect(simulated)
    assert len(pod_devices(run)) == 1
    assert (run.log, success(run)) == ("", "1")


def test_the_order_does_not_depend_on_the_kubelets(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    pods = [pod(f"p{n}", {"intel.com/sriov": [f"0000:3b:0{n}.1"]}) for n in range(8)]
    pages = []
    for order in (pods, pods[::-1]):
        simulated = node(tmp_path, *order)
        with simulated.running():
            pages.append(pod_devices(collect(simulated)))
    assert pages[0] == pages[1]


# --- scalable functions ---------------------------------------------------------------------


def auxiliary_devices(run: Run) -> list[str]:
    start = "sriov_kubepod_auxiliary_device{"
    return [line for line in run.out.splitlines() if line.startswith(start)]


@pytest.mark.parametrize("netdev", ["p0sf88", ""])
def test_a_scalable_function_is_exported_with_its_pf_and_netdev(
    make_host: MakeHost, tmp_path: Path, netdev: str
) -> None:
    host = make_host(SimulatedPf())
    host.add_auxiliary_device(host.pfs[0], "mlx5_core.sf.4", netdev)
    simulated = node(tmp_path, pod("p", {"nvidia.com/sf": ["mlx5_core.sf.4"]}))
    with simulated.running():
        path = f"--path.kubeletSocket={simulated.socket}"
        run = host.collect("--collector.kubepoddevice", path)
    assert auxiliary_devices(run) == [
        'sriov_kubepod_auxiliary_device{container="app",dev_type="nvidia.com/sf",'
        f'device="mlx5_core.sf.4",namespace="core",netdev="{netdev}",'
        f'pciAddr="{host.pfs[0].address}",pod="p"}} 1'
    ]
    assert pod_devices(run) == []
    assert (run.log, success(run)) == ("", "1")


def test_a_scalable_function_that_sysfs_does_not_have_is_skipped(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path, pod("p", {"nvidia.com/sf": ["mlx5_core.sf.4"]}))
    with simulated.running():
        run = collect(simulated)
    assert auxiliary_devices(run) == []
    assert "code=unreadable subject=mlx5_core.sf.4" in run.log
    assert run.value("sriov_scrape_collector_skipped", collector="kubepoddevice") == "1"


# --- CPUs and pools -------------------------------------------------------------------------


POOLS = {
    "intel.com/sriov": {
        0: ["0000:3b:02.0", "0000:3b:02.1", "0000:3b:02.2"],
        1: ["0000:af:02.0"],
    },
    "nvidia.com/gpu": {0: ["GPU-1"]},
    "nvidia.com/sf": {0: ["mlx5_core.sf.4"]},
}


def sampled(run: Run, name: str) -> dict[str, str]:
    return {
        line.split("{")[1].split("}")[0]: line.split()[-1]
        for line in run.out.splitlines()
        if line.startswith(name + "{")
    }


def test_all_metrics_of_the_kubelet(
    make_host: MakeHost, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    host = make_host(SimulatedPf(vfs=1))
    host.add_auxiliary_device(host.pfs[0], "mlx5_core.sf.4", "p0sf88")
    devices = {"intel.com/sriov": ["0000:3b:02.1"], "nvidia.com/sf": ["mlx5_core.sf.4"]}
    claims = {"dra.net": ["pci-0000-8a-00-0"]}
    app = SimulatedContainer("app", "a" * 64, "2,6", devices, claims)
    other = SimulatedContainer("other", "b" * 64, "3")
    pods = [SimulatedPod("upf", "core", "1" * 32, [other, app])]
    simulated = SimulatedNode(tmp_path / "node", pods, pools=POOLS)
    with simulated.running():
        run = host.collect(
            "--collector.kubepoddevice",
            "--no-collector.vfstats",
            "--no-collector.pfinfo",
            f"--path.kubeletSocket={simulated.socket}",
            f"--path.nodecpuinfo={simulated.nodes}",
        )
    assert run.log == ""
    golden("kubepoddevice.prom", run.out)


def test_a_pool_whose_devices_are_all_free_has_zero_allocated(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = SimulatedNode(tmp_path / "node", [pod("p", {})], pools=POOLS)
    with simulated.running():
        run = collect(simulated)
    assert sampled(run, "sriov_device_allocated") == {
        'dev_type="intel.com/sriov",numa_node="0"': "0",
        'dev_type="intel.com/sriov",numa_node="1"': "0",
    }


def test_a_device_in_use_that_is_no_longer_healthy_is_allocated(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    user = pod("p", {"intel.com/sriov": ["0000:3b:03.7"]})
    simulated = SimulatedNode(tmp_path / "node", [user], pools=POOLS)
    with simulated.running():
        run = collect(simulated)
    assert sampled(run, "sriov_device_allocated")['dev_type="intel.com/sriov",numa_node=""'] == "1"
    assert len(sampled(run, "sriov_device_allocatable")) == 2


def test_a_kubelet_without_allocatable_resources_is_no_failure(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    """As Kubernetes 1.20, whose CPUs of a container may be the shared pool's."""
    container = SimulatedContainer("app", "a" * 64, "2", {"intel.com/sriov": ["0000:3b:02.1"]})
    pods = [SimulatedPod("p", "core", "1" * 32, [container])]
    simulated = SimulatedNode(tmp_path / "node", pods, pools=POOLS)
    with simulated.running("lacks GetAllocatableResources"):
        run = collect(simulated)
    assert (len(pod_devices(run)), run.log, success(run)) == (1, "", "1")
    assert sampled(run, "sriov_device_allocatable") == {}
    assert sampled(run, "sriov_container_cpu") == {}


@pytest.mark.parametrize(
    "cpu_ids",
    [
        {"app": [2], "one": [], "other": [], "": [2, 3]},  # Kubernetes 1.37
        {"app": [2], "one": [3], "other": [3], "": []},  # Kubernetes 1.36
    ],
)
def test_cpus_that_a_pods_containers_share_have_no_container(
    collect: Callable[..., Run], tmp_path: Path, cpu_ids: dict[str, list[int]]
) -> None:
    """With the feature PodLevelResourceManagers."""
    of_pod = cpu_ids[""]
    containers = [
        ContainerResources(name=name, cpu_ids=ids) for name, ids in cpu_ids.items() if name
    ]
    answer = ListPodResourcesResponse(
        pod_resources=[
            PodResources(name="p", namespace="core", containers=containers, cpu_ids=of_pod)
        ]
    )
    simulated = node(tmp_path)
    with serving(simulated.socket, answer.SerializeToString()):
        run = collect(simulated, f"--path.nodecpuinfo={simulated.nodes}")
    assert list(sampled(run, "sriov_container_cpu")) == [
        'container="",cpu_id="3",namespace="core",numa_node="0",pod="p"',
        'container="app",cpu_id="2",namespace="core",numa_node="0",pod="p"',
    ]


def test_cpus_whose_numa_node_cannot_be_read_have_none(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    container = SimulatedContainer("app", "a" * 64, "2", {"intel.com/sriov": ["0000:3b:02.1"]})
    pods = [SimulatedPod("p", "core", "1" * 32, [container])]
    simulated = SimulatedNode(tmp_path / "node", pods)
    with simulated.running():
        run = collect(simulated, "--path.nodecpuinfo=/nowhere")
    assert list(sampled(run, "sriov_container_cpu")) == [
        'container="app",cpu_id="2",namespace="core",numa_node="",pod="p"'
    ]
    assert (len(pod_devices(run)), success(run)) == (1, "1")
    assert "code=missing-mount" in run.log


# --- a kubelet that has just started --------------------------------------------------------


ASSIGNED = """{"Data": {"PodDeviceEntries": [{"PodUID": "%s", "ContainerName": "app",
"ResourceName": "intel.com/sriov", "DeviceIDs": {"0": ["%s"]}}], "RegisteredDevices": {}}}"""


def restarted(tmp_path: Path, assigned: str, *listed: SimulatedPod) -> SimulatedNode:
    """Return a node that runs a pod, and whose kubelet lists other pods, if any."""
    running = pod("running", {"intel.com/sriov": ["0000:3b:02.1"]})
    simulated = SimulatedNode(tmp_path / "node", [running])
    simulated.pods = listed
    checkpoint = simulated.checkpoint.parent / "device-plugins/kubelet_internal_checkpoint"
    checkpoint.parent.mkdir()
    checkpoint.write_text(ASSIGNED % (running.uid, assigned))
    return simulated


def collect_all(host: Host, simulated: SimulatedNode) -> Run:
    with simulated.running():
        return host.collect(*simulated.flags, "--no-collector.kubepodcpu")


def test_a_kubelet_that_lists_no_pods_although_some_run_is_a_failure(
    make_host: MakeHost, tmp_path: Path
) -> None:
    run = collect_all(make_host(SimulatedPf()), restarted(tmp_path, "0000:3b:02.1"))
    assert success(run) == "0"
    assert "code=kubelet-not-ready" in run.log
    assert len(run.log.splitlines()) == 1


def test_a_kubelet_that_does_not_list_a_running_pod_with_devices_is_a_failure(
    make_host: MakeHost, tmp_path: Path
) -> None:
    other = pod("other", {"intel.com/sriov": ["0000:3b:02.2"]})
    run = collect_all(make_host(SimulatedPf()), restarted(tmp_path, "0000:3b:02.1", other))
    assert pod_devices(run) == []
    assert sampled(run, "sriov_device_allocated") == {}  # It would be too low.
    assert success(run) == "0"
    assert "code=kubelet-not-ready" in run.log


@pytest.mark.parametrize("assigned", ["0000:3b:02.2", "GPU-1"])
def test_a_pod_without_a_missing_device_is_no_failure(
    make_host: MakeHost, tmp_path: Path, assigned: str
) -> None:
    other = pod("other", {"intel.com/sriov": ["0000:3b:02.2"]})
    run = collect_all(make_host(SimulatedPf()), restarted(tmp_path, assigned, other))
    assert (success(run), run.log) == ("1", "")


def test_later_a_device_that_is_not_listed_is_no_failure(
    make_host: MakeHost, tmp_path: Path
) -> None:
    """A device of an init container is never listed."""
    other = pod("other", {"intel.com/sriov": ["0000:3b:02.2"]})
    simulated = restarted(tmp_path, "0000:3b:02.1", other)
    with simulated.running():
        earlier = time.time() - 300
        os.utime(simulated.socket, (earlier, earlier))
        run = make_host(SimulatedPf()).collect(*simulated.flags, "--no-collector.kubepodcpu")
    assert (success(run), run.log) == ("1", "")


def test_in_a_pod_a_kubelet_without_pods_is_a_failure(
    collect: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own pod is missing."""
    simulated = node(tmp_path)
    with simulated.running():
        nowhere = "--path.kubecgroup=/nowhere/kubepods"
        assert success(collect(simulated, nowhere)) == "1"
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        assert success(collect(simulated, nowhere)) == "0"


# --- other implementations of the API -------------------------------------------------------


INDEPENDENT = """
syntax = "proto3";
package independent;

message Response { repeated Pod pods = 1; string future = 99; }
message Pod {
  string pod = 1; string ns = 2; repeated Cont conts = 3; repeated int64 cpus = 4; Future f = 15;
}
message Cont {
  string cont = 1; repeated Dev devs = 2; repeated int64 cpus = 3; repeated Mem mems = 4;
  repeated Dyn dyns = 5; map<string, string> future = 31;
}
message Mem { string type = 1; uint64 size = 2; Topology topology = 3; }
message Dev { string resource = 1; repeated string ids = 2; Topology topology = 3; }
message Topology { repeated Node nodes = 1; }
message Node { int64 id = 1; }
message Dyn { string claim = 2; string ns = 3; repeated Claimed claimed = 4; }
message Claimed {
  repeated Cdi cdis = 1; string driver = 2; string pool = 3; string device = 4; double future = 7;
}
message Cdi { string name = 1; }
message Future { bytes data = 1; fixed32 number = 2; }
"""


@pytest.fixture
def independent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Messages compiled from the API's field numbers alone, with additional fields."""
    (tmp_path / "independent.proto").write_text(INDEPENDENT)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}"]
    subprocess.run([*protoc, f"--python_out={tmp_path}", "independent.proto"], check=True)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("independent_pb2")


@contextmanager
def serving(path: Path, response: bytes) -> Iterator[None]:
    """Serve the bytes of a list as they are, without our protobuf messages, and no allocatable."""
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "List": grpc.unary_unary_rpc_method_handler(lambda request, context: response),
        "GetAllocatableResources": grpc.unary_unary_rpc_method_handler(lambda *call: b""),
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)]
    )
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_unknown_fields_of_another_implementation_are_ignored(
    collect: Callable[..., Run], tmp_path: Path, independent: Any
) -> None:
    pb = independent
    numa = pb.Topology(nodes=[pb.Node(id=0), pb.Node(id=1)])
    container = pb.Cont(
        cont="dataplane",
        devs=[
            pb.Dev(resource="intel.com/sriov", ids=["0000:3b:02.1", "0000:3b:02.2"], topology=numa)
        ],
        cpus=[2, 3],
        mems=[pb.Mem(type="hugepages-1Gi", size=2**40, topology=numa)],
        dyns=[
            pb.Dyn(
                claim="nic",
                ns="core",
                claimed=[
                    pb.Claimed(
                        cdis=[pb.Cdi(name="vendor.example/vf=1")],
                        driver="sriovnetwork.k8snetworkplumbingwg.io",
                        pool="node-1",
                        device="0000-08-00-1",
                        future=0.5,
                    )
                ],
            )
        ],
        future={"key": "value"},
    )
    response = pb.Response(
        pods=[
            pb.Pod(pod="empty", ns="default"),
            pb.Pod(
                pod="upf-0", ns="core", conts=[container], cpus=[1], f=pb.Future(data=b"x" * 999)
            ),
        ],
        future="unknown",
    )
    simulated = node(tmp_path)
    with serving(simulated.socket, response.SerializeToString()):
        run = collect(simulated)
    assert (run.log, success(run)) == ("", "1")
    common = 'namespace="core",pciAddr='
    assert pod_devices(run) == [
        f'sriov_kubepoddevice{{container="dataplane",dev_type="{type}",{common}"{address}",'
        'pod="upf-0"} 1'
        for type, address in [
            ("intel.com/sriov", "0000:3b:02.1"),
            ("intel.com/sriov", "0000:3b:02.2"),
            ("sriovnetwork.k8snetworkplumbingwg.io", "0000:08:00.1"),
        ]
    ]


def test_the_generated_messages_match_the_proto_file(tmp_path: Path) -> None:
    """If this fails, run `make proto`."""
    folder = "sriov_textfile/kubelet"
    (tmp_path / folder).mkdir(parents=True)
    proto.generate(tmp_path)
    for name in ("podresources_pb2.py", "podresources_pb2.pyi"):
        assert (tmp_path / folder / name).read_text() == (PROJECT / folder / name).read_text()


# --- failures -------------------------------------------------------------------------------


def assert_only_pods_are_missing(run: Run, message: str) -> None:
    """Check that one line is logged, the collector failed, and all other metrics are exported."""
    assert run.code == 0
    assert len(run.log.splitlines()) == 1, run.log
    assert f'level=error msg="{message}' in run.log
    assert "code=kubelet" in run.log
    assert pod_devices(run) == []
    assert success(run) == "0"
    assert len(run.vf_samples()) == 18
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "1"


def test_a_missing_socket_is_reported(collect: Callable[..., Run], tmp_path: Path) -> None:
    simulated = node(tmp_path)
    assert_only_pods_are_missing(
        collect(simulated),
        f"there is no kubelet socket at {simulated.socket};"
        " set --path.kubeletSocket; in a container, mount its directory from the host",
    )


def test_a_file_instead_of_the_socket_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    simulated.socket.write_text("")
    assert_only_pods_are_missing(
        collect(simulated), f"no process listens on the kubelet socket {simulated.socket};"
    )


def test_a_socket_without_a_listener_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(simulated.socket))
    assert_only_pods_are_missing(
        collect(simulated), f"no process listens on the kubelet socket {simulated.socket};"
    )


def test_a_path_too_long_for_a_socket_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    simulated.socket = tmp_path / ("x" * 200)
    assert_only_pods_are_missing(
        collect(simulated), f"cannot connect to the kubelet at {simulated.socket}: "
    )


def test_a_socket_without_permission_is_reported(tmp_path: Path) -> None:
    simulated = node(tmp_path, pod("p", {"intel.com/sriov": ["0000:3b:02.1"]}))
    command = [sys.executable, "-m", "sriov_textfile", "--collector.kubepoddevice"]
    command += [f"--path.kubeletSocket={simulated.socket}", "--no-collector.vfstats"]
    with simulated.running():
        simulated.socket.chmod(0)
        done = subprocess.run(
            [*WITHOUT_PRIVILEGE, *command], capture_output=True, text=True, timeout=60
        )
    message = f"no permission to use the kubelet socket at {simulated.socket}; run as root"
    assert message in done.stderr
    assert 'sriov_scrape_collector_success{collector="kubepoddevice"} 0\n' in done.stdout


def test_a_kubelet_without_the_api_is_reported(collect: Callable[..., Run], tmp_path: Path) -> None:
    simulated = node(tmp_path)
    with simulated.running("lacks the API"):
        run = collect(simulated)
    assert_only_pods_are_missing(
        run, f"cannot query the kubelet at {simulated.socket}: it has no PodResources v1 API"
    )


def test_a_truncated_response_is_reported(collect: Callable[..., Run], tmp_path: Path) -> None:
    simulated = node(tmp_path, pod("p", {"intel.com/sriov": ["0000:3b:02.1"]}))
    with simulated.running("is cut off"):
        run = collect(simulated)
    assert_only_pods_are_missing(
        run, f"cannot query the kubelet at {simulated.socket}: its response is cut off"
    )


def test_a_response_larger_than_16_mib_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    with serving(simulated.socket, bytes(17 << 20)):
        run = collect(simulated)
    assert_only_pods_are_missing(
        run, f"cannot query the kubelet at {simulated.socket}: its response is larger than 16 MiB"
    )


def test_a_response_with_more_devices_than_a_host_can_have_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path, pod("p", {"intel.com/sriov": ["0000:3b:02.1"] * 900_000}))
    assert 12 << 20 < response(simulated.pods).ByteSize() < 16 << 20
    with simulated.running():
        run = collect(simulated)
    assert_only_pods_are_missing(
        run, f"the kubelet at {simulated.socket} lists more than 65536 devices or CPUs"
    )


def test_a_connection_closed_by_the_kubelet_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(simulated.socket))
    listener.listen(8)

    def hang_up() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(24)
            connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        run = collect(simulated)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
    assert_only_pods_are_missing(
        run, f"cannot query the kubelet at {simulated.socket}: it closed the connection"
    )


def test_a_hung_kubelet_leaves_time_for_all_other_metrics(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path, pod("p", {"intel.com/sriov": ["0000:3b:02.1"]}))
    path = tmp_path / "sriov.prom"
    with simulated.running("hangs"):
        start = time.monotonic()
        run = collect(simulated, "--timeout=3s", f"--textfile.path={path}")
        assert time.monotonic() - start < 10
    run.out = path.read_text()
    assert_only_pods_are_missing(
        run, f"cannot query the kubelet at {simulated.socket}: it did not answer in time"
    )


def test_a_kubelet_that_accepts_connections_but_sends_nothing_is_reported(
    collect: Callable[..., Run], tmp_path: Path
) -> None:
    simulated = node(tmp_path)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(simulated.socket))
        mute.listen(8)
        run = collect(simulated, "--timeout=3s")
    assert_only_pods_are_missing(run, f"cannot query the kubelet at {simulated.socket}: it ")
