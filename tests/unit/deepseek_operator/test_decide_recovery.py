"""Recovery and endings: one generation for each loss, budgets, masters, and jobs that end for good."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ConditionType
from deepseek_operator.decide import decide
from support.make import make_last_words, make_manifest
from support.world import World, effects


def trained(replicas: int = 3, max_restarts: int = 3, ticks: int = 4) -> World:
    world = World(make_manifest(replicas=replicas, max_restarts=max_restarts))
    for _ in range(ticks):
        world.tick()
    assert world.status.state == "Running"
    return world


def test_lost_pod_is_answered_by_one_generation() -> None:
    world = trained()
    survivor = world.pods["demo-worker-1-0"]
    world.vanish("demo-worker-0-0")
    plan = world.reconcile()
    status = world.status
    assert (status.generation, status.attempt) == (2, 2)
    assert status.incarnations == {"0": 1}
    assert status.replaced == [0]
    assert (status.restarts.infrastructure, status.restarts.application, status.total_restarts) == (1, 0, 1)
    assert (status.state, status.reason) == ("Restarting", "WorkerLost")
    assert [pod["metadata"]["name"] for pod in plan.create] == ["demo-worker-0-1"]
    told = json.loads(plan.create[0]["metadata"]["annotations"][ANNOTATION_MEMBERSHIP])
    assert (told["generation"], told["attempt"], told["master"], told["host"]) == (2, 2, survivor.ip, False)
    assert [patch.name for patch in plan.patch] == ["demo-worker-1-0", "demo-worker-2-0"]
    [event] = plan.events
    assert (event.type, event.reason) == ("Warning", "WorkerLost")


def test_several_lost_together_make_one_generation() -> None:
    world = trained()
    world.vanish("demo-worker-0-0")
    world.end("demo-worker-2-0", 75)
    world.reconcile()
    assert (world.status.generation, world.status.total_restarts) == (2, 1)
    assert world.status.incarnations == {"0": 1, "2": 1}
    assert [failure.slot for failure in world.status.failures] == [0, 2]


def test_all_lost_leaves_slot_0_as_master_by_name() -> None:
    world = trained(replicas=2)
    for name in list(world.pods):
        world.vanish(name)
    plan = world.reconcile()
    master = world.status.master
    assert master is not None
    assert (master.slot, master.address) == (0, "demo-worker-0-1.demo-workers.team-a.svc")
    assert len(plan.create) == 2


def test_master_stays_while_the_generation_lasts() -> None:
    """Chosen in the status: a stop between two patches can't make two stores."""
    world = trained()
    world.vanish("demo-worker-0-0")
    world.reconcile(stop_after=2)  # the status and the replacement; no survivor was told
    world.kubelet()  # by now slot 0 runs and would be the better choice
    world.reconcile()
    told = {json.loads(pod.membership or "")["master"] for pod in world.pods.values()}
    assert told == {world.pods["demo-worker-1-0"].ip}


def test_survivor_lost_before_the_replacement_was_created_is_lost_and_not_recreated() -> None:
    world = trained()
    world.vanish("demo-worker-0-0")
    world.reconcile(stop_after=1)
    world.vanish("demo-worker-1-0")
    world.tick()
    assert world.status.generation == 3
    assert world.status.incarnations == {"0": 1, "1": 1}
    assert world.run_to_end().status.state == "Succeeded"


def test_replacement_does_not_wait_for_a_pod_stuck_in_terminating() -> None:
    world = trained()
    stuck = world.pods["demo-worker-2-0"]
    world.frozen.add(stuck.name)
    world.delete(stuck.name, stuck.uid)
    world.tick()
    world.tick()
    assert world.pods[stuck.name].terminating
    world.run(lambda w: w.status.state == "Running")
    assert world.status.generation == 2


def test_worker_failures_spend_the_budget_and_then_end_the_job() -> None:
    world = trained(max_restarts=1)
    world.end("demo-worker-1-0", 1)
    world.tick()
    assert (world.status.restarts.application, world.status.reason) == (1, "WorkerFailed")
    world.run(lambda w: w.status.state == "Running")
    world.end("demo-worker-1-1", 1)
    world.run_to_end()
    status = world.status
    assert (status.state, status.reason) == ("Failed", "RestartLimitExceeded")
    assert status.restarts.application == 1
    condition = fact_of(status.conditions, ConditionType.FAILED)
    assert condition is not None
    assert "the budget of cause Application is spent (recovery.budgets.application is 1)" in condition.message
    assert "the last failure: worker 1 (pod demo-worker-1-1" in condition.message
    assert "ValueError: bad" in condition.message
    assert [failure.pod for failure in status.failures] == ["demo-worker-1-1", "demo-worker-1-0"]


def test_the_cluster_never_spends_the_budget() -> None:
    world = trained(max_restarts=0)
    for incarnation in range(4):
        world.vanish(f"demo-worker-1-{incarnation}")
        world.tick()
        world.run(lambda w: w.status.state in ("Running", "Succeeded"))
    assert world.status.restarts.application == 0
    assert world.run_to_end().status.state == "Succeeded"


@pytest.mark.parametrize(("together", "communication", "infrastructure"), [(True, 0, 1), (False, 1, 0)])
def test_unreachable_is_charged_only_when_it_comes_alone(
    together: bool, communication: int, infrastructure: int
) -> None:
    world = trained()
    world.end("demo-worker-1-0", 69)
    if together:
        world.vanish("demo-worker-0-0")
    world.reconcile()
    restarts = world.status.restarts
    assert (restarts.communication, restarts.infrastructure) == (communication, infrastructure)


def test_aftermath_of_an_earlier_generation_spends_no_budget() -> None:
    world = trained(max_restarts=1)
    world.end("demo-worker-0-0", 1)
    world.reconcile()
    words = make_last_words(1, message="connection closed by peer")
    world.end("demo-worker-1-0", 1, message=words)
    world.end("demo-worker-2-0", 1, message=words)
    world.reconcile()
    assert (world.status.generation, world.status.restarts.application) == (3, 1)
    assert world.run_to_end().status.state == "Succeeded"


@pytest.mark.parametrize(("exit_code", "reason"), [(78, "ConfigError"), (65, "DataError")])
def test_hopeless_exit_ends_the_job_at_once(exit_code: int, reason: str) -> None:
    world = trained()
    world.end("demo-worker-1-0", exit_code)
    plan = world.reconcile()
    status = world.status
    assert (status.state, status.reason, status.generation) == ("Failed", reason, 1)
    assert status.failures[0].exit_code == exit_code
    assert [event.reason for event in plan.events] == [reason]
    assert {delete.name for delete in plan.delete} == {"demo-worker-0-0", "demo-worker-2-0"}
    world.run_to_end()
    assert set(world.pods) == {"demo-worker-1-0"}, "the failed pod stays for its logs"
    assert status.total_restarts == 0


def test_refused_deletes_are_repeated_until_nothing_runs() -> None:
    world = trained()
    world.refuse_deletes = 5
    world.end("demo-worker-1-0", 78)
    plan = world.reconcile()
    assert plan.requeue_after_s is not None
    world.run(lambda w: not w.live(), ticks=10)
    assert world.reconcile().requeue_after_s is None


@pytest.mark.parametrize("exit_code", [0, 78])
def test_the_end_is_for_good(exit_code: int) -> None:
    world = trained(replicas=1)
    world.end("demo-worker-0-0", exit_code)
    world.run_to_end()
    before, events = world.status, len(world.events)
    world.vanish("demo-worker-0-0")
    world.now += timedelta(days=1)
    plan = world.tick()
    assert effects(plan) == ()
    assert (world.status, len(world.events)) == (before, events)


def test_an_edit_after_the_end_changes_only_what_the_status_is_about() -> None:
    world = trained(replicas=1)
    world.end("demo-worker-0-0", 78)
    world.run_to_end()
    world.edit(recovery={"budgets": {"application": 9}})
    world.tick()
    assert (world.status.observed_generation, world.status.state) == (2, "Failed")


def test_success_of_some_is_waited_out() -> None:
    world = trained()
    world.end("demo-worker-0-0", 0)
    plan = world.reconcile()
    assert effects(plan) == ()
    assert world.status.generation == 1
    for name in list(world.pods):
        world.end(name, 0)
    world.reconcile()
    assert (world.status.state, world.status.reason) == ("Succeeded", "AllWorkersSucceeded")
    assert world.status.completion_time is not None


def test_succeeded_members_are_replaced_with_a_lost_one() -> None:
    """They can't train again, and the others would wait for them for ever."""
    world = trained()
    world.end("demo-worker-0-0", 0)
    world.vanish("demo-worker-2-0")
    world.reconcile()
    assert world.status.incarnations == {"0": 1, "2": 1}
    master = world.status.master
    assert master is not None
    assert master.slot == 1
    assert world.run_to_end().status.state == "Succeeded"


def test_a_storm_of_losses_is_slowed_down_but_never_stops_the_job() -> None:
    world = trained()
    moments = []
    for _ in range(40):
        before = world.status.generation
        for pod in world.members():
            world.pods[pod.name] = replace(pod, phase="Failed", ready=False, reason="OutOfcpu", exit_code=None)
        world.now += timedelta(seconds=1)
        world.kubelet()
        plan = world.reconcile()
        world.kubelet()
        world.reconcile()
        if world.status.generation > before:
            moments.append(world.now)
        else:
            assert plan.requeue_after_s is not None
            assert plan.requeue_after_s <= 10
    assert len(moments) == 6, "three at once, then one each ten seconds"
    assert world.run_to_end().status.state == "Succeeded"


def test_old_failed_pods_are_kept_for_their_logs_but_never_many() -> None:
    world = trained(replicas=8)
    for _ in range(4):
        for pod in world.members():
            world.end(pod.name, 75)
        world.run(lambda w: len(w.members()) == 8)
        world.tick()
    former = [pod for pod in world.pods.values() if pod.phase == "Failed"]
    assert 0 < len(former) <= 5
    assert all(pod.incarnation == max(world.status.incarnations.values()) - 1 for pod in former)


def test_failures_of_many_pods_do_not_erase_the_history() -> None:
    world = trained(replicas=12)
    world.end("demo-worker-3-0", 1)
    world.reconcile()
    for slot in range(12):
        world.vanish(f"demo-worker-{slot}-0")
    world.run(lambda w: w.status.generation == 3)
    assert world.status.failures[-1].slot == 3
    assert len(world.status.failures) <= 10


def test_decision_does_not_depend_on_the_order_of_pods() -> None:
    world = trained(replicas=5)
    world.end("demo-worker-4-0", 1)
    world.vanish("demo-worker-2-0")
    seen = world.observe()
    backwards = replace(seen, pods=seen.pods[::-1])
    assert decide(seen) == decide(backwards)
