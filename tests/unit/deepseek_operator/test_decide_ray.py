"""The head of a job's Ray cluster: made with the gang, replaced when it is lost, gone with the run, never a reason for anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import RayChildren
from support.make import make_manifest
from support.world import World, head_of

RAY: dict[str, Any] = {"corpus": "chitchat", "ray": {}}


def with_ray(ticks: int = 4, **spec: Any) -> World:
    world = World(make_manifest(spec={"data": RAY} | spec))
    for _ in range(ticks):
        world.tick()
    return world


def ready(world: World) -> tuple[str, str]:
    found = fact_of(world.status.conditions, ConditionType.RAY_READY)
    assert found is not None
    return found.status, found.reason


def names(world: World) -> list[str]:
    return sorted(world.heads)


def test_a_job_with_ray_gets_all_of_it_with_its_first_pods() -> None:
    plan = decide(World(make_manifest(spec={"data": RAY})).observe())
    made = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in plan.create]
    workers = [("Pod", f"demo-worker-{slot}-0") for slot in range(3)]
    ray = [
        ("Secret", "demo-ray-0b5d6c1e"),
        ("NetworkPolicy", "demo-ray"),
        ("Service", "demo-ray"),
        ("Pod", "demo-ray-0"),
    ]
    assert made == [("Service", "demo-workers"), *ray, *workers]


def test_a_job_without_ray_gets_nothing_of_it() -> None:
    world = World(make_manifest())
    world.run_to_end()
    assert (world.heads, world.ray, world.status.ray) == ({}, RayChildren(), None)
    assert ready(world) == ("False", "NotUsed")


def test_no_policy_is_made_where_none_is_wanted() -> None:
    world = with_ray(data={"corpus": "chitchat", "ray": {"networkPolicy": False}})
    assert world.ray == RayChildren(secret=True, policy=False, service_head=0)


def test_ray_is_ready_when_the_head_is_and_a_raylet_runs_beside_each_worker() -> None:
    world = with_ray(ticks=1)
    assert ready(world) == ("False", "HeadStarting")
    world.tick()
    world.tick()
    assert ready(world) == ("True", "Ready")
    pod = world.pods["demo-worker-1-0"]
    world.pods[pod.name] = replace(pod, raylet=False)
    world.tick()
    assert ready(world) == ("False", "RayletMissing")
    assert "beside worker 1" in next(c.message for c in world.status.conditions if c.type == "RayReady")
    assert world.status.generation == 1


@pytest.mark.parametrize("fault", ["ended", "deleted", "gone"])
def test_a_lost_head_is_replaced_at_once_and_costs_the_job_nothing(fault: str) -> None:
    world = with_ray()
    before = world.status
    head = world.heads["demo-ray-0"]
    if fault == "ended":
        world.end_head()
    elif fault == "deleted":
        world.frozen.add(head.name)  # its kubelet never says that it is gone
        world.delete(head.name, head.uid)
    else:
        world.vanish(head.name)
    world.tick()
    assert "demo-ray-1" in world.heads
    assert world.ray.service_head == 1
    world.tick()
    world.tick()
    assert ready(world) == ("True", "Ready")
    after = world.status
    assert after.ray is not None
    assert (after.ray.head, after.ray.restarts, after.ray.unready) == (1, 1, 0)
    assert (after.generation, after.attempt, after.restarts) == (before.generation, before.attempt, before.restarts)
    assert after.failures == []
    assert any(event.reason == "HeadLost" for event in world.events)


def test_heads_that_never_come_up_are_made_the_more_rarely() -> None:
    world = with_ray(ticks=2)
    world.broken_ray = True
    world.end_head()
    made: dict[int, float] = {}
    start = world.now
    for _ in range(120):
        # Nobody ends this job: its gang stays away from the last step.
        world.step = world.saved_step = 0
        world.tick()
        assert world.status.ray is not None
        made.setdefault(world.status.ray.head, (world.now - start).total_seconds())
    pauses = [later - sooner for sooner, later in zip(list(made.values())[1:], list(made.values())[2:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 20
    assert pauses[-1] >= 80
    assert world.status.restarts.infrastructure == 0


def test_a_job_succeeds_though_ray_is_broken_from_the_start() -> None:
    world = World(make_manifest(spec={"data": RAY}), broken_ray=True)
    world.run_to_end()
    assert world.status.state == "Succeeded"
    assert (world.status.generation, world.live_heads()) == (1, [])
    assert ready(world) == ("False", "Finished")


def test_the_head_goes_with_the_run_and_the_next_run_has_another() -> None:
    world = with_ray()
    world.frozen.add("demo-ray-0")
    world.edit(suspend=True)
    world.tick()
    world.tick()
    assert world.heads["demo-ray-0"].terminating
    assert world.status.state != "Suspended"
    assert ready(world) == ("False", "Suspending")
    world.frozen.clear()
    world.tick()
    assert (world.status.state, names(world)) == ("Suspended", [])
    world.edit(suspend=False)
    world.tick()
    assert names(world) == ["demo-ray-1"]
    assert world.status.ray is not None
    assert world.status.ray.restarts == 0


@pytest.mark.parametrize(("policy", "kept"), [("Running", ["demo-ray-1"]), ("All", [])])
def test_of_heads_that_ended_the_last_is_kept_for_its_logs(policy: str, kept: list[str]) -> None:
    world = with_ray(lifecycle={"cleanPodPolicy": policy})
    world.end_head()
    world.tick()
    assert names(world) == ["demo-ray-0", "demo-ray-1"]
    world.tick()
    world.tick()
    world.end_head()
    world.tick()
    world.tick()
    assert names(world)[-2:] == ["demo-ray-1", "demo-ray-2"]
    assert "demo-ray-0" not in world.heads
    world.run_to_end()
    assert names(world) == kept


def test_a_head_that_the_status_could_not_have_asked_for_is_replaced() -> None:
    world = with_ray()
    world.lose_status()
    world.tick()
    assert world.status.ray is not None
    assert world.status.ray.head == 1
    assert [head.name for head in world.live_heads() if not head.terminating] == ["demo-ray-1"]


def test_a_new_head_keeps_away_from_nodes_that_are_avoided() -> None:
    world = with_ray()
    excluded = [{"node": "node-0", "until": "2027-01-01T00:00:00Z", "reason": "x"}]
    status = world.status.model_copy(
        update={"excluded_nodes": type(world.status).model_validate({"excludedNodes": excluded}).excluded_nodes}
    )
    world._write_status(status)
    world.end_head()
    plan = decide(world.observe())
    [head] = [manifest for manifest in plan.create if manifest["kind"] == "Pod" and head_of(manifest) == 1]
    assert "node-0" in str(head["spec"]["affinity"])


def test_under_kueue_the_head_waits_for_the_quota_and_takes_its_place() -> None:
    world = World(make_manifest(spec={"data": RAY, "scheduling": {"gang": "Kueue", "queue": "team"}}))
    world.kueue.free = False
    world.tick()
    world.tick()
    assert names(world) == []
    world.kueue.free = True
    world.tick()
    world.tick()
    assert names(world) == ["demo-ray-0"]
    world.edit(suspend=True)
    world.frozen.add("demo-ray-0")
    world.tick()
    world.tick()
    assert world.kueue.workload is not None, "the quota was given back while the head may still run"
    world.frozen.clear()
    world.tick()
    world.tick()
    assert world.kueue.workload is None
