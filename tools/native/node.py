"""A node: one process tree in namespaces of its own, with containerd, kubelet and kube-proxy as on a machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from native import binaries, cgroups, controlplane, imagestore, network, node_init, packages, processes
from native.controlplane import ControlPlane
from native.errors import NativeError
from native.network import Network
from native.node_init import NodeSpec
from native.processes import Daemon

INIT = "init"
"""The record of `unshare`, which has started …"""
FIRST = "first"
"""… process 1 of the node."""
CONTAINERD = "containerd"
"""The folder of all that containerd keeps."""
WORTH_LINKING = 64 << 20
"""Bytes of images; less than that is imported sooner than all that the cache has is linked."""
BOOT_TIMEOUT_S = 400.0
PAUSE_IMAGE = "localhost/pause:dev"
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Node:
    """Node number `index` of a cluster; all its files lie in `directory`, all its groups are below `cgroup`."""

    index: int
    directory: Path
    network: Network
    cgroup: str

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def ip(self) -> str:
        return self.network.node_ip(self.index)


def prepare(node: Node, plane: ControlPlane, nodes: int, images: Sequence[Path]) -> None:
    """Writes certificates, configuration and the spec of its init process; starts nothing."""
    node.directory.mkdir(parents=True)
    built = binaries.ensure("kubelet", "kube-proxy")
    kubelet = _kubelet_command(node, plane, built["kubelet"])
    proxy = _proxy_command(node, plane, built["kube-proxy"])
    (node.directory / "containerd.toml").write_text(_containerd_toml(node))
    (node.directory / "resolv.conf").write_text(f"nameserver {node.network.gateway}\n")
    cni = node.directory / "cni"
    cni.mkdir()
    (cni / "10-bridge.conflist").write_text(json.dumps(_cni(node), indent=1))
    others = [other for other in range(nodes) if other != node.index]
    spec = NodeSpec(
        name=node.name,
        directory=str(node.directory),
        address=f"{node.ip}/24",
        gateway=node.network.gateway,
        routes={node.network.node_pod_cidr(other): node.network.node_ip(other) for other in others},
        containerd=[packages.require("containerd"), "--config", str(node.directory / "containerd.toml")],
        ctr=packages.require("ctr"),
        daemons={"kubelet": kubelet, "kube-proxy": proxy},
        images=[str(image) for image in images],
    )
    spec.write(node.directory / "spec.json")


def give_images(nodes: Sequence[Node], images: Sequence[Path]) -> None:
    """Spares prepared nodes the import of these images, where the cache is on the same disk."""
    if sum(image.stat().st_size for image in images) < WORTH_LINKING:
        return
    if imagestore.give(images, [node.directory / CONTAINERD for node in nodes]):
        for node in nodes:
            (node.directory / node_init.IMPORTED).write_text(json.dumps([str(image) for image in images]))


def start(node: Node) -> Daemon:
    """Powers the node on, and returns when it has its cable; `wait_booted` waits for the rest."""
    cgroups.create(node.cgroup)
    (node.directory / "booted").unlink(missing_ok=True)
    tools = str(Path(__file__).parent.parent)
    namespaces = ["--pid", "--mount", "--net", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    init = [sys.executable, "-m", "native.node_init", str(node.directory / "spec.json")]
    environment = {"PATH": _search_path(), "PYTHONPATH": tools, "HOME": "/root", "LANG": "C.UTF-8"}
    command = ["unshare", *namespaces, "--propagation", "private", *init]
    daemon = processes.start(INIT, command, node.directory, environment=environment)
    processes.wait_until(lambda: bool(_children(daemon.pid)), 60, f"{node.name} starts its first process")
    first = processes.record(FIRST, _children(daemon.pid)[0], node.directory)
    network.connect_node(node.network, node.index, first.pid)
    return daemon


def import_images(node: Node, images: Sequence[Path]) -> None:
    """Gives a running node these images, and has it import them at its next boot too."""
    path = node.directory / "spec.json"
    spec = replace(NodeSpec(**json.loads(path.read_text())), images=[str(image) for image in images])
    spec.write(path)
    node_init.import_images(spec)


def wait_booted(node: Node) -> None:
    """Waits until containerd has the images and the kubelet was started."""

    def booted() -> bool:
        processes.require_alive(init_of(node))
        return (node.directory / "booted").exists()

    processes.wait_until(
        booted, BOOT_TIMEOUT_S, f"{node.name} boots", lambda: f"see {node.directory}/log/ and init.log"
    )


def stop(node: Node) -> None:
    """Cuts the power: every process of the node ends at once, its network and mounts vanish, its disk stays.

    Process 1 is waited for, not only `unshare`: the kernel lets it end when all others of the node have.
    """
    processes.stop(processes.recorded(node.directory), grace_s=0)
    network.remove_link(node.network.link(node.index))
    cgroups.remove(node.cgroup)


def init_of(node: Node) -> Daemon:
    """The record of the node's init process.

    Raises:
        NativeError: the node was never started.
    """
    for daemon in processes.recorded(node.directory):
        if daemon.name == INIT:
            return daemon
    raise NativeError(f"{node.name} was never started: {node.directory} has no {INIT}.daemon; run cluster-up")


def _kubelet_command(node: Node, plane: ControlPlane, program: Path) -> list[str]:
    names = [f"DNS:{node.name}", f"IP:{node.ip}"]
    subject = f"/O=system:nodes/CN=system:node:{node.name}"
    kubeconfig = controlplane.identity_kubeconfig(plane, node.name, subject, names)
    configuration = node.directory / "kubelet.json"
    configuration.write_text(json.dumps(_kubelet_configuration(node, plane), indent=1))
    return [
        str(program),
        f"--config={configuration}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--root-dir={node.directory / 'kubelet'}",
        f"--cert-dir={node.directory / 'kubelet-pki'}",
        f"--node-ip={node.ip}",
    ]


def _proxy_command(node: Node, plane: ControlPlane, program: Path) -> list[str]:
    kubeconfig = controlplane.identity_kubeconfig(plane, f"{node.name}-proxy", "/CN=system:kube-proxy")
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={node.network.pod_cidr}",
        f"--bind-address={node.ip}",
        "--conntrack-max-per-core=0",  # 0 leaves the machine's own limits as they are
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ]


def _kubelet_configuration(node: Node, plane: ControlPlane) -> dict[str, object]:
    pki = plane.authority.directory
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{node.directory}/containerd.sock",
        "clusterDNS": [node.network.gateway],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(node.directory / "resolv.conf"),
        "podLogsDir": str(node.directory / "pod-logs"),
        # The disk is shared with everything else of the machine: its fill level says nothing about this node.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 20,
    }


def _containerd_toml(node: Node) -> str:
    """restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing, a lower score than the own one can't be set."""
    return f"""version = 2
root = "{node.directory}/{CONTAINERD}"
state = "/run/containerd"
[grpc]
  address = "{node.directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages.cni_folder()}"
    conf_dir = "{node.directory}/cni"
"""


def _cni(node: Node) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(node.directory / "ipam"),
        "ranges": [[{"subnet": node.network.node_pod_cidr(node.index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _search_path() -> str:
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
