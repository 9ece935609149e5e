"""Lost nodes that the cluster takes for ready: who is suspected, what is lost with them, and pods that keep away."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.v1alpha1 import Exclusion, Master, Status
from deepseek_operator.decide.exclusion import LOST_S
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.suspicion import Suspect, suspicion
from deepseek_operator.decide.types import Pod, Silence
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import make_job, make_manifest, make_pod, make_progress, observe
from support.world import World

RUNNING = Status(generation=1, attempt=1, launched_generation=1, master=Master(slot=2, address="x"))


def pods(**unlike: dict[str, Any]) -> list[Pod]:
    """Three on nodes of their own; unlike: fields of the one in a slot."""
    return [make_pod(n, **({"node": f"n{n}", "host_ip": f"10.1.0.{n}"} | unlike.get(f"p{n}", {}))) for n in range(3)]


SILENT = make_progress(silence=Silence(1, (1,)))
SUSPECTED: list[tuple[str, dict[str, Any], dict[str, dict[str, Any]], set[str]]] = [
    ("nobody", {"progress": make_progress()}, {}, set()),
    ("whom node rank 0 doesn't hear", {"progress": SILENT}, {}, {"n1"}),
    ("in another generation", {"progress": make_progress(silence=Silence(2, (1,)))}, {}, set()),
    ("ranks that there are not", {"progress": make_progress(silence=Silence(1, (7,)))}, {}, set()),
    ("who hosts the store", {"progress": make_progress(silence=Silence(1, store=True))}, {}, {"n2"}),
    ("node rank 0 that was asked in vain", {"unanswered": True}, {}, {"n0"}),
    ("who is not ready any more", {}, {"p1": {"ready": False}}, {"n1"}),
    ("who has ended", {"progress": SILENT}, {"p1": {"phase": "Failed"}}, set()),
    ("whose node has no address", {"progress": SILENT}, {"p1": {"host_ip": None}}, set()),
]


@pytest.mark.parametrize(
    ("fields", "unlike", "nodes"), [row[1:] for row in SUSPECTED], ids=[row[0] for row in SUSPECTED]
)
def test_who_is_suspected(fields: dict[str, Any], unlike: dict[str, dict[str, Any]], nodes: set[str]) -> None:
    found = suspicion(observe(make_job(RUNNING), *pods(**unlike), **fields))
    assert {suspect.node for suspect in found.suspects} == nodes
    assert bool(found.controls) is bool(nodes)


def test_suspects_are_compared_with_the_other_nodes_of_the_gang() -> None:
    found = suspicion(observe(make_job(RUNNING), *pods(), progress=SILENT))
    assert found.suspects == {Suspect("n1", "10.1.0.1", "10.0.0.2")}
    assert found.controls == ("10.1.0.0", "10.1.0.2")
    together = {f"p{n}": {"node": "n1", "host_ip": "10.1.0.1"} for n in range(3)}
    assert suspicion(observe(make_job(RUNNING), *pods(**together), progress=SILENT)).controls == ()


def test_in_a_gang_that_comes_together_nobody_is_late() -> None:
    status = RUNNING.model_copy(update={"assembling_since": "2026-03-01T12:00:00Z"})
    assert not suspicion(observe(make_job(status), *pods(p1={"ready": False}))).suspects


@pytest.mark.parametrize(
    ("text", "silence"),
    [
        ('{"silence": {"generation": 3, "nodes": [1, "x", -2, 4], "store": true}}', Silence(3, (1, 4), store=True)),
        ('{"silence": {"generation": 3, "nodes": 7, "store": 1}}', Silence(3)),
        ('{"silence": {"nodes": [1]}}', None),
        ('{"silence": [1]}', None),
    ],
)
def test_what_an_agent_says_of_others_is_checked(text: str, silence: Silence | None) -> None:
    report = parse_report(text)
    assert report is not None
    assert report.silence == silence


def trained(**spec: Any) -> World:
    world = World(make_manifest(spec=spec))
    for _ in range(4):
        world.tick()
    assert world.status.state == "Running"
    return world


def test_a_member_on_a_lost_node_is_replaced_at_once_and_somewhere_else() -> None:
    world = trained()
    world.dead.add("node-1")
    plan = world.reconcile()
    status = world.status
    assert (status.generation, status.planned, status.restarts.infrastructure) == (2, False, 1)
    assert (status.failures[0].reason, status.failures[0].node) == ("NodeLost", "node-1")
    [excluded] = status.excluded_nodes
    assert (excluded.node, excluded.reason) == ("node-1", "it doesn't answer")
    [pod] = plan.create
    assert "node-1" in str(pod["spec"]["affinity"])
    world.run(lambda w: w.status.state == "Running")
    assert world.pods["demo-worker-1-1"].node == "spare-1"


def test_all_members_on_a_lost_node_are_one_loss() -> None:
    world = trained()
    world.pods["demo-worker-2-0"] = replace(world.pods["demo-worker-2-0"], node="node-1")
    world.dead.add("node-1")
    world.reconcile()
    assert (world.status.generation, world.status.incarnations) == (2, {"1": 1, "2": 1})


def starved(**spec: Any) -> World:
    """Node 1 is lost, and there is no room for its worker but there."""
    world = trained(**spec)
    world.dead.add("node-1")
    world.capacity = 2
    for _ in range(3):
        world.tick()
    assert world.pods["demo-worker-1-1"].reason == "Unschedulable"
    return world


def test_a_pod_that_finds_no_room_is_made_anew_when_its_node_may_be_used_again() -> None:
    world = starved()
    world.now += timedelta(seconds=LOST_S)
    world.dead.clear()
    plan = world.reconcile()
    assert (world.status.generation, world.status.incarnations, world.status.excluded_nodes) == (3, {"1": 2}, [])
    [pod] = plan.create
    assert (pod["metadata"]["name"], pod["spec"].get("affinity")) == ("demo-worker-1-2", None)
    assert [delete.name for delete in plan.delete] == ["demo-worker-1-1"]
    assert (world.status.restarts.resize, world.status.total_restarts) == (1, 1)
    world.capacity = None
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_a_candidate_that_finds_no_room_is_made_anew_too() -> None:
    world = trained(elastic={"minReplicas": 1, "maxReplicas": 4, "shrinkAfterSeconds": 5})
    world.dead.add("node-1")
    world.capacity = 2
    world.run(lambda w: w.status.ranks == [0, 2] and w.status.standby == [1])
    before = world.status.incarnations["1"]
    world.now += timedelta(seconds=LOST_S)
    world.dead.clear()
    world.reconcile()
    assert (world.status.incarnations["1"], world.status.excluded_nodes) == (before + 1, [])


def test_an_exclusion_is_dropped_when_nobody_waits_for_it() -> None:
    world = trained()
    old = Exclusion(node="elsewhere", until="2026-03-01T12:00:01Z")
    world._write_status(world.status.model_copy(update={"excluded_nodes": [old]}))
    world.reconcile()
    assert (world.status.excluded_nodes, world.status.generation) == ([], 1)


def test_a_stop_anywhere_is_harmless() -> None:
    world = starved()
    world.now += timedelta(seconds=LOST_S)
    world.capacity = None
    crash_everywhere(world)
    comes_to_rest(world)
