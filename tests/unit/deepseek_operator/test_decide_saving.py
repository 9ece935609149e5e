"""The condition CheckpointFailed: what the trainer says of saves that failed, and when it is over."""

from __future__ import annotations

from dataclasses import replace

from deepseek_operator.api.conditions import fact_of, parse_time
from deepseek_operator.api.names import ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide import Plan, decide
from deepseek_operator.decide.saving import unsaved_since
from deepseek_operator.decide.types import CheckpointFailure, Observation
from support.make import make_checkpoint, make_job, make_pod, make_progress, observe

FULL = CheckpointFailure(60, "2026-03-01T12:01:00Z", 1, "No space left on device")
AGAIN = CheckpointFailure(80, "2026-03-01T12:02:00Z", 2, "No space left on device")


def look(status: Status | None, failure: CheckpointFailure | None, saved: int, *, after_s: float) -> Observation:
    seen = observe(make_job(status, replicas=2), make_pod(0), make_pod(1), after_s=after_s)
    said = make_progress(1, step=90, checkpoint=make_checkpoint(saved), checkpoint_failure=failure)
    return replace(seen, progress=said)


def running() -> Status:
    status = Status()
    for after_s in (0.0, 1.0, 2.0, 10.0):
        status = decide(look(status, None, 40, after_s=after_s)).status
    assert status.state == State.RUNNING
    return status


def said(plan: Plan) -> tuple[str, str, str]:
    condition = fact_of(plan.status.conditions, ConditionType.CHECKPOINT_FAILED)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def test_it_is_true_from_the_first_failure_to_the_next_checkpoint() -> None:
    status = running()
    began = decide(look(status, FULL, 40, after_s=20))
    assert said(began) == ("True", Reason.NOT_SAVED, "the checkpoint of step 60 was not saved: No space left on device")
    assert [(event.type, event.reason) for event in began.events] == [("Warning", Reason.NOT_SAVED)]
    assert began.status.state == State.RUNNING, "training goes on"

    again = decide(look(began.status, AGAIN, 40, after_s=30))
    assert "step 80 was not saved (2 in a row)" in said(again)[2]
    assert not again.events

    restarted = decide(look(again.status, None, 40, after_s=40))
    assert said(restarted)[0] == "True", "new processes have forgotten it, and nothing was saved since"

    mended = decide(look(restarted.status, None, 100, after_s=50))
    assert said(mended) == ("False", Reason.AS_EXPECTED, "")


def test_the_time_without_a_new_checkpoint_counts_while_steps_are_made() -> None:
    trained = running()
    job, saved = make_job(trained, replicas=2), trained.checkpoint
    assert saved is not None

    assert unsaved_since(job, Status()) is None
    assert unsaved_since(job, trained) == parse_time(saved.time)
    resumed = trained.model_copy(update={"active_since": "2026-03-02T00:00:00Z"})
    assert unsaved_since(job, resumed) == parse_time("2026-03-02T00:00:00Z"), "the time at rest doesn't count"
