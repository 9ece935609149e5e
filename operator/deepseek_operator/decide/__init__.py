"""Policy, pure: an Observation in, a Plan out.

    gates       may the job have pods?
        suspension  not while spec.suspend is true
        held        not as long as its profile doesn't let it start
        storage     not as long as its claim for checkpoints can't serve it
        admission   not as long as Kueue gives it no quota

    at work
        resumption  the next run after a rest
        launch      the first generation; when a generation's pods were all seen
    assembly    when its members were all ready
    reminding   when they are reminded of a generation that they may not have heard of
        snapshot    what the profile said when the job started
        disruptions whether there is a budget for drains
        training    what the workers report
        headway     a newer checkpoint: restarts bring something
        hang        when the step last grew
        exclusion   nodes that may be used again
        ending      the work is done, or one says that it can't be done
        deadlines   the time is up
        recovery    a lost member or a hang: the next generation, or giving up
        healing     hangs that the agents have healed: counted, and away from a node where they come again
        resizing    fewer workers are wanted, or more have come: the next generation
    shrinking   there is no room for some: the next generation has the others
    replanting  room on nodes that may be used again: new pods for those that could not go there
    standby     the pods of those that an elastic job still lacks
        topology    node ranks in the order of the nodes
        readiness   which pods are ready, and what the others wait for
        running     whether training makes steps
        ray         the head of the job's Ray cluster
        saving      whether checkpoints can be saved
        straggling  which ranks the others wait for
        accounted   an ended job's active time

    at rest
        training, headway, deadlines, resting, saving, straggling, ray_at_rest, accounted

    settle      conditions and state; whether any of it is worth a write

The policies shape the status. The effects are derived from the finished status, in `effects`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from deepseek_operator.decide.activity import accounted
from deepseek_operator.decide.admission import admission
from deepseek_operator.decide.assembly import assembly, shrinking
from deepseek_operator.decide.claims import claim_patch
from deepseek_operator.decide.deadlines import deadlines
from deepseek_operator.decide.disruptions import disruptions
from deepseek_operator.decide.effects import creations, deletions, patches
from deepseek_operator.decide.ending import ending
from deepseek_operator.decide.exclusion import exclusion
from deepseek_operator.decide.hang import hang
from deepseek_operator.decide.headway import headway
from deepseek_operator.decide.healing import healing
from deepseek_operator.decide.held import held
from deepseek_operator.decide.invalid import invalid_status
from deepseek_operator.decide.launch import launch
from deepseek_operator.decide.quota import quota_change
from deepseek_operator.decide.ray import ray, ray_at_rest
from deepseek_operator.decide.readiness import readiness
from deepseek_operator.decide.recovery import recovery
from deepseek_operator.decide.reminding import reminding
from deepseek_operator.decide.replanting import replanting
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.requeue import requeue_after_s
from deepseek_operator.decide.resizing import resizing
from deepseek_operator.decide.resting import resting
from deepseek_operator.decide.running import running
from deepseek_operator.decide.saving import saving
from deepseek_operator.decide.settle import settle
from deepseek_operator.decide.snapshot import snapshot
from deepseek_operator.decide.standby import standby
from deepseek_operator.decide.storage import storage
from deepseek_operator.decide.straggling import straggling
from deepseek_operator.decide.suspension import resumption, suspension
from deepseek_operator.decide.topology import topology
from deepseek_operator.decide.training import training
from deepseek_operator.decide.ttl import seconds_to_live
from deepseek_operator.decide.turn import UNLESS_SAID, Policy, Turn, ended
from deepseek_operator.decide.types import DeletePod, Event, Observation, PatchPod, Plan, Pod, Progress
from deepseek_operator.render.claims import CLAIM
from deepseek_operator.render.gang import POD_GROUP

__all__ = [
    "DeletePod",
    "Event",
    "Observation",
    "PatchPod",
    "Plan",
    "Pod",
    "Progress",
    "decide",
    "invalid_status",
    "parse_report",
]

GATES: tuple[Policy, ...] = (suspension, held, storage, admission)
AT_WORK: tuple[Policy, ...] = (
    resumption,
    launch,
    assembly,
    reminding,
    snapshot,
    disruptions,
    training,
    headway,
    hang,
    exclusion,
    ending,
    deadlines,
    recovery,
    healing,
    resizing,
    shrinking,
    replanting,
    standby,
    topology,
    readiness,
    running,
    saving,
    straggling,
    ray,
    accounted,
)
AT_REST: tuple[Policy, ...] = (training, headway, deadlines, resting, saving, straggling, ray_at_rest, accounted)


def decide(seen: Observation) -> Plan:
    """What is to be done about a job. A job that is being deleted is left to the garbage collector."""
    if seen.job.metadata.deletion_timestamp is not None:
        return Plan(status=seen.job.status)
    turn = Turn(seen, seen.job.status)
    if not ended(turn.status):
        turn = _through(GATES, turn.stating(*UNLESS_SAID))
        turn = _through(AT_WORK if turn.rest is None else AT_REST, turn)
    turn = settle(turn)
    create, delete = creations(seen, turn.status), deletions(seen, turn.status)
    live_s = seconds_to_live(seen.job, turn.status, seen.now)
    return Plan(
        status=turn.status,
        create=create,
        patch=patches(seen, turn.status),
        delete=delete,
        quota=quota_change(seen, turn.status),
        claim=claim_patch(seen, turn.status),
        delete_job=live_s is not None and live_s <= 0,
        events=turn.events if turn.status is not seen.job.status else (),
        requeue_after_s=requeue_after_s(
            turn, preparing=any(m["kind"] in (POD_GROUP, CLAIM) for m in create), deleting=bool(delete)
        ),
    )


def _through(policies: Iterable[Policy], turn: Turn) -> Turn:
    return reduce(lambda shaped, policy: policy(shaped), policies, turn)
