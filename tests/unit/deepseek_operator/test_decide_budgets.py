"""Budgets: each cause spends its own, and when it is spent the job ends with a message that names it."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import Cause, ConditionType
from deepseek_operator.api.v1alpha1 import Budgets, Restarts
from deepseek_operator.decide.budgets import COUNTER, charged, limit_of, overdrawn, total
from support.laws import Watcher, ends, tick
from support.make import make_last_words, make_manifest
from support.world import World, announced

LIMITED = [cause for cause in COUNTER if cause not in (Cause.INFRASTRUCTURE, Cause.PREEMPTED, Cause.AFTERMATH)]
ENDINGS: dict[Cause, dict[str, Any]] = {
    Cause.APPLICATION: {"exit_code": 1, "words": "ValueError: bad"},
    Cause.OUT_OF_MEMORY: {"exit_code": 137, "reason": "OOMKilled"},
    Cause.ACCELERATOR: {"exit_code": 1, "words": "CUDA error: uncorrectable ECC error encountered"},
    Cause.COMMUNICATION: {"exit_code": 69, "words": "the store is out of reach"},
    Cause.INFRASTRUCTURE: {"exit_code": None, "reason": "Evicted", "disrupted": True},
    Cause.PREEMPTED: {"exit_code": 75, "words": "terminated"},
}
FIELDS = {
    Cause.APPLICATION: "recovery.budgets.application",
    Cause.OUT_OF_MEMORY: "recovery.budgets.outOfMemory",
    Cause.ACCELERATOR: "recovery.budgets.accelerator",
    Cause.COMMUNICATION: "recovery.budgets.communication",
    Cause.HANG: "recovery.budgets.hang",
    Cause.INFRASTRUCTURE: "recovery.budgets.infrastructure",
}


def make_world(**recovery: Any) -> World:
    world = World(make_manifest(spec={"recovery": recovery}))
    for _ in range(4):
        world.tick()
    return world


def fail(world: World, cause: Cause, slot: int = 1) -> None:
    """The newest pod of a slot ends as this cause makes it end."""
    pod = max((pod for pod in world.pods.values() if pod.slot == slot), key=lambda pod: pod.incarnation)
    fields = dict(ENDINGS[cause])
    if words := fields.pop("words", ""):
        fields["message"] = make_last_words(announced(pod), message=words)
    world.end(pod.name, **{"reason": "Error"} | fields)


def is_back(world: World) -> bool:
    return world.status.state in ("Running", "Failed") and len(world.members()) == 3


@pytest.mark.parametrize("limit", [0, 1, 2])
@pytest.mark.parametrize("cause", [cause for cause in LIMITED if cause != Cause.HANG])
def test_each_cause_spends_its_own_budget_and_no_other(cause: Cause, limit: int) -> None:
    field = FIELDS[cause].removeprefix("recovery.budgets.")
    world = make_world(budgets={field: limit}, maxRestartsWithoutProgress=9)
    watcher = Watcher(world)
    for _ in range(limit):
        fail(world, cause)
        tick(world, watcher)
        world.run(is_back)
    assert getattr(world.status.restarts, COUNTER[cause]) == limit
    assert total(world.status.restarts) == limit
    fail(world, cause)
    ends(world, watcher)
    status = world.status
    assert (status.state, status.reason) == ("Failed", "RestartLimitExceeded")
    told = fact_of(status.conditions, ConditionType.FAILED)
    assert told is not None
    assert f"the budget of cause {cause} is spent ({FIELDS[cause]} is {limit})" in told.message
    assert "the last failure: worker 1 (pod demo-worker-1-" in told.message
    assert status.failures[0].cause == cause
    assert status.attempt == limit + 1


@pytest.mark.parametrize("cause", [Cause.INFRASTRUCTURE, Cause.PREEMPTED])
def test_what_the_cluster_does_has_no_limit(cause: Cause) -> None:
    world = make_world(budgets={"application": 0, "communication": 0}, maxRestartsWithoutProgress=9)
    for _ in range(7):
        fail(world, cause)
        world.tick()
        world.run(lambda w: w.status.state in ("Running", "Succeeded"))
    assert world.status.state != "Failed"


def test_infrastructure_has_a_limit_where_one_is_set_and_preemption_does_not_spend_it() -> None:
    world = make_world(budgets={"infrastructure": 1}, maxRestartsWithoutProgress=9)
    for cause in (Cause.INFRASTRUCTURE, Cause.PREEMPTED, Cause.PREEMPTED):
        fail(world, cause)
        world.tick()
        world.run(is_back)
    assert (world.status.restarts.infrastructure, world.status.restarts.preempted) == (1, 2)
    fail(world, Cause.INFRASTRUCTURE)
    world.run_to_end()
    assert (world.status.state, world.status.reason) == ("Failed", "RestartLimitExceeded")


PAIRS = [
    (Cause.INFRASTRUCTURE, Cause.APPLICATION, Cause.INFRASTRUCTURE),
    (Cause.INFRASTRUCTURE, Cause.COMMUNICATION, Cause.INFRASTRUCTURE),
    (Cause.INFRASTRUCTURE, Cause.OUT_OF_MEMORY, Cause.INFRASTRUCTURE),
    (Cause.PREEMPTED, Cause.APPLICATION, Cause.PREEMPTED),
    (Cause.OUT_OF_MEMORY, Cause.COMMUNICATION, Cause.OUT_OF_MEMORY),
    (Cause.OUT_OF_MEMORY, Cause.APPLICATION, Cause.OUT_OF_MEMORY),
    (Cause.ACCELERATOR, Cause.COMMUNICATION, Cause.ACCELERATOR),
    (Cause.ACCELERATOR, Cause.APPLICATION, Cause.ACCELERATOR),
    (Cause.APPLICATION, Cause.COMMUNICATION, Cause.APPLICATION),
    (Cause.COMMUNICATION, Cause.COMMUNICATION, Cause.COMMUNICATION),
]


@pytest.mark.parametrize("slots", [(0, 1), (2, 1)])
@pytest.mark.parametrize(("one", "other", "charged_to"), PAIRS)
def test_several_in_one_look_are_charged_once_to_the_gravest(
    one: Cause, other: Cause, charged_to: Cause, slots: tuple[int, int]
) -> None:
    world = make_world()
    fail(world, one, slots[0])
    fail(world, other, slots[1])
    world.reconcile()
    restarts = world.status.restarts
    assert (total(restarts), getattr(restarts, COUNTER[charged_to])) == (1, 1)
    assert {failure.cause for failure in world.status.failures} == {one, other}
    assert world.status.failures[0].cause == charged_to, "the gravest is told first"


@pytest.mark.parametrize(("exit_code", "reason"), [(65, "DataError"), (78, "ConfigError")])
@pytest.mark.parametrize("other", list(ENDINGS))
def test_where_no_retry_can_help_nothing_else_counts(exit_code: int, reason: str, other: Cause) -> None:
    world = make_world()
    fail(world, other, 0)
    world.end("demo-worker-2-0", exit_code)
    world.run_to_end()
    assert (world.status.state, world.status.reason, total(world.status.restarts)) == ("Failed", reason, 0)


@pytest.mark.parametrize("cause", list(COUNTER))
@pytest.mark.parametrize("used", [0, 1, 2, 3])
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3])
def test_overdrawn(cause: Cause, used: int, limit: int | None) -> None:
    if cause in FIELDS and (limit is not None or cause == Cause.INFRASTRUCTURE):
        budgets = Budgets.model_validate({COUNTER[cause]: limit})
    else:
        budgets, limit = Budgets(), limit_of(Budgets(), cause)
    restarts = Restarts(**{COUNTER[cause]: used})
    assert bool(overdrawn(budgets, restarts, cause)) == (limit is not None and used >= limit)


@pytest.mark.parametrize("cause", list(COUNTER))
def test_charging_adds_one_to_one_counter(cause: Cause) -> None:
    before = Restarts(application=3, resize=2, process=9)
    after = charged(before, cause)
    assert total(after) == total(before) + 1
    assert (after.resize, after.process) == (2, 9)


def test_every_cause_that_is_restarted_has_a_counter_and_every_budget_a_cause() -> None:
    assert set(COUNTER) == set(Cause) - {Cause.CONFIG, Cause.DATA}
    assert set(Budgets.model_fields) <= set(COUNTER.values()) <= set(Restarts.model_fields)
