"""The pods of the tests, as manifests for the kubelet's folder of static pods."""

from __future__ import annotations

from typing import Any

import vfs

IMAGE = "localhost/app:1"
STAY = ["busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 36000 & wait"]

Json = dict[str, Any]


def container(
    name: str,
    cpu: str = "",
    memory: str = "32Mi",
    devices: int = 0,
    requests: Json | None = None,
    command: list[str] = STAY,
    **more: Any,
) -> Json:
    """Return a container. Without requests of its own it requests what it is limited to."""
    amounts = {"cpu": cpu, "memory": memory, vfs.RESOURCE: devices and str(devices)}
    limits = {name: amount for name, amount in amounts.items() if amount}
    resources = {"limits": limits, "requests": limits if requests is None else requests}
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "resources": resources if limits or requests else {},
        **more,
    }


def pod(name: str, *containers: Json, uid: str = "", **spec: Any) -> Json:
    """Return a pod. Without a UID it gets a hash without dashes, as static pods do."""
    metadata = {"name": name, "namespace": "core", **({"uid": uid} if uid else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 2,
            "containers": list(containers),
            **spec,
        },
    }


def guaranteed(name: str, cpus: int, **more: Any) -> Json:
    """Return a container with whole CPUs and a VF of its own."""
    return container(name, str(cpus), devices=1, **more)


def pod_level(name: str, cpu: str) -> Json:
    """Return a pod with resources of its own, which its containers share."""
    containers = [container("one", memory=""), container("other", memory="")]
    return pod(name, *containers, resources={"limits": {"cpu": cpu, "memory": "64Mi"}})


PODS = [
    pod("upf", guaranteed("app", 2), uid="0f3a5c2e-9b1d-4c7e-8a6f-1234567890ab"),
    pod("two", guaranteed("left", 1), guaranteed("right", 1)),
    pod(
        "burstable",
        container("app", memory="", requests={"cpu": "50m", "memory": "16Mi"}),
        uid="1f3a5c2e-9b1d-4c7e-8a6f-1234567890ab",
    ),
    pod("besteffort", container("app", memory="")),
    # A VF, but no CPUs.
    pod("burstable-vf", container("app", memory="", devices=1, requests={vfs.RESOURCE: "1"})),
    # Guaranteed, but not whole CPUs.
    pod("fraction", container("app", "500m")),
    pod(
        "sidecar",
        guaranteed("app", 1),
        initContainers=[guaranteed("helper", 1, restartPolicy="Always")],
    ),
    # The init container runs until a file exists.
    pod(
        "init",
        guaranteed("app", 1),
        initContainers=[
            guaranteed(
                "setup",
                1,
                command=["busybox", "sh", "-c", "until [ -e /flags/ready ]; do sleep 1; done"],
                volumeMounts=[{"name": "flags", "mountPath": "/flags"}],
            )
        ],
        volumes=[{"name": "flags", "hostPath": {"path": "/run/flags", "type": "Directory"}}],
    ),
    pod(
        "job",
        guaranteed(
            "app",
            1,
            command=["busybox", "sh", "-c", "until [ -e /flags/done ]; do sleep 1; done"],
            volumeMounts=[{"name": "flags", "mountPath": "/flags"}],
        ),
        restartPolicy="Never",
        volumes=[{"name": "flags", "hostPath": {"path": "/run/flags", "type": "Directory"}}],
    ),
    pod_level("pod-level", "100m"),
    pod_level("pod-level-cpus", "2"),
]
BY_NAME = {pod["metadata"]["name"]: pod for pod in PODS}
