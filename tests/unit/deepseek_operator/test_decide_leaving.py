"""Members that were told to end and can still save: a planned move, without a lost step."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import make_manifest
from support.world import World, told


def trained(**spec: Any) -> World:
    world = World(make_manifest(spec=spec))
    for _ in range(4):
        world.tick()
    assert world.status.state == "Running"
    return world


def evict(world: World, slot: int = 1, *, grace_s: float = 30, **fields: Any) -> None:
    """The API server has taken the eviction, and the pod still runs."""
    name = f"demo-worker-{slot}-{world.status.incarnations.get(str(slot), 0)}"
    gone_by = world.now + timedelta(seconds=grace_s)
    marks: dict[str, Any] = {
        "terminating": True,
        "disrupted": True,
        "gone_by": gone_by,
        "reason": "EvictionByEvictionAPI",
    }
    world.pods[name] = replace(world.pods[name], **(marks | fields))


def test_an_evicted_worker_is_replaced_and_the_others_save_with_it() -> None:
    world = trained()
    evict(world)
    plan = world.reconcile()
    status = world.status
    assert (status.generation, status.planned, status.incarnations) == (2, True, {"1": 1})
    assert [pod["metadata"]["name"] for pod in plan.create] == ["demo-worker-1-1"]
    assert [patch.name for patch in plan.patch] == ["demo-worker-0-0", "demo-worker-2-0"], "not the one that leaves"
    assert all(json.loads(patch.annotations[ANNOTATION_MEMBERSHIP])["planned"] for patch in plan.patch)
    assert (status.restarts.preempted, status.restarts.infrastructure, status.reason) == (1, 0, "WorkerLost")
    [failure] = status.failures
    assert (failure.cause, failure.reason) == ("Preempted", "EvictionByEvictionAPI")


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_no_step_is_lost(slot: int) -> None:
    world = trained()
    made = world.step
    evict(world, slot)
    world.reconcile()
    world.run(lambda w: w.trained_generation == 2)
    assert world.saved_step >= made
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_a_drain_that_takes_one_after_the_other_costs_no_step_either() -> None:
    world = trained()
    made = world.step
    evict(world, 0)
    world.reconcile()
    evict(world, 2)
    world.reconcile()
    assert (world.status.generation, world.status.planned) == (3, True)
    assert told(world.pods["demo-worker-1-0"], "generation") == 3
    world.run(lambda w: w.trained_generation == 3)
    assert world.saved_step >= made


AT_ONCE: list[tuple[str, dict[str, Any]]] = [
    ("no grace", {"grace_s": 0}),
    ("less grace than a save took", {"grace_s": 20}),
    ("its node is lost", {"unreachable": True}),
    ("it never ran", {"phase": "Pending"}),
    ("it has failed meanwhile", {"phase": "Failed", "exit_code": 137}),
]


@pytest.mark.parametrize("fields", [fields for _, fields in AT_ONCE], ids=[name for name, _ in AT_ONCE])
def test_who_cannot_save_is_lost_at_once(fields: dict[str, Any]) -> None:
    world = trained()
    slow = world.status.checkpoint and world.status.checkpoint.model_copy(update={"seconds": 21.0})
    world._write_status(world.status.model_copy(update={"checkpoint": slow}))
    world.mute = True
    evict(world, **fields)
    world.reconcile()
    assert (world.status.generation, world.status.planned) == (2, False)


def test_beside_a_worker_that_is_gone_nobody_can_save() -> None:
    world = trained()
    evict(world, 0)
    world.vanish("demo-worker-2-0")
    world.reconcile()
    assert (world.status.generation, world.status.planned) == (2, False)
    assert world.status.restarts.infrastructure == 1


def test_in_a_gang_that_is_not_whole_there_is_nothing_to_save() -> None:
    world = trained()
    world.vanish("demo-worker-0-0")
    world.reconcile()
    evict(world, 1)
    world.reconcile()
    assert (world.status.generation, world.status.planned) == (3, False)


def test_a_ready_spare_takes_the_place_of_the_one_that_leaves() -> None:
    world = trained(scheduling={"spares": 1})
    evict(world)
    plan = world.reconcile()
    assert (world.status.planned, world.status.ranks) == (True, [0, 2, 3])
    assert [pod["metadata"]["name"] for pod in plan.create] == ["demo-worker-1-1"], "the next spare"


@pytest.mark.parametrize("slots", [(1,), (0, 2), (0, 1, 2)])
def test_a_stop_anywhere_is_harmless(slots: tuple[int, ...]) -> None:
    world = trained()
    for slot in slots:
        evict(world, slot)
    crash_everywhere(world)
    comes_to_rest(world)
