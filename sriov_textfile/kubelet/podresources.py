"""Lists the PCI devices that pods use, through the kubelet's PodResources API.

The API: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
#monitoring-device-plugin-resources, service v1.PodResourcesLister on a unix socket.
"""

from __future__ import annotations

import os
import re
import socket
import time

# grpc's C core logs to standard error; errors that matter are also raised.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from sriov_textfile.kubelet.podresources_pb2 import (
    ListPodResourcesRequest,
    ListPodResourcesResponse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sriov_textfile.kubelet.podresources_pb2 import ContainerResources

LIST = "/v1.PodResourcesLister/List"

# The limit of the kubelet's own client; a node with many devices returns megabytes.
MAX_RESPONSE = 16 << 20

# A PCI domain has no more functions. A response of repeated devices must not fill the memory.
MAX_DEVICES = 65_536

# The SR-IOV device plugin names a device by its PCI address, the SR-IOV DRA driver by the
# address with dashes.
_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{4,}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_DRA_DEVICE = re.compile(r"([0-9a-fA-F]{4,})-([0-9a-fA-F]{2})-([0-9a-fA-F]{2})-([0-7])")

_REASONS = {
    grpc.StatusCode.UNIMPLEMENTED: "it has no PodResources v1 API, which needs Kubernetes 1.20",
    # Either our own limit or the kubelet's rate limit; the details identify it.
    grpc.StatusCode.RESOURCE_EXHAUSTED: "its response is larger than 16 MiB or it limits requests",
    grpc.StatusCode.INTERNAL: "its response is cut off or not a PodResources message",
    grpc.StatusCode.UNAVAILABLE: "it closed the connection",
}


class KubeletError(OSError):
    """Raised if the kubelet's socket cannot be used or its response cannot be read.

    `hint` is what to do.
    """

    def __init__(self, reason: str, hint: str = "see its log: journalctl -u kubelet") -> None:
        super().__init__(reason)
        self.hint = hint


class PodDevice:
    """A PCI device that a container uses, and the resource or DRA driver that assigned it."""

    __slots__ = ("address", "container", "namespace", "pod", "type")

    def __init__(self, namespace: str, pod: str, container: str, type: str, address: str) -> None:
        self.namespace = namespace
        self.pod = pod
        self.container = container
        self.type = type  # intel.com/sriov_netdevice, sriovnetwork.k8snetworkplumbingwg.io
        self.address = address  # 0000:3b:02.1


def pod_devices(path: str, seconds: float) -> list[PodDevice]:
    """Return the PCI devices of all containers on the node from the socket at `path`.

    Devices whose ID is not a PCI address, such as GPUs, are left out. Raises KubeletError, after
    `seconds` at most.
    """
    deadline = time.monotonic() + seconds
    _check_socket(path, seconds)
    options = [("grpc.max_receive_message_length", MAX_RESPONSE), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        ask = channel.unary_unary(
            LIST,
            request_serializer=ListPodResourcesRequest.SerializeToString,
            response_deserializer=ListPodResourcesResponse.FromString,
        )
        try:
            response = ask(ListPodResourcesRequest(), timeout=deadline - time.monotonic())
        except grpc.RpcError as error:
            raise KubeletError(f"cannot query the kubelet at {path}: {_reason(error)}") from None
    return _devices(response, path)


def _devices(response: ListPodResourcesResponse, path: str) -> list[PodDevice]:
    """Return the PCI devices of a response. Raises KubeletError if it has absurdly many."""
    found: list[PodDevice] = []
    for pod in response.pod_resources:
        for container in pod.containers:
            for type, address in _pci_devices(container):
                if len(found) == MAX_DEVICES:
                    raise KubeletError(
                        f"the kubelet at {path} lists more than {MAX_DEVICES} PCI devices"
                    )
                found.append(PodDevice(pod.namespace, pod.name, container.name, type, address))
    return found


def _reason(error: grpc.RpcError) -> str:
    """Return why there is no response, with the details from grpc or the kubelet."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "it did not answer in time"
    details = " ".join(str(error.details()).split())[:200]
    return f"{_REASONS.get(code, code.name)} ({details})"


def _check_socket(path: str, seconds: float) -> None:
    """Raise KubeletError if the socket cannot be connected to: grpc does not report why."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(seconds)
            probe.connect(path)
    except FileNotFoundError:
        hint = "set --path.kubeletSocket; in a container, mount its directory from the host"
        raise KubeletError(f"there is no kubelet socket at {path}", hint) from None
    except PermissionError:
        hint = "run as root or as a user with access to it"
        raise KubeletError(f"no permission to use the kubelet socket at {path}", hint) from None
    except ConnectionRefusedError:
        hint = "check that the kubelet is running and that --path.kubeletSocket is its socket"
        raise KubeletError(f"no process listens on the kubelet socket {path}", hint) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise KubeletError(f"cannot connect to the kubelet at {path}: {reason}") from None


def _pci_devices(container: ContainerResources) -> Iterator[tuple[str, str]]:
    """Yield the type and PCI address of each PCI device of a container."""
    for devices in container.devices:
        for device in devices.device_ids:
            if _PCI_ADDRESS.fullmatch(device):
                yield devices.resource_name, device
    for dynamic in container.dynamic_resources:
        for claim in dynamic.claim_resources:
            if match := _DRA_DEVICE.fullmatch(claim.device_name):
                yield claim.driver_name, "{}:{}:{}.{}".format(*match.groups())
