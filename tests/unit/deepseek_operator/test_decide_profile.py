"""A job with a profile: held until it may start, started with a snapshot, and deaf to the profile from then on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob
from deepseek_operator.decide.effective import MAX_SNAPSHOT, UnusableSnapshotError, effective, take
from deepseek_operator.decide.held import LOOK_AGAIN_S
from deepseek_operator.decide.types import Held
from support.laws import crash_everywhere
from support.make import make_manifest
from support.world import World

NOT_FOUND = Held(Reason.PROFILE_NOT_FOUND, "there is no DeepSeekProfile pool; create it")
IMAGE = "ghcr.io/example/pool:1"


def make_profile(workers: dict[str, Any] | None = None, *, generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekProfile",
        "metadata": {"name": "pool", "uid": "uid-pool", "generation": generation, "managedFields": []},
        "spec": {"workers": {"image": IMAGE} | (workers or {}), **spec},
    }


def applied(workers: dict[str, Any] | None = None, **spec: Any) -> AppliedProfile:
    found = take(make_profile(workers, **spec))
    assert isinstance(found, AppliedProfile), found
    return found


def make_world(profile: AppliedProfile | Held | None, **spec: Any) -> World:
    """A job without an image of its own, which names the profile `pool`."""
    manifest = make_manifest(spec={"profile": "pool", **spec})
    del manifest["spec"]["workers"]["image"]
    return World(manifest, profile=profile)


def images(world: World) -> set[str]:
    return {m["spec"]["containers"][0]["image"] for m in world.think(world.observe()).create if m["kind"] == "Pod"}


def test_the_pods_are_made_of_the_profile_and_the_status_keeps_it_with_the_first_generation() -> None:
    world = make_world(applied({"nodeSelector": {"pool": "h100"}}))
    assert images(world) == {IMAGE}
    world.reconcile(stop_after=1)  # the status alone
    assert world.status.generation == 1
    kept = world.status.profile
    assert kept is not None
    assert (kept.name, kept.uid, kept.generation) == ("pool", "uid-pool", 1)
    assert kept.spec == {"workers": {"image": IMAGE, "nodeSelector": {"pool": "h100"}}}


def test_a_stop_between_any_two_writes_of_the_start_is_harmless() -> None:
    crash_everywhere(make_world(applied()))


@pytest.mark.parametrize("after", [0, 1, 3], ids=["status and nothing else", "the Service", "two pods"])
def test_a_profile_that_changes_while_the_job_starts_changes_no_pod(after: int) -> None:
    world = make_world(applied())
    world.reconcile(stop_after=1 + after)
    world.profile = applied({"image": "ghcr.io/example/pool:2"})
    assert images(world) <= {IMAGE}
    world.profile = NOT_FOUND
    assert images(world) <= {IMAGE}
    world.reconcile()
    assert len(world.pods) == 3


def test_a_replacement_is_made_of_the_snapshot() -> None:
    world = make_world(applied())
    world.run(lambda w: w.status.state == "Running")
    world.profile = NOT_FOUND
    world.vanish("demo-worker-1-0")
    world.tick()
    assert "demo-worker-1-1" in world.pods
    assert world.run_to_end().status.state == "Succeeded"


def running(profile: AppliedProfile, **spec: Any) -> World:
    return make_world(profile, **spec).run(lambda w: w.status.state == "Running")


def set_replicas(world: World, replicas: int, **spec: Any) -> None:
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": replicas}, **spec)


def test_suspended_and_resumed_the_job_is_still_what_it_was_at_its_start() -> None:
    world = running(applied())
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    world.profile = applied({"image": "ghcr.io/example/pool:2"}, limits={"maxReplicas": 1})
    world.edit(suspend=False)
    assert images(world) == {IMAGE}
    world.profile = NOT_FOUND
    assert world.run_to_end().status.state == "Succeeded"
    assert world.status.profile == applied()


def test_a_job_that_was_edited_above_the_limits_while_suspended_is_not_resumed() -> None:
    world = running(applied(limits={"maxReplicas": 3}))
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    set_replicas(world, 4, suspend=False)
    for _ in range(3):
        world.tick()
    assert world.live() == []
    assert (world.status.state, world.status.reason) == ("Pending", Reason.PROFILE_LIMIT)
    set_replicas(world, 2)
    world.tick()
    assert len(world.live()) == 2
    assert world.run_to_end().status.state == "Succeeded"


def test_a_running_job_does_not_grow_above_the_limits_and_says_so_once() -> None:
    world = running(applied(limits={"maxReplicas": 3}), elastic={"minReplicas": 1, "maxReplicas": 3})
    set_replicas(world, 5, elastic={"minReplicas": 1, "maxReplicas": 5})
    for _ in range(3):
        world.tick()
    assert len(world.live()) == 3
    assert (world.status.state, world.status.attempt) == ("Running", 1)
    admitted = fact_of(world.status.conditions, ConditionType.ADMITTED)
    assert admitted is not None
    assert "elastic.maxReplicas is 5, at most 3 allowed" in admitted.message
    assert [event.reason for event in world.events].count(Reason.PROFILE_LIMIT) == 1
    set_replicas(world, 2, elastic={"minReplicas": 1, "maxReplicas": 3})
    world.run(lambda w: w.status.nodes.desired == 2)
    admitted = fact_of(world.status.conditions, ConditionType.ADMITTED)
    assert admitted is not None
    assert admitted.reason != Reason.PROFILE_LIMIT


@pytest.mark.parametrize("edit", [{}, {"activeDeadlineSeconds": 9999}])
def test_a_running_job_can_not_be_edited_to_outlive_the_longest_deadline(edit: dict[str, Any]) -> None:
    profile = applied(limits={"maxActiveDeadlineSeconds": 3600})
    world = running(profile, lifecycle={"activeDeadlineSeconds": 60})
    assert world.observe().job.spec.lifecycle.active_deadline_seconds == 60
    world.edit(lifecycle=edit)
    seen = world.observe()
    assert seen.job.spec.lifecycle.active_deadline_seconds == 3600
    assert seen.held is not None
    assert "lifecycle.activeDeadlineSeconds is" in seen.held.message


HELD: list[tuple[str, AppliedProfile | Held, dict[str, Any], Reason, str]] = [
    ("no profile", NOT_FOUND, {}, Reason.PROFILE_NOT_FOUND, "there is no DeepSeekProfile pool"),
    (
        "limits",
        applied(limits={"maxReplicas": 2, "imagePrefixes": ["ghcr.io/you/"]}),
        {},
        Reason.PROFILE_LIMIT,
        "more than DeepSeekProfile pool allows: workers.replicas is 3, at most 2 allowed; "
        f"workers.image is {IMAGE}, which must begin with ghcr.io/you/",
    ),
    (
        "no image",
        applied({"image": None}),
        {},
        Reason.PROFILE_UNUSABLE,
        "does not go together with DeepSeekProfile pool: workers.image: neither the job nor the profile has one",
    ),
]


@pytest.mark.parametrize(("profile", "spec", "reason", "says"), [c[1:] for c in HELD], ids=[c[0] for c in HELD])
def test_a_job_that_may_not_start_waits_and_starts_by_itself_once_it_may(
    profile: AppliedProfile | Held, spec: dict[str, Any], reason: Reason, says: str
) -> None:
    world = make_world(profile, **spec)
    plan = world.reconcile()
    assert (plan.create, plan.patch, plan.delete) == ((), (), ())
    assert (world.status.state, world.status.reason) == ("Pending", reason)
    assert (world.status.generation, world.status.start_time, world.status.profile) == (0, None, None)
    ready = fact_of(world.status.conditions, ConditionType.PODS_READY)
    assert ready is not None
    assert says in ready.message
    assert "Unknown" not in {condition.status for condition in world.status.conditions}
    failed = fact_of(world.status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert failed.status == "False"

    world.profile = applied()
    world.tick()
    assert len(world.pods) == 3
    assert world.run_to_end().status.state == "Succeeded"


def test_waiting_is_told_once_and_written_once() -> None:
    world = make_world(NOT_FOUND)
    for _ in range(20):
        world.now += timedelta(seconds=9)
        world.reconcile()
    assert world.status_writes == 1
    assert [event.reason for event in world.events] == [Reason.PROFILE_NOT_FOUND]
    world.profile = applied(limits={"maxReplicas": 1})
    world.reconcile()
    assert [event.reason for event in world.events] == [Reason.PROFILE_NOT_FOUND, Reason.PROFILE_LIMIT]


def test_a_held_job_is_looked_at_soon_and_then_less_often_but_within_ten_seconds() -> None:
    world = make_world(NOT_FOUND)
    waits = []
    for _ in range(8):
        waits.append(world.reconcile().requeue_after_s)
        world.now += timedelta(seconds=waits[-1] or 0)
    assert waits[0] == 1.0
    assert all(wait is not None and wait <= LOOK_AGAIN_S < 10 for wait in waits)
    assert waits[-1] == LOOK_AGAIN_S


def test_a_wiped_status_makes_a_held_job_of_a_running_one_and_touches_no_pod() -> None:
    """Without the profile nobody knows what its pods should look like."""
    world = make_world(applied())
    world.run(lambda w: w.status.state == "Running")
    world.lose_status()
    world.profile = NOT_FOUND
    plan = world.reconcile()
    assert (plan.create, plan.patch, plan.delete) == ((), (), ())
    assert len(world.live()) == 3
    world.profile = applied()
    assert world.run_to_end().status.state == "Succeeded"
    assert world.status.profile is not None


def started(**spec: Any) -> DeepSeekJob:
    """A job that runs, with its snapshot."""
    world = make_world(applied(), **spec)
    world.reconcile()
    return world.job


def with_snapshot(job: DeepSeekJob, **fields: Any) -> DeepSeekJob:
    profile = None if fields.get("gone") else AppliedProfile(**({"name": "pool"} | fields))
    return job.model_copy(update={"status": job.status.model_copy(update={"profile": profile})})


@pytest.mark.parametrize(
    ("fields", "found", "says"),
    [
        ({"spec": {"workers": {"hostNetwork": True}}}, None, "status.profile.spec is not valid: workers.hostNetwork"),
        ({"spec": {"workers": {"image": "a b"}}}, None, "status.profile.spec is not valid: workers.image"),
        ({"spec": {"workers": {"env": [{"name": "DEEPSEEKJOB_NAME", "value": "x"}]}}}, None, "choose another name"),
        ({"spec": {}}, None, "workers.image: neither the job nor the profile has one"),
        ({"name": "other", "spec": {}}, None, "status.profile is of other, but spec.profile is pool"),
        ({"gone": True}, NOT_FOUND, "status.profile is missing, and the profile can't be read anew: there is no"),
    ],
)
def test_a_snapshot_that_somebody_wrote_is_refused_with_a_remedy(
    fields: dict[str, Any], found: Held | None, says: str
) -> None:
    with pytest.raises(UnusableSnapshotError) as error:
        effective(with_snapshot(started(), **fields), found)
    assert says in str(error.value)


def test_a_snapshot_that_was_removed_is_taken_anew() -> None:
    world = make_world(applied())
    world.run(lambda w: w.status.state == "Running")
    world._job = with_snapshot(world.job, gone=True)
    world.reconcile()
    assert world.status.profile == applied()
    assert world.status.attempt == 1


def test_a_job_without_profile_ignores_what_somebody_wrote_beside_it() -> None:
    job = DeepSeekJob.model_validate(make_manifest())
    whole = effective(with_snapshot(job, spec={"workers": {"image": "evil:1"}}))
    assert whole.job.spec.workers.image == job.spec.workers.image
    assert (whole.profile, whole.held) == (None, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spec": {"workers": {"imagee": "x"}}}, "DeepSeekProfile pool is not valid: spec.workers.imagee"),
        ({"spec": {"limits": {"maxReplicas": 0}}}, "DeepSeekProfile pool is not valid: spec.limits.maxReplicas"),
        (
            {"spec": {"workers": {"env": [{"name": f"A{n}", "value": "x" * 32768} for n in range(9)]}}},
            f"longer than {MAX_SNAPSHOT} characters",
        ),
    ],
)
def test_a_profile_that_cannot_be_used_says_why(change: dict[str, Any], says: str) -> None:
    found = take(make_profile() | change)
    assert isinstance(found, Held)
    assert found.reason == Reason.PROFILE_UNUSABLE
    assert says in found.message
