"""A device plugin that gives containers the node's VFs, by PCI address.

It behaves as the SR-IOV network device plugin does: a device has the NUMA node of its VF, and a
container finds its devices in the variable PCIDEVICE_<RESOURCE>.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import deviceplugin_pb2 as api
import deviceplugin_pb2_grpc as services
import grpc
import vfs

FOLDER = Path("/var/lib/kubelet/device-plugins")
KUBELET = FOLDER / "kubelet.sock"


class Plugin(services.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):  # noqa: N802
        return api.DevicePluginOptions()

    def ListAndWatch(self, request, context) -> Iterator[api.ListAndWatchResponse]:  # noqa: N802
        ended = threading.Event()
        context.add_callback(ended.set)
        devices = [
            api.Device(
                ID=address,
                health="Healthy",
                topology=api.TopologyInfo(nodes=[api.NUMANode(ID=node)]),
            )
            for address, node in vfs.numa_nodes().items()
        ]
        yield api.ListAndWatchResponse(devices=devices)
        print("the kubelet knows the devices", flush=True)
        ended.wait()  # No device ever changes.

    def Allocate(self, request, context):  # noqa: N802
        return api.AllocateResponse(
            container_responses=[
                api.ContainerAllocateResponse(envs={vfs.VARIABLE: ",".join(one.devices_ids)})
                for one in request.container_requests
            ]
        )


def identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def serve(socket: Path) -> grpc.Server:
    """Start a server on a new socket, and register it with the kubelet."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    services.add_DevicePluginServicer_to_server(Plugin(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    request = api.RegisterRequest(
        version="v1beta1", endpoint=socket.name, resource_name=vfs.RESOURCE
    )
    with grpc.insecure_channel(f"unix:{KUBELET}") as channel:
        services.RegistrationStub(channel).Register(request, timeout=20)
    return server


def main() -> None:
    """Serve, and register again whenever the kubelet has started again.

    A kubelet that starts removes all sockets in its folder and creates its own. Each server has a
    socket of its own, because one that stops removes its socket later.
    """
    server: grpc.Server | None = None
    sockets = (FOLDER / f"vfs-{number}.sock" for number in itertools.count())
    socket = next(sockets)
    known = None
    while True:
        if (now := identity(KUBELET)) and (now != known or not socket.exists()):
            if server:
                server.stop(0)
            socket = next(sockets)
            try:
                server = serve(socket)
                known = now
            except grpc.RpcError as error:
                print("cannot register:", error, flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
