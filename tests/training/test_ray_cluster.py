"""Real Ray on loopback, kept by what the containers run: what is lost comes back, and a stranger gets nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepseek_trainer.raycluster import startup
from support.eventually import eventually
from support.raynodes import HEAD_IP, RayCluster

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

GCS = 23000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    cluster = RayCluster(tmp_path_factory.mktemp("ray"), GCS)
    try:
        cluster.start(nodes=1)
        yield cluster
    finally:
        cluster.end()


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _nodes(cluster: RayCluster, **environ: str) -> subprocess.CompletedProcess[str]:
    """Asks the head for its nodes from a process of its own."""
    ask = (
        "import os, sys, ray;"
        f"gcs = ray._raylet.GcsClient(address='{HEAD_IP}:{cluster.gcs}');"
        "print(*(node.node_manager_address for node in gcs.get_all_node_info(timeout=5).values() if node.state == 0))"
    )
    environ = {**os.environ, **cluster.environment(), "RAY_py_gcs_connect_timeout_s": "2", **environ}
    return subprocess.run(
        [sys.executable, "-c", ask], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def _await_nodes(cluster: RayCluster) -> None:
    """Returns when the head answers that all nodes are there."""
    last: list[subprocess.CompletedProcess[str]] = []

    def all_there() -> bool:
        last[:] = [_nodes(cluster)]
        return set(last[0].stdout.split()) == {HEAD_IP, "127.0.0.3"}

    eventually(all_there, deadline_s=120, describe=lambda: last, what="all nodes are there")


def test_stranger_without_the_token_is_refused(cluster: RayCluster, tmp_path: Path) -> None:
    _await_nodes(cluster)
    (tmp_path / "token").write_text("another one")
    refused = _nodes(cluster, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert refused.returncode
    assert "127.0.0.3" not in refused.stdout


def test_head_serves_no_driver_from_outside(cluster: RayCluster) -> None:
    words = [word for pid in startup.descendants(cluster.nodes[0].process.pid) for word in startup.command_of(pid)]
    assert any("gcs_server" in word for word in words)
    assert not [word for word in words if "ray.util.client.server" in word]


def test_lost_raylet_is_back_in_place(cluster: RayCluster) -> None:
    node = cluster.nodes[1]
    starts = node.starts()
    _kill(node.raylet_pid())
    node.await_started(starts + 1)
    _await_nodes(cluster)


def test_node_joins_the_head_that_came_after_a_lost_one(cluster: RayCluster) -> None:
    head, node = cluster.nodes
    heads, nodes = head.starts(), node.starts()
    _kill(head.gcs_pid())
    head.await_started(heads + 1)
    node.await_started(nodes + 1)
    _await_nodes(cluster)
    assert f"the head {HEAD_IP} is lost" in node.log, "its raylet was left to find out by itself"


def test_all_end_with_sigterm_and_leave_nothing(cluster: RayCluster) -> None:
    pids = [pid for node in cluster.nodes for pid in (node.process.pid, node.raylet_pid(), node.gcs_pid()) if pid]
    for node in reversed(cluster.nodes):
        node.process.terminate()
    assert [node.process.wait(30) for node in cluster.nodes] == [0, 0]
    eventually(
        lambda: not [pid for pid in pids if Path("/proc", str(pid), "cmdline").exists()],
        deadline_s=30,  # those that were killed end when they get to it
        what="all have ended",
    )
