"""Elastic worlds: training never stands still for workers that have no room, and takes them in when they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ConditionType
from deepseek_operator.decide import decide
from deepseek_operator.decide.gang import slots
from deepseek_operator.decide.standby import RENEW_S
from deepseek_operator.render.gang import POD_GROUP
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import make_manifest
from support.world import World, announced, told

SHRINK_S = 20


def make_world(
    replicas: int = 3,
    capacity: int | None = None,
    *,
    ticks: int = 0,
    elastic: dict[str, Any] | None = None,
    **spec: Any,
) -> World:
    bounds = {"minReplicas": 1, "maxReplicas": 8, "shrinkAfterSeconds": SHRINK_S} | (elastic or {})
    world = World(make_manifest(replicas=replicas, spec={"elastic": bounds} | spec), capacity=capacity)
    for _ in range(ticks):
        world.tick()
    return world


def scale(world: World, replicas: int) -> None:
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": replicas})


def gang(world: World) -> list[int]:
    """The slots of the present generation, in the order of node ranks, as its pods were told."""
    parts = [pod for pod in world.live() if announced(pod) == world.status.generation]
    ordered = [pod.slot for pod in sorted(parts, key=lambda pod: told(pod, "nodeRank"))]
    assert ordered == list(slots(world.job, world.status))
    assert {told(pod, "nodes") for pod in parts} == {len(ordered)}
    assert sum(told(pod, "host") for pod in parts) == 1
    return ordered


def pods_ready(world: World) -> tuple[str, str]:
    found = fact_of(world.status.conditions, ConditionType.PODS_READY)
    assert found is not None
    return found.status, found.message


def pass_time(world: World, seconds: float) -> None:
    """Ticks without a step more: the job doesn't end meanwhile."""
    for _ in range(round(seconds / 5)):
        world.step = min(world.step, 20)
        world.tick()


def lose(world: World, slot: int, *, capacity: int) -> None:
    """A pod is gone, and so is its room."""
    world.capacity = capacity
    world.vanish(f"demo-worker-{slot}-{world.status.incarnations.get(str(slot), 0)}")


# -- growth --------------------------------------------------------------------------------------------------


def test_more_workers_than_there_is_room_for_join_as_they_come() -> None:
    world = make_world(2, 3, ticks=4)
    watcher = Watcher(world)
    watcher.look()
    scale(world, 4)
    step = world.step
    tick(world, watcher)
    assert (world.status.generation, world.status.state) == (1, "Running")
    assert world.step > step, "training stands still"
    assert [announced(pod) for pod in world.live()] == [1, 1, 0, 0]
    world.run(lambda w: w.status.generation == 2)
    watcher.look()
    assert gang(world) == [0, 1, 2]
    assert world.events[-1].message == "from 2 to 3 workers; 1 more are wanted"
    pass_time(world, 20)
    assert (world.status.state, world.status.ready_nodes) == ("Running", "3/3")
    waiting = "3 of 3 worker pods are ready; worker 3: Unschedulable: 0/3 nodes are available"
    assert pods_ready(world) == ("True", waiting)
    world.capacity = 4
    world.run(lambda w: w.status.generation == 3)
    watcher.look()
    assert gang(world) == [0, 1, 2, 3]
    ends(world, watcher)
    assert (world.status.restarts.resize, world.status.total_restarts, world.status.incarnations) == (2, 0, {})


@pytest.mark.parametrize("replicas", [4, 5, 8])
def test_without_room_nothing_changes(replicas: int) -> None:
    world = make_world(3, 3, ticks=4)
    scale(world, replicas)
    pass_time(world, 600)
    assert (world.status.generation, gang(world), world.status.state) == (1, [0, 1, 2], "Running")
    assert len(world.live()) == replicas
    assert world.status.standby == list(range(3, replicas))


def test_those_on_their_way_are_waited_for() -> None:
    world = make_world(2, ticks=4)
    world.held = {"demo-worker-3-0"}
    scale(world, 4)
    pass_time(world, 60)
    assert gang(world) == [0, 1]
    world.held = set()
    world.run(lambda w: w.status.generation == 2)
    assert gang(world) == [0, 1, 2, 3]


@pytest.mark.parametrize("reason", ["Unschedulable", "ImagePullBackOff", "CreateContainerConfigError", "FailedMount"])
def test_those_that_are_held_up_are_not(reason: str) -> None:
    world = make_world(2, ticks=4)
    scale(world, 4)
    world.tick()
    world.pods["demo-worker-2-0"] = replace(world.pods["demo-worker-2-0"], reason=reason, message="no")
    world.run(lambda w: w.status.generation == 2)
    assert gang(world) == [0, 1, 3]


def test_nobody_joins_before_training_makes_steps() -> None:
    world = make_world(2, ticks=1)
    scale(world, 3)
    world.kubelet()
    world.reconcile()
    world.kubelet()
    world.reconcile()
    assert all(pod.ready for pod in world.live())
    assert (world.status.generation, len(world.live())) == (1, 3)
    world.run(lambda w: w.status.generation == 2)
    assert gang(world) == [0, 1, 2]


def test_on_restart_they_wait_until_there_is_one() -> None:
    world = make_world(2, ticks=4, elastic={"growPolicy": "OnRestart"})
    scale(world, 4)
    pass_time(world, 120)
    assert (world.status.generation, gang(world)) == (1, [0, 1])
    world.vanish("demo-worker-1-0")
    world.tick()
    assert (world.status.generation, world.status.restarts.resize) == (2, 0)
    world.tick()
    assert gang(world) == [0, 1, 2, 3]


def test_a_candidate_costs_nothing_and_is_replaced_now_and_then() -> None:
    world = make_world(2, 2, ticks=4)
    scale(world, 3)
    world.tick()
    made = {"demo-worker-2-0"}
    for _ in range(60):
        for pod in world.live():
            if pod.slot == 2:
                world.end(pod.name, 1)
        pass_time(world, 5)
        made |= {pod.name for pod in world.pods.values() if pod.slot == 2}
    assert 60 * 5 / RENEW_S - 1 <= len(made) <= 60 * 5 / RENEW_S + 1
    assert (world.status.generation, world.status.failures, world.status.total_restarts) == (1, [], 0)
    assert (world.status.state, gang(world)) == ("Running", [0, 1])


@pytest.mark.parametrize("how", ["ended", "gone", "terminating", "disrupted"])
def test_a_candidate_that_is_lost_is_replaced_under_another_name(how: str) -> None:
    world = make_world(2, 3, ticks=4, elastic={"growPolicy": "OnRestart"})
    scale(world, 3)
    pass_time(world, 15)
    name = "demo-worker-2-0"
    if how == "ended":
        world.end(name, 69)
    elif how == "gone":
        world.vanish(name)
    elif how == "terminating":
        world.frozen.add(name)
        world.delete(name, world.pods[name].uid)
    else:
        world.pods[name] = replace(world.pods[name], disrupted=True)
    crash_everywhere(world)
    comes_to_rest(world)
    world.reconcile()
    assert "demo-worker-2-1" in world.pods
    assert (world.status.generation, world.status.failures) == (1, [])


def test_a_candidate_that_is_wanted_no_more_goes_and_its_name_with_it() -> None:
    world = make_world(2, 2, ticks=4)
    scale(world, 4)
    pass_time(world, 10)
    scale(world, 3)
    pass_time(world, 10)
    assert sorted(pod.slot for pod in world.live()) == [0, 1, 2]
    scale(world, 4)
    pass_time(world, 10)
    assert sorted(world.pods) == ["demo-worker-0-0", "demo-worker-1-0", "demo-worker-2-0", "demo-worker-3-1"]
    assert world.status.generation == 1


# -- shrinking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "capacity", "least", "expected"),
    [
        pytest.param(8, 5, 2, 5, id="with those that are there"),
        pytest.param(8, 2, 2, 2, id="the fewest"),
        pytest.param(8, 1, 2, None, id="fewer than the fewest"),
        pytest.param(3, 2, 1, 2, id="one lacks"),
        pytest.param(3, 3, 1, 3, id="nobody lacks"),
        pytest.param(1, 0, 1, None, id="nobody is there"),
    ],
)
def test_the_first_generation_without_room(replicas: int, capacity: int, least: int, expected: int | None) -> None:
    world = make_world(replicas, capacity, elastic={"minReplicas": least}, ticks=3)
    watcher = Watcher(world)
    watcher.look()
    assert (world.status.generation, world.status.nodes.desired) == (1, replicas)
    for _ in range(10):
        world.step = min(world.step, 20)
        tick(world, watcher)
    if expected is None:
        assert (world.status.generation, world.status.state) == (1, "Pending")
        return
    assert gang(world) == list(range(expected))
    assert len(world.live()) == replicas, "those without room are kept"
    ends(world, watcher)
    assert (world.status.state, world.status.total_restarts) == ("Succeeded", 0)


def test_a_lost_worker_without_room_is_done_without_and_comes_back() -> None:
    world = make_world(3, 3, ticks=5)
    watcher = Watcher(world)
    watcher.look()
    lose(world, 1, capacity=2)
    tick(world, watcher)
    assert (world.status.generation, world.status.nodes.desired) == (2, 3)
    while world.status.generation == 2:
        tick(world, watcher)
    assert gang(world) == [0, 2]
    [warning] = [event for event in world.events if event.reason == "Resized"]
    assert warning.type == "Warning"
    assert warning.message == "goes on with 2 of 3 workers: worker 1: Unschedulable: 0/2 nodes are available"
    assert world.pods["demo-worker-1-1"].membership == "", "it would look for a generation that is over"
    pass_time(world, 20)
    assert (world.status.state, world.status.ready_nodes) == ("Running", "2/2")
    world.capacity = 3
    world.run(lambda w: w.status.generation == 4)
    watcher.look()
    assert gang(world) == [0, 2, 1], "who was there keeps its order"
    assert world.pods["demo-worker-1-1"].uid == next(p for p in world.live() if p.slot == 1).uid
    ends(world, watcher)
    restarts = world.status.restarts
    assert (restarts.infrastructure, restarts.resize, world.status.total_restarts) == (1, 2, 1)


def test_without_the_time_it_waits_for_ever() -> None:
    world = make_world(3, 2, ticks=3, elastic={"shrinkAfterSeconds": None})
    pass_time(world, 3600)
    assert (world.status.generation, world.status.nodes.desired, world.status.state) == (1, 3, "Pending")


@pytest.mark.parametrize("seconds", [1, 7, 13])
def test_the_operator_looks_at_the_very_moment(seconds: int) -> None:
    world = make_world(3, 2, ticks=1, elastic={"shrinkAfterSeconds": seconds})
    world.kubelet()
    plan = world.reconcile()
    assert plan.requeue_after_s == seconds
    world.now = world.now.replace(second=world.now.second + seconds - 1)
    assert world.reconcile().status.generation == 1
    world.now = world.now.replace(second=world.now.second + 1)
    assert world.reconcile().status.generation == 2


def test_a_generation_that_was_whole_is_not_left() -> None:
    """An agent that gives no sign is the hang's matter, after its own time."""
    world = make_world(3, ticks=4)
    world.pods["demo-worker-1-0"] = replace(world.pods["demo-worker-1-0"], ready=False)
    pass_time(world, 120)
    assert world.status.generation == 1


def test_a_restart_that_waits_is_waited_for() -> None:
    world = make_world(3, 2, ticks=3)
    world.end("demo-worker-0-0", 1)
    world.tick()
    assert world.status.generation == 2
    world.end("demo-worker-0-1", 1)
    plan = world.tick()
    assert plan.status.restarts.application <= 2
    watcher = Watcher(world)
    assert ends(world, watcher).status.state in ("Succeeded", "Failed")


def test_nobody_is_left_out_when_one_has_succeeded() -> None:
    world = make_world(3, 3, ticks=4, elastic={"shrinkAfterSeconds": 5})
    lose(world, 1, capacity=2)
    world.tick()
    world.end("demo-worker-0-0", 0)
    pass_time(world, 15)
    assert world.status.nodes.desired == 3


def test_a_candidate_takes_the_place_of_a_member_without_room_at_once() -> None:
    world = make_world(2, 2, ticks=4, elastic={"shrinkAfterSeconds": None})
    scale(world, 3)
    pass_time(world, 10)
    world.vanish("demo-worker-0-0")
    world.tick()  # the room goes to the one that has waited for longest
    assert (world.status.generation, gang(world)) == (2, [1, 2])
    pass_time(world, 20)
    assert (world.status.state, world.status.generation) == ("Running", 2)
    assert world.status.restarts.infrastructure == 1


def test_a_candidate_takes_the_place_of_a_replacement_that_finds_no_room() -> None:
    world = make_world(2, 2, ticks=4, elastic={"shrinkAfterSeconds": None})
    scale(world, 3)
    pass_time(world, 10)
    world.held = {"demo-worker-2-0"}
    lose(world, 0, capacity=1)
    world.tick()
    assert (world.status.generation, list(slots(world.job, world.status))) == (2, [0, 1])
    pass_time(world, 10)
    world.held, world.capacity = {"demo-worker-0-1"}, 2
    world.tick()
    assert (world.status.generation, gang(world), world.status.restarts.resize) == (3, [1, 2], 1)
    assert world.events[-1].message.startswith("goes on with 2 of 3 workers: worker 0: Unschedulable")


def test_a_former_member_is_never_created_again_under_its_name() -> None:
    world = make_world(2, 2, ticks=4, elastic={"growPolicy": "OnRestart"})
    lose(world, 1, capacity=1)
    pass_time(world, 60)
    assert gang(world) == [0]
    world.vanish("demo-worker-1-1")
    pass_time(world, 40)
    assert "demo-worker-1-1" not in world.pods
    assert "demo-worker-1-2" in world.pods


# -- fewer, and wholly new -----------------------------------------------------------------------------------


def test_fewer_are_wanted_than_were_but_not_than_there_are() -> None:
    """The spec comes down to what there is: training doesn't notice, and nobody is waited for any more."""
    world = make_world(3, 3, ticks=4)
    lose(world, 1, capacity=2)
    pass_time(world, 40)
    before = world.status.generation
    scale(world, 2)
    pass_time(world, 30)
    assert (world.status.generation, gang(world), len(world.live())) == (before, [0, 2], 2)
    assert pods_ready(world) == ("True", "")


@pytest.mark.parametrize(("replicas", "expected"), [(3, [0, 1, 3]), (2, [0, 1]), (1, [0])])
def test_those_that_are_not_ready_are_left_out_first(replicas: int, expected: list[int]) -> None:
    world = make_world(4, 4, ticks=4, elastic={"shrinkAfterSeconds": None})
    lose(world, 2, capacity=3)
    pass_time(world, 10)
    scale(world, replicas)
    world.tick()
    assert gang(world) == expected
    assert not world.status.planned, "nobody trains who could save"


def test_a_lost_worker_that_is_wanted_no_more_is_not_replaced() -> None:
    world = make_world(3, 3, ticks=4)
    lose(world, 0, capacity=2)
    scale(world, 2)
    world.tick()
    assert gang(world) == [1, 2]
    assert (world.status.generation, len(world.live())) == (2, 2)


@pytest.mark.parametrize("how", ["all lost", "suspended", "status lost"])
def test_a_wholly_new_gang_has_the_size_that_is_wanted(how: str) -> None:
    world = make_world(3, 3, ticks=4)
    lose(world, 1, capacity=2)
    pass_time(world, 40)
    assert gang(world) == [0, 2]
    world.capacity = None
    if how == "all lost":
        for slot in (0, 2):
            world.vanish(f"demo-worker-{slot}-0")
    elif how == "suspended":
        world.edit(suspend=True)
        pass_time(world, 15)
        assert not world.live()
        world.edit(suspend=False)
    else:
        world.lose_status()
    world.step = world.saved_step = 0
    world.tick()
    world.tick()
    assert gang(world) == [0, 1, 2]
    assert world.status.standby == []
    assert world.run_to_end().status.state == "Succeeded"


def test_a_shrunk_job_that_is_no_longer_elastic_keeps_what_it_has() -> None:
    world = make_world(3, 3, ticks=4)
    lose(world, 1, capacity=2)
    pass_time(world, 40)
    del world.manifest["spec"]["elastic"]
    world.edit()
    world.capacity = None
    pass_time(world, 30)
    assert (gang(world), len(world.live())) == ([0, 2], 2)
    world.vanish("demo-worker-0-0")
    world.tick()
    assert world.status.nodes.desired == 2
    assert world.run_to_end().status.state == "Succeeded"


# -- with others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("elastic", "expected"), [({}, 1), ({"shrinkAfterSeconds": None}, 3)])
def test_a_gang_scheduler_starts_as_many_as_the_job_can_begin_with(elastic: dict[str, Any], expected: int) -> None:
    world = make_world(3, elastic=elastic, scheduling={"gang": "Volcano"})
    [group] = [manifest for manifest in decide(world.observe()).create if manifest["kind"] == POD_GROUP]
    assert group["spec"]["minMember"] == expected


def test_the_quota_stays_that_of_the_wanted_number() -> None:
    world = make_world(3, 3, ticks=5, scheduling={"gang": "Kueue", "queue": "q"})
    lose(world, 1, capacity=2)
    pass_time(world, 40)
    assert gang(world) == [0, 2]
    assert world.kueue.workload is not None
    assert (world.kueue.workload.pods, world.kueue.admissions) == (3, 1)


def test_a_gang_that_goes_on_before_it_is_ordered_is_ordered_by_those_that_are_there() -> None:
    key = "zone"
    world = make_world(4, 3, scheduling={"topology": {"key": key}})
    world.places, world.zones = {0: "n0", 1: "n1", 2: "n2"}, {"n0": "b", "n1": "c", "n2": "a"}
    world.run(lambda w: w.status.generation == 2)
    assert gang(world) == [2, 0, 1]
    world.capacity = 4
    world.run(lambda w: w.status.generation == 3)
    assert gang(world) == [2, 0, 1, 3], "who joins comes after them"


def test_candidates_are_born_without_a_membership() -> None:
    world = make_world(2, ticks=4)
    scale(world, 3)
    [pod] = [manifest for manifest in decide(world.observe()).create if manifest["kind"] == "Pod"]
    assert pod["metadata"]["name"] == "demo-worker-2-0"
    assert ANNOTATION_MEMBERSHIP not in pod["metadata"]["annotations"]


@pytest.mark.parametrize("ticks", range(12))
@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_a_stop_between_any_two_writes_is_harmless(ticks: int, capacity: int) -> None:
    world = make_world(3, 3, ticks=4)
    lose(world, 1, capacity=capacity)
    scale(world, 4)
    for _ in range(ticks):
        world.step = min(world.step, 20)
        world.tick()
    comes_to_rest(world)
    crash_everywhere(world)
