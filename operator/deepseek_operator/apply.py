"""Writes a Plan: the status first, and only when that is in do its effects follow; Events come last.

Creation (of Secrets and claims before what mounts them), patches and deletions follow in this order, the job's own comes last; those
of one kind are sent side by side.
One that is refused doesn't stop the others: all refusals are collected and told to the caller. Each write may be
repeated by the next pass without harm.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.cluster.client import KubeClient, create_or_own
from deepseek_operator.cluster.errors import ApiError, Conflict, NotFound
from deepseek_operator.cluster.mergepatch import merge_patch
from deepseek_operator.decide.types import DeleteWorkload, Manifest, PatchWorkload, Plan
from deepseek_operator.recorder import Recorder
from deepseek_operator.render.claims import CLAIM
from deepseek_operator.render.ray import SECRET, TOKEN_KEY

TOKEN_BYTES = 32
MOUNTED = (SECRET, CLAIM)
"""Kinds that pods mount."""
Effect = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a Plan."""

    version: str
    """resourceVersion of the job after the pass."""
    wrote_status: bool
    refusals: tuple[ApiError, ...] = ()
    """Effects that were refused or could not be had; the next pass tries them again."""


class Applier:
    """Writes Plans."""

    def __init__(
        self,
        client: KubeClient,
        recorder: Recorder,
        *,
        concurrency: int,
        on_made: Callable[[Manifest, str], None] = lambda manifest, job_uid: None,
        token: Callable[[], str] = lambda: secrets.token_hex(TOKEN_BYTES),
    ) -> None:
        """Args: token: makes up what nobody can guess."""
        self._client = client
        self._recorder = recorder
        self._slots = asyncio.Semaphore(concurrency)
        self._on_made = on_made
        self._token = token

    async def write_status(self, raw: Mapping[str, Any], status: Status) -> tuple[str, bool]:
        """Writes what differs. Returns the job's version and whether there was anything to write.

        Raises:
            Conflict: the job changed since it was read; nothing was written.
        """
        meta = raw["metadata"]
        patch = merge_patch(raw.get("status", {}), dump_status(status))
        if not patch:
            return str(meta["resourceVersion"]), False
        version = await self._client.patch_status(meta["namespace"], meta["name"], meta["resourceVersion"], patch)
        return version, True

    async def apply(
        self,
        raw: Mapping[str, Any],
        job: DeepSeekJob,
        plan: Plan,
        on_written: Callable[[str], None] = lambda version: None,
    ) -> Applied:
        """Writes the whole Plan. on_written is told the job's new version before any effect follows.

        Raises:
            Conflict: the job changed since it was read; nothing at all was written.
            ApiError: the status could not be written; nothing else was.
        """
        version, wrote = await self.write_status(raw, plan.status)
        on_written(version)
        refusals: list[ApiError] = []
        for part in self._parts(job, plan):
            refusals += filter(None, await asyncio.gather(*map(self._attempt, part)))
        for event in plan.events:
            await self._recorder.record(job.metadata, event)
        return Applied(version, wrote, tuple(refusals))

    def _parts(self, job: DeepSeekJob, plan: Plan) -> tuple[list[Effect], ...]:
        """The effects in their order; those within a part are sent side by side."""
        client, meta = self._client, job.metadata
        return (
            [partial(self._create, manifest, meta.uid) for manifest in plan.create if manifest["kind"] in MOUNTED],
            [partial(self._create, manifest, meta.uid) for manifest in plan.create if manifest["kind"] not in MOUNTED],
            [partial(client.annotate_pod, meta.namespace, p.name, p.uid, p.annotations) for p in plan.patch],
            [partial(client.delete_pod, meta.namespace, d.name, d.uid, force=d.force) for d in plan.delete],
            [partial(client.patch_claim, meta.namespace, plan.claim)] if plan.claim is not None else [],
            [self._quota_effect(meta.namespace, plan.quota)] if plan.quota is not None else [],
            [partial(client.delete_job, meta.namespace, meta.name, meta.uid)] if plan.delete_job else [],
        )

    def _quota_effect(self, namespace: str, change: PatchWorkload | DeleteWorkload) -> Effect:
        if isinstance(change, DeleteWorkload):
            return partial(self._client.delete_workload, namespace, change.name, change.uid)
        return partial(self._client.patch_workload_status, namespace, change.name, change.version, change.status)

    async def _create(self, manifest: Manifest, job_uid: str) -> None:
        told = manifest | {"stringData": {TOKEN_KEY: self._token()}} if manifest["kind"] == SECRET else manifest
        await create_or_own(self._client, told, job_uid)
        self._on_made(manifest, job_uid)

    async def _attempt(self, effect: Effect) -> ApiError | None:
        async with self._slots:
            try:
                await effect()
            except (NotFound, Conflict):
                return None  # the pod is gone or another one: its event brings the next pass
            except ApiError as error:
                return error
        return None


def dump_status(status: Status) -> dict[str, Any]:
    """The status as it stands in the object: camelCase, nothing for None."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
