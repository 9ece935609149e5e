"""The audit of a job on a cluster, and whatever else is asked there: a pod is started beside its checkpoints, waited for, and always removed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.audit.answer import Answer, compared, parse
from deepseek_client.audit.pod import audit_pod
from deepseek_client.errors import ClientError, NotFoundError
from deepseek_client.sdk import DeepSeekJobClient, api_errors

POLL_S = 0.5
_UNINFORMATIVE = ("ContainerCreating", "PodInitializing")


def audit_job(
    client: DeepSeekJobClient,
    name: str,
    *,
    timeout_s: float = 300,
    memory: str = "1Gi",
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Runs the job's trainer image on its checkpoint claim, and compares its answer with the job's status.

    Needs the right to create, get and delete pods in the job's namespace.

    Args:
        timeout_s: for the pod to start and to end.
        memory: limit of the pod, as a Kubernetes quantity.

    Raises:
        NotFoundError: there is no such job.
        ClientError: the job keeps no audit; or the pod may not be made, does not start, or gives no answer.
    """
    job = client.get(name)
    pod = f"{name}-audit-{secrets.token_hex(3)}"
    manifest = audit_pod(job, pod, memory=memory, deadline_s=round(timeout_s) + 60)
    return compared(parse(last_words(client, job, manifest, timeout_s=timeout_s, memory=memory, clock=clock)), job)


def last_words(
    client: DeepSeekJobClient,
    job: DeepSeekJob,
    manifest: dict[str, Any],
    *,
    timeout_s: float,
    memory: str,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Makes the pod, waits for its end, takes it away; what it left.

    Raises:
        ClientError: the pod may not be made, does not start, or leaves nothing.
    """
    run = _Run(client, job, manifest["metadata"]["name"], manifest["spec"]["containers"][0]["name"])
    with _made(run, manifest):
        return _last_words(run, _ended(run, clock() + timeout_s, clock), memory)


@dataclass(frozen=True)
class _Run:
    """One pod of a job's, and what it is for."""

    client: DeepSeekJobClient
    job: DeepSeekJob
    pod: str
    purpose: str

    @property
    def name(self) -> str:
        return f"job {self.job.metadata.name}"

    @property
    def named(self) -> str:
        return f"the {self.purpose}'s pod"


@contextmanager
def _made(run: _Run, manifest: dict[str, Any]) -> Iterator[None]:
    """The pod, as long as it is needed; also an interruption while it is being made takes it away."""
    refused = False
    try:
        try:
            with _told(run.job, f"can't start the {run.purpose}"):
                run.client.core.create_namespaced_pod(run.job.metadata.namespace, manifest)
        except ClientError:
            refused = True
            raise
        yield
    finally:
        if not refused:
            _remove(run.client, run.job, run.pod)


def _ended(run: _Run, deadline: float, clock: Callable[[], float]) -> Any:
    """The pod once its container has ended.

    Raises:
        ClientError: it was deleted by somebody, or the time is over.
    """
    while True:
        try:
            with _told(run.job, f"can't follow the {run.purpose}"):
                found = run.client.core.read_namespaced_pod(run.pod, run.job.metadata.namespace)
        except NotFoundError as error:
            raise ClientError(f"{run.name}: {run.named} {run.pod} was deleted by somebody") from error
        if found.status.phase in ("Succeeded", "Failed"):
            return found
        if clock() >= deadline:
            raise ClientError(_overdue(run, found))
        time.sleep(POLL_S)


def _last_words(run: _Run, pod: Any, memory: str) -> str:
    """What the container left.

    Raises:
        ClientError: it can't have left an answer.
    """
    states = [status.state.terminated for status in pod.status.container_statuses or []]
    ended = next((state for state in states if state is not None), None)
    if ended is not None and ended.reason == "OOMKilled":
        raise ClientError(
            f"{run.name}: the {run.purpose} needs more memory than {memory}; give it more with --memory "
            "(an audit: 125 MB for 10^9 samples an epoch, three times)"
        )
    if ended is None or not ended.message:
        why = pod.status.message or pod.status.reason or (ended.reason if ended is not None else "no container ran")
        raise ClientError(f"{run.name}: {run.named} ended without an answer: {why}")
    return str(ended.message)


def _overdue(run: _Run, pod: Any) -> str:
    where = f"{run.name}: {run.named}"
    if pod.status.phase == "Running":
        return f"{where} has not ended in time; give it more with --timeout"
    waits = _why_pending(pod) or _last_warning(run.client, pod) or "nobody says why"
    return f"{where} did not start in time: {waits}{_claim_hint(run.client, run.job)}"


def _why_pending(pod: Any) -> str:
    """The scheduler's or the kubelet's own words; empty where they say nothing."""
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in _UNINFORMATIVE:
            return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message or ''}".rstrip(": ")
    return ""


def _last_warning(client: DeepSeekJobClient, pod: Any) -> str:
    """The newest warning about the pod, as of a volume that can't be attached; empty without the right to read Events."""
    with contextlib.suppress(ClientError), api_errors("events"):
        selector = f"involvedObject.uid={pod.metadata.uid},type=Warning"
        events = client.core.list_namespaced_event(pod.metadata.namespace, field_selector=selector).items
        if events:
            return f"{events[-1].reason}: {events[-1].message}"
    return ""


def _claim_hint(client: DeepSeekJobClient, job: DeepSeekJob) -> str:
    """What to do about a claim that one node has for itself; empty without the right to read claims."""
    claim = job.spec.checkpoint.volume.claim_name if job.spec.checkpoint else ""
    modes: list[str] = []
    with contextlib.suppress(ClientError), api_errors("claim"):
        modes = (
            client.core.read_namespaced_persistent_volume_claim(claim, job.metadata.namespace).spec.access_modes or []
        )
    if modes and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
        return (
            f"; claim {claim} is {' and '.join(modes)}, so that only the node that has it can mount it: "
            f"wait until the job has ended, or suspend it (dsj suspend {job.metadata.name})"
        )
    return ""


def _remove(client: DeepSeekJobClient, job: DeepSeekJob, pod: str) -> None:
    """Deletes the pod, if it was made."""
    try:
        with api_errors(f"pod {pod}"):
            client.core.delete_namespaced_pod(pod, job.metadata.namespace, grace_period_seconds=0)
    except NotFoundError:
        return
    except ClientError as error:
        raise ClientError(
            f"{error}; it is left behind: kubectl delete pod {pod} -n {job.metadata.namespace} (it ends by itself)"
        ) from error


@contextmanager
def _told(job: DeepSeekJob, what: str) -> Iterator[None]:
    try:
        with api_errors(f"job {job.metadata.name}: {what}"):
            yield
    except NotFoundError:
        raise
    except ClientError as error:
        if "forbidden" not in str(error):
            raise
        raise ClientError(
            f"{error}; it needs the right to create, get and delete pods in namespace {job.metadata.namespace}, and a quota "
            "with room for one"
        ) from error
