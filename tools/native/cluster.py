"""A Kubernetes cluster on this machine: control plane and DNS on the host, nodes in namespaces of their own.

Everything of a cluster derives from its name and its index: the folder of its state, its bridge, its addresses, its
control groups. `up` and `down` first clean what an earlier, crashed cluster of the same name left.

"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from native import binaries, cgroups, controlplane, dns, network, node, packages, processes
from native.controlplane import ControlPlane, Settings
from native.errors import NativeError, run
from native.network import Network
from native.node import Node

API_PORT = 6443
READY_TIMEOUT_S = 120.0
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
TOOLS = ("kubectl", "coredns", "helm", "pause")
_PROGRAMS = frozenset((*BINARIES, "coredns", "unshare", "containerd"))
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


@dataclass(frozen=True)
class Cluster:
    """A cluster's identity; written to cluster.json before anything of it exists."""

    name: str
    index: int
    nodes: int
    directory: Path

    @property
    def network(self) -> Network:
        return Network(self.index)

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self.directory / "control-plane" / "admin.kubeconfig"

    @property
    def volumes(self) -> Path:
        """A folder that all nodes see at this path, for hostPath volumes; it goes with the cluster."""
        return self.directory / "volumes"

    def node(self, index: int) -> Node:
        if not 0 <= index < self.nodes:
            raise NativeError(f"cluster {self.name} has nodes 0 to {self.nodes - 1}, and no {index}")
        return Node(index, self.directory / f"node{index}", self.network, f"{_group_prefix(self.name)}node{index}")

    def all_nodes(self) -> list[Node]:
        return [self.node(index) for index in range(self.nodes)]


def state_root() -> Path:
    """$DEEPSEEKJOB_STATE, default /var/tmp/deepseekjob: on a disk, outside of any source tree."""
    return Path(os.environ.get("DEEPSEEKJOB_STATE") or "/var/tmp/deepseekjob")


def find(name: str) -> Cluster | None:
    """The cluster of this name, whatever state it is in; None when there is no trace of it."""
    path = _directory(name) / "cluster.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Cluster(name, content["index"], content["nodes"], path.parent)


def get(name: str) -> Cluster:
    """Like find.

    Raises:
        NativeError: there is none.
    """
    if (cluster := find(name)) is None:
        raise NativeError(f"no cluster {name} in {state_root()}; start it with `make cluster-up`")
    return cluster


def up(name: str, nodes: int, images: Sequence[Path]) -> Cluster:
    """A running cluster with Ready nodes that have the images. A whole one of this size is kept, another replaced.

    Raises:
        Unavailable: no root, no Go, or a package is missing and can't be installed.
        NativeError: a part did not start; its state is kept for a look until the next up or down.
    """
    packages.require_root("a cluster with nodes")
    if not 1 <= nodes <= network.MAX_NODES:
        raise NativeError(f"{nodes} nodes: ask for 1 to {network.MAX_NODES}")
    packages.ensure(packages.NODE)
    binaries.ensure(*BINARIES, *TOOLS)
    with _lock():
        existing = find(name)
        if existing and existing.nodes == nodes and is_whole(existing):
            _refresh_images(existing, images)
            return existing
        _remove(name)
        cluster = _allocate(name, nodes)
        network.create_bridge(cluster.network)
    plane = _start_control_plane(cluster)
    for each in cluster.all_nodes():
        node.prepare(each, plane, nodes, images)
    node.give_images(cluster.all_nodes(), images)
    for each in cluster.all_nodes():
        node.start(each)
    for each in cluster.all_nodes():
        node.wait_booted(each)
    wait_nodes(cluster, ready=range(nodes))
    return cluster


def down(name: str) -> None:
    """Ends the cluster, whole or in pieces, and removes all that it had: nothing of it is left when this returns."""
    packages.require_root("ending a cluster with nodes")
    with _lock():
        _remove(name)


def stop_node(cluster: Cluster, index: int) -> None:
    """Power cut of one node: kubelet, containerd and containers end at once; its disk stays."""
    node.stop(cluster.node(index))


def start_node(cluster: Cluster, index: int) -> None:
    """Boots a stopped node and waits until it is Ready."""
    node.start(cluster.node(index))
    node.wait_booted(cluster.node(index))
    # The API server calls a node Ready for a while after it died: the kubelet itself has to answer as well.
    health = f"/api/v1/nodes/{cluster.node(index).name}/proxy/healthz"
    processes.wait_until(lambda: _answers(cluster, health), READY_TIMEOUT_S, f"kubelet answers at {health}")
    wait_nodes(cluster, ready=[index])


def limit_network(cluster: Cluster, mbit: int | None) -> None:
    """Each node gets so many Mbit/s from the others, until it is started anew. None: no limit."""
    for each in cluster.all_nodes():
        network.limit_rate(cluster.network, each.index, mbit)


def is_whole(cluster: Cluster) -> bool:
    """Whether every process that was started still runs."""
    daemons = processes.recorded(cluster.directory / "control-plane")
    inits = [daemon for each in cluster.all_nodes() for daemon in processes.recorded(each.directory)]
    booted = all((each.directory / "booted").exists() for each in cluster.all_nodes())
    complete = len(daemons) >= 5 and len(inits) == 2 * cluster.nodes
    return booted and complete and all(map(processes.alive, daemons + inits))


def wait_nodes(cluster: Cluster, ready: Sequence[int]) -> None:
    """Waits until the API server calls these nodes Ready."""
    kubectl = [str(binaries.ensure("kubectl")["kubectl"]), "--kubeconfig", str(cluster.kubeconfig)]
    path = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=='Ready')].status} {end}"
    answer = [""]

    def all_ready() -> bool:
        answer[0] = run([*kubectl, "get", "nodes", "--output", path])
        return all(f"{cluster.node(index).name}=True" in answer[0].split() for index in ready)

    processes.wait_until(
        all_ready, READY_TIMEOUT_S, "nodes are Ready", lambda: f"{answer[0]}; logs: {cluster.directory}"
    )


def _answers(cluster: Cluster, path: str) -> bool:
    kubectl = [str(binaries.ensure("kubectl")["kubectl"]), "--kubeconfig", str(cluster.kubeconfig)]
    try:
        return run([*kubectl, "--request-timeout=5s", "get", "--raw", path]) == "ok"
    except NativeError:
        return False


def _start_control_plane(cluster: Cluster) -> ControlPlane:
    plan = cluster.network
    settings = Settings(
        address=plan.gateway,
        port=API_PORT,
        service_cidr=plan.service_cidr,
        service_ip=plan.service_ip,
        service_accounts=True,
    )
    plane = controlplane.start(cluster.directory / "control-plane", settings)
    controlplane.start_controllers(plane, "--node-monitor-grace-period=20s")
    controlplane.start_scheduler(plane)
    dns.start(plane, plan.gateway, node.CLUSTER_DOMAIN)
    return plane


def _allocate(name: str, nodes: int) -> Cluster:
    directory = _directory(name)
    taken = [json.loads(path.read_text())["index"] for path in state_root().glob("*/cluster.json")]
    cluster = Cluster(name, network.free_index(taken), nodes, directory)
    directory.mkdir(parents=True)
    content = {key: value for key, value in asdict(cluster).items() if key in ("index", "nodes")}
    written = directory / "cluster.json.new"  # who reads cluster.json finds it whole
    written.write_text(json.dumps(content))
    written.replace(directory / "cluster.json")
    cluster.volumes.mkdir()
    return cluster


def _remove(name: str) -> None:
    directory = _directory(name)
    cluster = find(name)
    if cluster:
        for each in cluster.all_nodes():
            node.stop(each)
    processes.stop(processes.recorded(directory / "control-plane"), grace_s=3)
    processes.stop(processes.strays(_PROGRAMS, directory), grace_s=0)
    if cluster:
        network.remove_link(cluster.network.bridge)
    cgroups.remove(_group_prefix(name))
    if below := mounts_below(directory):
        raise NativeError(f"{', '.join(below)}: still mounted, and not by the cluster; unmount and run this again")
    if directory.exists():
        shutil.rmtree(directory)


def mounts_below(directory: Path) -> list[str]:
    """Mount points under a directory, as the host sees them."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{directory}/")]


def _refresh_images(cluster: Cluster, images: Sequence[Path]) -> None:
    for each in cluster.all_nodes():
        node.import_images(each, images)


def _group_prefix(name: str) -> str:
    """A dot ends the name, so that `a` never cleans what is of `a-b`."""
    return f"deepseekjob-{name}."


def _directory(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise NativeError(f"cluster name {name!r}: use up to 20 of a-z, 0-9 and -, with a letter first")
    return state_root() / name


@contextmanager
def _lock() -> Iterator[None]:
    """Indices are given out, and clusters removed, one at a time."""
    state_root().mkdir(parents=True, exist_ok=True)
    with (state_root() / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
