"""Jobs that are deleted some time after they ended. No other operator may be alive here: it would delete them as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.api import Jobs
from support.eventually import eventually
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Start = Callable[..., OperatorProcess]


def succeeds(jobs: Jobs, kubelet: Kubelet, name: str) -> None:
    """The job's only worker runs and ends well."""
    jobs.reaches(name, "Running")
    kubelet.finish(f"{name}-worker-0-0")
    jobs.reaches(name, "Succeeded")


def gone(jobs: Jobs, name: str) -> None:
    eventually(
        lambda: jobs.api.find(f"{jobs.path}/{name}") is None,
        deadline_s=60,
        what=f"{name} is deleted",
        describe=lambda: jobs.describe(name),
    )


def test_it_is_over_with_the_rights_of_the_chart(jobs: Jobs, operator_of_the_chart: Start, kubelet: Kubelet) -> None:
    process = operator_of_the_chart()
    process.wait_for("leading")
    jobs.submit("short", replicas=1, lifecycle={"ttlSecondsAfterFinished": 0})
    jobs.reaches("short", "Running")
    kubelet.finish("short-worker-0-0")
    gone(jobs, "short")
    assert process.complaints() == []


def test_it_holds_over_a_restart_of_the_operator(jobs: Jobs, start_operator: Start, kubelet: Kubelet) -> None:
    first = start_operator(resync_interval_s=3600, leader_election=False)
    for name in ("later", "kept"):
        jobs.submit(name, replicas=1)
        succeeds(jobs, kubelet, name)
    first.kill()
    jobs.edit("later", lifecycle={"ttlSecondsAfterFinished": 1})
    start_operator(resync_interval_s=3600, leader_election=False)
    gone(jobs, "later")
    assert jobs.state("kept") == "Succeeded"


def test_it_alone_wakes_a_settled_job(jobs: Jobs, start_operator: Start, kubelet: Kubelet) -> None:
    start_operator(resync_interval_s=3600)
    jobs.submit("alone", replicas=1)
    succeeds(jobs, kubelet, "alone")
    jobs.edit("alone", lifecycle={"ttlSecondsAfterFinished": 2})
    gone(jobs, "alone")
