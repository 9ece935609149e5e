"""Deadlines: what counts, the very moment, and that nothing of a job that missed one runs on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType
from deepseek_operator.decide.requeue import REGULAR_S
from deepseek_operator.decide.types import Held
from support.make import later, make_manifest
from support.world import World


def waiting(lifecycle: dict[str, Any], **spec: Any) -> World:
    """A job whose pods don't come up until `world.held` is cleared."""
    world = World(make_manifest(spec={"lifecycle": lifecycle} | spec))
    world.held = {f"demo-worker-{slot}-{k}" for slot in range(3) for k in range(20)}
    world.reconcile()
    return world


def at(world: World, seconds: float) -> World:
    """The world this long after the start, seen by the operator."""
    world.now = later(seconds)
    world.reconcile()
    return world


def failed_message(world: World) -> str:
    found = fact_of(world.status.conditions, ConditionType.FAILED)
    assert found is not None
    assert found.status == "True"
    return found.message


# -- active time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "state"), [(0, "Pending"), (99, "Pending"), (100, "Failed"), (5000, "Failed")])
def test_the_active_deadline(seconds: float, state: str) -> None:
    world = at(waiting({"activeDeadlineSeconds": 100}), seconds)
    assert world.status.state == state
    if state == "Failed":
        assert world.status.reason == "DeadlineExceeded"
        assert failed_message(world) == "the job was active for 100 s (activeDeadlineSeconds)"
        assert world.events[-1].reason == "DeadlineExceeded"


RUN, REST = "run", "rest"


@pytest.mark.parametrize(
    ("history", "state"),
    [
        ([(RUN, 99)], "Pending"),
        ([(RUN, 100)], "Failed"),
        ([(RUN, 60), (REST, 9999), (RUN, 39)], "Restarting"),
        ([(RUN, 60), (REST, 9999), (RUN, 40)], "Failed"),
        ([(RUN, 30), (REST, 1), (RUN, 30), (REST, 1), (RUN, 39)], "Restarting"),
        ([(RUN, 30), (REST, 1), (RUN, 30), (REST, 1), (RUN, 40)], "Failed"),
        ([(RUN, 99), (REST, 9999)], "Suspended"),
        ([(REST, 9999), (RUN, 99)], "Pending"),
        ([(REST, 9999), (RUN, 100)], "Failed"),
        ([(RUN, 50), (REST, 0), (RUN, 50)], "Failed"),
    ],
    ids=str,
)
def test_only_active_time_counts_and_resuming_starts_nothing_anew(history: list[tuple[str, int]], state: str) -> None:
    world = waiting({"activeDeadlineSeconds": 100}, suspend=history[0][0] == REST)
    for what, seconds in history:
        if world.job.spec.suspend != (what == REST):
            world.edit(suspend=what == REST)
            world.reconcile()
            world.kubelet()
            world.reconcile()
        world.now += timedelta(seconds=seconds)
        world.reconcile()
    assert world.status.state == state


@pytest.mark.parametrize("seconds", [71, 75, 80.25, 99.5])
@pytest.mark.parametrize("field", ["activeDeadlineSeconds", "startDeadlineSeconds"])
def test_the_next_look_falls_on_the_very_moment(field: str, seconds: float) -> None:
    world = waiting({field: 100})
    world.now = later(seconds)
    plan = world.reconcile()
    assert plan.requeue_after_s == pytest.approx(100 - seconds)
    world.now += timedelta(seconds=plan.requeue_after_s or 0)
    world.reconcile()
    assert world.status.state == "Failed"


@pytest.mark.parametrize("field", ["activeDeadlineSeconds", "startDeadlineSeconds"])
def test_a_deadline_far_off_does_not_put_off_the_regular_look(field: str) -> None:
    assert waiting({field: 100_000}).reconcile().requeue_after_s == REGULAR_S


def test_a_deadline_that_is_lowered_holds_at_once_and_one_that_is_raised_gives_time() -> None:
    world = at(waiting({"activeDeadlineSeconds": 100}), 50)
    world.edit(lifecycle={"activeDeadlineSeconds": 200})
    assert at(world, 150).status.state == "Pending"
    world.edit(lifecycle={"activeDeadlineSeconds": 120})
    assert at(world, 151).status.reason == "DeadlineExceeded"


@pytest.mark.parametrize("refused", [0, 1, 5])
def test_every_pod_goes_though_deletes_fail(refused: int) -> None:
    world = World(make_manifest(spec={"lifecycle": {"activeDeadlineSeconds": 12}}))
    world.refuse_deletes = refused
    world.run(lambda w: w.status.completion_time is not None)
    assert world.status.reason == "DeadlineExceeded"
    world.run(lambda w: not w.pods)
    assert world.status.active_since is None
    assert world.status.active_seconds == pytest.approx(12, abs=5)


def test_success_in_the_same_look_wins() -> None:
    world = World(make_manifest(spec={"lifecycle": {"activeDeadlineSeconds": 30}}))
    for _ in range(3):
        world.tick()
    for name in list(world.pods):
        world.end(name, 0)
    assert at(world, 60).status.state == "Succeeded"


def test_a_lost_worker_in_the_same_look_is_not_restarted() -> None:
    world = World(make_manifest(spec={"lifecycle": {"activeDeadlineSeconds": 30}}))
    for _ in range(3):
        world.tick()
    world.vanish("demo-worker-1-0")
    at(world, 60)
    assert (world.status.reason, world.status.attempt, world.status.total_restarts) == ("DeadlineExceeded", 1, 0)


def test_a_clock_that_went_back_fails_nothing() -> None:
    world = at(waiting({"activeDeadlineSeconds": 100, "startDeadlineSeconds": 100}), 10)
    assert at(world, -3600).status.state == "Pending"
    assert at(world, 90).status.state == "Pending"


# -- the start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        ({}, "0 of 3 worker pods are ready"),
        ({"reason": "Unschedulable", "message": "0/2 nodes are available"}, "0/2 nodes are available"),
        ({"reason": "ErrImagePull", "message": "not found"}, "worker 0: ErrImagePull: not found"),
    ],
    ids=["nothing", "unschedulable", "image"],
)
def test_a_start_that_takes_too_long_says_what_was_waited_for(pod: dict[str, str], says: str) -> None:
    world = waiting({"startDeadlineSeconds": 60})
    world.pods = {name: replace(found, **pod) for name, found in world.pods.items()}  # type: ignore[arg-type]
    assert at(world, 59).status.state == "Pending"
    assert at(world, 60).status.reason == "StartDeadlineExceeded"
    assert failed_message(world).startswith("not all pods were ready within 60 s (startDeadlineSeconds): ")
    assert says in failed_message(world)
    world.run(lambda w: not w.pods)


def test_ready_once_is_started_for_good() -> None:
    world = waiting({"startDeadlineSeconds": 60})
    world.held.clear()
    world.kubelet()
    assert at(world, 30).status.waiting_since is None
    world.held = {"demo-worker-1-1"}
    world.vanish("demo-worker-1-0")
    assert at(world, 3000).status.state == "Restarting"


def test_ready_at_the_last_moment_is_in_time() -> None:
    world = waiting({"startDeadlineSeconds": 60})
    world.held.clear()
    world.kubelet()
    assert at(world, 60).status.completion_time is None


def test_the_start_counts_from_the_creation() -> None:
    manifest = make_manifest(spec={"lifecycle": {"startDeadlineSeconds": 60}})
    manifest["metadata"]["creationTimestamp"] = "2026-03-01T11:59:10Z"
    world = World(manifest)
    world.held = {f"demo-worker-{slot}-0" for slot in range(3)}
    assert at(world, 0).status.state == "Pending"
    assert at(world, 9).status.state == "Pending"
    assert at(world, 10).status.reason == "StartDeadlineExceeded"


def test_the_start_counts_from_the_first_resumption() -> None:
    world = waiting({"startDeadlineSeconds": 60}, suspend=True)
    assert at(world, 1000).status.state == "Suspended"
    world.edit(suspend=False)
    at(world, 1000)
    assert at(world, 1059).status.state == "Pending"
    assert at(world, 1060).status.reason == "StartDeadlineExceeded"


@pytest.mark.parametrize("rest_s", [0, 500], ids=["at once", "later"])
def test_the_start_counts_from_each_resumption(rest_s: int) -> None:
    world = waiting({"startDeadlineSeconds": 60})
    at(world, 50)
    world.edit(suspend=True)
    at(world, 50)
    at(world, 50 + rest_s)
    world.edit(suspend=False)
    at(world, 50 + rest_s)
    assert at(world, 109 + rest_s).status.completion_time is None
    assert at(world, 110 + rest_s).status.reason == "StartDeadlineExceeded"


def test_a_job_that_its_profile_does_not_let_start_misses_its_start() -> None:
    world = World(make_manifest(spec={"lifecycle": {"startDeadlineSeconds": 60}, "profile": "pool"}))
    world.profile = Held("ProfileNotFound", "there is no DeepSeekProfile pool")
    at(world, 0)
    assert at(world, 59).status.reason == "ProfileNotFound"
    assert at(world, 60).status.reason == "StartDeadlineExceeded"
    assert failed_message(world).endswith(": there is no DeepSeekProfile pool")
    assert world.pods == {}
