"""A pod of the API server, stripped to what is decided by. Pure.

A pod is a job's only when its controller is that job: labels alone could be written by anybody who may
create pods in the namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, CONTAINER, LABEL_INCARNATION, LABEL_SLOT
from deepseek_operator.cluster.client import controller_uid
from deepseek_operator.decide.causes import NODE_DISRUPTIONS
from deepseek_operator.decide.types import Pod

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
MAX_MESSAGE = 4096


def own_pods(raw_pods: Iterable[Mapping[str, Any]], job_uid: str) -> tuple[Pod, ...]:
    """The job's pods, in the order of slot and incarnation; pods of others and without numbers are left out."""
    pods = (strip(raw) for raw in raw_pods if controller_uid(raw["metadata"]) == job_uid)
    return tuple(sorted((pod for pod in pods if pod), key=lambda pod: (pod.slot, pod.incarnation)))


def strip(raw: Mapping[str, Any]) -> Pod | None:
    """One pod; None when its labels don't say which slot and incarnation it is."""
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    labels = meta.get("labels", {})
    slot, incarnation = labels.get(LABEL_SLOT, ""), labels.get(LABEL_INCARNATION, "")
    if not (slot.isdecimal() and incarnation.isdecimal()):
        return None
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    exit_code, reason, message = _ending(status, conditions)
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        slot=int(slot),
        incarnation=int(incarnation),
        phase=_phase(status),
        ready=_holds(conditions, "Ready"),
        terminating="deletionTimestamp" in meta,
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        membership=meta.get("annotations", {}).get(ANNOTATION_MEMBERSHIP),
        exit_code=exit_code,
        reason=reason,
        message=message[:MAX_MESSAGE],
        disrupted=_holds(conditions, "DisruptionTarget") or status.get("reason") in NODE_DISRUPTIONS,
    )


def _phase(status: Mapping[str, Any]) -> Phase:
    phase: Phase = status.get("phase", "Pending")
    return phase if phase in get_args(Phase) else "Unknown"


def _holds(conditions: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return conditions.get(name, {}).get("status") == "True"


def _ending(status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> tuple[int | None, str, str]:
    """Exit status, reason and message of why the pod ended or waits, from the most telling source there is."""
    state = _container_state(status)
    if ended := state.get("terminated"):
        reason = status.get("reason") or ended.get("reason", "")
        return ended.get("exitCode"), reason, ended.get("message") or status.get("message", "")
    if status.get("reason"):
        return None, status["reason"], status.get("message", "")
    disruption = conditions.get("DisruptionTarget", {})
    if disruption.get("status") == "True":
        return None, disruption.get("reason", ""), disruption.get("message", "")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return None, scheduled.get("reason", ""), scheduled.get("message", "")
    if waiting := state.get("waiting"):
        return None, waiting.get("reason", ""), waiting.get("message", "")
    return None, "", ""


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses", ()):
        if container.get("name") == CONTAINER:
            state: Mapping[str, Any] = container.get("state", {})
            return state
    return {}
