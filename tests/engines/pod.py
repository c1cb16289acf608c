"""Start and stop a pod with one container over Kubernetes' Container Runtime Interface.

usage: pod.py start NAMESPACE POD IMAGE COMMAND... | status sandbox|container ID | stop SANDBOX

The results are printed as JSON.
"""

import json
import sys
from typing import Any

import cri_api as cri
import grpc

_ADDRESS = "unix:///run/containerd/containerd.sock"


def _start(runtime: "cri.RuntimeServiceStub", namespace: str, pod: str, image: str, *command: str) -> dict[str, str]:
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=pod, uid=f"uid-{pod}", namespace=namespace, attempt=0),
        hostname=pod,
        labels={"app": "web"},
        log_directory="/run/engines/pods",
        linux=cri.LinuxPodSandboxConfig(cgroup_parent="/kubepods"),
    )
    sandbox = runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config)).pod_sandbox_id
    wanted = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c1"),
        image=cri.ImageSpec(image=image),
        log_path="c1.log",
        command=command,
        linux=cri.LinuxContainerConfig(resources=cri.LinuxContainerResources()),
    )
    request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, sandbox_config=config, config=wanted)
    container = runtime.CreateContainer(request).container_id
    runtime.StartContainer(cri.StartContainerRequest(container_id=container))
    return {"sandbox": sandbox, "container": container}


def _status(runtime: "cri.RuntimeServiceStub", kind: str, identifier: str) -> dict[str, str]:
    if kind == "sandbox":
        reply = runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=identifier, verbose=True))
    else:
        reply = runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=identifier, verbose=True))
    return {"pid": json.loads(reply.info["info"])["pid"]}


def _stop(runtime: "cri.RuntimeServiceStub", sandbox: str) -> dict[str, str]:
    runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    return {}


def _main() -> None:
    # Without this option, grpc sends the path as the authority, which containerd refuses.
    channel = grpc.insecure_channel(_ADDRESS, options=[("grpc.default_authority", "localhost")])
    runtime = cri.RuntimeServiceStub(channel)
    command: Any = {"start": _start, "status": _status, "stop": _stop}[sys.argv[1]]
    json.dump(command(runtime, *sys.argv[2:]), sys.stdout)


_main()
