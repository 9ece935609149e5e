"""A pod is started beside a job's checkpoints, waited for, and always removed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render.claims import own_claim

from deepseek_client.beside.pod import Errand, errand_pod
from deepseek_client.errors import ClientError, NotFoundError
from deepseek_client.sdk import DeepSeekJobClient, api_errors

POLL_S = 0.5
_UNINFORMATIVE = ("ContainerCreating", "PodInitializing")

Lines = Callable[[str], object]


def run(
    client: DeepSeekJobClient,
    job: DeepSeekJob,
    errand: Errand,
    *,
    told: Lines | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Makes the pod, waits for its end, takes it away; what it left.

    Needs the right to create, get and delete pods in the job's namespace.

    Args:
        told: is given each line that the pod prints, while it does; needs the right to get pods/log, and is told nothing
            without it.

    Raises:
        ClientError: the pod may not be made, does not start, or leaves nothing.
    """
    manifest = errand_pod(job, errand, f"{job.metadata.name}-{errand.purpose}-{secrets.token_hex(3)}")
    pod = _Pod(client, job, manifest["metadata"]["name"], errand)
    with _made(pod, manifest):
        return _last_words(pod, _ended(pod, clock() + errand.timeout_s, clock, _Printed(pod, told)))


@dataclass(frozen=True)
class _Pod:
    """One pod of a job's, and what it is for."""

    client: DeepSeekJobClient
    job: DeepSeekJob
    name: str
    errand: Errand

    @property
    def of(self) -> str:
        return f"job {self.job.metadata.name}"

    @property
    def purpose(self) -> str:
        return self.errand.purpose

    @property
    def called(self) -> str:
        return f"the {self.purpose}'s pod"


class _Printed:
    """What the pod prints, passed on line by line."""

    def __init__(self, pod: _Pod, told: Lines | None) -> None:
        self._pod = pod
        self._told = told
        self._count = 0

    def look(self) -> None:
        """Passes on what is new. A log that can't be read (yet) is as an empty one."""
        if self._told is None:
            return
        namespace = self._pod.job.metadata.namespace
        with contextlib.suppress(ClientError), api_errors("log"):
            answer = self._pod.client.core.read_namespaced_pod_log(self._pod.name, namespace, _preload_content=False)
            text = answer.data.decode("utf-8", "replace")
            whole = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
            for line in whole[self._count :]:
                self._told(line)
            self._count = max(self._count, len(whole))


@contextmanager
def _made(pod: _Pod, manifest: dict[str, Any]) -> Iterator[None]:
    """The pod, as long as it is needed; also an interruption while it is being made takes it away."""
    refused = False
    try:
        try:
            with _told(pod.job, f"can't start the {pod.purpose}"):
                pod.client.core.create_namespaced_pod(pod.job.metadata.namespace, manifest)
        except ClientError:
            refused = True
            raise
        yield
    finally:
        if not refused:
            _remove(pod.client, pod.job, pod.name)


def _ended(pod: _Pod, deadline: float, clock: Callable[[], float], printed: _Printed) -> Any:
    """The pod once its container has ended.

    Raises:
        ClientError: it was deleted by somebody, or the time is over.
    """
    while True:
        try:
            with _told(pod.job, f"can't follow the {pod.purpose}"):
                found = pod.client.core.read_namespaced_pod(pod.name, pod.job.metadata.namespace)
        except NotFoundError as error:
            raise ClientError(f"{pod.of}: {pod.called} {pod.name} was deleted by somebody") from error
        printed.look()
        if found.status.phase in ("Succeeded", "Failed"):
            return found
        if clock() >= deadline:
            raise ClientError(_overdue(pod, found))
        time.sleep(POLL_S)


def _last_words(pod: _Pod, found: Any) -> str:
    """What the container left.

    Raises:
        ClientError: it can't have left an answer.
    """
    states = [status.state.terminated for status in found.status.container_statuses or []]
    ended = next((state for state in states if state is not None), None)
    if ended is not None and ended.reason == "OOMKilled":
        raise ClientError(
            f"{pod.of}: the {pod.purpose} needs more memory than {pod.errand.memory}; give it more with --memory"
            + (f" ({pod.errand.needs})" if pod.errand.needs else "")
        )
    if ended is None or not ended.message:
        why = found.status.message or found.status.reason or (ended.reason if ended is not None else "no container ran")
        raise ClientError(f"{pod.of}: {pod.called} ended without an answer: {why}")
    return str(ended.message)


def _overdue(pod: _Pod, found: Any) -> str:
    where = f"{pod.of}: {pod.called}"
    if found.status.phase == "Running":
        return f"{where} has not ended in time; give it more with --timeout"
    waits = _why_pending(found) or _last_warning(pod.client, found) or "nobody says why"
    return f"{where} did not start in time: {waits}{_claim_hint(pod)}"


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


def _claim_hint(pod: _Pod) -> str:
    """What to do about a claim that one node has for itself; empty without the right to read claims."""
    job, hints = pod.job.metadata, []
    for claim in dict.fromkeys(name for name in (own_claim(pod.job), pod.errand.target) if name):
        modes: list[str] = []
        with contextlib.suppress(ClientError), api_errors("claim"):
            found = pod.client.core.read_namespaced_persistent_volume_claim(claim, job.namespace)
            modes = found.spec.access_modes or []
        if modes and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
            hints.append(
                f"; claim {claim} is {' and '.join(modes)}, so that only the node that has it can mount it: "
                f"wait until the job has ended, or suspend it (dsj suspend {job.name})"
            )
    return "".join(hints)


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
