"""Losses: what counts as lost, what the status keeps of it, and that what was seen first counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import FailureStatus, Status
from deepseek_operator.decide.gang import Member
from deepseek_operator.decide.losses import Loss, gravest_first, last_words, loss_of, recorded
from deepseek_operator.decide.types import Pod
from support.make import make_job, make_last_words, make_pod

LAUNCHED = Status(generation=2, attempt=2, launched_generation=2)
LAUNCHING = Status(generation=2, attempt=2, launched_generation=1, replaced=[0])
NOW = "2026-03-01T12:00:00Z"


def failed(exit_code: int | None, **fields: Any) -> Pod:
    return make_pod(**({"phase": "Failed", "exit_code": exit_code, "reason": "Error"} | fields))


def succeeded(told: int, made: int) -> Pod:
    """A pod that was told a generation, and made the last step in one that may be another."""
    membership = json.dumps({"generation": told, "attempt": told, "nodeRank": 0, "nodes": 1, "master": "m", "port": 1})
    return make_pod(phase="Succeeded", exit_code=0, membership=membership, message=make_last_words(made))


def lost(pod: Pod | None, status: Status = LAUNCHED, slot: int = 0) -> Loss | None:
    return loss_of(Member(slot, 0, f"demo-worker-{slot}-0", pod), make_job(), status)


CASES: list[tuple[str, Pod | None, Cause | None, str]] = [
    ("running", make_pod(), None, ""),
    ("pending", make_pod(phase="Pending"), None, ""),
    ("waiting for its image", make_pod(phase="Pending", reason="ImagePullBackOff"), None, ""),
    ("succeeded", make_pod(phase="Succeeded", exit_code=0), None, ""),
    ("succeeded and being deleted", make_pod(phase="Succeeded", exit_code=0, terminating=True), None, ""),
    ("succeeded in this generation", succeeded(told=2, made=2), None, ""),
    ("succeeded before it was told", succeeded(told=1, made=1), Cause.AFTERMATH, "EndedBefore"),
    ("succeeded before it saw what it was told", succeeded(told=2, made=1), Cause.AFTERMATH, "EndedBefore"),
    ("gone", None, Cause.INFRASTRUCTURE, "PodDeleted"),
    ("being deleted", make_pod(terminating=True), Cause.INFRASTRUCTURE, "PodDeleted"),
    ("pending and being deleted", make_pod(phase="Pending", terminating=True), Cause.INFRASTRUCTURE, "PodDeleted"),
    ("node lost", make_pod(phase="Unknown", reason="NodeLost"), Cause.INFRASTRUCTURE, "NodeLost"),
    ("about to be evicted", make_pod(disrupted=True), Cause.INFRASTRUCTURE, "Disrupted"),
    ("evicted", failed(None, reason="Evicted", disrupted=True), Cause.INFRASTRUCTURE, "Evicted"),
    ("failed while being deleted", failed(143, terminating=True), Cause.INFRASTRUCTURE, "SIGTERM"),
    ("config, while being deleted", failed(78, terminating=True), Cause.CONFIG, "ConfigError"),
    ("preempted", failed(75), Cause.PREEMPTED, "Preempted"),
    ("user error", failed(1), Cause.APPLICATION, "UserError"),
    ("aftermath", failed(1, message=make_last_words(1, message="peer lost")), Cause.AFTERMATH, "UserError"),
    ("own fault", failed(1, message=make_last_words(2, message="boom")), Cause.APPLICATION, "UserError"),
]


@pytest.mark.parametrize(("pod", "cause", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_cause(pod: Pod | None, cause: Cause | None, reason: str) -> None:
    loss = lost(pod)
    assert (loss.cause if loss else None) == cause
    assert (loss.reason if loss else "") == reason


def test_missing_pod_is_lost_only_if_it_had_been_there() -> None:
    assert lost(None, LAUNCHING) is None
    survivor = lost(None, LAUNCHING, slot=1)
    assert survivor is not None
    assert survivor.cause is Cause.INFRASTRUCTURE


def test_failure_entry_has_the_evidence() -> None:
    words = make_last_words(2, message="ValueError: shapes differ", rank=5)
    loss = lost(failed(1, message=words, node="gpu-3"))
    assert loss is not None
    failure = loss.failure(NOW, 2)
    assert (failure.pod, failure.node, failure.slot, failure.rank) == ("demo-worker-0-0", "gpu-3", 0, 5)
    assert (failure.exit_code, failure.reason, failure.message) == (1, "UserError", "ValueError: shapes differ")
    assert (failure.cause, failure.attempt, failure.signal) == ("Application", 2, None)
    assert loss.sentence() == (
        "worker 0 (pod demo-worker-0-0 on node gpu-3): UserError, exit status 1: ValueError: shapes differ"
    )


def test_failure_entry_names_the_signal() -> None:
    words = make_last_words(2, message="x", failure={"rank": 3, "exitCode": None, "signal": "SIGSEGV", "message": ""})
    for pod, expected in ((failed(137), 9), (failed(1, message=words), 11), (failed(1), None)):
        loss = lost(pod)
        assert loss is not None
        assert loss.failure(NOW, 2).signal == expected


def test_failure_of_a_helper_says_whose_it_is() -> None:
    loss = lost(failed(2, container="fetch", message="no such bucket"))
    assert loss is not None
    assert loss.message == "container fetch: no such bucket"


def test_plain_last_words_are_cleaned_and_their_end_is_kept() -> None:
    loss = lost(failed(1, message="x" * 5000 + "Traceback\x1b[31m …\x00\nValueError: boom\n"))
    assert loss is not None
    assert loss.message.endswith("Traceback[31m …\nValueError: boom")
    assert len(loss.message) <= 1024
    assert last_words(" \n") == ""


def on_record(cause: str, pod: str = "demo-worker-0-0", *, attempt: int = 2, time: str = NOW) -> FailureStatus:
    return FailureStatus(time=time, pod=pod, slot=0, attempt=attempt, cause=cause, reason="UserError", message="first")


@pytest.mark.parametrize("pod", [None, failed(1, terminating=True), failed(75), make_pod(terminating=True)])
def test_what_was_seen_first_counts(pod: Pod | None) -> None:
    """Deleting a failed pod while its restart waits doesn't make the cluster guilty."""
    status = LAUNCHED.model_copy(update={"failures": [on_record("Application")]})
    loss = lost(pod, status)
    assert loss is not None
    assert (loss.cause, loss.reason, loss.message) == (Cause.APPLICATION, "UserError", "first")


@pytest.mark.parametrize(
    "other", [on_record("Application", attempt=1), on_record("Application", pod="demo-worker-1-0")]
)
def test_another_attempt_or_another_pod_on_record_says_nothing(other: FailureStatus) -> None:
    loss = lost(None, LAUNCHED.model_copy(update={"failures": [other]}))
    assert loss is not None
    assert loss.cause is Cause.INFRASTRUCTURE


def test_record_does_not_make_a_living_pod_lost_nor_hide_that_no_retry_can_help() -> None:
    status = LAUNCHED.model_copy(update={"failures": [on_record("Application")]})
    assert lost(make_pod(), status) is None
    fatal = lost(failed(78), status)
    assert fatal is not None
    assert fatal.cause is Cause.CONFIG


def test_cause_that_this_operator_does_not_know_is_the_programs() -> None:
    loss = lost(None, LAUNCHED.model_copy(update={"failures": [on_record("Sunspots")]}))
    assert loss is not None
    assert loss.cause is Cause.APPLICATION


def test_losses_on_record_are_told_in_the_order_of_their_sight() -> None:
    later = on_record("Infrastructure", "b", time="2026-03-01T12:00:09Z")
    status = LAUNCHED.model_copy(
        update={"failures": [later, on_record("Communication", "c"), on_record("Application", "a")]}
    )
    assert [failure.pod for failure in recorded(status)] == ["a", "c", "b"]


def test_gravest_first() -> None:
    causes = list(Cause)
    losses = [Loss(Member(slot, 0, f"w-{slot}", None), cause, "X") for slot, cause in enumerate(causes)]
    found = [loss.cause for loss in gravest_first(losses)]
    assert found[:2] == [Cause.CONFIG, Cause.DATA]
    assert found[2] == Cause.INFRASTRUCTURE
    assert found[-1] == Cause.AFTERMATH
    assert found.index(Cause.OUT_OF_MEMORY) < found.index(Cause.COMMUNICATION)
    assert set(found) == set(causes)
