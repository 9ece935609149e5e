"""Kueue: no pod without quota, no failure by an eviction, and no quota that is held for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import DeleteWorkload, Observation, PatchWorkload, Queue, Workload
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends
from support.make import START, make_job, make_manifest, observe
from support.quota import FakeKueue
from support.world import World

SCHEDULING = {"scheduling": {"gang": "Kueue", "queue": "team"}}
WORKLOAD = Workload("deepseekjob-demo", "wl", "7", pods=3)


def make_world(ticks: int = 0, *, free: bool = True, **spec: Any) -> World:
    world = World(make_manifest(spec=SCHEDULING | spec), kueue=FakeKueue(free=free))
    for _ in range(ticks):
        world.tick()
    return world


def admitted(world: World) -> tuple[str, str]:
    found = fact_of(world.status.conditions, ConditionType.ADMITTED)
    assert found is not None
    return found.status, found.reason


def kinds(manifests: Any) -> list[str]:
    return [manifest["kind"] for manifest in manifests]


def new(queue: Queue) -> tuple[str, str, str, list[str]]:
    """State, reason and message of a job that has not begun, and what is created for it."""
    plan = decide(Observation(now=START, job=make_job(spec=SCHEDULING), queue=queue))
    found = fact_of(plan.status.conditions, ConditionType.ADMITTED)
    assert found is not None
    return plan.status.state, found.reason, found.message, kinds(plan.create)


@pytest.mark.parametrize(
    ("queue", "state", "reason", "message", "created"),
    [
        (Queue(), "Queued", "WaitingForQuota", "LocalQueue team is asked for 3 pods", ["Workload"]),
        (Queue(WORKLOAD), "Queued", "WaitingForQuota", "LocalQueue team is asked", []),
        (
            Queue(Workload("w", "u", "1", pods=3, message="insufficient unused quota for cpu")),
            "Queued",
            "WaitingForQuota",
            "insufficient unused quota for cpu",
            [],
        ),
        (Queue(problem="install Kueue"), "Queued", "WaitingForQuota", "install Kueue", []),
        (Queue(Workload("w", "u", "1", pods=3, reserved=True)), "Queued", "WaitingForQuota", "", []),
        (
            Queue(Workload("w", "u", "1", pods=3, active=False)),
            "Queued",
            "EvictedByQueue",
            "spec.active of Workload w",
            [],
        ),
        (Queue(Workload("w", "u", "1", pods=2, admitted=True)), "Queued", "WaitingForQuota", "instead of 2", []),
        (Queue(Workload("w", "u", "1", pods=3, finished=True)), "Queued", "WaitingForQuota", "is asked", []),
        (
            Queue(Workload("w", "u", "1", pods=3, reserved=True, admitted=True)),
            "Pending",
            "QuotaGranted",
            "Workload w is admitted",
            ["Service", "Pod", "Pod", "Pod"],
        ),
    ],
    ids=["new", "asked", "kueue's words", "problem", "checks", "deactivated", "other size", "finished", "admitted"],
)
def test_before_the_first_run(queue: Queue, state: str, reason: str, message: str, created: list[str]) -> None:
    found = new(queue)
    assert (found[0], found[1], found[3]) == (state, reason, created)
    assert message in found[2]


def test_without_a_queue_there_is_nothing_to_wait_for() -> None:
    plan = decide(observe(make_job()))
    found = fact_of(plan.status.conditions, ConditionType.ADMITTED)
    assert found is not None
    assert (found.status, found.reason) == ("True", Reason.NOT_QUEUED)


def test_waiting_is_no_active_time_and_costs_no_attempt() -> None:
    world = make_world(20, free=False)
    assert (world.status.state, world.status.attempt, world.status.start_time) == ("Queued", 0, None)
    assert (world.status.active_since, world.status.active_seconds, world.live()) == (None, 0, [])
    assert not world.service
    world.kueue.free = True
    world.run_to_end()
    assert (world.status.state, world.status.attempt) == ("Succeeded", 1)
    assert world.kueue.workload is not None
    assert world.kueue.workload.finished


def test_pods_go_where_the_flavor_says() -> None:
    world = make_world(1)
    world.kueue.act()
    pods = [manifest for manifest in world.reconcile().create if manifest["kind"] == "Pod"]
    assert [pod["spec"]["nodeSelector"] for pod in pods] == [{"pool": "reserved"}] * 3


def test_an_eviction_ends_the_run_and_the_next_admission_begins_another() -> None:
    world = make_world(8)
    assert world.step > 0
    world.kueue.free = False
    world.kueue.evict()
    world.tick()
    assert admitted(world) == ("False", Reason.EVICTED_BY_QUEUE)
    for _ in range(3):
        world.tick()
    assert (world.status.state, world.live(), world.status.active_since) == ("Queued", [], None)
    assert world.kueue.workload is not None
    assert not world.kueue.workload.reserved
    active = world.status.active_seconds
    for _ in range(10):
        world.tick()
    assert world.status.active_seconds == active
    world.kueue.free = True
    world.run_to_end()
    status = world.status
    assert (status.state, status.generation, status.incarnations) == ("Succeeded", 2, {"0": 1, "1": 1, "2": 1})
    assert (status.total_restarts, status.failures, world.kueue.admissions) == (0, [], 2)


def test_quota_is_held_until_the_last_pod_is_gone() -> None:
    world = make_world(6)
    world.kueue.free = False
    world.kueue.evict()
    world.frozen.add("demo-worker-1-0")
    for _ in range(5):
        world.tick()
    assert world.kueue.workload is not None
    assert world.kueue.workload.reserved
    world.frozen.clear()
    for _ in range(3):
        world.tick()
    assert not world.kueue.workload.reserved


def test_an_administrator_holds_a_job_back() -> None:
    world = make_world(6)
    world.kueue.hold(False)
    for _ in range(5):
        world.tick()
    assert (admitted(world), world.live()) == (("False", Reason.EVICTED_BY_QUEUE), [])
    world.kueue.hold(True)
    world.run_to_end()
    assert world.status.state == "Succeeded"


def test_suspension_gives_the_place_up() -> None:
    world = make_world(6)
    world.edit(suspend=True)
    for _ in range(4):
        world.tick()
    assert (world.status.state, world.kueue.workload, world.live()) == ("Suspended", None, [])
    world.edit(suspend=False)
    world.run_to_end()
    assert (world.status.state, world.kueue.admissions) == ("Succeeded", 2)


def test_a_resize_goes_through_the_queue() -> None:
    world = make_world(6, elastic={"minReplicas": 1, "maxReplicas": 8})
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": 4})
    world.run(lambda world: world.status.generation == 2 and world.status.nodes.desired == 4)
    assert world.kueue.workload is not None
    assert (world.kueue.workload.pods, world.kueue.admissions) == (4, 2)
    world.run_to_end()
    assert world.status.total_restarts == 0


def test_a_workload_that_somebody_deletes_is_asked_for_again() -> None:
    world = make_world(6)
    world.kueue.workload = None
    world.run_to_end()
    assert (world.status.state, world.kueue.admissions) == ("Succeeded", 2)


def test_where_kueue_cannot_be_asked_a_running_job_goes_on() -> None:
    world = make_world(5)
    world.kueue.problem = "install Kueue"
    before = world.status.generation
    for _ in range(5):
        world.tick()
    assert (world.status.generation, len(world.live())) == (before, 3)
    assert admitted(world) == ("True", Reason.QUOTA_GRANTED)
    world.kueue.problem = ""
    world.run_to_end()


@pytest.mark.parametrize(("exit_code", "reason"), [(0, "Succeeded"), (78, "Failed")])
def test_an_ended_job_says_finished(exit_code: int, reason: str) -> None:
    world = make_world(6)
    for slot in range(3):
        world.end(f"demo-worker-{slot}-0", exit_code)
    world.reconcile()
    seen = world.observe()
    quota = decide(seen).quota if world.kueue.workload and not world.kueue.workload.finished else None
    world.run_to_end()
    assert world.kueue.workload is not None
    assert world.kueue.workload.finished
    assert world.status.state == reason
    if isinstance(quota, PatchWorkload):
        assert quota.status["conditions"][-1]["reason"] == reason


def test_releasing_keeps_what_others_say_and_clears_the_admission() -> None:
    conditions = (
        {
            "type": "QuotaReserved",
            "status": "True",
            "reason": "QuotaReserved",
            "message": "",
            "lastTransitionTime": "t0",
        },
        {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "why", "lastTransitionTime": "t1"},
    )
    found = Workload(
        "w", "u", "9", pods=3, reserved=True, admitted=True, evicted="Preempted", message="why", conditions=conditions
    )
    world = make_world(5)
    seen = world.observe()
    halted = decide(Observation(seen.now, seen.job, (), True, queue=Queue(found)))
    assert isinstance(halted.quota, PatchWorkload)
    assert (halted.quota.name, halted.quota.version) == ("w", "9")
    assert halted.quota.status["admission"] is None
    said = {condition["type"]: condition for condition in halted.quota.status["conditions"]}
    assert said["Evicted"] == conditions[1]
    assert {kind: said[kind]["status"] for kind in ("QuotaReserved", "Admitted", "Requeued")} == {
        "QuotaReserved": "False",
        "Admitted": "False",
        "Requeued": "True",
    }


def test_a_stale_workload_of_another_size_is_deleted_while_nothing_runs() -> None:
    job = make_job(spec=SCHEDULING)
    plan = decide(Observation(START, job, queue=Queue(Workload("w", "u", "1", pods=9))))
    assert plan.quota == DeleteWorkload("w", "u")


FAULTS = {
    "nothing": lambda world: None,
    "evicted": lambda world: world.kueue.evict(),
    "deleted": lambda world: setattr(world.kueue, "workload", None),
    "a worker lost": lambda world: world.vanish("demo-worker-1-0"),
    "evicted and a worker lost": lambda world: (world.kueue.evict(), world.vanish("demo-worker-1-0")),
    "suspended": lambda world: world.edit(suspend=True),
}


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_the_laws_hold(fault: Any, ticks: int) -> None:
    world = make_world(ticks)
    fault(world)
    crash_everywhere(world)
    comes_to_rest(world)
    watcher = Watcher(world)
    ends(world, watcher)
    assert world.status.state == "Succeeded"
    assert world.kueue.workload is not None
    world.reconcile()
    assert world.kueue.workload.finished


@pytest.mark.parametrize("ticks", range(0, 9, 2))
def test_no_pod_is_there_without_quota(ticks: int) -> None:
    world = make_world()
    for tick in range(40):
        if tick in (ticks, ticks + 7):
            world.kueue.evict()
        world.tick()
        held = world.kueue.workload is not None and world.kueue.workload.reserved
        assert held or not world.live(), f"pods without quota after {tick} ticks: {world.live()}"
