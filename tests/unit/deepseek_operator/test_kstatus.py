"""What tools that know only kstatus make of a job, in each of its states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from deepseek_operator.api.conditions import Fact, merge
from deepseek_operator.api.names import ConditionType, Reason, State
from deepseek_operator.decide import Observation, invalid_status
from deepseek_operator.decide.settle import settle
from deepseek_operator.decide.turn import UNLESS_SAID, Turn
from deepseek_operator.trouble import refused_status
from support.kstatus import kstatus, kstatus_of
from support.make import START, make_job, make_manifest
from support.world import World


def after(*steps: Callable[[World], Any], **spec: Any) -> World:
    world = World(make_manifest(max_restarts=0, spec=spec))
    for step in steps:
        step(world)
    return world


def ticks(count: int) -> Callable[[World], Any]:
    return lambda world: [world.tick() for _ in range(count)]


def suspend(world: World) -> None:
    world.edit(suspend=True)


WORLDS: dict[str, tuple[World, str, str]] = {
    "never seen": (after(), "Pending", "InProgress"),
    "pending": (after(ticks(1)), "Pending", "InProgress"),
    "starting": (after(ticks(2)), "Starting", "InProgress"),
    "running": (after(ticks(3)), "Running", "Current"),
    "restarting": (after(ticks(4), lambda w: w.vanish("demo-worker-0-0"), ticks(1)), "Restarting", "InProgress"),
    "suspending": (after(ticks(4), suspend, lambda w: w.reconcile()), "Pending", "InProgress"),
    "suspended": (after(ticks(4), suspend, ticks(2)), "Suspended", "Current"),
    "born suspended": (after(ticks(1), suspend=True), "Suspended", "Current"),
    "resuming": (after(ticks(1), lambda w: w.edit(suspend=False), ticks(1), suspend=True), "Pending", "InProgress"),
    "succeeded": (after(lambda w: w.run_to_end()), "Succeeded", "Current"),
    "failed": (after(ticks(4), lambda w: w.end("demo-worker-0-0", 1), ticks(2)), "Failed", "Failed"),
    "changed and not seen": (after(ticks(3), lambda w: w.edit(lifecycle={})), "Running", "InProgress"),
}


@pytest.mark.parametrize(("world", "state", "verdict"), WORLDS.values(), ids=WORLDS.keys())
def test_each_state(world: World, state: str, verdict: str) -> None:
    assert (world.status.state, kstatus_of(world.job)) == (state, verdict)


def test_a_queued_job_is_in_progress() -> None:
    job = make_job()
    facts = (*UNLESS_SAID, Fact(ConditionType.ADMITTED, "False", Reason.WAITING_FOR_QUOTA))
    status = settle(Turn(Observation(START, job), job.status, facts=facts)).status
    assert (status.state, status.reason) == (State.QUEUED, "WaitingForQuota")
    assert kstatus_of(job.model_copy(update={"status": status})) == "InProgress"


def test_what_needs_a_person_has_failed() -> None:
    job = make_job()
    refused = refused_status(job.status, job.status, "quota", START, job.metadata.generation)
    for status in (refused, invalid_status(job.status, "spec.x: wrong", job.metadata.generation, START)):
        seen = status.model_copy(update={"observed_generation": job.metadata.generation})
        assert kstatus_of(job.model_copy(update={"status": seen})) == "Failed"


@pytest.mark.parametrize(
    ("observed", "conditions", "verdict"),
    [
        (1, {}, "InProgress"),
        (2, {}, "Current"),
        (2, {"Reconciling": "True", "Stalled": "True"}, "InProgress"),
        (2, {"Stalled": "True"}, "Failed"),
        (2, {"Stalled": "False", "Reconciling": "False"}, "Current"),
        (2, {"Ready": "False"}, "InProgress"),
        (2, {"Ready": "True"}, "Current"),
    ],
)
def test_the_rules(observed: int, conditions: dict[str, str], verdict: str) -> None:
    listed = [{"type": kind, "status": status} for kind, status in conditions.items()]
    obj = {"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "conditions": listed}}
    assert kstatus(obj) == verdict


def test_all_conditions_are_there_from_the_first_look() -> None:
    for world, _, _ in WORLDS.values():
        if world.status_writes:
            assert [c.type for c in world.status.conditions] == [kind.value for kind in ConditionType]
            assert all(c.reason and c.status != "Unknown" for c in world.status.conditions)
    assert len(merge([], [], START, 1)) == len(ConditionType)
