"""Topology: node ranks in the order of the nodes, written before they are announced."""

from __future__ import annotations

import json
from typing import Any

import pytest
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, Reason
from deepseek_operator.decide import Observation, decide
from deepseek_operator.decide.gang import node_rank
from deepseek_operator.decide.topology import nodes_to_read
from deepseek_operator.render.membership import read_announced
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, tick
from support.make import START, make_job, make_manifest, make_pod, observe
from support.world import World

KEY = "topology.kubernetes.io/zone"
SCHEDULING = {"scheduling": {"topology": {"key": KEY}}}


def make_world(places: dict[int, str], zones: dict[str, str], ticks: int = 0) -> World:
    manifest = make_manifest(replicas=len(places), spec=SCHEDULING)
    world = World(manifest, places=places, zones=zones)
    for _ in range(ticks):
        world.tick()
    return world


def ranks_announced(world: World) -> dict[int, int | None]:
    """Slot -> node rank, of the pods of the present generation."""
    told = {pod.slot: read_announced(pod.membership) for pod in world.live()}
    return {slot: part.node_rank for slot, part in told.items() if part.generation == world.status.generation}


def test_pods_of_a_new_gang_are_told_nothing_before_they_have_nodes() -> None:
    plan = decide(Observation(now=START, job=make_job(spec=SCHEDULING)))
    pods = [manifest for manifest in plan.create if manifest["kind"] == "Pod"]
    assert len(pods) == 3
    assert all(ANNOTATION_MEMBERSHIP not in pod["metadata"]["annotations"] for pod in pods)
    assert plan.status.ranks == []


@pytest.mark.parametrize(
    ("places", "zones", "ranks"),
    [
        pytest.param({0: "n2", 1: "n0", 2: "n1"}, {"n0": "a", "n1": "a", "n2": "a"}, [1, 2, 0], id="one zone: by node"),
        pytest.param({0: "n0", 1: "n1", 2: "n2"}, {"n0": "b", "n1": "a", "n2": "b"}, [1, 0, 2], id="by zone first"),
        pytest.param({0: "n0", 1: "n0", 2: "n0"}, {"n0": "a"}, [0, 1, 2], id="one node: by slot"),
        pytest.param({0: "n0", 1: "n1", 2: "n2"}, {"n1": "z", "n2": "b"}, [2, 1, 0], id="no label: last"),
        pytest.param({0: "n9", 1: "n1", 2: "n0"}, {}, [2, 1, 0], id="no labels at all: by node"),
        pytest.param({0: "n0", 1: "n1"}, {"n0": "", "n1": "a"}, [0, 1], id="an empty value is a value"),
    ],
)
def test_order(places: dict[int, str], zones: dict[str, str], ranks: list[int]) -> None:
    world = make_world(places, zones, ticks=3)
    assert world.status.ranks == ranks
    assert ranks_announced(world) == {slot: rank for rank, slot in enumerate(ranks)}


def test_it_waits_for_the_last_pod() -> None:
    world = make_world({0: "n1", 1: "n0"}, {"n0": "a", "n1": "b"})
    world.held.add("demo-worker-1-0")
    for _ in range(4):
        world.tick()
    assert (world.status.ranks, world.members()) == ([], [])
    assert nodes_to_read(world.observe()) == ()
    world.held.clear()
    world.run(lambda world: world.status.ranks == [1, 0])


def test_ranks_are_written_before_anybody_is_told() -> None:
    world = make_world({0: "n1", 1: "n0"}, {"n0": "a", "n1": "b"}, ticks=1)
    world.kubelet()
    world.reconcile(stop_after=1)
    assert (world.status.ranks, ranks_announced(world)) == ([1, 0], {})
    world.places = {0: "elsewhere"}
    world.reconcile()
    assert ranks_announced(world) == {0: 1, 1: 0}


def test_an_unknown_node_is_told_once() -> None:
    world = make_world({slot: f"n{slot}" for slot in range(7)}, {"n0": "a"}, ticks=6)
    [event] = [event for event in world.events if event.reason == Reason.TOPOLOGY_UNKNOWN]
    assert KEY in event.message
    assert "n1, n2, n3, n4, n5 and 1 more" in event.message


def test_a_replacement_keeps_the_rank_of_its_slot() -> None:
    world = make_world({0: "n2", 1: "n1", 2: "n0"}, {"n0": "a", "n1": "b", "n2": "c"}, ticks=5)
    assert world.status.ranks == [2, 1, 0]
    world.places[2] = "n9"
    world.vanish("demo-worker-2-0")
    for _ in range(3):
        world.tick()
    assert (world.status.generation, world.status.ranks) == (2, [2, 1, 0])
    assert ranks_announced(world) == {2: 0, 1: 1, 0: 2}


def test_a_wholly_new_gang_is_ordered_anew() -> None:
    world = make_world({0: "n2", 1: "n1", 2: "n0"}, {"n0": "a", "n1": "b", "n2": "c"}, ticks=5)
    world.places = {0: "n0", 1: "n1", 2: "n2"}
    for slot in range(3):
        world.vanish(f"demo-worker-{slot}-0")
    world.tick()
    assert (world.status.generation, world.status.ranks) == (2, [])
    for _ in range(3):
        world.tick()
    assert ranks_announced(world) == {0: 0, 1: 1, 2: 2}


def test_node_rank_zero_is_read_for_progress_and_last_words() -> None:
    world = make_world({0: "n1", 1: "n0"}, {"n0": "a", "n1": "b"}, ticks=5)
    assert world.status.training is not None
    assert world.status.training.step
    saved = {"step": 80, "time": "2026-03-01T12:01:00Z", "path": "/checkpoints/80", "bytes": 1, "seconds": 1.0}
    words = json.dumps({"version": 1, "generation": 1, "attempt": 1, "phase": "training", "checkpoint": saved})
    world.end("demo-worker-1-0", 75, message=words)
    world.tick()
    assert world.status.checkpoint is not None
    assert world.status.checkpoint.step == 80


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        pytest.param([], [0, 1, 2, 3], id="their own order"),
        pytest.param([2, 0, 1, 3], [1, 2, 0, 3], id="ordered"),
    ],
)
def test_every_slot_has_one_rank(ranks: list[int], expected: list[int]) -> None:
    status = make_job().status.model_copy(update={"ranks": ranks})
    assert [node_rank(status, slot) for slot in range(4)] == expected


def test_a_lost_pod_is_replaced_though_there_are_no_ranks_yet() -> None:
    world = make_world({0: "n1", 1: "n0"}, {"n0": "a", "n1": "b"})
    world.held.add("demo-worker-1-0")
    for _ in range(3):
        world.tick()
    world.vanish("demo-worker-0-0")
    world.held.clear()
    watcher = Watcher(world)
    assert ends(world, watcher).status.state == "Succeeded"
    assert world.status.ranks == [1, 0]


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("lost", [(), (0,), (1,), (0, 1, 2)], ids=str)
def test_the_laws_hold(ticks: int, lost: tuple[int, ...]) -> None:
    world = make_world({0: "n2", 1: "n0", 2: "n1"}, {"n0": "a", "n1": "a", "n2": "b"}, ticks=ticks)
    for slot in lost:
        world.vanish(f"demo-worker-{slot}-0")
    comes_to_rest(world)
    crash_everywhere(world)
    watcher = Watcher(world)
    tick(world, watcher)
    assert ends(world, watcher).status.state == "Succeeded"


def test_without_topology_no_node_is_read() -> None:
    job: Any = decide(Observation(now=START, job=make_job())).status
    assert nodes_to_read(observe(make_job(job), *(make_pod(slot) for slot in range(3)))) == ()
