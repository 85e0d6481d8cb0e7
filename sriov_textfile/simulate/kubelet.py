"""Simulates the kubelet's PodResources API: a real gRPC server on a unix socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import grpc

from sriov_textfile.kubelet.podresources import LIST
from sriov_textfile.kubelet.podresources_pb2 import (
    ClaimResource,
    ContainerDevices,
    ContainerResources,
    DynamicResource,
    ListPodResourcesRequest,
    ListPodResourcesResponse,
    PodResources,
)
from sriov_textfile.simulate.pods import SimulatedContainer, SimulatedPod


@contextmanager
def running(path: str, pods: Sequence[SimulatedPod], fault: str = "") -> Iterator[None]:
    """Answer on the socket at `path` for as long as the context lasts.

    `fault` is "" or what is wrong: the kubelet "hangs" or "lacks the API", or its response "is cut
    off".
    """
    over = Event()

    def answer(request: ListPodResourcesRequest, context: grpc.ServicerContext) -> bytes:
        data = response(pods).SerializeToString()
        if fault == "hangs":
            over.wait()
        return data[:-3] if fault == "is cut off" else data

    handler: grpc.RpcMethodHandler[ListPodResourcesRequest, bytes]
    handler = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=ListPodResourcesRequest.FromString
    )
    service, method = LIST.strip("/").split("/")
    name = "v1.Nothing" if fault == "lacks the API" else service
    server = grpc.server(
        ThreadPoolExecutor(max_workers=4), options=[("grpc.max_send_message_length", -1)]
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {method: handler})])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        over.set()
        server.stop(grace=None).wait()


def response(pods: Sequence[SimulatedPod]) -> ListPodResourcesResponse:
    """Return the kubelet's response about the pods' devices."""
    return ListPodResourcesResponse(
        pod_resources=[
            PodResources(
                name=pod.name,
                namespace=pod.namespace,
                containers=[_resources(container) for container in pod.containers],
            )
            for pod in pods
        ]
    )


def _resources(container: SimulatedContainer) -> ContainerResources:
    devices = [
        ContainerDevices(resource_name=name, device_ids=ids)
        for name, ids in container.devices.items()
    ]
    claims = [
        ClaimResource(driver_name=driver, device_name=name)
        for driver, names in container.claims.items()
        for name in names
    ]
    dynamic = [DynamicResource(claim_resources=claims)] if claims else []
    return ContainerResources(name=container.name, devices=devices, dynamic_resources=dynamic)
