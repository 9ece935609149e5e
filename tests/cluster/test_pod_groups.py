"""PodGroups of Volcano and of scheduler-plugins on a real API server, made by the chart's service account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.gang_crds import VOLCANO, coscheduling, leave_alone, removed, serve
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]
KINDS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "Volcano": ("/apis/scheduling.volcano.sh/v1beta1", lambda: VOLCANO),
    "Coscheduling": ("/apis/scheduling.x-k8s.io/v1alpha1", coscheduling),
}


@pytest.fixture
def chart_values() -> tuple[str, ...]:
    return ("rbac.volcano=true", "rbac.coscheduling=true")


def stalled(jobs: Jobs, name: str) -> str:
    found = {c["type"]: c for c in jobs.status(name).get("conditions", [])}
    condition = found.get("Stalled", {})
    return str(condition.get("message", "")) if condition.get("status") == "True" else ""


@pytest.mark.parametrize("gang", KINDS)
def test_a_gang_without_its_scheduler_waits_and_says_so_then_gets_its_group(
    jobs: Jobs, operator_of_the_chart: Start, gang: str
) -> None:
    root, crd = KINDS[gang]
    definition = crd()
    leave_alone(jobs.api, definition["metadata"]["name"])
    operator = operator_of_the_chart(resync_interval_s=1)
    jobs.submit("early", replicas=2, scheduling={"gang": gang})
    eventually(
        lambda: f"PodGroup of {root.removeprefix('/apis/')} is unknown here" in stalled(jobs, "early"),
        deadline_s=60,
        what="told what is missing",
        describe=lambda: jobs.describe("early") + operator.tail(),
    )
    assert jobs.pods("early") == []

    with removed(jobs.api, definition["metadata"]["name"]):
        serve(jobs.api, definition)
        eventually(lambda: len(jobs.pods("early")) == 2, deadline_s=60, what="pods", describe=operator.tail)
        eventually(lambda: stalled(jobs, "early") == "", deadline_s=60, what="no longer stalled")
        group = jobs.api.get(f"{root}/namespaces/{jobs.namespace}/podgroups/early")
        assert group["spec"]["minMember"] == 2
        [owner] = group["metadata"]["ownerReferences"]
        assert owner["uid"] == jobs.get("early")["metadata"]["uid"]
        assert group["metadata"]["creationTimestamp"] <= jobs.pods("early")[0]["metadata"]["creationTimestamp"]
    assert operator.complaints() == []


@pytest.mark.parametrize("gang", KINDS)
def test_a_replacement_joins_the_same_group_and_a_changed_group_is_put_right(
    jobs: Jobs, operator_of_the_chart: Start, kubelet: Kubelet, gang: str
) -> None:
    root, crd = KINDS[gang]
    path = f"{root}/namespaces/{jobs.namespace}/podgroups/same"
    definition = crd()
    leave_alone(jobs.api, definition["metadata"]["name"])
    with removed(jobs.api, definition["metadata"]["name"]):
        serve(jobs.api, definition)
        operator = operator_of_the_chart(resync_interval_s=1)
        jobs.submit(
            "same",
            replicas=2,
            scheduling={"gang": gang},
            lifecycle={"startDeadlineSeconds": 600},
            workers={"replicas": 2, "image": "example.org/t:1", "resources": {"requests": {"cpu": "500m"}}},
        )
        eventually(
            lambda: jobs.status("same").get("readyNodes") == "2/2",
            deadline_s=60,
            what="ready",
            describe=lambda: jobs.describe("same") + operator.tail(),
        )
        spec = jobs.api.get(path)["spec"]
        assert spec["minResources"] == {"cpu": "1000m"}
        assert spec.get("scheduleTimeoutSeconds") == (600 if gang == "Coscheduling" else None)
        jobs.delete_pod("same-worker-1-0")
        eventually(lambda: "same-worker-1-1" in jobs.live("same"), deadline_s=60, what="replacement")
        named = [
            {**pod["metadata"]["labels"], **pod["metadata"]["annotations"]}.get(key)
            for pod in jobs.pods("same")
            for key in ("scheduling.x-k8s.io/pod-group", "scheduling.k8s.io/group-name")
        ]
        assert sorted(filter(None, named)) == ["same", "same"]
        assert len({pod["spec"]["schedulerName"] for pod in jobs.pods("same")}) == 1
        jobs.api.merge(path, {"spec": {"minMember": 7}})
        eventually(lambda: jobs.api.get(path)["spec"]["minMember"] == 2, deadline_s=60, what="minMember is put right")
    assert operator.complaints() == []
