"""The claims for a job's checkpoints, read from the API server.

Nobody watches them. One that is as it should be is remembered until the next resync; one that is given is looked at only
until all of the job's pods were ready once: then they have it. Nor is it where none may be read, until the next resync.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_operator.api.conditions import is_true
from deepseek_operator.api.names import LABEL_JOB_NAME, LABEL_MANAGED_BY, MANAGER, ConditionType
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Status
from deepseek_operator.cluster.client import KubeClient, controller_uid
from deepseek_operator.cluster.errors import Forbidden, NotFound
from deepseek_operator.decide.storage import is_settled
from deepseek_operator.decide.turn import ended
from deepseek_operator.decide.types import Claim
from deepseek_operator.render.claims import other_claim, own_claim, template_of


class Claims:
    """Looks for claims, and remembers them."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str], Claim] = {}
        self._closed: set[str] = set()
        """Namespaces whose claims may not be read."""

    def forget(self) -> None:
        """All of them are asked for again: somebody may have changed one."""
        self._known.clear()
        self._closed.clear()

    async def look(self, job: DeepSeekJob) -> Mapping[str, Claim | None]:
        """What there is of the job's claims, by name; None: there is none of that name. What may not be read, or need not
        be, is left out."""
        own, other, namespace = own_claim(job), other_claim(job), job.metadata.namespace
        if own is None or (template_of(job) is None and (namespace in self._closed or _is_done_with(job.status))):
            return {}
        found = {}
        for name in (own, other) if other is not None else (own,):
            try:
                found[name] = await self._claim(job, name)
            except Forbidden:
                self._closed.add(namespace)
                break
        return found

    async def _claim(self, job: DeepSeekJob, name: str) -> Claim | None:
        own, known = name == own_claim(job), self._known.get((job.metadata.uid, name))
        if known is not None and (not own or is_settled(job, known)):
            return known
        try:
            claim = claim_from(await self._client.get_claim(job.metadata.namespace, name))
        except NotFound:
            return None
        if not own or is_settled(job, claim):
            self._known[job.metadata.uid, name] = claim
        return claim


def _is_done_with(status: Status) -> bool:
    """Whether nothing depends any more on the claim that the job was given."""
    return ended(status) or is_true(status.conditions, ConditionType.PODS_READY)


def claim_from(raw: Mapping[str, Any]) -> Claim:
    """A claim as the API server has it.

    A volume may be able to do more than its claim asks for; only ReadWriteOncePod is kept by the scheduler, by the claim.
    """
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
    asked = tuple(spec.get("accessModes") or ())
    able = (*asked, *(mode for mode in status.get("accessModes") or () if mode not in asked))
    labels = meta.get("labels", {})
    return Claim(
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        asked_modes=asked,
        access_modes=asked if "ReadWriteOncePod" in asked else able,
        size=str(spec.get("resources", {}).get("requests", {}).get("storage", "0")),
        storage_class=spec.get("storageClassName") or "",
        bound=status.get("phase") == "Bound",
        terminating="deletionTimestamp" in meta,
        made_for=labels.get(LABEL_JOB_NAME) if labels.get(LABEL_MANAGED_BY) == MANAGER else None,
        owners=tuple(meta.get("ownerReferences", ())),
        owner=controller_uid(meta),
    )
