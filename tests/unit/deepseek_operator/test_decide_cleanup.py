"""The end and what is left of it: success policy, cleanPodPolicy, time to live."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.decide.requeue import LONGEST_S
from support.laws import comes_to_rest, crash_everywhere
from support.make import make_manifest
from support.world import World


def running(*, ticks: int = 4, **lifecycle: Any) -> World:
    world = World(make_manifest(spec={"lifecycle": lifecycle}))
    for _ in range(ticks):
        world.tick()
    return world


def finish(world: World, exit_code: int = 0) -> World:
    for pod in list(world.pods.values()):
        world.end(pod.name, exit_code)
    world.reconcile()
    return world


# -- success -------------------------------------------------------------------------------------------------

ALL, ZERO = "AllWorkers", "RankZero"


@pytest.mark.parametrize(
    ("policy", "done", "state", "reason"),
    [
        (ALL, [], "Running", "Training"),
        (ALL, [0], "Running", "Training"),
        (ALL, [1, 2], "Running", "Training"),
        (ALL, [0, 1, 2], "Succeeded", "AllWorkersSucceeded"),
        (ZERO, [], "Running", "Training"),
        (ZERO, [1], "Running", "Training"),
        (ZERO, [1, 2], "Running", "Training"),
        (ZERO, [0], "Succeeded", "RankZeroSucceeded"),
        (ZERO, [0, 2], "Succeeded", "RankZeroSucceeded"),
        (ZERO, [0, 1, 2], "Succeeded", "AllWorkersSucceeded"),
    ],
)
def test_who_must_succeed(policy: str, done: list[int], state: str, reason: str) -> None:
    world = running(successPolicy=policy)
    for slot in done:
        world.end(f"demo-worker-{slot}-0", 0)
    world.reconcile()
    assert (world.status.state, world.status.reason) == (state, reason)
    if state == "Succeeded":
        assert [event.reason for event in world.events][-1] == reason
        assert all(pod.terminating for pod in world.live())


def test_the_others_are_stopped_though_deletes_fail() -> None:
    world = running(successPolicy=ZERO)
    world.refuse_deletes = 3
    world.end("demo-worker-0-0", 0)
    world.run(lambda w: w.status.completion_time is not None and not w.live())
    assert list(world.pods) == ["demo-worker-0-0"]


@pytest.mark.parametrize("exit_code", [1, 69, 75, 78, 137])
def test_rank_zero_has_the_last_word(exit_code: int) -> None:
    world = running(successPolicy=ZERO)
    world.end("demo-worker-0-0", 0)
    world.end("demo-worker-2-0", exit_code)
    world.reconcile()
    assert (world.status.state, world.status.failures) == ("Succeeded", [])


def test_rank_zero_is_a_node_rank_and_no_slot() -> None:
    world = running(successPolicy=ZERO)
    world._write_status(world.status.model_copy(update={"ranks": [2, 0, 1]}))
    world.end("demo-worker-0-0", 0)
    world.reconcile()
    assert world.status.completion_time is None
    world.end("demo-worker-2-0", 0)
    world.reconcile()
    assert world.status.reason == "RankZeroSucceeded"


def test_the_predecessor_of_rank_zero_does_not_count() -> None:
    world = running(successPolicy=ZERO)
    world.vanish("demo-worker-0-0")
    world.tick()
    world.tick()
    assert world.status.completion_time is None


# -- pods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "exit_code", "left"),
    [(None, 0, 3), ("Running", 0, 3), ("Running", 78, 3), ("All", 0, 0), ("All", 78, 0)],
)
def test_pods_that_are_left(policy: str | None, exit_code: int, left: int) -> None:
    lifecycle: dict[str, Any] = {"cleanPodPolicy": policy} if policy else {}
    world = finish(running(**lifecycle), exit_code)
    world.run(lambda w: not w.live())
    world.tick()
    assert len(world.pods) == left
    comes_to_rest(world)


@pytest.mark.parametrize(("policy", "left"), [("Running", ["demo-worker-1-0"]), ("All", [])])
def test_pods_of_former_members_too(policy: str, left: list[str]) -> None:
    world = running(cleanPodPolicy=policy)
    world.end("demo-worker-1-0", 1)
    world.tick()
    world.tick()
    assert "demo-worker-1-0" in world.pods, "cleaned before the job ended"
    finish(world)
    world.tick()
    members = ["demo-worker-0-0", "demo-worker-1-1", "demo-worker-2-0"] if policy == "Running" else []
    assert sorted(world.pods) == sorted(left + members)


@pytest.mark.parametrize("refused", [1, 2, 7])
def test_deletes_that_fail_are_repeated(refused: int) -> None:
    world = running(cleanPodPolicy="All")
    world.refuse_deletes = refused
    plan = finish(world).think(world.observe())
    assert plan.requeue_after_s is not None
    world.run(lambda w: not w.pods)


def test_a_stop_between_any_two_deletes_is_harmless() -> None:
    world = running(cleanPodPolicy="All")
    for pod in list(world.pods.values()):
        world.end(pod.name, 0)
    crash_everywhere(world)


# -- time to live --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "after_s", "deleted"),
    [
        (None, 1e9, False),
        (0, 0, True),
        (1, 0, False),
        (1, 1, True),
        (60, 59, False),
        (60, 59.9, False),
        (60, 60, True),
        (60, 9999, True),
        (86400, 86399, False),
        (86400, 86400, True),
    ],
)
@pytest.mark.parametrize("exit_code", [0, 78], ids=["succeeded", "failed"])
def test_an_ended_job_is_deleted_when_its_time_is_over(
    ttl: int | None, after_s: float, deleted: bool, exit_code: int
) -> None:
    world = finish(running(ttlSecondsAfterFinished=ttl), exit_code)
    world.now += timedelta(seconds=after_s)
    world.reconcile()
    assert world.deleted is deleted


@pytest.mark.parametrize(
    ("ttl", "after_s", "requeue"), [(60, 0, 60), (60, 59.5, 0.5), (3000, 1, 2999), (86400, 0, LONGEST_S)]
)
def test_the_next_look_falls_on_the_very_moment(ttl: int, after_s: float, requeue: float) -> None:
    world = finish(running(ttlSecondsAfterFinished=ttl))
    world.now += timedelta(seconds=after_s)
    assert world.reconcile().requeue_after_s == pytest.approx(requeue)


def test_the_end_is_written_before_the_job_goes() -> None:
    world = running(ttlSecondsAfterFinished=0)
    for pod in list(world.pods.values()):
        world.end(pod.name, 0)
    world.reconcile(stop_after=1)
    assert (world.status.state, world.deleted) == ("Succeeded", False)
    world.reconcile()
    assert world.deleted


@pytest.mark.parametrize(("ttl", "deleted"), [(10, True), (1000, False)])
def test_a_change_after_the_end_is_heeded(ttl: int, deleted: bool) -> None:
    world = finish(running())
    world.now += timedelta(seconds=100)
    assert world.reconcile().requeue_after_s is None
    world.edit(lifecycle={"ttlSecondsAfterFinished": ttl})
    world.reconcile()
    assert world.deleted is deleted


@pytest.mark.parametrize("suspend", [False, True])
def test_a_job_that_has_not_ended_lives(suspend: bool) -> None:
    world = running(ttlSecondsAfterFinished=0)
    world.edit(suspend=suspend)
    for _ in range(3):
        world.tick(3)
    assert not world.deleted
