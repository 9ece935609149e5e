"""One pass over one job: observe, decide, apply. Level-triggered: what woke it up does not matter.

A pass never trusts what it remembers: the job and its pods are read from the API server. What is remembered
between passes only saves requests or words: what was refused last (so that it is told once) and which jobs
have ended for good (so that a resync needn't look at them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import structlog
from pydantic import ValidationError

from deepseek_operator.api.conditions import is_true
from deepseek_operator.api.names import MANAGED_BY_US, MAX_JOB_NAME, ConditionType, Reason
from deepseek_operator.api.v1alpha1 import DeepSeekJob, ObjectMeta
from deepseek_operator.apply import Applied, Applier
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import NamespaceTerminating, NotFound
from deepseek_operator.decide.effective import UnusableSnapshotError
from deepseek_operator.decide.invalid import invalid_status
from deepseek_operator.decide.saving import unsaved_since
from deepseek_operator.decide.turn import ended
from deepseek_operator.decide.types import Observation, Plan
from deepseek_operator.observe import Observer
from deepseek_operator.recorder import Recorder
from deepseek_operator.trouble import (
    invalid_spec_message,
    observed_status,
    refusal_message,
    refused_status,
    warning,
)

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


class JobKey(NamedTuple):
    """A job in the queue."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass came to."""

    outcome: Literal["done", "gone", "retry"]
    requeue_after_s: float | None = None


@dataclass(slots=True)
class JobMemory:
    """What is remembered of a job between passes; losing it costs a request, never a decision."""

    uid: str
    state: str = ""
    straggling: bool = False
    checkpoint_failed: bool = False
    unsaved_since: datetime | None = None
    """What it has trained since then is in no checkpoint; None: it doesn't train, or has none."""
    version: str = ""
    """resourceVersion that our last status write made: the event that it causes is no news."""
    refusal: str | None = None
    """What was refused in the last pass, as it stands in the Stalled condition."""
    settled: bool = False
    """Nothing is left to do before its next date: the job has ended, or is another controller's."""

    def note_version(self, version: str) -> None:
        """Noted at once, because the event of a write often comes before the pass is over."""
        self.version = version


class Reconciler:
    """Makes passes."""

    def __init__(
        self,
        client: KubeClient,
        observer: Observer[JobKey],
        applier: Applier,
        recorder: Recorder,
        decide: Callable[[Observation], Plan],
        *,
        now: Callable[[], datetime],
        on_gone: Callable[[JobKey], None],
    ) -> None:
        self._client = client
        self._observer = observer
        self._applier = applier
        self._recorder = recorder
        self._decide = decide
        self._now = now
        self._on_gone = on_gone
        self.memory: dict[JobKey, JobMemory] = {}

    async def reconcile(self, key: JobKey, newborn: Mapping[str, Any] | None = None) -> Result:
        """One pass. newborn: the job as the watch announced its creation. It saves two reads, and is safe because
        nothing happens before a status write, which is refused if the job is not that very version any more.

        Raises:
            Conflict: the job changed during the pass; make another one.
            ApiError: the job could not be read or written.
        """
        try:
            return await self._reconcile(key, newborn)
        except NotFound:
            return self._gone(key)

    async def _reconcile(self, key: JobKey, newborn: Mapping[str, Any] | None) -> Result:
        raw = newborn or await self._client.get_job(key.namespace, key.name)
        if "deletionTimestamp" in raw["metadata"]:
            return self._gone(key)  # its children have an owner reference: Kubernetes collects them
        memory = self._remember(key, raw["metadata"]["uid"])
        if (raw["spec"].get("managedBy") or MANAGED_BY_US) != MANAGED_BY_US:
            memory.settled = True
            return Result("done")
        try:
            job = DeepSeekJob.model_validate(raw)
        except ValidationError as error:
            return await self._refuse(raw, memory, invalid_spec_message(error))
        try:
            observation = await self._observer.observe(key, job, newborn=newborn is not None)
        except UnusableSnapshotError as error:
            return await self._refuse(raw, memory, str(error))
        return await self._pass(key, raw, observation, memory)

    async def _pass(self, key: JobKey, raw: Mapping[str, Any], observation: Observation, memory: JobMemory) -> Result:
        job = observation.job
        plan = self._decide(observation)
        if memory.refusal:
            plan = _with_refusal(plan, memory.refusal, observation)
        applied = await self._applier.apply(raw, job, plan, memory.note_version)
        memory.state = plan.status.state
        memory.straggling = is_true(plan.status.conditions, ConditionType.STRAGGLING)
        memory.checkpoint_failed = is_true(plan.status.conditions, ConditionType.CHECKPOINT_FAILED)
        memory.unsaved_since = unsaved_since(job, plan.status)
        memory.settled = ended(plan.status) and not plan.has_effects
        _log_pass(key, job, plan, applied)
        if memory.settled:
            self._on_gone(key)
        return await self._after(job, plan, applied, memory)

    async def _after(self, job: DeepSeekJob, plan: Plan, applied: Applied, memory: JobMemory) -> Result:
        """Tells about refusals once, and says when to look again."""
        before, memory.refusal = memory.refusal, refusal_message(applied.refusals)
        if memory.refusal != before:
            if memory.refusal:
                await self._recorder.record(job.metadata, warning(Reason.REFUSED, memory.refusal))
            return Result("done", 0.05)  # the condition has to follow
        return Result("retry") if applied.refusals else Result("done", plan.requeue_after_s)

    async def _refuse(self, raw: Mapping[str, Any], memory: JobMemory, message: str) -> Result:
        """A stored object that the models refuse: say so in its status and wait for somebody to change it."""
        generation = int(raw["metadata"].get("generation", 0))
        status = invalid_status(observed_status(raw), message, generation, self._now())
        memory.state = status.state
        memory.version, wrote = await self._applier.write_status(raw, status)
        if wrote:
            meta = raw["metadata"]
            who = ObjectMeta(name=meta["name"][:MAX_JOB_NAME], namespace=meta["namespace"], uid=meta["uid"])
            log.warning("job refused", job=f"{meta['namespace']}/{meta['name']}", error=message)
            await self._recorder.record(who, warning(Reason.INVALID_SPEC, message))
        return Result("done")

    def _remember(self, key: JobKey, uid: str) -> JobMemory:
        memory = self.memory.get(key)
        if memory is None or memory.uid != uid:
            self._on_gone(key)
            memory = self.memory[key] = JobMemory(uid)
        return memory

    def _gone(self, key: JobKey) -> Result:
        self.memory.pop(key, None)
        self._on_gone(key)
        return Result("gone")


def _with_refusal(plan: Plan, refusal: str, seen: Observation) -> Plan:
    """The Plan, its status saying what was refused; undone by the first pass without a refusal."""
    job = seen.job
    return replace(plan, status=refused_status(plan.status, job.status, refusal, seen.now, job.metadata.generation))


def _log_pass(key: JobKey, job: DeepSeekJob, plan: Plan, applied: Applied) -> None:
    """One line for a pass that changed something, one for each refusal."""
    status = plan.status
    about = {"job": str(key), "attempt": status.attempt, "generation": status.generation}
    if applied.wrote_status or plan.has_effects:
        log.info(
            "job reconciled",
            **about,
            state=status.state,
            created=len(plan.create),
            patched=len(plan.patch),
            deleted=len(plan.delete),
            **({"deleted_job": True} if plan.delete_job else {}),
            refused=len(applied.refusals),
        )
    for error in applied.refusals:
        tell = log.debug if isinstance(error, NamespaceTerminating) else log.warning  # it goes with all that is in it
        tell("request refused", **about, uid=job.metadata.uid, status=error.status, error=str(error))
