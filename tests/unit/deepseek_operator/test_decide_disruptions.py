"""The PodDisruptionBudget of a job: made before its pods are, changed with the spec, and told to allow everything."""

from __future__ import annotations

from typing import Any

from deepseek_operator.decide import Plan
from support.laws import comes_to_rest, crash_everywhere
from support.make import UID, make_manifest
from support.world import World


def make_world(**lifecycle: Any) -> World:
    return World(make_manifest(spec={"lifecycle": lifecycle}))


def budgets(plan: Plan) -> list[Any]:
    return [m["spec"]["maxUnavailable"] for m in plan.create if m["kind"] == "PodDisruptionBudget"]


def test_a_job_has_none_by_default() -> None:
    world = make_world()
    assert budgets(world.tick()) == []
    assert not world.status.disruption_budget


def test_it_is_of_the_job_and_over_its_pods() -> None:
    plan = make_world(maxUnavailable=1).reconcile()
    assert plan.status.disruption_budget
    [budget] = [manifest for manifest in plan.create if manifest["kind"] == "PodDisruptionBudget"]
    assert budget["metadata"]["ownerReferences"][0]["uid"] == UID
    assert budget["spec"]["selector"] == {"matchLabels": {"training.deepseekjob.dev/job-uid": UID}}
    [pod] = [m for m in plan.create if m["metadata"]["name"] == "demo-worker-0-0"]
    assert pod["metadata"]["labels"]["training.deepseekjob.dev/job-uid"] == UID


def test_it_follows_the_spec_and_is_made_again() -> None:
    world = make_world(maxUnavailable=1)
    for _ in range(3):
        world.tick()
    assert budgets(world.reconcile()) == []
    world.edit(lifecycle={"maxUnavailable": 2})
    assert budgets(world.reconcile()) == [2]
    world.max_unavailable = None  # somebody deleted it
    assert budgets(world.reconcile()) == [2]
    world.edit(lifecycle={})
    assert budgets(world.reconcile()) == ["100%"]
    assert budgets(world.reconcile()) == []


def test_a_stop_anywhere_is_harmless() -> None:
    world = make_world(maxUnavailable=1)
    crash_everywhere(world)
    comes_to_rest(world)
