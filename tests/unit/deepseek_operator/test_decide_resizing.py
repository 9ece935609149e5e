"""Another number of workers: a later generation has it, planned and free of charge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from deepseek_operator.api.v1alpha1 import AppliedProfile
from support.laws import Watcher, crash_everywhere, ends, tick
from support.make import make_manifest
from support.world import World, announced

ELASTIC = {"elastic": {"minReplicas": 1, "maxReplicas": 8}}


def running(replicas: int = 3, ticks: int = 4, **spec: Any) -> World:
    world = World(make_manifest(replicas=replicas, spec=ELASTIC | spec))
    for _ in range(ticks):
        world.tick()
    return world


def scale(world: World, replicas: int) -> None:
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": replicas})


def parts(world: World) -> list[dict[str, Any]]:
    """What the live members were told, by slot."""
    live = sorted((pod.slot, pod.membership or "{}") for pod in world.live() if not pod.terminating)
    return [json.loads(membership) for _, membership in live]


SIZES = [(3, 4), (3, 8), (1, 2), (1, 8), (3, 2), (3, 1), (8, 1), (8, 7), (2, 5)]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("ticks", [1, 2, 4], ids=["created", "launched", "training"])
def test_the_next_generation_has_the_new_size(old: int, new: int, ticks: int) -> None:
    world = running(old, ticks)
    before = dict(world.pods)
    scale(world, new)
    if new > old:
        world.run(lambda w: w.status.generation == 2)
    else:
        world.reconcile()
    status = world.status
    assert (status.generation, status.attempt, status.nodes.desired) == (2, 2, new)
    assert (status.restarts.resize, status.total_restarts, status.failures) == (1, 0, [])
    told = parts(world)
    assert [part["nodeRank"] for part in told] == list(range(new))
    assert {part["nodes"] for part in told} == {new}
    assert {part["generation"] for part in told} == {2}
    assert len({part["master"] for part in told}) == 1
    assert sum(part["host"] for part in told) == 1
    for slot in range(min(old, new)):
        name = f"demo-worker-{slot}-0"
        assert world.pods[name].uid == before[name].uid, "a pod that stays was replaced"
    removed = {pod.slot for pod in world.pods.values() if pod.terminating}
    assert removed == set(range(new, old))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_training_goes_on_with_the_new_size(old: int, new: int) -> None:
    world = running(old)
    watcher = Watcher(world)
    watcher.look()
    scale(world, new)
    while world.status.generation == 1:
        tick(world, watcher)
    assert (world.status.state, world.status.reason) == ("Restarting", "Resized")
    ends(world, watcher)
    assert (world.status.state, world.status.attempt, world.status.ready_nodes) == ("Succeeded", 2, f"0/{new}")
    resized = [event for event in world.events if event.reason == "Resized"]
    assert [event.type for event in resized] == ["Normal"]
    assert resized[0].message == f"from {old} to {new} worker{'s' if new != 1 else ''}"


def test_a_planned_move_is_told_as_such_and_loses_no_step() -> None:
    world = running(3, 5)
    scale(world, 4)
    while world.status.generation == 1:
        step = world.step
        world.tick()
    assert step % 20, "the last step was saved anyway"
    assert {part.get("planned") for part in parts(world)} == {True}
    world.tick()
    world.tick()
    assert world.saved_step >= step


@pytest.mark.parametrize("together", [True, False], ids=["in the same look", "afterwards"])
def test_with_a_lost_worker_it_is_no_longer_planned(together: bool) -> None:
    world = running(3)
    scale(world, 4)
    if not together:
        world.run(lambda w: w.status.generation == 2)
    world.vanish("demo-worker-1-0")
    world.reconcile()
    assert {part.get("planned") for part in parts(world)} == {None}


@pytest.mark.parametrize(("old", "new"), [(3, 5), (3, 1)])
def test_a_stop_between_any_two_writes_is_harmless(old: int, new: int) -> None:
    world = running(old)
    scale(world, new)
    crash_everywhere(world)


def test_a_slot_that_comes_back_gets_a_pod_of_another_name() -> None:
    world = running(3)
    scale(world, 2)
    world.tick()
    scale(world, 3)
    world.run(lambda w: w.status.generation == 3)
    assert "demo-worker-2-1" in world.pods
    assert world.status.incarnations == {"2": 1}
    assert (world.status.generation, world.status.restarts.resize) == (3, 2)


def test_a_removed_slot_stuck_in_terminating_holds_nothing_up() -> None:
    world = running(3)
    world.frozen = {"demo-worker-2-0"}
    scale(world, 2)
    world.tick()
    world.run(lambda w: w.status.state == "Running")
    scale(world, 3)
    world.tick()
    assert "demo-worker-2-1" in world.pods


def test_the_store_moves_when_its_host_is_removed() -> None:
    world = running(3)
    world.vanish("demo-worker-0-0")
    world.tick()
    world.vanish("demo-worker-1-0")
    world.tick()
    world.tick()
    scale(world, 1)
    world.reconcile()
    assert world.status.master is not None
    assert world.status.master.slot == 0
    [part] = parts(world)
    assert part["host"] is True


def test_a_loss_and_a_resize_in_one_look_make_one_generation() -> None:
    world = running(3)
    world.vanish("demo-worker-1-0")
    scale(world, 5)
    world.reconcile()
    assert (world.status.generation, world.status.nodes.desired, world.status.restarts.resize) == (2, 3, 0)
    assert world.status.restarts.infrastructure == 1
    assert sorted(pod.slot for pod in world.live()) == [0, 1, 2, 3, 4]
    world.run(lambda w: w.status.nodes.desired == 5)
    assert (world.status.generation, world.status.restarts.resize) == (3, 1)


def test_a_resize_before_all_pods_were_seen_creates_what_is_missing() -> None:
    world = World(make_manifest(replicas=3, spec=ELASTIC))
    world.reconcile(stop_after=3)  # the status, the Service and one pod
    scale(world, 4)
    world.reconcile()
    assert sorted(world.pods) == [f"demo-worker-{slot}-0" for slot in range(4)]
    assert world.run_to_end().status.total_restarts == 0


def test_a_job_that_is_about_to_end_keeps_its_size() -> None:
    world = running(3)
    world.end("demo-worker-1-0", 0)
    scale(world, 5)
    world.tick()
    assert (world.status.generation, world.status.nodes.desired) == (1, 3)
    for name in list(world.pods):
        world.end(name, 0)
    world.tick()
    assert world.status.state == "Succeeded"


def test_an_ended_job_keeps_its_size() -> None:
    world = running(3).run_to_end()
    scale(world, 5)
    plan = world.tick()
    assert (plan.create, world.status.nodes.desired) == ((), 3)


def test_a_job_that_is_not_elastic_keeps_its_size() -> None:
    world = World(make_manifest())
    for _ in range(3):
        world.tick()
    scale(world, 5)
    world.tick()
    assert (world.status.generation, world.status.nodes.desired) == (1, 3)


def test_a_size_that_the_profile_does_not_allow_is_not_taken_up() -> None:
    world = World(make_manifest(spec=ELASTIC | {"profile": "pool"}))
    world.profile = AppliedProfile(name="pool", spec={"limits": {"maxReplicas": 8}})
    for _ in range(4):
        world.tick()
    assert world.status.profile is not None
    strict = AppliedProfile(name="pool", spec={"limits": {"maxReplicas": 4}})
    world._write_status(world.status.model_copy(update={"profile": strict}))
    scale(world, 5)
    world.tick()
    assert (world.status.generation, len(world.live())) == (1, 3)
    world.vanish("demo-worker-1-0")
    world.tick()
    assert (world.status.nodes.desired, len(world.live())) == (3, 3)


def test_many_changes_are_each_one_generation() -> None:
    world = running(3)
    watcher = Watcher(world)
    for replicas in (4, 2, 6, 6, 1, 3):
        scale(world, replicas)
        tick(world, watcher)
        while world.status.nodes.desired != replicas:
            world.step = 20  # it doesn't end meanwhile
            tick(world, watcher)
    assert world.status.restarts.resize == 5
    assert {announced(pod) for pod in world.live() if not pod.terminating} == {6}
    ends(world, watcher)


def test_the_scale_subresource_finds_the_pods() -> None:
    world = running(3)
    assert world.status.selector == f"training.deepseekjob.dev/job-uid={world.job.metadata.uid}"
