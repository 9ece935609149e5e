"""The native cluster's own promises: clusters side by side, a power cut and a boot, and nothing left of a crashed one."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from native import cgroups, cluster, images, network, processes
from native.cluster import Cluster
from native.node import PAUSE_IMAGE
from support import kube
from support.eventually import eventually
from support.kubectl import Kubectl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAME = "crashes"
Traces = dict[str, set[str]]


@pytest.fixture
def untouched() -> Traces:
    """What this machine had before the test."""
    kube.require_nodes()
    cluster.down(NAME)
    return traces()


@pytest.fixture
def second(untouched: Traces) -> Iterator[Cluster]:
    """A cluster of one node, beside whatever else runs here."""
    yield cluster.up(NAME, 1, [images.pause()])
    cluster.down(NAME)


@pytest.fixture
def kubectl(second: Cluster) -> Kubectl:
    hand = Kubectl(kube.require("kubectl")["kubectl"], second.kubeconfig)
    eventually(lambda: hand.json("get", "serviceaccount")["items"], deadline_s=120, what="the default service account")
    return hand


def start_pod(kubectl: Kubectl, name: str) -> None:
    container = {"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s", timeout_s=200)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def traces() -> Traces:
    """Everything of this machine that a cluster of the test's name adds to while it runs.

    Other clusters may start and stop meanwhile: their networks don't count.
    """
    folder = str(cluster.state_root() / NAME)
    before = other_bridges()
    links = network.links()
    routes = {json.dumps(route) for route in json.loads(output("ip", "-json", "route"))}
    bridges = before | other_bridges()

    def ours(found: Iterable[str]) -> set[str]:
        return {text for text in found if not any(re.search(rf"\b{name}(n\d+)?\b", text) for name in bridges)}

    mounts = Path("/proc/mounts").read_text().splitlines()
    return {
        "processes": {line for line in command_lines() if f"{folder}/" in line},
        "mounts": {line for line in mounts if folder in line},
        "links": ours(links),
        "routes": ours(routes),
        "control groups": {str(group) for group in cgroups.existing(f"deepseekjob-{NAME}.")},
        "network namespaces": set(output("ip", "netns").splitlines()),
        "tables": set(output("nft", "list", "tables").splitlines()),
        "files": {folder} & {str(path) for path in cluster.state_root().iterdir()},
    }


def other_bridges() -> set[str]:
    """Of the clusters that there are now: a file says of each before it has a network, and until it has none."""
    names = {path.parent.name for path in cluster.state_root().glob("*/cluster.json")} - {NAME}
    return {other.network.bridge for name in names if (other := cluster.find(name))}


def command_lines() -> set[str]:
    """Of all processes; one that ends meanwhile is not there."""
    lines = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.add(path.read_bytes().decode(errors="replace").replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def kill_some(of: Cluster) -> None:
    """The API server, etcd and the node's kubelet go at once, as when a machine runs out of memory."""
    for daemon in processes.recorded(of.directory / "control-plane"):
        if daemon.name in ("etcd", "kube-apiserver"):
            os.kill(daemon.pid, signal.SIGKILL)
    for kubelet in processes.strays({"kubelet"}, of.directory):
        os.kill(kubelet.pid, signal.SIGKILL)


def test_nothing_is_left_of_a_cluster_that_was_killed_midway(
    untouched: Traces, second: Cluster, kubectl: Kubectl
) -> None:
    start_pod(kubectl, "left-behind")
    running = traces()
    assert all(running[kind] > untouched[kind] for kind in ("processes", "links", "routes", "control groups", "files"))
    kill_some(second)
    eventually(lambda: not cluster.is_whole(second), deadline_s=60, what="the cluster to be noticed as broken")
    cluster.down(NAME)
    assert traces() == untouched


def test_a_new_cluster_replaces_a_stale_one_of_its_name(untouched: Traces, second: Cluster) -> None:
    kill_some(second)
    (second.directory / "control-plane" / "etcd.daemon").unlink()  # as if it had crashed while starting
    again = cluster.up(NAME, 1, [images.pause()])
    assert cluster.is_whole(again)
    assert again.index == second.index
    cluster.down(NAME)
    assert traces() == untouched


def test_a_whole_cluster_is_kept(second: Cluster) -> None:
    before = processes.recorded(second.directory / "control-plane")
    assert cluster.up(NAME, 1, [images.pause()]) == second
    assert processes.recorded(second.directory / "control-plane") == before


def test_a_node_loses_power_and_boots_with_its_pods(second: Cluster, kubectl: Kubectl) -> None:
    start_pod(kubectl, "survivor")
    cluster.stop_node(second, 0)
    assert not [line for line in command_lines() if f"{second.node(0).directory}/" in line]
    cluster.start_node(second, 0)

    def restarted() -> bool:
        status: dict[str, Any] = kubectl.json("get", "pod", "survivor")["status"]
        return bool(status["containerStatuses"][0]["restartCount"] >= 1 and status["containerStatuses"][0]["ready"])

    eventually(restarted, deadline_s=180, what="the pod to run again", describe=lambda: kubectl.run("get", "pods"))


def test_host_processes_reach_pods_logs_and_commands(second: Cluster, kubectl: Kubectl) -> None:
    start_pod(kubectl, "reachable")
    assert kubectl.run("logs", "reachable") == ""
    address = kubectl.json("get", "pod", "reachable")["status"]["podIP"]
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex((address, 1)) == errno.ECONNREFUSED, "the pod itself answers that nobody listens"
