"""The PodGroup of a gang scheduler, and how pods name it."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.decide import Observation, decide
from deepseek_operator.render import pod_group, worker_pod
from deepseek_operator.render.gang import scheduler_name, times
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import START, UID, make_job, make_manifest
from support.world import World

WORKERS = {"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "nvidia.com/gpu": "8", "memory": "1.5Gi"}}}


def make_gang(
    gang: str, workers: dict[str, Any] | None = None, lifecycle: dict[str, Any] | None = None, **more: Any
) -> Any:
    spec = {"scheduling": {"gang": gang, **more}} | ({"lifecycle": lifecycle} if lifecycle else {})
    return make_job(workers=WORKERS | (workers or {}), spec=spec)


def group(job: Any, members: int = 3) -> dict[str, Any]:
    found = pod_group(job, members)
    assert found is not None
    return found


def test_volcanos_group() -> None:
    found = group(make_gang("Volcano", queue="research", priority_class_name="high"))
    assert (found["apiVersion"], found["kind"]) == ("scheduling.volcano.sh/v1beta1", "PodGroup")
    assert found["metadata"]["name"] == "demo"
    assert found["metadata"]["ownerReferences"][0]["uid"] == UID
    assert found["spec"] == {
        "minMember": 3,
        "queue": "research",
        "priorityClassName": "high",
        "minResources": {"cpu": "1500m", "memory": "4.5Gi", "nvidia.com/gpu": "24"},
    }


def test_coschedulings_group() -> None:
    found = group(make_gang("Coscheduling", lifecycle={"startDeadlineSeconds": 90}))
    assert found["apiVersion"] == "scheduling.x-k8s.io/v1alpha1"
    assert found["spec"] == {
        "minMember": 3,
        "scheduleTimeoutSeconds": 90,
        "minResources": {"cpu": "1500m", "memory": "4.5Gi", "nvidia.com/gpu": "24"},
    }


def test_what_was_not_asked_for_is_left_out() -> None:
    assert set(group(make_gang("Volcano"))["spec"]) == {"minMember", "minResources"}
    assert set(group(make_gang("Coscheduling"))["spec"]) == {"minMember", "minResources"}


def test_the_workers_priority_is_the_gangs_unless_it_has_its_own() -> None:
    workers = {"priorityClassName": "workers"}
    assert group(make_gang("Volcano", workers))["spec"]["priorityClassName"] == "workers"
    assert group(make_gang("Volcano", workers, priority_class_name="gang"))["spec"]["priorityClassName"] == "gang"


@pytest.mark.parametrize(
    ("gang", "labels", "annotations", "scheduler"),
    [
        ("None", set(), set(), None),
        ("Kueue", set(), set(), None),
        ("Volcano", set(), {"scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name"}, "volcano"),
        ("Coscheduling", {"scheduling.x-k8s.io/pod-group"}, set(), "scheduler-plugins-scheduler"),
    ],
)
def test_pods_name_their_group(gang: str, labels: set[str], annotations: set[str], scheduler: str | None) -> None:
    job = make_gang(gang, queue="q") if gang == "Kueue" else make_gang(gang)
    pod, plain = worker_pod(job, 1, 2, None), worker_pod(make_job(workers=WORKERS), 1, 2, None)
    added = {
        kind: {k: v for k, v in pod["metadata"].get(kind, {}).items() if k not in plain["metadata"].get(kind, {})}
        for kind in ("labels", "annotations")
    }
    assert added == {"labels": dict.fromkeys(labels, "demo"), "annotations": dict.fromkeys(annotations, "demo")}
    assert pod["spec"].get("schedulerName") == scheduler == scheduler_name(job)
    assert (pod_group(job, 3) is None) == (gang in ("None", "Kueue"))


def test_a_named_scheduler_wins() -> None:
    assert worker_pod(make_gang("Volcano", scheduler_name="mine"), 0, 0, None)["spec"]["schedulerName"] == "mine"


@pytest.mark.parametrize(
    ("quantity", "count", "product"),
    [
        ("500m", 3, "1500m"),
        ("1.5Gi", 4, "6Gi"),
        ("8", 2, "16"),
        ("1e3", 3, "3e3"),
        ("0", 9, "0"),
        ("100", 100, "10000"),
    ],
)
def test_times(quantity: str, count: int, product: str) -> None:
    assert times(quantity, count) == product


def test_what_is_no_quantity_is_named() -> None:
    with pytest.raises(ValueError, match="'lots' is no quantity; write a number"):
        times("lots", 2)


def make_world(gang: str, ticks: int = 0) -> World:
    world = World(make_manifest(spec={"scheduling": {"gang": gang}}))
    for _ in range(ticks):
        world.tick()
    return world


def kinds(plan: Any) -> list[str]:
    return [manifest["kind"] for manifest in plan.create]


def test_no_pod_before_its_group() -> None:
    world = make_world("Volcano")
    first = world.reconcile()
    assert kinds(first) == ["Service", "PodGroup"]
    assert first.requeue_after_s is not None
    assert first.requeue_after_s < 0.1
    assert kinds(world.reconcile()) == ["Pod"] * 3
    assert kinds(decide(Observation(START, make_job()))) == ["Service", "Pod", "Pod", "Pod"]


def test_a_group_of_another_size_is_put_right_and_one_that_vanished_is_made_again() -> None:
    world = make_world("Volcano", ticks=3)
    world.group = 5
    assert kinds(world.reconcile()) == ["PodGroup"]
    assert world.group == 3
    world.group = None
    assert kinds(world.reconcile()) == ["PodGroup"]
    assert kinds(world.reconcile()) == []


@pytest.mark.parametrize("gang", ["Volcano", "Coscheduling"])
@pytest.mark.parametrize("ticks", [0, 1, 2, 4])
def test_the_laws_hold(gang: str, ticks: int) -> None:
    world = make_world(gang, ticks=ticks)
    world.vanish("demo-worker-1-0")
    world.group = None
    crash_everywhere(world)
    watcher = Watcher(world)
    assert ends(world, watcher).status.state == "Succeeded"
    comes_to_rest(world)
