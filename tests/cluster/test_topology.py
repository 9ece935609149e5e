"""Topology on a real API server: the operator, as the chart's service account, orders node ranks by the nodes' labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]
NODES = "/api/v1/nodes"
MEMBERSHIP = "training.deepseekjob.dev/membership"
KEY = "example.org/rack"


@pytest.fixture
def racks(jobs: Jobs) -> Iterator[dict[int, str]]:
    """Slot -> a node of the test's own: rack 2, rack 1, and one without a rack."""
    places = {slot: f"{jobs.namespace}-{slot}" for slot in range(3)}
    for slot, labels in enumerate(({KEY: "2"}, {KEY: "1"}, {})):
        jobs.api.create(NODES, {"metadata": {"name": places[slot], "labels": labels}})
    yield places
    for name in places.values():
        jobs.api.delete(f"{NODES}/{name}")


def told(jobs: Jobs) -> dict[str, int | None]:
    """Slot -> node rank, of the pods that were told one."""
    texts = {
        pod["metadata"]["labels"]["training.deepseekjob.dev/slot"]: pod["metadata"]
        .get("annotations", {})
        .get(MEMBERSHIP)
        for pod in jobs.pods("near")
    }
    return {slot: json.loads(text)["nodeRank"] for slot, text in texts.items() if text}


def unknown(jobs: Jobs) -> str:
    """What the Events say about nodes without a rack."""
    events = jobs.api.items(f"/apis/events.k8s.io/v1/namespaces/{jobs.namespace}/events")
    return " ".join(event["note"] for event in events if event["reason"] == "TopologyUnknown")


def test_node_ranks_follow_the_racks(jobs: Jobs, operator_of_the_chart: Start, racks: dict[int, str]) -> None:
    operator = operator_of_the_chart()
    jobs.submit("near", replicas=3, scheduling={"topology": {"key": KEY}})
    eventually(lambda: len(jobs.pods("near")) == 3, deadline_s=60, what="pods", describe=operator.tail)
    first, *others = jobs.pods("near")
    for slot, pod in enumerate(others, start=1):
        Kubelet(jobs.api, jobs.namespace, node=racks[slot], ip=f"10.98.0.{slot}").run(pod)
    eventually(lambda: jobs.status("near").get("readyNodes") == "2/3", deadline_s=60, what="two are ready")
    assert told(jobs) == {}
    Kubelet(jobs.api, jobs.namespace, node=racks[0], ip="10.98.0.9").run(first)
    eventually(
        lambda: told(jobs) == {"0": 1, "1": 0, "2": 2},
        deadline_s=60,
        what="ranks by rack, the node without one last",
        describe=lambda: jobs.describe("near") + operator.tail(),
    )
    assert jobs.status("near")["ranks"] == [1, 0, 2]
    eventually(lambda: racks[2] in unknown(jobs), deadline_s=60, what="the node without a rack is named")
    assert operator.complaints() == []
