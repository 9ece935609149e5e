"""The claim for checkpoints: whose it is, who can share it, and what becomes of a job whose claim won't do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deepseek_operator.api.conditions import fact_of
from deepseek_operator.api.names import ConditionType, Reason
from deepseek_operator.api.status import CheckpointStatus, Status
from deepseek_operator.claims import claim_from
from deepseek_operator.decide.claims import claim_change, in_the_way
from deepseek_operator.decide.sharing import sharing
from deepseek_operator.decide.types import Claim
from deepseek_operator.render.claims import CLAIM
from support.laws import crash_everywhere
from support.make import UID, make_checkpoint, make_claim, make_job, make_manifest
from support.world import World

TEMPLATE: dict[str, Any] = {"size": "10Gi"}
OWNER = {"apiVersion": "training.deepseekjob.dev/v1alpha1", "kind": "DeepSeekJob", "name": "demo", "controller": True}
SAVED = Status(checkpoint=CheckpointStatus(**make_checkpoint(40)))


def spec_of(**template: Any) -> dict[str, Any]:
    return {"checkpoint": {"volume": {"template": TEMPLATE | template}}}


def own(*modes: str, **fields: Any) -> Claim:
    return make_claim("demo-checkpoints", *modes, **({"made_for": "demo"} | fields))


def make_world(claim: Claim | None = None, replicas: int = 2, **template: Any) -> World:
    return World(make_manifest(replicas=replicas, spec=spec_of(**template)), claim=claim)


def said(world: World) -> tuple[str, str, str]:
    found = fact_of(world.status.conditions, ConditionType.VOLUME_USABLE)
    assert found is not None
    return found.status, found.reason, found.message


# ---- whose it is ------------------------------------------------------------------------------

WHOSE: dict[str, tuple[Claim | None, Status, dict[str, Any], Reason | None, str]] = {
    "none": (None, Status(), {}, None, ""),
    "its own": (own(), Status(), {}, None, ""),
    "its own, with its owner": (own(owner=UID), Status(), {}, None, ""),
    "none, though there were checkpoints on it": (None, SAVED, {}, Reason.VOLUME_LOST, "up to step 40; restore it"),
    "a stranger's": (own(made_for=None), Status(), {}, Reason.VOLUME_TAKEN, "kubectl label pvc demo-checkpoints"),
    "another job's": (own(made_for="other"), Status(), {}, Reason.VOLUME_TAKEN, "name the claim in checkpoint.volume"),
    "going": (own(terminating=True), Status(), {}, Reason.VOLUME_GOING, "is being deleted"),
    "about to go": (own(owner="uid-before"), Status(), {}, Reason.VOLUME_GOING, "kubectl patch pvc demo-checkpoints"),
    "of another mode": (own("ReadWriteOnce"), Status(), {}, Reason.VOLUME_DIFFERS, "is ReadWriteOnce of class"),
    "of another class": (
        own(storage_class="slow"),
        Status(),
        {"storageClassName": "fast"},
        Reason.VOLUME_DIFFERS,
        "of class slow, and not ReadWriteMany of class fast",
    ),
    "of the default class": (own(storage_class="standard"), Status(), {}, None, ""),
    "larger": (own(size="1Ti"), Status(), {}, None, ""),
}


@pytest.mark.parametrize(("claim", "status", "template", "reason", "says"), WHOSE.values(), ids=WHOSE)
def test_whose_the_claim_is(
    claim: Claim | None, status: Status, template: dict[str, Any], reason: Reason | None, says: str
) -> None:
    why = in_the_way(make_job(spec=spec_of(**template)), claim, status)
    assert (why.reason if why else None) == reason
    assert says in (why.message if why else "")


CHANGES: dict[str, tuple[Claim, dict[str, Any], object, str | None]] = {
    "as it should be": (own(), {}, None, None),
    "one that is kept now goes with the job": (own(), {"onDelete": "Delete"}, [UID], None),
    "one that would go is kept": (own(owner=UID, owners=(OWNER | {"uid": UID},)), {}, [], None),
    "other owners stay": (
        own(owner=UID, owners=({"uid": "x"}, OWNER | {"uid": UID})),
        {"onDelete": "Retain"},
        ["x"],
        None,
    ),
    "more room": (own(size="9.5Gi"), {}, None, "10Gi"),
    "more room, once it is bound": (own(size="5Gi", bound=False), {}, None, None),
    "less room": (own(size="10000Gi"), {}, None, None),
    "a stranger's": (own(made_for=None, size="1Gi"), {"onDelete": "Delete"}, None, None),
}


@pytest.mark.parametrize(("claim", "template", "owners", "size"), CHANGES.values(), ids=CHANGES)
def test_what_is_changed_of_it(claim: Claim, template: dict[str, Any], owners: object, size: str | None) -> None:
    change = claim_change(make_job(spec=spec_of(**template)), claim)
    found = None if change is None or change.owners is None else [owner["uid"] for owner in change.owners]
    assert (found, change.size if change else None) == (owners, size)
    if change is not None:
        assert (change.uid, change.version) == (claim.uid, claim.version)


# ---- who can share it -------------------------------------------------------------------------

HOST = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def on(*nodes: str) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": HOST, "operator": "In", "values": [node]}]} for node in nodes]
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}


NEAR = {"affinity": {"podAffinity": {REQUIRED: [{"labelSelector": {}, "topologyKey": HOST}]}}}
SHARING: dict[str, tuple[tuple[str, ...], int, dict[str, Any], Reason | None]] = {
    "any number": (("ReadWriteMany",), 9, {}, None),
    "its volume can more than it asks for": (("ReadWriteOnce", "ReadWriteMany"), 9, {}, None),
    "one worker": (("ReadWriteOnce",), 1, {}, None),
    "one worker, one pod": (("ReadWriteOncePod",), 1, {}, None),
    "two on any nodes": (("ReadWriteOnce",), 2, {}, Reason.VOLUME_ON_ONE_NODE),
    "two, read by many": (("ReadWriteOnce", "ReadOnlyMany"), 2, {}, Reason.VOLUME_ON_ONE_NODE),
    "two on one node": (("ReadWriteOnce",), 2, {"nodeSelector": {HOST: "a"}}, None),
    "two on one node by affinity": (("ReadWriteOnce",), 2, on("a"), None),
    "two beside each other": (("ReadWriteOnce",), 2, NEAR, None),
    "two on two nodes": (("ReadWriteOnce",), 2, on("a", "b"), Reason.VOLUME_ON_ONE_NODE),
    "two in one pod": (("ReadWriteOncePod",), 2, {}, Reason.VOLUME_NOT_SHARED),
    "read-only": (("ReadOnlyMany",), 1, {}, Reason.VOLUME_NOT_SHARED),
    "nothing is known": ((), 2, {}, None),
}


@pytest.mark.parametrize(("modes", "replicas", "workers", "reason"), SHARING.values(), ids=SHARING)
def test_who_can_share_a_claim(
    modes: tuple[str, ...], replicas: int, workers: dict[str, Any], reason: Reason | None
) -> None:
    problem = sharing(make_job(replicas=replicas, workers=workers), make_claim("ckpt", access_modes=modes))
    assert (problem.reason if problem else None) == reason
    if problem is not None:
        assert problem.refused == (reason == Reason.VOLUME_NOT_SHARED)
        for part in ("claim ckpt is " + " and ".join(modes), "ReadWriteMany (of a class", "workers.replicas: 1"):
            assert part in problem.message
        assert (HOST in problem.message) == (not problem.refused)


def test_spares_count_and_what_is_only_read_may_be_read_only() -> None:
    job = make_job(replicas=1, spec={"scheduling": {"spares": 1}})
    assert sharing(job, make_claim("ckpt", "ReadWriteOncePod")) is not None
    assert sharing(make_job(replicas=9), make_claim("other", "ReadOnlyMany"), reads=True) is None
    assert sharing(make_job(replicas=9), make_claim("other", "ReadWriteOnce"), reads=True) is not None


# ---- what becomes of the job ------------------------------------------------------------------


def test_a_claim_is_made_first_and_pods_when_it_was_seen() -> None:
    world = make_world()
    plan = world.reconcile()
    assert sorted(manifest["kind"] for manifest in plan.create) == [CLAIM, "Service"]
    assert plan.requeue_after_s is not None
    assert plan.requeue_after_s < 0.1
    assert said(world)[0] == "Unknown"
    world.tick()
    assert said(world) == ("True", Reason.AS_EXPECTED, "claim demo-checkpoints is ReadWriteMany")
    assert world.run_to_end().status.state == "Succeeded"


def test_a_stop_between_any_two_writes_of_the_start_is_harmless() -> None:
    crash_everywhere(make_world())


def test_a_claim_that_a_former_job_left_is_taken_again_and_brought_up_to_date() -> None:
    world = make_world(own(size="1Gi"), onDelete="Delete")
    world.run(lambda w: w.status.state == "Running")
    assert world.claim is not None
    assert (world.claim.size, world.claim.owner) == ("10Gi", UID)


def test_a_job_that_has_not_begun_changes_nothing_of_it() -> None:
    world = make_world(own(size="1Gi"), onDelete="Delete")
    world.edit(suspend=True)
    world.tick()
    assert world.claim == own(size="1Gi")


@pytest.mark.parametrize(
    "claim", [own(made_for=None), own(terminating=True), own(owner="uid-before")], ids=["stranger", "going", "former"]
)
def test_a_claim_that_is_not_the_jobs_holds_it_back_until_it_is_out_of_the_way(claim: Claim) -> None:
    world = make_world(claim)
    for _ in range(3):
        world.tick()
    status, reason, message = said(world)
    assert (status, world.status.state, world.status.reason) == ("False", "Pending", reason)
    assert world.claim == claim, "it was touched"
    assert (world.live(), world.service) == ([], False)
    assert [event.message for event in world.events if event.reason == reason] == [message], "it is told once"
    world.claim = None
    assert world.run_to_end().status.state == "Succeeded"


def test_a_running_job_goes_on_and_gets_no_pods_on_a_claim_that_is_not_its_own() -> None:
    world = make_world().run(lambda w: w.status.state == "Running")
    world.claim = own(made_for=None)
    world.tick()
    assert (world.status.state, said(world)[:2]) == ("Running", ("False", Reason.VOLUME_TAKEN))
    world.vanish("demo-worker-1-0")
    world.tick()
    assert "demo-worker-1-1" not in world.pods
    world.claim = own()
    assert world.run_to_end().status.state == "Succeeded"


def test_a_claim_with_checkpoints_that_is_gone_is_not_made_anew() -> None:
    world = make_world().run(lambda w: w.status.checkpoint is not None)
    world.edit(suspend=True)
    world.run(lambda w: w.status.state == "Suspended")
    kept, world.claim = world.claim, None
    world.edit(suspend=False)
    for _ in range(3):
        world.tick()
    assert (world.claim, world.live(), world.status.reason) == (None, [], Reason.VOLUME_LOST)
    world.claim = kept
    assert world.run_to_end().status.state == "Succeeded"


def test_a_given_claim_for_one_node_is_told_once_and_nothing_follows() -> None:
    world = World(make_manifest(replicas=2), claim=make_claim("ckpt", "ReadWriteOnce"))
    world.reconcile()
    assert any("0 of 2 worker pods are ready; the volume may be" in fact.message for fact in world.status.conditions)
    assert world.run_to_end().status.state == "Succeeded"
    assert said(world)[:2] == ("False", Reason.VOLUME_ON_ONE_NODE)
    assert [event.reason for event in world.events].count(Reason.VOLUME_ON_ONE_NODE) == 1


def test_a_given_claim_that_can_not_be_shared_is_waited_for_without_any_pod() -> None:
    world = World(make_manifest(replicas=2), claim=make_claim("ckpt", "ReadWriteOncePod"))
    for _ in range(3):
        world.tick()
    assert (world.status.state, world.status.reason, world.live()) == ("Pending", Reason.VOLUME_NOT_SHARED, [])
    world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": 1})
    assert world.run_to_end().status.state == "Succeeded"


def test_a_given_claim_that_is_not_there_is_waited_for_by_the_pods() -> None:
    world = World(make_manifest(replicas=2))
    seen = replace(world.observe(), claims={"ckpt": None})
    plan = world.think(seen)
    assert sorted({manifest["kind"] for manifest in plan.create}) == ["Pod", "Service"]
    found = fact_of(plan.status.conditions, ConditionType.VOLUME_USABLE)
    assert found is not None
    assert (found.status, found.reason) == ("False", Reason.VOLUME_NOT_FOUND)
    assert not [event for event in plan.events if event.reason == Reason.VOLUME_NOT_FOUND]


def test_the_claim_that_a_job_begins_with_must_be_shared_too() -> None:
    resume = {"resumeFrom": {"claimName": "other", "subPath": "before"}}
    world = World(make_manifest(replicas=2, spec={"checkpoint": {"volume": {"claimName": "ckpt"}} | resume}))
    for mode, reason in (("ReadWriteOncePod", Reason.VOLUME_NOT_SHARED), ("ReadOnlyMany", Reason.AS_EXPECTED)):
        claims = {"ckpt": make_claim("ckpt"), "other": make_claim("other", mode)}
        found = fact_of(
            world.think(replace(world.observe(), claims=claims)).status.conditions, ConditionType.VOLUME_USABLE
        )
        assert found is not None
        assert found.reason == reason


def test_without_the_right_to_read_it_a_claim_is_not_made() -> None:
    world = make_world()
    plan = world.think(replace(world.observe(), claims={}))
    assert plan.create == ()
    assert plan.status.state == "Pending"
    assert any("the chart's value rbac.claims" in condition.message for condition in plan.status.conditions)


def test_nobody_looks_at_claims_in_local_mode() -> None:
    world = make_world()
    plan = world.think(replace(world.observe(), claims=None))
    assert sorted({manifest["kind"] for manifest in plan.create}) == ["Pod", "Service"]


# ---- as the API server has it -----------------------------------------------------------------


def test_a_claim_is_read_with_what_its_volume_can_do() -> None:
    raw: dict[str, Any] = {
        "metadata": {"name": "c", "uid": "u", "resourceVersion": "7", "labels": {"app": "x"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadWriteMany"]},
    }
    assert claim_from(raw) == Claim(
        "c", "u", "7", ("ReadWriteOnce",), ("ReadWriteOnce", "ReadWriteMany"), size="5Gi", bound=True
    )
    alone = claim_from(raw | {"spec": {"accessModes": ["ReadWriteOncePod"]}})
    assert alone.access_modes == ("ReadWriteOncePod",), "the scheduler keeps it, whatever the volume can do"
    ours = {"labels": {"app.kubernetes.io/managed-by": "deepseek-operator", "training.deepseekjob.dev/job-name": "j"}}
    going: dict[str, Any] = ours | {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "ownerReferences": [OWNER | {"uid": "u1"}],
    }
    found = claim_from(raw | {"metadata": raw["metadata"] | going, "status": {}})
    assert (found.made_for, found.owner, found.terminating, found.bound) == ("j", "u1", True, False)
