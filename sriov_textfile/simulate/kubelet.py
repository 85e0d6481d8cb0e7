"""Simulates the kubelet's PodResources API: a real gRPC server on a unix socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import grpc

from sriov_textfile.host.cpus import parse_cpu_list
from sriov_textfile.kubelet.podresources import GET_ALLOCATABLE, LIST
from sriov_textfile.kubelet.podresources_pb2 import (
    AllocatableResourcesResponse,
    ClaimResource,
    ContainerDevices,
    ContainerResources,
    DynamicResource,
    ListPodResourcesResponse,
    NUMANode,
    PodResources,
    TopologyInfo,
)
from sriov_textfile.simulate.pods import Pools, SimulatedContainer, SimulatedPod


@contextmanager
def running(
    path: str, pods: Sequence[SimulatedPod], pools: Pools | None = None, fault: str = ""
) -> Iterator[None]:
    """Answer on the socket at `path` for as long as the context lasts.

    `fault` is "" or what is wrong: the kubelet "hangs", "lacks the API" or "lacks
    GetAllocatableResources", or its response "is cut off".
    """
    pools = pools or {}
    over = Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        data = response(pods, pools).SerializeToString()
        if fault == "hangs":
            over.wait()
        return data[:-3] if fault == "is cut off" else data

    def answer_allocatable(request: bytes, context: grpc.ServicerContext) -> bytes:
        return allocatable(pools).SerializeToString()

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    for name, call in ((LIST, answer), (GET_ALLOCATABLE, answer_allocatable)):
        if name == GET_ALLOCATABLE and fault == "lacks GetAllocatableResources":
            continue
        service, method = name.strip("/").split("/")
        handlers[method] = grpc.unary_unary_rpc_method_handler(call)
    if fault == "lacks the API":
        service = "v1.Nothing"
    server = grpc.server(
        ThreadPoolExecutor(max_workers=4), options=[("grpc.max_send_message_length", -1)]
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        over.set()
        server.stop(grace=None).wait()


def response(pods: Sequence[SimulatedPod], pools: Pools | None = None) -> ListPodResourcesResponse:
    """Return the kubelet's response about the pods' devices and CPUs."""
    return ListPodResourcesResponse(
        pod_resources=[
            PodResources(
                name=pod.name,
                namespace=pod.namespace,
                containers=[_resources(container, pools or {}) for container in pod.containers],
            )
            for pod in pods
        ]
    )


def allocatable(pools: Pools) -> AllocatableResourcesResponse:
    """Return the kubelet's response about the node's devices, each with its NUMA node."""
    return AllocatableResourcesResponse(
        devices=[
            ContainerDevices(resource_name=resource, device_ids=[name], topology=_topology(node))
            for resource, nodes in pools.items()
            for node, names in nodes.items()
            for name in names
        ]
    )


def _resources(container: SimulatedContainer, pools: Pools) -> ContainerResources:
    devices = []
    for resource, names in container.devices.items():
        nodes = {name: node for node, own in pools.get(resource, {}).items() for name in own}
        for node in sorted({nodes.get(name, -1) for name in names}):
            ids = [name for name in names if nodes.get(name, -1) == node]
            devices.append(
                ContainerDevices(resource_name=resource, device_ids=ids, topology=_topology(node))
            )
    claims = [
        ClaimResource(driver_name=driver, device_name=name)
        for driver, names in container.claims.items()
        for name in names
    ]
    dynamic = [DynamicResource(claim_resources=claims)] if claims else []
    return ContainerResources(
        name=container.name,
        devices=devices,
        cpu_ids=sorted(parse_cpu_list(container.cpus)),
        dynamic_resources=dynamic,
    )


def _topology(node: int) -> TopologyInfo | None:
    return None if node < 0 else TopologyInfo(nodes=[NUMANode(ID=node)])
