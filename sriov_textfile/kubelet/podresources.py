"""Lists the devices and CPUs of pods through the kubelet's PodResources API.

The API: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
#monitoring-device-plugin-resources, service v1.PodResourcesLister on a unix socket.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter

# grpc's C core logs to standard error; errors that matter are also raised.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from sriov_textfile.kubelet.podresources_pb2 import (
    AllocatableResourcesRequest,
    AllocatableResourcesResponse,
    ListPodResourcesRequest,
    ListPodResourcesResponse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    from sriov_textfile.kubelet.podresources_pb2 import ContainerResources, TopologyInfo

    Item = TypeVar("Item")

LIST = "/v1.PodResourcesLister/List"
GET_ALLOCATABLE = "/v1.PodResourcesLister/GetAllocatableResources"  # since Kubernetes 1.21

# The limit of the kubelet's own client; a node with many devices returns megabytes.
MAX_RESPONSE = 16 << 20

# A PCI domain has no more functions, and no kernel more CPUs. A response of repeated devices must
# not fill the memory.
MAX_DEVICES = 65_536

# The SR-IOV device plugin names a device by its PCI address, a DRA driver by the address with
# dashes: dra-driver-sriov 0000-08-00-1, dranet pci-0000-8a-00-0.
_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{4,}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_DRA_DEVICE = re.compile(r"(?:pci-)?([0-9a-fA-F]{4,})-([0-9a-fA-F]{2})-([0-9a-fA-F]{2})-([0-7])")
# A device on the kernel's auxiliary bus, which the device plugin names so too: mlx5_core.sf.4 is a
# scalable function (Documentation/driver-api/auxiliary_bus.rst: module, name and number).
_AUXILIARY = re.compile(r"[\w-]+\.[\w-]+\.[0-9]+")

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


class Device:
    """A device that a device plugin or DRA driver assigns: a PCI device, or an auxiliary one.

    An auxiliary device is a part of a PCI device, such as a scalable function.
    """

    __slots__ = ("is_auxiliary", "is_claimed", "name", "numa_node", "type")

    def __init__(
        self, type: str, name: str, numa_node: str, is_auxiliary: bool, is_claimed: bool
    ) -> None:
        self.type = type  # of a resource or DRA driver: intel.com/sriov_netdevice
        self.name = name  # PCI address or name on the auxiliary bus: 0000:3b:02.1, mlx5_core.sf.4
        self.numa_node = numa_node  # "" if unknown, several joined by commas
        self.is_auxiliary = is_auxiliary
        self.is_claimed = is_claimed  # through a DRA claim


class Container:
    """A container and what it has been assigned, in a fixed order.

    `name` is "" for what the containers of a pod share: the CPUs of the pod that no container has
    to itself.
    """

    __slots__ = ("cpus", "devices", "name", "namespace", "pod")

    def __init__(
        self, namespace: str, pod: str, name: str, devices: list[Device], cpus: list[int]
    ) -> None:
        self.namespace = namespace
        self.pod = pod
        self.name = name
        self.devices = devices
        self.cpus = cpus  # exclusive ones, in ascending order


class PodResources:
    """What the kubelet reports: the containers in a fixed order, and all devices of the node.

    The kubelet lists pods in random order.
    """

    __slots__ = ("age", "allocatable", "containers", "pods", "problem")

    def __init__(
        self,
        age: float,
        pods: int,
        containers: list[Container],
        allocatable: list[Device],
        problem: KubeletError | None,
    ) -> None:
        self.age = age  # seconds since the kubelet created its socket, which it does at its start
        self.pods = pods  # how many it lists, those without devices and CPUs included
        self.containers = containers
        # The healthy devices of device plugins. If the kubelet does not report them, this is empty,
        # no container has CPUs, and `problem` is why, unless the kubelet is too old to do so.
        self.allocatable = allocatable
        self.problem = problem

    @property
    def uses(self) -> Iterator[tuple[Container, Device]]:
        """Each container with each of its devices."""
        for container in self.containers:
            for device in container.devices:
                yield container, device


def pod_resources(path: str, seconds: float) -> PodResources:
    """Return what the kubelet at the socket `path` reports about devices and CPUs.

    Devices that are neither PCI devices nor auxiliary ones, such as GPUs by another name, are left
    out. Raises KubeletError, after `seconds` at most.
    """
    deadline = time.monotonic() + seconds
    _check_socket(path, seconds)
    options = [("grpc.max_receive_message_length", MAX_RESPONSE), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        list_pods = channel.unary_unary(
            LIST,
            request_serializer=ListPodResourcesRequest.SerializeToString,
            response_deserializer=ListPodResourcesResponse.FromString,
        )
        get_allocatable = channel.unary_unary(
            GET_ALLOCATABLE,
            request_serializer=AllocatableResourcesRequest.SerializeToString,
            response_deserializer=AllocatableResourcesResponse.FromString,
        )
        try:
            listed = list_pods(ListPodResourcesRequest(), timeout=deadline - time.monotonic())
        except grpc.RpcError as error:
            raise KubeletError(f"cannot query the kubelet at {path}: {_reason(error)}") from None
        allocatable, problem = None, None
        try:
            left = max(deadline - time.monotonic(), 0)
            allocatable = get_allocatable(AllocatableResourcesRequest(), timeout=left)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                reason = f"the kubelet at {path} does not report the node's devices"
                problem = KubeletError(f"{reason}: {_reason(error)}")
    try:
        # A kubelet before 1.23 lists the CPUs of the shared pool with a container that has none of
        # its own. It does not report the node's devices either, unless it is configured to.
        containers = _containers(listed, with_cpus=allocatable is not None)
        devices = _allocatable(allocatable) if allocatable else []
    except _TooManyError:
        raise KubeletError(
            f"the kubelet at {path} lists more than {MAX_DEVICES} devices or CPUs"
        ) from None
    return PodResources(_age(path), len(listed.pod_resources), containers, devices, problem)


def is_device(name: str) -> bool:
    """Return whether an ID of a device plugin is that of a PCI or auxiliary device."""
    return bool(_PCI_ADDRESS.fullmatch(name) or _AUXILIARY.fullmatch(name))


def _age(path: str) -> float:
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return 0.0  # It was removed after it answered.


class _TooManyError(Exception):
    """Raised for absurdly many devices or CPUs."""


def _containers(response: ListPodResourcesResponse, with_cpus: bool) -> list[Container]:
    """Return the containers with devices or CPUs, sorted. Raises _TooManyError."""
    found: list[Container] = []
    count = 0
    for pod in response.pod_resources:
        containers: list[Container] = []
        users: Counter[int] = Counter()  # of each CPU
        for container in pod.containers:
            devices = list(_bounded(_devices(container), MAX_DEVICES - count))
            devices.sort(key=lambda device: (device.type, device.name))
            listed = container.cpu_ids if with_cpus else ()
            cpus = sorted(set(_bounded(listed, MAX_DEVICES - count)))
            users.update(cpus)
            count += len(devices) + len(cpus)
            containers.append(Container(pod.namespace, pod.name, container.name, devices, cpus))
        # CPUs that containers share: 1.36 lists them with each container, 1.37 with the pod.
        exclusive = {cpu for cpu, number in users.items() if number == 1}
        shared = {*users, *_bounded(pod.cpu_ids, MAX_DEVICES - count)} - exclusive
        for resources in containers:
            resources.cpus = [cpu for cpu in resources.cpus if cpu in exclusive]
        containers.append(Container(pod.namespace, pod.name, "", [], sorted(shared)))
        count += len(shared)
        found += [container for container in containers if container.devices or container.cpus]
    found.sort(key=lambda container: (container.namespace, container.pod, container.name))
    return found


def _allocatable(response: AllocatableResourcesResponse) -> list[Device]:
    """Return all PCI and auxiliary devices of the node. Raises _TooManyError."""
    listed = (
        _device(devices.resource_name, name, devices.topology)
        for devices in response.devices
        for name in devices.device_ids
    )
    return list(_bounded((device for device in listed if device), MAX_DEVICES))


def _bounded(items: Iterable[Item], most: int) -> Iterator[Item]:
    """Yield the items; raises _TooManyError if there are more than `most`."""
    for number, item in enumerate(items):
        if number >= most:
            raise _TooManyError
        yield item


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


def _devices(container: ContainerResources) -> Iterator[Device]:
    """Yield the devices of a container. A device of which it has several shares is yielded once."""
    for devices in container.devices:
        for name in devices.device_ids:
            if device := _device(devices.resource_name, name, devices.topology):
                yield device
    shared = set()
    for dynamic in container.dynamic_resources:
        for claim in dynamic.claim_resources:
            if match := _DRA_DEVICE.fullmatch(claim.device_name):
                address = "{}:{}:{}.{}".format(*match.groups())
                key = (claim.driver_name, address)
                if key not in shared:
                    yield Device(claim.driver_name, address, "", False, True)
                if claim.share_id:
                    shared.add(key)


def _device(type: str, name: str, topology: TopologyInfo) -> Device | None:
    """Return a device of a device plugin, or None if it is neither a PCI nor an auxiliary one."""
    if not is_device(name):
        return None
    is_auxiliary = not _PCI_ADDRESS.fullmatch(name)
    nodes = ",".join([str(node) for node in sorted({node.ID for node in topology.nodes})])
    return Device(type, name, nodes, is_auxiliary, is_claimed=False)
