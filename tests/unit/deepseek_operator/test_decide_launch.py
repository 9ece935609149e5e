"""Launch: the first generation, write-ahead, and a status that is behind."""

from __future__ import annotations

import json

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, ConditionType
from deepseek_operator.decide import Observation, decide
from deepseek_operator.decide.types import Manifest
from support.make import START, make_job, make_pod, observe
from support.world import World, effects


def announced(manifest: Manifest) -> dict[str, object]:
    found = json.loads(manifest["metadata"]["annotations"][ANNOTATION_MEMBERSHIP])
    assert isinstance(found, dict)
    return found


def test_new_job_gets_service_and_all_pods_with_their_membership() -> None:
    plan = decide(Observation(now=START, job=make_job()))
    service, *pods = plan.create
    assert service["kind"] == "Service"
    assert [pod["metadata"]["name"] for pod in pods] == ["demo-worker-0-0", "demo-worker-1-0", "demo-worker-2-0"]
    assert [announced(pod)["nodeRank"] for pod in pods] == [0, 1, 2]
    assert [announced(pod)["host"] for pod in pods] == [True, False, False]
    assert {announced(pod)["master"] for pod in pods} == {"demo-worker-0-0.demo-workers.team-a.svc"}
    assert {announced(pod)["generation"] for pod in pods} == {1}
    assert (plan.patch, plan.delete) == ((), ())
    assert plan.requeue_after_s is not None


def test_first_status_says_everything() -> None:
    status = decide(Observation(now=START, job=make_job())).status
    assert (status.generation, status.attempt, status.launched_generation) == (1, 1, 0)
    assert [condition.type for condition in status.conditions] == [kind.value for kind in ConditionType]
    assert all(condition.reason for condition in status.conditions)
    assert "Unknown" not in {condition.status for condition in status.conditions}
    assert (status.state, status.ready_nodes, status.observed_generation) == ("Pending", "0/3", 1)
    assert status.start_time == "2026-03-01T12:00:00Z"


def test_launched_once_all_pods_were_seen() -> None:
    world = World()
    world.reconcile()
    assert world.status.launched_generation == 0
    world.reconcile()
    assert world.status.launched_generation == 1


def test_pod_that_was_never_there_is_created_and_costs_nothing() -> None:
    world = World()
    world.reconcile(stop_after=3)  # the status, the Service and one pod
    assert len(world.pods) == 1
    world.reconcile()
    assert len(world.pods) == 3
    assert (world.status.attempt, world.status.restarts.infrastructure) == (1, 0)


def test_job_that_is_being_deleted_is_left_alone() -> None:
    job = make_job()
    job = job.model_copy(
        update={"metadata": job.metadata.model_copy(update={"deletion_timestamp": "2026-03-01T12:00:00Z"})}
    )
    plan = decide(Observation(now=START, job=job))
    assert plan.status == job.status
    assert effects(plan) == ()
    assert plan.requeue_after_s is None


def test_wiped_status_starts_over_under_a_generation_that_nobody_saw() -> None:
    world = World()
    for _ in range(3):
        world.tick()
    world.vanish("demo-worker-1-0")
    world.tick()
    world.lose_status()
    world.tick()
    assert world.status.generation == 3
    assert world.status.incarnations == {"0": 1, "1": 2, "2": 1}
    assert world.run_to_end().status.state == "Succeeded"


def test_old_view_of_the_job_plans_a_status_write_first() -> None:
    """The API server refuses that write, and with it everything that an old view would do."""
    world = World()
    for _ in range(3):
        world.tick()
    old = world.job
    world.vanish("demo-worker-1-0")
    world.tick()
    plan = decide(observe(old, *world.pods.values()))
    assert plan.status != old.status


def test_gang_keeps_the_size_that_it_was_started_with() -> None:
    world = World()
    world.tick()
    world.tick()
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": 5})
    plan = decide(world.observe())
    assert plan.create == ()
    assert plan.status.nodes.desired == 3


def test_missing_service_comes_back() -> None:
    world = World()
    world.tick()
    world.service = False
    world.tick()
    assert world.service


def test_pods_of_other_slots_are_strangers() -> None:
    world = World()
    world.tick()
    world.tick()
    stranger = make_pod(7, 0)
    plan = decide(observe(world.job, *world.pods.values(), stranger))
    assert [delete.uid for delete in plan.delete] == [stranger.uid]


def test_pod_with_a_number_that_nobody_gave_is_no_evidence() -> None:
    world = World()
    world.tick()
    world.tick()
    for stranger in (make_pod(1, 10**18), make_pod(0, 5, name="demo-debug"), make_pod(9, 3)):
        plan = decide(observe(world.job, *world.pods.values(), stranger))
        assert plan.status.generation == 1
        assert [delete.uid for delete in plan.delete] == [stranger.uid]
