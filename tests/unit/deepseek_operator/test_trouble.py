"""Refusals of the API server, as the job's own status tells them."""

from __future__ import annotations

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.cluster.errors import AlreadyExists, ApiError, Forbidden, Invalid, Unavailable
from deepseek_operator.decide import decide
from deepseek_operator.trouble import refusal_message, refused_status
from support.make import later, make_job, make_pod, observe

QUOTA = 'pods "demo-worker-0-0" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8'
WEBHOOK = 'Internal error occurred: failed calling webhook "check.example.org": connection refused'


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Forbidden(403, "Forbidden", QUOTA, "create"), QUOTA),
        (Invalid(422, "Invalid", "spec.x: bad", "create"), "spec.x: bad"),
        (AlreadyExists(409, "AlreadyExists", "taken", "create"), "taken"),
        (Unavailable(500, "InternalError", WEBHOOK, "create"), WEBHOOK),
        (Unavailable(503, "", "try again", "create"), None),
        (ApiError(418, "", "teapot", "create"), None),
    ],
)
def test_what_a_person_must_know(error: ApiError, told: str | None) -> None:
    message = refusal_message([error])
    assert message == (None if told is None else f"the API server refuses what this job needs: {told}")


def waiting() -> Status:
    """A job whose pods could not be made."""
    job = make_job(decide(observe(make_job(), service_exists=False)).status)
    return decide(observe(job, after_s=5)).status


def test_job_that_waits_for_refused_pods_says_so_in_its_state_and_costs_nothing() -> None:
    new = waiting()
    status = refused_status(new, new, QUOTA, later(6), 1)
    pods = fact_of(status.conditions, ConditionType.PODS_READY)
    assert pods is not None
    assert (pods.status, pods.reason, pods.message) == ("False", "Refused", QUOTA)
    assert (status.state, status.reason) == ("Pending", "Refused")
    assert status.total_restarts == 0


def test_same_refusal_again_is_not_worth_a_write() -> None:
    new = waiting()
    status = refused_status(new, new, QUOTA, later(6), 1)
    again = decide(observe(make_job(status), after_s=60)).status
    assert refused_status(again, status, QUOTA, later(60), 1) is status
    assert refused_status(again, status, "another", later(60), 1) is not status


def test_refusal_of_something_else_leaves_a_running_gang_its_reason() -> None:
    job = make_job(waiting(), replicas=2)
    running = decide(observe(job, make_pod(0), make_pod(1), make_pod(2), after_s=9)).status
    status = refused_status(running, running, QUOTA, later(10), 1)
    pods = fact_of(status.conditions, ConditionType.PODS_READY)
    assert pods is not None
    assert pods.reason == "AllReady"
