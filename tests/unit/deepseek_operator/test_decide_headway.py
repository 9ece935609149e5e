"""No progress: what counts as a fruitless restart, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import Cause, ConditionType
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.headway import counted, headway, standstill
from deepseek_operator.decide.turn import Turn
from support.laws import Watcher, ends, tick
from support.make import make_checkpoint, make_job, make_manifest, observe
from support.world import World

STEPPED = "2026-03-01T12:00:00Z"


def turn(*, step: int | None = None, checkpoint: bool = True, **status: Any) -> Turn:
    saved = Status.model_validate({"checkpoint": make_checkpoint(step)}).checkpoint if step is not None else None
    whole = Status(generation=2, attempt=2, checkpoint=saved, **status)
    return Turn(observe(make_job(whole, checkpoint=checkpoint)), whole)


COUNTS = [
    (Cause.APPLICATION, None, True),
    (Cause.APPLICATION, STEPPED, True),
    (Cause.OUT_OF_MEMORY, None, True),
    (Cause.ACCELERATOR, None, True),
    (Cause.COMMUNICATION, None, True),
    (Cause.HANG, STEPPED, True),
    (Cause.INFRASTRUCTURE, None, False),
    (Cause.INFRASTRUCTURE, STEPPED, True),
    (Cause.PREEMPTED, None, False),
    (Cause.PREEMPTED, STEPPED, True),
    (Cause.AFTERMATH, None, False),
    (Cause.AFTERMATH, STEPPED, False),
]


@pytest.mark.parametrize(("cause", "stepped_at", "counts"), COUNTS)
@pytest.mark.parametrize("before", [0, 3])
def test_what_counts(cause: Cause, stepped_at: str | None, counts: bool, before: int) -> None:
    found = counted(turn(step=40, stepped_at=stepped_at, fruitless_restarts=before), cause)
    assert found == {"fruitless_restarts": before + counts, "progress_mark": 40}


@pytest.mark.parametrize(("cause", "stepped_at", "counts"), COUNTS)
@pytest.mark.parametrize("fruitless", [4, 5, 6])
@pytest.mark.parametrize("step", [None, 40])
def test_limit(cause: Cause, stepped_at: str | None, counts: bool, fruitless: int, step: int | None) -> None:
    words = standstill(turn(step=step, stepped_at=stepped_at, fruitless_restarts=fruitless), cause)
    assert bool(words) == (counts and fruitless >= 5)
    if words:
        assert ("newer than step 40" if step else "at all") in words
        assert "raise recovery.maxRestartsWithoutProgress" in words


@pytest.mark.parametrize(
    ("checkpoint", "step", "limited"), [(True, None, True), (False, 40, True), (False, None, False)]
)
def test_limit_holds_where_checkpoints_are_reported(checkpoint: bool, step: int | None, limited: bool) -> None:
    words = standstill(turn(step=step, checkpoint=checkpoint, fruitless_restarts=5), Cause.APPLICATION)
    assert bool(words) == limited


@pytest.mark.parametrize(
    ("step", "mark", "fruitless", "expected"),
    [(None, 0, 3, (3, 0)), (40, 40, 3, (3, 40)), (20, 40, 3, (3, 40)), (60, 40, 3, (0, 60)), (60, 40, 0, (0, 40))],
)
def test_newer_checkpoint_begins_the_count_anew(
    step: int | None, mark: int, fruitless: int, expected: tuple[int, int]
) -> None:
    """Without a count there is nothing to write: the mark follows at the next restart."""
    status = headway(turn(step=step, fruitless_restarts=fruitless, progress_mark=mark)).status
    assert (status.fruitless_restarts, status.progress_mark) == expected


def test_restarts_that_bring_nothing_end_the_job() -> None:
    budgets = {"application": 100}
    recovery = {"budgets": budgets, "maxRestartsWithoutProgress": 3, "backoff": {"initialSeconds": 0, "maxSeconds": 0}}
    world = World(make_manifest(spec={"recovery": recovery}))
    watcher = Watcher(world)
    for _ in range(60):
        tick(world, watcher)
        world.saved_step = 0
        world.end(max(pod.name for pod in world.members()) if world.members() else "", 1)
        if world.status.completion_time:
            break
    ends(world, watcher)
    status = world.status
    assert (status.state, status.reason, status.fruitless_restarts) == ("Failed", "NoProgress", 3)
    told = fact_of(status.conditions, ConditionType.FAILED)
    assert told is not None
    assert told.message.startswith("3 restarts in a row brought no checkpoint at all; mend the cause, save more often")
    assert "the last failure: worker " in told.message


def test_pods_that_are_lost_before_the_first_step_never_end_the_job() -> None:
    world = World(make_manifest(spec={"recovery": {"maxRestartsWithoutProgress": 1}}))
    for _ in range(8):
        world.reconcile()
        world.kubelet()
        world.reconcile()
        world.vanish(world.members()[0].name)
        world.now = world.now.replace(minute=world.now.minute + 2)
        world.reconcile()
    assert (world.status.restarts.infrastructure, world.status.fruitless_restarts) == (8, 0)
    assert world.run_to_end().status.state == "Succeeded"
