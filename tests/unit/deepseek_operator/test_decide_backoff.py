"""The wait before a restart: how long, from when, and that nothing that happens meanwhile changes it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from deepseek_operator.api.conditions import fact_of, parse_time
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Backoff
from deepseek_operator.decide.backoff import delay_s
from deepseek_operator.decide.requeue import REGULAR_S
from hypothesis import given
from hypothesis import strategies as st
from support.laws import Watcher, crash_everywhere, ends
from support.make import make_manifest
from support.world import World


@pytest.mark.parametrize(
    ("fruitless", "whole"),
    [(0, 0), (1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (40, 300), (10_000, 300)],
)
@pytest.mark.parametrize("key", ["a/1", "a/2", "b/1"])
def test_doubles_up_to_the_most(fruitless: int, whole: int, key: str) -> None:
    assert whole / 2 <= delay_s(Backoff(), fruitless, key=key) <= whole


@pytest.mark.parametrize(("initial", "most"), [(0, 0), (0, 300), (1, 1), (300, 300)])
def test_bounds(initial: int, most: int) -> None:
    for fruitless in range(6):
        assert delay_s(Backoff(initial_seconds=initial, max_seconds=most), fruitless, key="x") <= min(
            most, initial * 32
        )


@given(st.integers(1, 50), st.text(max_size=20))
def test_same_job_and_attempt_wait_alike_and_others_are_spread(fruitless: int, key: str) -> None:
    assert delay_s(Backoff(), fruitless, key=key) == delay_s(Backoff(), fruitless, key=key)
    waits = {delay_s(Backoff(), fruitless, key=f"{key}/{number}") for number in range(50)}
    assert len(waits) > 40


def crashing(**backoff: int) -> World:
    """A world in which a worker fails for the second time before it has saved anything."""
    world = World(make_manifest(spec={"recovery": {"backoff": backoff, "budgets": {"application": 9}}}))
    for _ in range(3):
        world.tick()
    world.end("demo-worker-1-0", 1)
    world.tick()
    assert world.status.generation == 2, "the first restart follows at once"
    world.run(lambda w: w.status.launched_generation == 2)
    world.saved_step = 0
    world.end("demo-worker-1-1", 1)
    world.reconcile()
    return world


def test_second_restart_in_a_row_waits_and_says_until_when() -> None:
    world = crashing(initialSeconds=200, maxSeconds=200)
    assert (world.status.generation, world.status.state) == (2, "Restarting")
    told = fact_of(world.status.conditions, ConditionType.RESTARTING)
    assert told is not None
    words, when = told.message.split("; the next restart begins at ")
    assert "worker 1 (pod demo-worker-1-1" in words
    begin = parse_time(when)
    assert begin is not None
    assert timedelta(seconds=99) <= begin - world.now <= timedelta(seconds=200)
    plan = world.reconcile()
    assert plan.requeue_after_s == REGULAR_S
    assert plan.status == world.status, "waiting costs no writes"
    world.now = begin - timedelta(seconds=3)
    plan = world.reconcile()
    assert (world.status.generation, plan.status) == (2, world.status)
    assert plan.requeue_after_s is not None
    assert plan.requeue_after_s <= 4
    world.now = begin + timedelta(seconds=1)
    world.reconcile()
    assert (world.status.generation, world.status.restarts.application) == (3, 2)


def test_evidence_is_on_record_while_the_restart_waits_and_once_only() -> None:
    world = crashing(initialSeconds=200, maxSeconds=200)
    assert [(f.pod, f.attempt, f.cause) for f in world.status.failures] == [
        ("demo-worker-1-1", 2, "Application"),
        ("demo-worker-1-0", 1, "Application"),
    ]
    seen_at = world.status.failures[0].time
    world.now += timedelta(seconds=300)
    world.reconcile()
    assert [failure.pod for failure in world.status.failures] == ["demo-worker-1-1", "demo-worker-1-0"]
    assert world.status.failures[0].time == seen_at, "a failure keeps the moment at which it was seen"


@pytest.mark.parametrize("meanwhile", ["the failed pod is deleted", "another pod is lost", "the node goes"])
def test_nothing_that_happens_meanwhile_changes_what_it_is_charged_to(meanwhile: str) -> None:
    world = crashing(initialSeconds=200, maxSeconds=200)
    world.now += timedelta(seconds=10)
    if meanwhile == "another pod is lost":
        world.vanish("demo-worker-2-0")
    else:
        world.vanish("demo-worker-1-1")
    if meanwhile == "the node goes":
        world.vanish("demo-worker-0-0")
    world.reconcile()
    assert world.status.generation == 2, "and it still waits"
    world.now += timedelta(seconds=300)
    world.reconcile()
    restarts = world.status.restarts
    assert (world.status.generation, restarts.application, restarts.infrastructure) == (3, 2, 0)


def test_stop_between_any_two_writes_of_a_restart_that_waits_is_harmless() -> None:
    world = crashing(initialSeconds=20, maxSeconds=20)
    crash_everywhere(world)
    world.now += timedelta(seconds=60)
    crash_everywhere(world)
    assert ends(world, Watcher(world)).status.state == "Succeeded"


def test_clock_that_goes_backwards_does_not_hold_a_restart_up() -> None:
    world = crashing(initialSeconds=200, maxSeconds=200)
    world.now -= timedelta(hours=1)
    world.reconcile()
    assert world.status.generation == 3


def test_newer_checkpoint_makes_the_next_restart_the_first_again() -> None:
    world = crashing(initialSeconds=10, maxSeconds=300)
    assert world.status.fruitless_restarts == 1
    world.run(lambda w: w.status.generation == 3)
    assert world.status.fruitless_restarts == 2
    world.run(lambda w: w.status.fruitless_restarts == 0)
    assert world.status.state == "Running"
    assert world.status.checkpoint is not None
    assert world.status.progress_mark == world.status.checkpoint.step
    generation = world.status.generation
    world.end("demo-worker-0-0", 1)
    world.reconcile()
    assert world.status.generation == generation + 1
