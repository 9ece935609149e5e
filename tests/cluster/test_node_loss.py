"""Nodes that are lost before the control plane notices, what is left on lost ones, and drains, with a real API server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.api import Api, ApiFailure, Jobs
from support.eventually import eventually
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Start = Callable[..., OperatorProcess]
NODES = "/api/v1/nodes"
MEMBERSHIP = "training.deepseekjob.dev/membership"
AGENT_PORT = 8471


class Agent(ThreadingHTTPServer):
    """Node rank 0's, which hears of its peers."""

    daemon_threads = True

    def __init__(self, ip: str) -> None:
        self.silent: list[int] = []
        super().__init__((ip, AGENT_PORT), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_GET(self) -> None:
        silence = {"generation": 1, "nodes": self.server.silent}
        report = {"version": 1, "generation": 1, "attempt": 1, "phase": "training", "step": 7, "silence": silence}
        body = json.dumps(report).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def listening(address: str) -> Iterator[int]:
    """A kubelet, as far as it takes connections."""
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


def told(jobs: Jobs, pod: str) -> dict[str, Any]:
    annotations = jobs.api.get(f"{jobs.pods_path}/{pod}")["metadata"]["annotations"]
    return dict(json.loads(annotations[MEMBERSHIP]))


def evict(jobs: Jobs, pod: str) -> None:
    """As kubectl drain does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    jobs.api.create(f"{jobs.pods_path}/{pod}/eviction", eviction)


def reaches(jobs: Jobs, name: str, **wanted: object) -> dict[str, Any]:
    """The status, once it has these values."""
    eventually(
        lambda: wanted.items() <= jobs.status(name).items(),
        deadline_s=60,
        what=f"{name} has {wanted}",
        describe=lambda: jobs.describe(name),
    )
    return jobs.status(name)


def test_a_worker_moves_away_from_a_lost_node_and_then_from_a_drained_one(jobs: Jobs, start_operator: Start) -> None:
    agent = Agent("127.7.0.1")
    with listening("127.7.1.1") as kubelet_port:
        start_operator(kubelet_port=kubelet_port, progress_interval_s=0.2)
        jobs.submit("away", replicas=3)
        eventually(lambda: len(jobs.pods("away")) == 3, deadline_s=60, what="three pods")
        here = Kubelet(jobs.api, jobs.namespace, node="here", ip="127.7.0.1", host_ip="127.7.1.1")
        there = Kubelet(jobs.api, jobs.namespace, node="there", ip="127.7.0.2", host_ip="127.7.1.2")
        for pod, node in zip(jobs.pods("away"), (here, there, here), strict=True):
            node.run(pod)
        reaches(jobs, "away", readyNodes="3/3", state="Running")

        agent.silent = [1]
        status = reaches(jobs, "away", generation=2)
        assert [(f["reason"], f["node"], f["cause"]) for f in status["failures"]] == [
            ("NodeLost", "there", "Infrastructure")
        ]
        assert [entry["node"] for entry in status["excludedNodes"]] == ["there"]
        assert not status["planned"]
        eventually(lambda: "away-worker-1-1" in jobs.live("away"), deadline_s=60, what="the replacement")
        [replacement] = [pod for pod in jobs.pods("away") if pod["metadata"]["name"] == "away-worker-1-1"]
        assert "there" in json.dumps(replacement["spec"]["affinity"])
        here.run(replacement)
        reaches(jobs, "away", readyNodes="3/3", launchedGeneration=2)

        name = "away-worker-2-0"
        evict(jobs, name)
        status = reaches(jobs, "away", generation=3, planned=True)
        assert status["failures"][0]["cause"] == "Preempted"
        eventually(lambda: told(jobs, "away-worker-0-0")["generation"] == 3, deadline_s=60, what="it is announced")
        assert told(jobs, "away-worker-0-0")["planned"]
        assert told(jobs, name)["generation"] == 2, "who leaves stays in its generation until it has saved"
    agent.shutdown()
    agent.server_close()


def test_a_budget_holds_drains_back_with_the_rights_of_the_chart(
    jobs: Jobs, operator_of_the_chart: Start, kubelet: Kubelet
) -> None:
    operator = operator_of_the_chart()
    jobs.submit("kept", replicas=2, lifecycle={"maxUnavailable": 1})
    reaches(jobs, "kept", readyNodes="2/2")
    path = f"/apis/policy/v1/namespaces/{jobs.namespace}/poddisruptionbudgets/kept"
    budget = jobs.api.get(path)
    assert (budget["spec"]["maxUnavailable"], budget["metadata"]["ownerReferences"][0]["name"]) == (1, "kept")
    # Nobody counts pods here, which the controller manager does: so as yet no eviction is allowed.
    with pytest.raises(ApiFailure, match="The disruption budget kept is still being processed"):
        evict(jobs, "kept-worker-1-0")
    jobs.api.merge(f"{jobs.path}/kept", {"spec": {"lifecycle": {"maxUnavailable": None}}})
    eventually(
        lambda: jobs.api.get(path)["spec"]["maxUnavailable"] == "100%",
        deadline_s=60,
        what="a budget that allows everything",
        describe=lambda: jobs.describe("kept"),
    )
    assert operator.complaints() == []


def _make_node(api: Api, name: str, *, lost: bool) -> None:
    taints = [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}] if lost else []
    api.delete(f"{NODES}/{name}")
    api.create(NODES, {"metadata": {"name": name}, "spec": {"taints": taints}})
    ready = {"type": "Ready", "status": "Unknown" if lost else "True", "reason": "x"}
    api.merge(f"{NODES}/{name}/status", {"status": {"conditions": [ready]}})


def test_pod_that_terminates_for_ever_goes_only_if_its_node_is_lost(
    api: Api, jobs: Jobs, operator_of_the_chart: Start
) -> None:
    """With the chart's permissions. Nobody confirms a deletion here; both pods are long overdue."""
    operator = operator_of_the_chart()
    _make_node(api, "dead", lost=True)
    _make_node(api, "slow", lost=False)
    jobs.submit("left", replicas=2)
    eventually(lambda: len(jobs.pods("left")) == 2, deadline_s=60, what="pods", describe=operator.tail)
    for pod, node in zip(jobs.pods("left"), ("dead", "slow"), strict=True):
        Kubelet(api, jobs.namespace, node=node).run(pod)
    eventually(
        lambda: jobs.status("left").get("readyNodes") == "2/2",
        deadline_s=60,
        what="ready",
        describe=partial(jobs.describe, "left"),
    )
    for slot in range(2):
        jobs.delete_pod(f"left-worker-{slot}-0", grace_s=1)
    eventually(
        lambda: jobs.live("left") == ["left-worker-0-1", "left-worker-1-1"],
        deadline_s=60,
        what="replacements, which wait for nobody",
        describe=partial(jobs.describe, "left"),
    )
    eventually(
        lambda: "left-worker-0-0" not in {pod["metadata"]["name"] for pod in jobs.pods("left")},
        deadline_s=120,
        what="the pod on the lost node is gone",
        describe=lambda: jobs.describe("left") + operator.tail(),
    )
    names = {pod["metadata"]["name"] for pod in jobs.pods("left")}
    assert names == {"left-worker-1-0", "left-worker-0-1", "left-worker-1-1"}
    assert operator.complaints() == []
    for node in ("dead", "slow"):
        api.delete(f"{NODES}/{node}")
