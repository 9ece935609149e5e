"""Status: progress, readiness, conditions, state, and when it is worth a write."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of, is_true, rfc3339
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Condition, DataStatus, DeepSeekJob, GoodputStatus, Status
from deepseek_operator.decide import decide, invalid_status
from deepseek_operator.decide.report import GOODPUT_KEYS
from deepseek_operator.decide.training import duration, percent, significant
from deepseek_operator.decide.types import Data, Pod
from support.make import (
    START,
    make_checkpoint,
    make_job,
    make_last_words,
    make_manifest,
    make_pod,
    make_progress,
    make_script_manifest,
    observe,
)
from support.world import World

GANG = (make_pod(0), make_pod(1))


def launched(manifest: dict[str, Any] | None = None, after_s: float = 10.0) -> DeepSeekJob:
    """A job of two workers whose pods were all seen, ready, and told their part."""
    world = World(manifest or make_manifest(replicas=2))
    world.reconcile()
    world.kubelet()
    world.tick(after_s)
    return world.job


def seen(job: DeepSeekJob, *, after_s: float = 60.0, **fields: Any) -> Status:
    """The status after one look at two running workers."""
    return decide(observe(job, *GANG, after_s=after_s, **fields)).status


def condition(status: Status, kind: ConditionType) -> Condition:
    found = fact_of(status.conditions, kind)
    assert found is not None
    return found


def with_status(job: DeepSeekJob, status: Status) -> DeepSeekJob:
    return job.model_copy(update={"status": status})


# -- progress ------------------------------------------------------------------------------------------------


def test_report_becomes_training() -> None:
    report = make_progress(
        step=40, loss=3.14159, validation_loss=12.0, tokens_per_second=1234.6, eta_seconds=3723.9, chain="ab", epoch=0
    )
    status = seen(launched(), progress=report)
    training = status.training
    assert training is not None
    assert (training.step, training.total_steps, training.percent) == (40, 100, "40.0%")
    assert (training.loss, training.validation_loss) == ("3.142", "12.00")
    assert (training.tokens_per_second, training.eta, training.chain) == (1235, "1h02m03s", "ab")
    assert training.time == "2026-03-01T12:01:00Z"
    assert (status.state, status.reason) == ("Running", "Training")


@pytest.mark.parametrize("generation", [0, 2])
def test_report_of_another_generation_is_nothing(generation: int) -> None:
    job = launched()
    assert seen(job, progress=make_progress(generation, step=99)) == seen(job)


def test_checkpoint_and_origin() -> None:
    report = make_progress(checkpoint=make_checkpoint(20), resumed_step=20, resumed_from="/checkpoints/step-00000020")
    status = seen(launched(), progress=report)
    assert status.checkpoint is not None
    assert status.checkpoint.step == 20
    assert status.restored_from is not None
    assert status.restored_from.step == 20
    assert condition(status, ConditionType.CHECKPOINTED).message == "step 20"


def test_checkpoint_is_remembered_and_origin_forgotten_by_a_restart() -> None:
    job = launched()
    report = make_progress(checkpoint=make_checkpoint(20), resumed_step=20, resumed_from="/checkpoints/x")
    job = with_status(job, seen(job, progress=report))
    status = decide(observe(job, make_pod(0), after_s=61)).status
    assert status.checkpoint is not None
    assert status.restored_from is None
    assert is_true(status.conditions, ConditionType.CHECKPOINTED)


def test_what_was_left_out_of_the_data_is_listed_and_not_forgotten() -> None:
    job = launched()
    left_out = Data(tokens=1000, documents=10, quarantined=7, examples=("a.jsonl, line 2: not JSON",))
    job = with_status(job, seen(job, progress=make_progress(data=left_out)))
    expected = DataStatus(tokens=1000, documents=10, quarantined=7, examples=["a.jsonl, line 2: not JSON"])
    assert job.status.data == expected
    assert decide(observe(job, make_pod(0), after_s=61)).status.data == expected


def test_last_words_count_before_the_restart_that_they_cause() -> None:
    words = make_last_words(1, message="terminated", checkpoint=make_checkpoint(60), step=61)
    gone = make_pod(0, phase="Failed", exit_code=75, message=words)
    status = decide(observe(launched(), gone, make_pod(1), after_s=60)).status
    assert status.generation == 2
    assert status.checkpoint is not None
    assert status.checkpoint.step == 60
    assert status.training is not None
    assert status.training.step == 61


def test_final_report_comes_from_the_last_words_of_node_rank_0() -> None:
    done = [make_pod(slot, phase="Succeeded", exit_code=0, message=make_last_words(step=100)) for slot in (0, 1)]
    status = decide(observe(launched(), *done, after_s=60)).status
    assert status.training is not None
    assert (status.training.step, status.training.percent, status.training.phase) == (100, "100.0%", "finished")
    assert status.state == "Succeeded"


def test_process_restarts_only_grow() -> None:
    job = launched()
    job = with_status(job, seen(job, progress=make_progress(process_restarts=2)))
    assert job.status.restarts.process == 2
    assert seen(job, after_s=90, progress=make_progress(process_restarts=1)).restarts.process == 2


@pytest.mark.parametrize(
    ("productive", "startup", "expected"),
    [
        pytest.param(30.0, 10.0, (90, 10, 0), id="as long as there is time left"),
        pytest.param(70.0, 10.0, (90, 10, 0), id="its own past is in the others'"),
        pytest.param(70.0, 0.0, (100, 0, 0), id="all of it trained"),
        pytest.param(5.0, 60.0, (60, 40, 0), id="more than it says to have trained"),
        pytest.param(20.0, 10.0, (80, 10, 10), id="none of it"),
    ],
)
def test_the_past_of_a_worker_that_becomes_node_rank_0_is_not_counted_twice(
    productive: float, startup: float, expected: tuple[int, int, int]
) -> None:
    job = launched()
    others = {"earlier_goodput": GoodputStatus(productive=60), "active_since": rfc3339(START)}
    job = with_status(job, job.status.model_copy(update=others))
    report = make_progress(goodput=dict.fromkeys(GOODPUT_KEYS, 0.0) | {"productive": productive, "startup": startup})
    goodput = seen(job, after_s=100, progress=report).goodput
    assert goodput is not None
    assert (goodput.productive, goodput.startup, goodput.waiting) == expected


def test_goodput_sums_to_the_wall_clock_over_replacements_of_node_rank_0() -> None:
    spent = {"productive": 30.0, "startup": 5.0, "checkpoint": 1.0, "recovery": 0.0, "stalled": 0.0, "waiting": 4.0}
    job = launched()
    job = with_status(job, seen(job, after_s=60, progress=make_progress(goodput=spent)))
    assert job.status.goodput is not None
    assert (job.status.goodput.productive, job.status.goodput.waiting) == (30, 24)
    assert job.status.goodput.ratio == "50.0%"
    job = with_status(job, decide(observe(job, make_pod(1), after_s=61)).status)
    again = (make_pod(0, 1), make_pod(1))
    report = make_progress(2, goodput=dict.fromkeys(spent, 0.0) | {"productive": 20.0})
    goodput = decide(observe(job, *again, after_s=100, progress=report)).status.goodput
    assert goodput is not None
    assert (goodput.productive, goodput.recovery) == (50, 20)
    total = goodput.productive + goodput.startup + goodput.checkpoint + goodput.recovery + goodput.waiting
    assert total == 100


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (61, "1m01s"), (3600, "1h00m00s"), (360000, "100h00m00s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("step", "total", "text"),
    [(0, 3, "0.0%"), (1, 3, "33.3%"), (9999, 10000, "99.9%"), (5, 3, "100.0%"), (1, 0, None), (None, 3, None)],
)
def test_percent(step: int | None, total: int | None, text: str | None) -> None:
    assert percent(step, total) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, None), (0.0, "0.000"), (3.14159, "3.142"), (10.5, "10.50"), (123456.0, "1.235e+05")]
)
def test_significant(value: float | None, text: str | None) -> None:
    assert significant(value) == text


# -- readiness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("ImagePullBackOff", "ImagePullError"),
        ("ErrImagePull", "ImagePullError"),
        ("ErrImageNeverPull", "ImagePullError"),
        ("InvalidImageName", "ImagePullError"),
        ("Unschedulable", "Unschedulable"),
        ("SchedulingGated", "SchedulingGated"),
        ("CrashLoopBackOff", "CrashLoopBackOff"),
        ("RunContainerError", "RunContainerError"),
        ("CreatePodSandboxError", "CreatePodSandboxError"),
        ("PodInitializing", "WaitingForPods"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
        ("ContainerCreating", "WaitingForPods"),
        ("", "WaitingForPods"),
    ],
)
def test_what_is_waited_for_is_told_and_costs_nothing(reason: str, expected: str) -> None:
    stuck = make_pod(1, phase="Pending", reason=reason, message="0/2 nodes are available")
    plan = decide(observe(launched(), make_pod(0), stuck, after_s=60))
    told = condition(plan.status, ConditionType.PODS_READY)
    assert (told.status, told.reason) == ("False", expected)
    if expected != "WaitingForPods":
        assert told.message == f"worker 1: {reason}: 0/2 nodes are available"
    assert (plan.status.generation, plan.status.total_restarts) == (1, 0)
    assert (plan.status.state, plan.status.reason) == ("Pending", expected)
    assert (plan.create, plan.delete) == ((), ())
    assert plan.requeue_after_s is not None


SCHEDULER: list[tuple[str, str]] = [
    ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: …", "VolumeNotBound"),
    ('0/2 nodes are available: persistentvolumeclaim "ckpt" not found. not found', "VolumeNotBound"),
    ('0/2 nodes are available: persistentvolumeclaim "ckpt" is being deleted.', "VolumeNotBound"),
    ('persistentvolumeclaim "ckpt" bound to non-existent persistentvolume "pv"', "VolumeNotBound"),
    ("0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.", "VolumeNotBound"),
    ("0/2 nodes are available: 2 node(s) did not have enough free storage.", "VolumeNotBound"),
    ("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).", "VolumeNotBound"),
    ("0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: …", "Unschedulable"),
    ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.", "Unschedulable"),
    ("0/2 nodes are available: 1 node(s) had untolerated taint {a: b}", "Unschedulable"),
    ("0/2 nodes are available: 2 node(s) exceed max volume count.", "Unschedulable"),
]


@pytest.mark.parametrize(("words", "expected"), SCHEDULER)
def test_claim_that_is_not_bound_is_told_from_the_schedulers_words(words: str, expected: str) -> None:
    stuck = make_pod(1, phase="Pending", reason="Unschedulable", message=words)
    plan = decide(observe(launched(), make_pod(0), stuck, after_s=60))
    told = condition(plan.status, ConditionType.PODS_READY)
    assert (told.reason, told.message) == (expected, f"worker 1: Unschedulable: {words}")
    assert (plan.status.state, plan.status.reason, plan.status.total_restarts) == ("Pending", expected, 0)


def test_container_that_does_not_come_up_is_named() -> None:
    stuck = make_pod(1, phase="Pending", reason="ErrImagePull", message="not found", container="fetch")
    told = condition(seen_with(stuck), ConditionType.PODS_READY)
    assert (told.reason, told.message) == ("ImagePullError", "worker 1, container fetch: ErrImagePull: not found")


def test_sidecar_that_crashes_again_and_again_is_told_though_the_worker_runs() -> None:
    crashing = make_pod(1, ready=False, reason="CrashLoopBackOff", message="back-off", container="proxy")
    told = condition(seen_with(crashing), ConditionType.PODS_READY)
    assert (told.status, told.reason) == ("False", "CrashLoopBackOff")
    assert seen_with(make_pod(1, reason="CrashLoopBackOff")).ready_nodes == "2/2"


def seen_with(other: Pod) -> Status:
    return decide(observe(launched(), make_pod(0), other, after_s=60)).status


def test_all_ready_is_starting_until_a_step_was_made() -> None:
    status = seen(launched())
    assert (status.state, status.ready_nodes) == ("Starting", "2/2")
    preparing = make_progress(step=None, phase="preparing")
    assert seen(launched(), progress=preparing).state == "Starting"


def test_user_script_runs_when_all_its_workers_do() -> None:
    job = launched(make_script_manifest(replicas=2))
    status = seen(job)
    assert status.state == "Running"
    job = with_status(job, status)
    assert decide(observe(job, make_pod(0), after_s=61)).status.state == "Restarting"


# -- running -------------------------------------------------------------------------------------------------


def test_unheard_worker_still_trains() -> None:
    job = launched()
    job = with_status(job, seen(job, progress=make_progress()))
    assert seen(job, after_s=90).state == "Running"


def test_restart_in_place_is_told_and_announced_when_over() -> None:
    job = launched()
    job = with_status(job, seen(job, progress=make_progress()))
    job = with_status(job, seen(job, after_s=70, progress=make_progress(step=None, phase="starting")))
    assert (job.status.state, job.status.attempt) == ("Restarting", 1)
    plan = decide(observe(job, *GANG, after_s=80, progress=make_progress(resumed_step=20, resumed_from="/c")))
    assert plan.status.state == "Running"
    [event] = plan.events
    assert (event.reason, event.message) == ("Resumed", "training goes on from the checkpoint of step 20 (attempt 1)")


def test_events_come_with_the_status_that_records_them_and_only_once() -> None:
    world = World(make_manifest(replicas=2))
    for _ in range(4):
        world.tick()
    world.vanish("demo-worker-1-0")
    world.run_to_end()
    assert [event.reason for event in world.events] == ["Starting", "WorkerLost", "Resumed", "AllWorkersSucceeded"]


# -- conditions and state ------------------------------------------------------------------------------------


def test_kstatus_is_never_both() -> None:
    world = World(make_manifest(max_restarts=0))
    states = {}
    for tick in range(6):
        world.tick()
        if tick == 4:
            world.end("demo-worker-0-0", 1)
        conditions = world.status.conditions
        states[world.status.state] = tuple(
            is_true(conditions, kind) for kind in (ConditionType.RECONCILING, ConditionType.STALLED)
        )
    assert states == {
        "Pending": (True, False),
        "Starting": (True, False),
        "Running": (False, False),
        "Failed": (False, True),
    }


def test_invalid_spec_is_told_once_and_mending_it_starts_the_job() -> None:
    job = make_job(replicas=2)
    status = invalid_status(Status(), "spec.workers.image: required; name an image", 1, observe(job).now)
    assert (status.state, status.reason, status.generation) == ("Failed", "InvalidSpec", 0)
    assert is_true(status.conditions, ConditionType.STALLED)
    assert {c.type for c in status.conditions} == {kind.value for kind in ConditionType}
    assert (
        invalid_status(status, "spec.workers.image: required; name an image", 1, observe(job, after_s=9).now) == status
    )
    mended = decide(observe(with_status(job, status), after_s=60, service_exists=False))
    assert (mended.status.state, mended.status.generation, len(mended.create)) == ("Pending", 1, 3)
    assert not is_true(mended.status.conditions, ConditionType.FAILED)
    assert not is_true(mended.status.conditions, ConditionType.STALLED)


def test_ended_job_is_not_called_invalid_afterwards() -> None:
    ended = World(make_manifest(replicas=1)).run_to_end().status
    assert invalid_status(ended, "whatever", 2, observe(make_job()).now) == ended


# -- writes --------------------------------------------------------------------------------------------------


def test_progress_is_written_at_most_every_five_seconds() -> None:
    job = launched()
    job = with_status(job, seen(job, after_s=60, progress=make_progress(step=40)))
    soon = decide(observe(job, *GANG, after_s=63, progress=make_progress(step=41)))
    assert soon.status == job.status
    assert soon.requeue_after_s == pytest.approx(2.0)
    due = decide(observe(job, *GANG, after_s=65, progress=make_progress(step=41)))
    assert due.status.training is not None
    assert due.status.training.step == 41


def test_what_matters_is_written_at_once_and_takes_the_rest_along() -> None:
    job = launched()
    job = with_status(job, seen(job, after_s=60, progress=make_progress(step=40)))
    status = seen(job, after_s=61, progress=make_progress(step=41, checkpoint=make_checkpoint(40)))
    assert is_true(status.conditions, ConditionType.CHECKPOINTED)
    assert status.training is not None
    assert status.training.step == 41


def test_nothing_new_writes_nothing_however_late() -> None:
    job = launched()
    job = with_status(job, seen(job, after_s=60, progress=make_progress()))
    assert seen(job, after_s=600, progress=make_progress()) == job.status


def test_clock_that_goes_backwards_does_not_silence_the_job() -> None:
    job = launched()
    job = with_status(job, seen(job, after_s=3600, progress=make_progress(step=40)))
    status = seen(job, after_s=60, progress=make_progress(step=41))
    assert status.training is not None
    assert status.training.step == 41


def test_a_job_of_eight_pods_costs_few_writes() -> None:
    """Pods that come up one after the other don't each cost a write."""
    world = World(make_manifest(replicas=8))
    world.reconcile()
    world.held = set(world.pods)
    for name in sorted(world.pods):
        world.held.discard(name)
        world.tick(0.5)
    world.run_to_end()
    progress_writes = 100 // 10
    assert world.status_writes <= 6 + progress_writes
