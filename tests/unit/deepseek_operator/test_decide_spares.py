"""Spares: pods that wait beside the gang, and take the place of a lost worker in the very generation that answers it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deepseek_operator.api.limits import violations
from deepseek_operator.api.profile import Limits
from deepseek_operator.decide import decide
from deepseek_operator.decide.gang import pods_wanted, slots
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import make_job, make_manifest
from support.world import World, announced


def make_world(
    replicas: int = 3, spares: int = 1, capacity: int | None = None, *, ticks: int = 4, **spec: Any
) -> World:
    world = World(make_manifest(replicas=replicas, spec={"scheduling": {"spares": spares}} | spec), capacity=capacity)
    for _ in range(ticks):
        world.tick()
    return world


def vanish(world: World, slot: int) -> None:
    world.vanish(f"demo-worker-{slot}-{world.status.incarnations.get(str(slot), 0)}")


def names(world: World) -> list[str]:
    return sorted(pod.name.removeprefix("demo-worker-") for pod in world.live())


def test_spares_wait_beside_a_gang_that_trains_without_them() -> None:
    world = make_world(spares=2)
    assert names(world) == ["0-0", "1-0", "2-0", "3-0", "4-0"]
    assert [announced(pod) for pod in sorted(world.live(), key=lambda pod: pod.slot)] == [1, 1, 1, 0, 0]
    assert (world.status.state, world.status.ready_nodes, world.status.nodes.desired) == ("Running", "3/3", 3)
    comes_to_rest(world)
    assert world.status.generation == 1, "spares made the job grow"
    ended = ends(world, Watcher(world))
    assert (ended.status.state, ended.status.restarts.resize) == ("Succeeded", 0)
    assert names(ended) == []


def test_a_spare_takes_a_lost_workers_place_at_once() -> None:
    world = make_world()
    watcher = Watcher(world)
    watcher.look()
    vanish(world, 1)
    world.held = {"demo-worker-1-1"}  # the lost worker's successor doesn't come up
    tick(world, watcher)
    assert (world.status.generation, slots(world.job, world.status)) == (2, (0, 2, 3))
    tick(world, watcher)
    assert (world.status.state, world.status.ready_nodes) == ("Running", "3/3"), "it waits for the successor"
    assert (world.status.restarts.infrastructure, world.status.restarts.resize) == (1, 0)
    assert names(world) == ["0-0", "1-1", "2-0", "3-0"], "the successor is not the next spare"
    world.held.clear()
    assert ends(world, watcher).status.state == "Succeeded"


@pytest.mark.parametrize(
    ("lost", "spares", "members", "whole"),
    [
        ((0,), 1, (1, 2, 3), True),
        ((0, 1), 1, (1, 2, 3), False),
        ((0, 1), 2, (2, 3, 4), True),
        ((2,), 2, (0, 1, 3), True),
        ((0, 1, 2), 2, (0, 1, 2), False),
    ],
)
def test_as_many_places_are_taken_as_there_are_spares(
    lost: tuple[int, ...], spares: int, members: tuple[int, ...], whole: bool
) -> None:
    """The others are filled by new pods; a gang without survivors begins anew."""
    world = make_world(spares=spares)
    watcher = Watcher(world)
    watcher.look()
    for slot in lost:
        vanish(world, slot)
    tick(world, watcher)
    found = slots(world.job, world.status)
    assert len(found) == 3
    assert (world.status.generation, bool(world.status.replaced)) == (2, not whole)
    if whole or len(lost) == 3:
        assert found == members
    assert ends(world, watcher).status.state == "Succeeded"


def test_a_spare_that_found_room_first_takes_the_place_of_a_worker_that_has_none() -> None:
    world = make_world(ticks=0)
    world.held = {"demo-worker-1-0"}
    world.tick()
    pending = world.pods["demo-worker-1-0"]
    world.pods[pending.name] = replace(pending, reason="Unschedulable", message="0/3 nodes are available")
    world.run(lambda w: w.status.state == "Running", ticks=20)
    assert slots(world.job, world.status) == (0, 2, 3)


@pytest.mark.parametrize("lost", [(0,), (1, 2)])
def test_a_stop_between_any_two_writes_is_harmless(lost: tuple[int, ...]) -> None:
    world = make_world()
    for slot in lost:
        vanish(world, slot)
    crash_everywhere(world)
    comes_to_rest(world)


def test_a_failed_spare_is_replaced_and_costs_nothing() -> None:
    world = make_world()
    watcher = Watcher(world)
    world.end("demo-worker-3-0", 69)
    world.run(lambda w: "demo-worker-3-1" in w.pods, ticks=20)
    assert (world.status.generation, world.status.total_restarts, world.status.state) == (1, 0, "Running")
    assert ends(world, watcher).status.state == "Succeeded"


def test_elastic_jobs_have_spares_beyond_those_that_they_lack() -> None:
    world = make_world(2, 1, elastic={"minReplicas": 1, "maxReplicas": 8})
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": 3})
    world.run(lambda w: w.status.generation == 2, ticks=20)
    assert len(slots(world.job, world.status)) == 3
    world.run(lambda w: len(w.live()) == 4, ticks=20)
    comes_to_rest(world)


def test_quota_and_limits_count_spares() -> None:
    job = make_job(replicas=3, spec={"scheduling": {"spares": 2}})
    assert pods_wanted(job) == 5
    (told,) = violations(job.spec, Limits(max_replicas=4))
    assert told == "workers.replicas and scheduling.spares is 5, at most 4 allowed"


def test_without_spares_nothing_is_beside_the_gang() -> None:
    world = make_world(spares=0)
    assert names(world) == ["0-0", "1-0", "2-0"]
    assert decide(world.observe()).create == ()
