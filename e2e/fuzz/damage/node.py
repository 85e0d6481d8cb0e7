"""Damage to the kubelet, cgroups, NUMA nodes and the CPU manager's checkpoint."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from random import Random

import grpc

from e2e.fuzz.damage.files import TEXTS, add_odd_names, is_intact, named, replace
from e2e.fuzz.machine import Kubelet, Machine
from sriov_textfile.kubelet.podresources_pb2 import (
    ContainerDevices,
    ContainerResources,
    ListPodResourcesResponse,
    PodResources,
)


@functools.cache
def _repeated_devices(count: int) -> bytes:
    """Return a response with the same device `count` times, which the program cannot use."""
    devices = ContainerDevices(resource_name="vendor/vf", device_ids=["0000:11:00.0"] * count)
    container = ContainerResources(name="c", devices=[devices])
    pod = PodResources(name="p", namespace="core", containers=[container])
    return ListPodResourcesResponse(pod_resources=[pod]).SerializeToString()


def _devices(ids: Sequence[str]) -> bytes:
    devices = ContainerDevices(resource_name="\0\n\"\\{}é'", device_ids=ids)
    container = ContainerResources(name="c\n", devices=[devices])
    pod = PodResources(name="p" * 10_000, namespace="", containers=[container] * 2)
    return ListPodResourcesResponse(pod_resources=[pod] * 2).SerializeToString()


ODD_DEVICES = (
    "", "gpu", "0000:11:00.8", "0000:11:00.0\n", "0000:11:00", "\u0661\u0662\u0663\u0664:11:00.0",
    "0000-11-00-0", "é", "mlx5_core.sf.4", "x" * 300 + ".sf.1", "..sf.1",
    "0000:11:00.0 ", "00000000000000000011:11:00.7", "FFFF:FF:FF.7", "0" * 100_000, "\0",
)  # fmt: skip


def kubelet(machine: Machine) -> str:
    """Let the kubelet answer with something else."""
    random = machine.random
    if "kubepoddevice" not in machine.collectors:
        return ""
    whole = machine.kubelet.response
    kinds: dict[str, Callable[[], Kubelet]] = {
        "garbage": lambda: Kubelet(random.randbytes(random.choice((1, 10, 1000)))),
        "cut off": lambda: Kubelet(whole[: int(random.random() * len(whole))]),
        "a flipped bit": lambda: Kubelet(_flip(random, whole)),
        "an error": lambda: Kubelet(
            status=random.choice([code for code in grpc.StatusCode if code.value[0]]),
            details=random.choice(("", "reason", "a\nb", "é" * 500, "\x1b[2J")),
        ),
        "odd devices": lambda: Kubelet(_devices(ODD_DEVICES)),
        "3,000 repeated devices": lambda: Kubelet(_repeated_devices(3000)),
        "nothing": lambda: Kubelet(b""),
        "no gRPC": lambda: Kubelet(
            raw=random.choice((b"\0" * 9, b"HTTP/1.1 400 No\r\n\r\n", b"x"))
        ),
    }
    if random.random() < 0.05:
        kinds = {
            "70,000 repeated devices": lambda: Kubelet(_repeated_devices(70_000)),
            "16 MiB": lambda: Kubelet(bytes(17 << 20)),
        }
    kind, make = random.choice(list(kinds.items()))
    machine.kubelet = make()
    return f"kubelet: {kind}"


def allocatable(machine: Machine) -> str:
    """Let the kubelet report something else about the node's devices."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    random = machine.random
    whole = machine.kubelet.allocatable or b""
    kind, answer = random.choice(
        (
            ("nothing", None),
            ("garbage", random.randbytes(random.choice((1, 10, 1000)))),
            ("cut off", whole[: int(random.random() * len(whole))]),
            ("a flipped bit", _flip(random, whole)),
        )
    )
    machine.kubelet.allocatable = answer
    return f"allocatable devices: {kind}"


def device_checkpoint(machine: Machine) -> str:
    """Damage the checkpoint of the kubelet's device manager."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    return named("device checkpoint", replace(machine, machine.device_checkpoint))


def _flip(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data or b"\0")
    flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def kubelet_hangs(machine: Machine) -> str:
    """Let the kubelet not answer."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    machine.kubelet = Kubelet(hangs=True)
    machine.hang()
    return "kubelet: hangs"


def kubelet_socket(machine: Machine) -> str:
    """Put something else in place of the kubelet's socket."""
    if "kubepoddevice" not in machine.collectors:
        return ""
    path = machine.folder / "kubelet.sock"
    machine.paths["path.kubeletsocket"] = str(path)
    return named("kubelet's socket", replace(machine, path))


CPU_LISTS = {
    **TEXTS,
    "backwards": b"9-2\n",
    "no end": b"3-\n",
    "no start": b"-3\n",
    "too many CPUs": b"0-65536\n",
    "far too many CPUs": b"0-99999999999999999999\n",
    "many CPUs": b"0-1023\n",
    "steps": b"0-10:2/4\n",
    "commas": b",,1,,\n",
    "spaces": b"1, 2\n",
}


def _needs_cpus(damage: Callable[[Machine], str]) -> Callable[[Machine], str]:
    """Damage only a machine whose CPUs the program reads."""

    @functools.wraps(damage)
    def wrapped(machine: Machine) -> str:
        return damage(machine) if "kubepodcpu" in machine.collectors else ""

    return wrapped


@_needs_cpus
def cgroup(machine: Machine) -> str:
    """Damage a file or directory among the cgroups."""
    paths = sorted(machine.node.cgroups.rglob("*")) or [machine.node.cgroups]
    path = machine.random.choice(paths)
    return named("cgroup", replace(machine, path, CPU_LISTS))


@_needs_cpus
def more_cgroups(machine: Machine) -> str:
    """Add cgroups with odd names, or nested deeply."""
    root = machine.node.cgroups
    folders = sorted(path for path in [root, *root.rglob("*")] if path.is_dir())
    if not folders:
        return ""
    folder = machine.random.choice(folders)
    if machine.random.random() < 0.3:
        nested = folder / "/".join(["kubepods-burstable.slice"] * 30)
        try:
            nested.mkdir(parents=True, exist_ok=True)
        except OSError:  # Other damage has put a file there.
            return ""
        (nested / "cpuset.cpus").write_text("3\n")
        return "cgroups: nested"
    uid = f"{machine.random.getrandbits(128):032x}"
    for name in (
        f"pod{uid}",
        f"kubepods-pod{uid}.slice",
        "a" * 20,
        "crio-.scope",
        f"crio-{uid}.scope",
    ):
        if not os.path.lexists(folder / name):
            (folder / name).mkdir()
            replace(machine, folder / name / "cpuset.cpus", CPU_LISTS)
    return add_odd_names(machine, folder, "cgroups")


@_needs_cpus
def numa_node(machine: Machine) -> str:
    """Damage the CPUs of a NUMA node."""
    random = machine.random
    node = machine.node.nodes / f"node{random.randrange(2)}"
    path = random.choice((node / "cpulist", node / "cpulist", node, machine.node.nodes))
    return named("NUMA node", replace(machine, path, CPU_LISTS))


@_needs_cpus
def more_numa_nodes(machine: Machine) -> str:
    """Add NUMA nodes with odd names."""
    nodes = machine.node.nodes
    if not nodes.is_dir():
        return ""
    for name in ("nodex", "node", "node\u0661", "node²", "node" + "9" * 200, "node007"):
        (nodes / name).mkdir(exist_ok=True)
        replace(machine, nodes / name / "cpulist", CPU_LISTS)
    (nodes / "node8" / "cpu3").mkdir(parents=True, exist_ok=True)
    (nodes / "node8" / "cpu\u0661").mkdir(exist_ok=True)
    return add_odd_names(machine, nodes, "NUMA nodes")


JSON_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 1.5, "", "x", "0-99999999999", "9-2", [], ["0-3"], {}, {"0": "1"}, "\ud800",
)  # fmt: skip


@_needs_cpus
def checkpoint(machine: Machine) -> str:
    """Damage the checkpoint of the CPU manager."""
    random = machine.random
    path = machine.node.checkpoint
    if not is_intact(path):
        return ""
    whole = path.read_bytes()
    kinds: dict[str, Callable[[], bytes]] = {
        "half-written": lambda: whole[: int(random.random() * len(whole))],
        "a flipped bit": lambda: _flip(random, whole),
        "another type": lambda: json.dumps(random.choice(JSON_VALUES)).encode(),
        "another default set": lambda: json.dumps(
            {"policyName": random.choice(JSON_VALUES), "defaultCpuSet": random.choice(JSON_VALUES)}
        ).encode(),
        "100,000 levels": lambda: b"[" * 100_000,
        "a huge number": lambda: b'{"defaultCpuSet": ' + b"9" * 5000 + b"}",
        "a huge object": lambda: whole[:-1] + b" " * (17 << 20),
        "repeated keys": lambda: b'{"defaultCpuSet": "0-3", "defaultCpuSet": [1]}',
        "two objects": lambda: whole + whole,
        "a byte order mark": lambda: b"\xef\xbb\xbf" + whole,
        "UTF-16": lambda: whole.decode("utf-8", "replace").encode("utf-16"),
    }
    kind, make = random.choice(list(kinds.items()))
    path.write_bytes(make())
    return f"checkpoint: {kind}"


@_needs_cpus
def checkpoint_file(machine: Machine) -> str:
    """Put something else in place of the checkpoint."""
    return named("checkpoint", replace(machine, machine.node.checkpoint))


@_needs_cpus
def cpu_path(machine: Machine) -> str:
    """Let a flag name another path."""
    random = machine.random
    flag = random.choice(("path.cpucheckpoint", "path.kubecgroup", "path.nodecpuinfo"))
    paths = (
        "",
        "/",
        "/dev/null",
        "/nowhere",
        "x" * 5000,
        "\udcff\n",
        "kubepods",
        str(machine.folder),
    )
    machine.paths[flag] = random.choice(paths)
    return f"{flag}: another path"
