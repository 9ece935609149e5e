"""Losses: what counts as lost, who is charged for it, and what the status keeps of it."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.gang import Member
from deepseek_operator.decide.losses import Cause, loss_of, one_word
from deepseek_operator.decide.types import Pod
from support.make import make_last_words, make_pod

LAUNCHED = Status(generation=2, attempt=2, launched_generation=2)
LAUNCHING = Status(generation=2, attempt=2, launched_generation=1, replaced=[0])


def failed(exit_code: int | None, **fields: Any) -> Pod:
    return make_pod(**({"phase": "Failed", "exit_code": exit_code, "reason": "Error"} | fields))


def member(pod: Pod | None, slot: int = 0) -> Member:
    return Member(slot, 0, f"demo-worker-{slot}-0", pod)


CASES: list[tuple[str, Pod | None, Cause | None, str]] = [
    ("running", make_pod(), None, ""),
    ("pending", make_pod(phase="Pending"), None, ""),
    ("waiting for its image", make_pod(phase="Pending", reason="ImagePullBackOff"), None, ""),
    ("succeeded", make_pod(phase="Succeeded", exit_code=0), None, ""),
    ("succeeded and being deleted", make_pod(phase="Succeeded", exit_code=0, terminating=True), None, ""),
    ("gone", None, Cause.CLUSTER, "PodDeleted"),
    ("being deleted", make_pod(terminating=True), Cause.CLUSTER, "PodDeleted"),
    ("pending and being deleted", make_pod(phase="Pending", terminating=True), Cause.CLUSTER, "PodDeleted"),
    ("node lost", make_pod(phase="Unknown", reason="NodeLost"), Cause.CLUSTER, "NodeLost"),
    ("about to be evicted", make_pod(disrupted=True), Cause.CLUSTER, "Disrupted"),
    ("evicted", failed(None, reason="Evicted", disrupted=True), Cause.CLUSTER, "Evicted"),
    ("killed by an eviction", failed(137, disrupted=True, reason="Evicted"), Cause.CLUSTER, "Evicted"),
    ("refused by the node", failed(None, reason="OutOfcpu"), Cause.CLUSTER, "OutOfcpu"),
    ("preempted", failed(75), Cause.CLUSTER, "Preempted"),
    ("failed while being deleted", failed(143, terminating=True), Cause.CLUSTER, "ExitStatus143"),
    ("unreachable", failed(69), Cause.UNREACHABLE, "Unavailable"),
    ("user error", failed(1), Cause.WORKER, "UserError"),
    ("out of memory", failed(137, reason="OOMKilled"), Cause.WORKER, "OOMKilled"),
    ("killed", failed(137), Cause.WORKER, "ExitStatus137"),
    ("config", failed(78), Cause.FATAL, "ConfigError"),
    ("config, while being deleted", failed(78, terminating=True), Cause.FATAL, "ConfigError"),
    ("data", failed(65), Cause.FATAL, "DataError"),
    ("aftermath", failed(1, message=make_last_words(1, message="peer lost")), Cause.AFTERMATH, "UserError"),
    ("own fault", failed(1, message=make_last_words(2, message="boom")), Cause.WORKER, "UserError"),
]


@pytest.mark.parametrize(("pod", "cause", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_cause(pod: Pod | None, cause: Cause | None, reason: str) -> None:
    loss = loss_of(member(pod), LAUNCHED)
    assert (loss.cause if loss else None) == cause
    assert (loss.reason if loss else "") == reason


def test_missing_pod_is_lost_only_if_it_had_been_there() -> None:
    assert loss_of(member(None, slot=0), LAUNCHING) is None
    survivor = loss_of(member(None, slot=1), LAUNCHING)
    assert survivor is not None
    assert survivor.cause is Cause.CLUSTER


def test_failure_entry_has_the_evidence() -> None:
    words = make_last_words(2, message="ValueError: shapes differ", rank=5)
    loss = loss_of(member(failed(1, message=words, node="gpu-3")), LAUNCHED)
    assert loss is not None
    failure = loss.failure("2026-03-01T12:00:00Z")
    assert (failure.pod, failure.node, failure.slot, failure.rank) == ("demo-worker-0-0", "gpu-3", 0, 5)
    assert (failure.exit_code, failure.reason, failure.message) == (1, "UserError", "ValueError: shapes differ")
    assert loss.sentence() == (
        "worker 0 (pod demo-worker-0-0 on node gpu-3): UserError, exit status 1: ValueError: shapes differ"
    )


def test_plain_last_words_are_cleaned() -> None:
    loss = loss_of(member(failed(1, message="Traceback\x1b[31m …\x00\nboom" + "x" * 5000)), LAUNCHED)
    assert loss is not None
    assert loss.message.startswith("Traceback[31m …\nboom")
    assert len(loss.message) <= 1024


@pytest.mark.parametrize(
    ("text", "word"), [("Evicted", "Evicted"), ("Out Of: cpu", "OutOfcpu"), ("", "X"), ("9lives", "X"), ("é", "X")]
)
def test_one_word(text: str, word: str) -> None:
    assert one_word(text, "X") == word
