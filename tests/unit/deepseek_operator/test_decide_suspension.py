"""Suspension: pods that save and go, rest that costs nothing, and a run that goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Condition
from deepseek_operator.decide import decide
from deepseek_operator.decide.requeue import DELETE_AGAIN_S
from support.kstatus import kstatus_of
from support.laws import Watcher, tick
from support.make import make_checkpoint, make_last_words, make_manifest, make_progress, observe
from support.world import World, effects


def running(ticks: int = 4, **spec: Any) -> World:
    world = World(make_manifest(spec=spec))
    for _ in range(ticks):
        world.tick()
    return world


def suspended(ticks: int = 4, **spec: Any) -> World:
    world = running(ticks, **spec)
    world.edit(suspend=True)
    return world.run(lambda w: w.status.state == "Suspended")


def condition(world: World, kind: ConditionType = ConditionType.SUSPENDED) -> Condition:
    found = fact_of(world.status.conditions, kind)
    assert found is not None
    return found


# -- a job that never ran ------------------------------------------------------------------------------------


def test_nothing_at_all_is_created_for_a_job_that_is_born_suspended() -> None:
    world = World(make_manifest(spec={"suspend": True}))
    plan = world.reconcile()
    assert (plan.create, plan.patch, plan.delete) == ((), (), ())
    assert plan.requeue_after_s is None
    status = world.status
    assert (status.state, status.reason, status.ready_nodes) == ("Suspended", "Suspended", "0/3")
    assert (status.generation, status.attempt, status.start_time, status.active_since) == (0, 0, None, None)
    assert "Unknown" not in {condition.status for condition in status.conditions}
    assert kstatus_of(world.job) == "Current"
    assert [event.reason for event in world.events] == ["Suspended"]


def test_a_job_at_rest_is_written_once() -> None:
    world = World(make_manifest(spec={"suspend": True}))
    for _ in range(20):
        world.tick(60)
    assert world.status_writes == 1


def test_its_first_run_is_no_restart() -> None:
    world = World(make_manifest(spec={"suspend": True}))
    world.tick()
    world.edit(suspend=False)
    world.tick()
    status = world.status
    assert (status.generation, status.attempt, status.restarts.resize, status.incarnations) == (1, 1, 0, {})
    assert sorted(world.pods) == ["demo-worker-0-0", "demo-worker-1-0", "demo-worker-2-0"]
    assert world.run_to_end().status.state == "Succeeded"


# -- a job that runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(1, 8))
def test_at_any_time_the_pods_go_and_the_job_comes_back(ticks: int) -> None:
    world = running(ticks)
    watcher = Watcher(world)
    watcher.look()
    world.edit(suspend=True)
    world.reconcile()
    assert all(pod.terminating for pod in world.live())
    assert (condition(world).status, condition(world).reason) == ("False", "Suspending")
    assert (world.status.state, world.status.reason, world.status.active_since) == ("Pending", "Suspending", None)
    assert kstatus_of(world.job) == "InProgress"
    tick(world, watcher)
    assert (world.status.state, world.status.ready_nodes, world.pods) == ("Suspended", "0/3", {})
    assert kstatus_of(world.job) == "Current"

    world.edit(suspend=False)
    tick(world, watcher)
    assert sorted(world.pods) == ["demo-worker-0-1", "demo-worker-1-1", "demo-worker-2-1"]
    status = world.status
    assert (status.generation, status.attempt, status.restarts.resize, status.total_restarts) == (2, 2, 1, 0)
    assert (status.state, status.reason, status.failures) == ("Restarting", "Resuming", [])
    world.run(lambda w: w.status.state == "Running" or w.status.completion_time is not None)
    assert world.run_to_end().status.state == "Succeeded"


def test_a_graceful_stop_loses_no_step() -> None:
    world = running(6)
    step = world.step
    assert step % 20, "the last step was saved anyway"
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    assert world.saved_step == step


def test_what_happened_is_told_in_events() -> None:
    world = suspended()
    for _ in range(3):
        world.tick()
    world.edit(suspend=False)
    world.run_to_end()
    reasons = [event.reason for event in world.events]
    assert reasons == ["Starting", "Suspended", "Resuming", "Resumed", "AllWorkersSucceeded"]


def test_deletes_that_fail_are_repeated_until_all_pods_are_gone() -> None:
    world = running()
    world.edit(suspend=True)
    world.refuse_deletes = 7
    plans = [world.reconcile() for _ in range(4)]
    assert [len(plan.delete) for plan in plans] == [3, 3, 3, 1]
    assert {plan.requeue_after_s for plan in plans} == {DELETE_AGAIN_S}
    assert condition(world).status == "False"
    world.run(lambda w: w.status.state == "Suspended")
    assert world.pods == {}


def test_a_pod_that_does_not_go_is_waited_for() -> None:
    world = running()
    world.frozen.add("demo-worker-1-0")
    world.edit(suspend=True)
    for _ in range(5):
        world.tick()
    assert (condition(world).status, world.status.state) == ("False", "Pending")
    assert condition(world).message == "1 worker pod has still to save and go"
    assert world.reconcile().requeue_after_s is not None
    world.frozen.clear()
    world.run(lambda w: w.status.state == "Suspended")


def test_resuming_does_not_wait_for_it() -> None:
    world = running()
    world.frozen.add("demo-worker-1-0")
    world.edit(suspend=True)
    world.tick()
    world.edit(suspend=False)
    world.tick()
    assert {"demo-worker-0-1", "demo-worker-1-1", "demo-worker-2-1"} <= set(world.pods)


def end_all(world: World) -> None:
    for name in list(world.pods):
        world.end(name, 0)


FAULTS: dict[str, Callable[[World], None]] = {
    "gone": lambda world: world.vanish("demo-worker-1-0"),
    "all gone": lambda world: world.pods.clear(),
    "saved": lambda world: world.end("demo-worker-1-0", 75),
    "failed": lambda world: world.end("demo-worker-1-0", 1),
    "killed": lambda world: world.end("demo-worker-1-0", 137),
    "unreachable": lambda world: world.end("demo-worker-1-0", 69),
    "config": lambda world: world.end("demo-worker-1-0", 78),
    "succeeded": lambda world: world.end("demo-worker-0-0", 0),
    "all succeeded": end_all,
    "disrupted": lambda world: world.pods.update(
        {"demo-worker-1-0": replace(world.pods["demo-worker-1-0"], disrupted=True)}
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_on_the_way_to_rest_nothing_is_a_loss_and_nothing_an_end(fault: Callable[[World], None]) -> None:
    world = running()
    world.edit(suspend=True)
    world.reconcile()
    fault(world)
    world.run(lambda w: w.status.state == "Suspended")
    status = world.status
    assert (status.attempt, status.generation, status.failures, status.total_restarts) == (1, 1, [], 0)
    assert status.completion_time is None
    world.edit(suspend=False)
    assert world.run_to_end().status.state == "Succeeded"
    assert world.status.restarts.model_dump(exclude_defaults=True) == {"resize": 1}


@pytest.mark.parametrize("fault", ["gone", "failed", "killed", "disrupted"])
def test_a_loss_that_is_first_seen_together_with_the_suspension_costs_nothing(fault: str) -> None:
    world = running()
    FAULTS[fault](world)
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    assert (world.status.attempt, world.status.total_restarts) == (1, 0)


def test_the_last_checkpoint_is_told_though_the_job_is_at_rest() -> None:
    world = running()
    world.edit(suspend=True)
    world.reconcile()
    words = make_last_words(1, message="terminated", step=37, checkpoint=make_checkpoint(37))
    world.end("demo-worker-0-0", 75, message=words, terminating=True)
    world.reconcile()
    assert world.status.checkpoint is not None
    assert world.status.checkpoint.step == 37
    assert condition(world, ConditionType.CHECKPOINTED).message == "step 37"


def test_what_no_longer_holds_is_not_shown() -> None:
    job = running().job
    gang = tuple(running().pods.values())
    report = make_progress(step=40, eta_seconds=60.0, tokens_per_second=900.0)
    shown = decide(observe(job, *gang, after_s=60, progress=report)).status
    assert shown.training is not None
    assert (shown.training.eta, shown.training.tokens_per_second) == ("1m00s", 900)
    job = job.model_copy(
        update={"status": shown, "spec": job.spec.model_copy(update={"suspend": True})},
    )
    rest = decide(observe(job, *gang, after_s=70, progress=report)).status
    assert rest.training is not None
    assert (rest.training.eta, rest.training.tokens_per_second, rest.training.step) == (None, None, 40)


def test_a_report_of_the_past_wakes_nobody() -> None:
    """A step that stood still for long would be a hang, if the job were to make steps."""
    world = running()
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    world.now += timedelta(hours=9)
    plan = decide(replace(world.observe(), progress=make_progress()))
    assert plan.requeue_after_s is None or plan.requeue_after_s >= 1
    assert plan.status.restarts.hang == 0


# -- jobs that end or have ended -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
def test_suspending_an_ended_job_changes_nothing(state: str) -> None:
    world = running()
    for name in list(world.pods):
        world.end(name, 0 if state == "Succeeded" else 78)
    world.run_to_end()
    assert world.status.state == state
    before = world.status
    world.edit(suspend=True)
    plan = world.tick()
    assert effects(plan) == ()
    assert (world.status.state, world.status.completion_time) == (state, before.completion_time)
    assert world.status.observed_generation == world.job.metadata.generation
    assert kstatus_of(world.job) == ("Current" if state == "Succeeded" else "Failed")


def test_a_job_whose_work_is_done_when_it_is_suspended_is_complete() -> None:
    world = running()
    end_all(world)
    world.edit(suspend=True)
    world.tick()
    assert world.status.state == "Succeeded"
    assert condition(world).status == "False"


# -- size, time and mishaps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "elastic"), [(1, False), (2, False), (5, False), (2, True), (5, True)])
def test_a_job_comes_back_with_the_size_that_its_spec_has_by_then(replicas: int, elastic: bool) -> None:
    spec: dict[str, Any] = {"elastic": {"minReplicas": 1, "maxReplicas": 8}} if elastic else {}
    world = suspended(**spec)
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": replicas})
    world.tick()
    assert (world.status.state, world.pods) == ("Suspended", {})
    world.edit(suspend=False)
    watcher = Watcher(world)
    tick(world, watcher)
    assert len(world.live()) == world.status.nodes.desired == replicas
    assert (world.status.attempt, world.status.restarts.resize) == (2, 1)
    world.run(lambda w: w.status.state in ("Running", "Succeeded"))
    assert world.status.generation == 2


@pytest.mark.parametrize("cycles", [1, 2, 4])
def test_active_time_adds_up_over_suspensions(cycles: int) -> None:
    world = World(make_manifest())
    world.held = {f"demo-worker-{slot}-{k}" for slot in range(3) for k in range(9)}  # so that it does not end
    for cycle in range(1, cycles + 1):
        world.edit(suspend=False)
        world.reconcile()
        world.now += timedelta(seconds=30)
        world.edit(suspend=True)
        world.reconcile()
        assert (world.status.active_since, world.status.active_seconds) == (None, 30 * cycle)
        world.now += timedelta(seconds=1000)
        world.reconcile()
    assert world.status.attempt == cycles
    assert world.status.restarts.resize == cycles - 1


def test_goodput_does_not_count_the_rest() -> None:
    spent = {"productive": 30.0, "startup": 5.0, "checkpoint": 1.0, "recovery": 0.0, "stalled": 0.0, "waiting": 4.0}
    world = running(0)
    world.reconcile()
    world.kubelet()
    world.now += timedelta(seconds=60)
    status = decide(replace(world.observe(), progress=make_progress(goodput=spent))).status
    world._write_status(status)
    world.edit(suspend=True)
    world.reconcile()
    world.kubelet()
    world.now += timedelta(hours=5)
    world.reconcile()
    world.edit(suspend=False)
    world.reconcile()
    world.kubelet()
    world.now += timedelta(seconds=40)
    report = make_progress(2, goodput=dict.fromkeys(spent, 0.0) | {"productive": 20.0})
    goodput = decide(replace(world.observe(), progress=report)).status.goodput
    assert goodput is not None
    assert sum(value for value in goodput.model_dump().values() if isinstance(value, int)) == 100
    assert goodput.ratio == "50.0%"


def test_a_suspension_that_nobody_saw_never_was() -> None:
    world = running()
    world.edit(suspend=True)
    world.edit(suspend=False)
    world.tick()
    assert (world.status.attempt, len(world.live())) == (1, 3)


def test_a_suspended_job_whose_status_was_lost_still_frees_its_pods() -> None:
    world = running()
    world.edit(suspend=True)
    world.lose_status()
    world.run(lambda w: w.status.state == "Suspended")
    assert world.pods == {}
    world.edit(suspend=False)
    assert world.run_to_end().status.state == "Succeeded"


def test_a_status_that_was_lost_between_pods_that_still_go_is_repaired_by_new_pods() -> None:
    world = running()
    world.frozen = set(world.pods)
    world.edit(suspend=True)
    world.tick()
    world.lose_status()
    world.edit(suspend=False)
    world.tick()
    assert {pod.incarnation for pod in world.live() if not pod.terminating} == {1}
    assert world.status.generation == 2
