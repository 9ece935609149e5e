"""What becomes of the job's Workload: made when quota is needed, given back when no pod needs it any more.

Rule: quota is given back only when no pod is left that could run, because Kueue gives it to the next one at once. Like
all effects this is derived from the status and from what was seen, so that a stop at any point is made up for.

Giving it back after an eviction is the part of Kueue's protocol that is left to whoever runs the pods: the conditions
below are what Kueue's own integrations write then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deepseek_operator.api.conditions import is_true, rfc3339
from deepseek_operator.api.names import ConditionType
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide.gang import pods_wanted
from deepseek_operator.decide.turn import ended
from deepseek_operator.decide.types import DeleteWorkload, Manifest, Observation, PatchWorkload, Workload
from deepseek_operator.render.kueue import workload

AT_ONCE = ("Preempted", "NodeFailures")
"""Evictions after which Kueue's own integrations ask to be admitted again without waiting for anything."""


def quota_wanted(seen: Observation, status: Status) -> Manifest | None:
    """The Workload that is to be made; None: there is one, or none is needed."""
    queue = seen.queue
    if queue is None or queue.workload is not None or queue.problem:
        return None
    if ended(status) or seen.held is not None or seen.job.spec.suspend or _is_busy(seen):
        return None
    return workload(seen.job, pods_wanted(seen.job), queue.priority)


def quota_change(seen: Observation, status: Status) -> PatchWorkload | DeleteWorkload | None:
    """What is to be written to the Workload, or that it is deleted."""
    found = seen.queue.workload if seen.queue is not None else None
    if found is None or _is_busy(seen):
        return None
    if ended(status):
        return None if found.finished else _finished(found, status, seen.now)
    if status.active_since is not None:
        return None
    if seen.job.spec.suspend or found.finished or found.pods != pods_wanted(seen.job):
        return DeleteWorkload(found.name, found.uid)
    if found.reserved and (found.evicted or not found.active):
        return _released(found, seen.now)
    return None


def _is_busy(seen: Observation) -> bool:
    return any(pod.phase not in ("Succeeded", "Failed") for pod in (*seen.pods, *seen.heads))


def _finished(found: Workload, status: Status, now: datetime) -> PatchWorkload:
    well = is_true(status.conditions, ConditionType.COMPLETE)
    reason, message = ("Succeeded" if well else "Failed"), f"the DeepSeekJob is {status.state}: {status.reason}"
    return _patched(found, now, {"Finished": ("True", reason, message)})


def _released(found: Workload, now: datetime) -> PatchWorkload:
    why, message = found.evicted or "Deactivated", found.message or "the workload is deactivated"
    again = "True" if why in AT_ONCE else "False"
    conditions = {
        "Requeued": (again, why, message),
        "QuotaReserved": ("False", "Pending", message),
        "Admitted": ("False", "NoReservation", "the workload has no reservation"),
    }
    return _patched(found, now, conditions, admission=None)


def _patched(found: Workload, now: datetime, facts: Mapping[str, tuple[str, str, str]], **fields: Any) -> PatchWorkload:
    """All conditions of the Workload with these in their place: a merge patch replaces a list as a whole."""
    kept = [dict(condition) for condition in found.conditions if condition["type"] not in facts]
    before = {condition["type"]: condition for condition in found.conditions}
    new = []
    for kind, (status, reason, message) in facts.items():
        old = before.get(kind, {})
        moment = old["lastTransitionTime"] if old.get("status") == status else rfc3339(now)
        new.append({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment})
    return PatchWorkload(found.name, found.version, {"conditions": [*kept, *new], **fields})
