"""A pod of the API server, stripped to what is decided by. Pure.

A pod is a job's only when its controller is that job: labels alone could be written by anybody who may
create pods in the namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.names import (
    ANNOTATION_MEMBERSHIP,
    ANNOTATION_REMINDER,
    CONTAINER,
    LABEL_INCARNATION,
    LABEL_RAY_HEAD,
    LABEL_SLOT,
    RAY_CONTAINER,
)
from deepseek_operator.cluster.client import controller_uid
from deepseek_operator.decide.causes import NODE_DISRUPTIONS
from deepseek_operator.decide.readiness import PASSING
from deepseek_operator.decide.types import Pod

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
MAX_MESSAGE = 4096


class Ending(NamedTuple):
    """Why a pod ended or waits."""

    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    container: str = ""
    """The init container or sidecar that this is about; empty: the worker, or the pod."""


def own_pods(raw_pods: Iterable[Mapping[str, Any]], job_uid: str) -> tuple[Pod, ...]:
    """The job's pods, in the order of slot and incarnation; pods of others and without numbers are left out."""
    pods = (strip(raw) for raw in raw_pods if controller_uid(raw["metadata"]) == job_uid)
    return tuple(sorted((pod for pod in pods if pod), key=lambda pod: (pod.slot, pod.incarnation)))


def own_heads(raw_pods: Iterable[Mapping[str, Any]], job_uid: str) -> tuple[Pod, ...]:
    """The pods of the job's Ray head, in the order of their numbers."""
    own = [raw for raw in raw_pods if controller_uid(raw["metadata"]) == job_uid]
    numbered = [(raw, raw["metadata"].get("labels", {}).get(LABEL_RAY_HEAD, "")) for raw in own]
    pods = [_read(raw, 0, int(number)) for raw, number in numbered if number.isdecimal()]
    return tuple(sorted(pods, key=lambda pod: pod.incarnation))


def strip(raw: Mapping[str, Any]) -> Pod | None:
    """One worker pod; None when its labels don't say which slot and incarnation it is."""
    labels = raw["metadata"].get("labels", {})
    slot, incarnation = labels.get(LABEL_SLOT, ""), labels.get(LABEL_INCARNATION, "")
    if not (slot.isdecimal() and incarnation.isdecimal()):
        return None
    return _read(raw, int(slot), int(incarnation))


def _read(raw: Mapping[str, Any], slot: int, incarnation: int) -> Pod:
    meta, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    ending = _ending(status, conditions)
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        slot=slot,
        incarnation=incarnation,
        phase=_phase(status),
        ready=_holds(conditions, "Ready") or _lacks_only_ray(status, conditions),
        terminating="deletionTimestamp" in meta,
        ip=status.get("podIP"),
        node=spec.get("nodeName"),
        host_ip=status.get("hostIP"),
        membership=meta.get("annotations", {}).get(ANNOTATION_MEMBERSHIP),
        reminder=meta.get("annotations", {}).get(ANNOTATION_REMINDER, ""),
        exit_code=ending.exit_code,
        reason=ending.reason,
        message=ending.message[:MAX_MESSAGE],
        container=ending.container,
        raylet=_raylet(spec, status),
        disrupted=_holds(conditions, "DisruptionTarget") or status.get("reason") in NODE_DISRUPTIONS,
        gone_by=parse_time(meta.get("deletionTimestamp")),
    )


def _phase(status: Mapping[str, Any]) -> Phase:
    """The pod's phase. The worker's end is the pod's: it is never restarted, and sidecars that take their time to go
    would put off the answer to it by the whole grace period."""
    phase: Phase = status.get("phase", "Pending")
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if ended and container.get("name") == CONTAINER and phase in ("Pending", "Running"):
            return "Succeeded" if ended.get("exitCode") == 0 else "Failed"
    return phase if phase in get_args(Phase) else "Unknown"


def _lacks_only_ray(status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the pod would be ready but for the raylet, which nobody waits for: Kubernetes counts sidecars.

    A pod whose node was lost isn't: there it is the control plane that takes the readiness away, of the pod alone.
    """
    if conditions.get("ContainersReady", {}).get("status") != "False":
        return False
    workers, helpers = status.get("containerStatuses", ()), status.get("initContainerStatuses", ())
    sidecars = [found for found in helpers if found.get("state", {}).get("terminated", {}).get("exitCode") != 0]
    unready = {found.get("name") for found in (*workers, *sidecars) if not found.get("ready")}
    return unready == {RAY_CONTAINER} and any(found.get("name") == CONTAINER for found in workers)


def _raylet(spec: Mapping[str, Any], status: Mapping[str, Any]) -> bool | None:
    if not any(found.get("name") == RAY_CONTAINER for found in spec.get("initContainers", ())):
        return None
    found = [one for one in status.get("initContainerStatuses", ()) if one.get("name") == RAY_CONTAINER]
    return any("running" in one.get("state", {}) for one in found)


def _holds(conditions: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return conditions.get(name, {}).get("status") == "True"


def _ending(status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> Ending:
    """Why the pod ended or waits, from the most telling source there is.

    That is the worker's own end; else that of an init container, which the worker then never follows; else what the
    cluster says; else the container that waits for something.
    """
    helpers, workers = status.get("initContainerStatuses", ()), status.get("containerStatuses", ())
    if any(not found.get("state", {}).get("waiting") for found in workers):
        # The worker has begun. From here on the raylet, which is started again for ever, is not why anything happens.
        helpers = [found for found in helpers if found.get("name") != RAY_CONTAINER]
    worker = [found for found in workers if found.get("name") == CONTAINER]
    for container in (*worker, *helpers, *[found for found in workers if found not in worker]):
        ended = container.get("state", {}).get("terminated")
        if ended and (container in worker or ended.get("exitCode") != 0):
            reason = status.get("reason") or ended.get("reason", "")
            message = ended.get("message") or status.get("message", "")
            return Ending(ended.get("exitCode"), reason, message, _helper(container))
    if status.get("reason"):
        return Ending(reason=status["reason"], message=status.get("message", ""))
    disruption, scheduled = conditions.get("DisruptionTarget", {}), conditions.get("PodScheduled", {})
    for condition, telling in ((disruption, "True"), (scheduled, "False")):
        if condition.get("status") == telling:
            return Ending(reason=condition.get("reason", ""), message=condition.get("message", ""))
    return _waiting((*helpers, *workers))


def _waiting(containers: Iterable[Mapping[str, Any]]) -> Ending:
    """The first container that waits for something that doesn't come by itself, else the first that waits."""
    waits = [(found, found["state"]["waiting"]) for found in containers if found.get("state", {}).get("waiting")]
    telling = [wait for wait in waits if wait[1].get("reason", "") not in PASSING]
    for container, wait in telling or waits:
        words = [wait.get("message", ""), _last_end(container)]
        return Ending(None, wait.get("reason", ""), "; ".join(filter(None, words)), _helper(container))
    return Ending()


def _last_end(container: Mapping[str, Any]) -> str:
    """How a container that is restarted ended last: its being restarted says nothing about why."""
    ended = container.get("lastState", {}).get("terminated")
    if not ended:
        return ""
    return f"it ended with exit status {ended.get('exitCode')}: {ended.get('message') or ended.get('reason', '')}"


def _helper(container: Mapping[str, Any]) -> str:
    name = str(container.get("name", ""))
    return "" if name == CONTAINER else name
