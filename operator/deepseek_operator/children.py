"""Which children of a job exist beside its pods: its Service, its PodGroup and its PodDisruptionBudget.

Nobody watches them. What was seen or made is remembered until the next resync, so that a job usually costs one request
for each of them in its life, and one that somebody deletes is made again after the resync.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.cluster.client import KubeClient, controller_uid
from deepseek_operator.cluster.errors import Forbidden, NotFound
from deepseek_operator.render import disruption_budget, headless_service, pod_group
from deepseek_operator.render.disruptions import BUDGET
from deepseek_operator.render.gang import POD_GROUP


class Children:
    """Looks for children, and remembers them."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._services: set[str] = set()
        self._groups: dict[str, int] = {}
        self._budgets: dict[str, int | str] = {}

    def made(self, manifest: Mapping[str, Any], job_uid: str) -> None:
        """The child was just made or put right, so the next pass needn't ask for it."""
        if manifest["kind"] == "Service":
            self._services.add(job_uid)
        elif manifest["kind"] == POD_GROUP:
            self._groups[job_uid] = manifest["spec"]["minMember"]
        elif manifest["kind"] == BUDGET:
            self._budgets[job_uid] = manifest["spec"]["maxUnavailable"]

    def forget(self) -> None:
        """All of them are asked for again: somebody may have deleted one."""
        self._services.clear()
        self._groups.clear()
        self._budgets.clear()

    async def service_exists(self, job: DeepSeekJob) -> bool:
        """Whether the job has its Service."""
        uid = job.metadata.uid
        if uid not in self._services:
            try:
                if await self._client.owner_of(headless_service(job)) == uid:
                    self._services.add(uid)
            except NotFound:
                return False
        return uid in self._services

    async def group_members(self, job: DeepSeekJob) -> int | None:
        """How many members the job's PodGroup is for; None: it has none, or needs none."""
        uid, wanted = job.metadata.uid, pod_group(job, 1)
        if wanted is None:
            return None
        if uid not in self._groups:
            try:
                group = await self._client.get_child(wanted)
            except (NotFound, Forbidden):  # a creation will be refused with a reason, and that is told
                return None
            if controller_uid(group["metadata"]) == uid:
                self._groups[uid] = group["spec"].get("minMember", 0)
        return self._groups.get(uid)

    async def max_unavailable(self, job: DeepSeekJob) -> int | str | None:
        """What the job's PodDisruptionBudget allows; None: it has none, or needs none."""
        uid, wanted = job.metadata.uid, disruption_budget(job, job.status)
        if wanted is None:
            return None
        if uid not in self._budgets:
            try:
                budget = await self._client.get_child(wanted)
            except (NotFound, Forbidden):  # as above
                return None
            if controller_uid(budget["metadata"]) == uid:
                self._budgets[uid] = budget["spec"].get("maxUnavailable", 0)
        return self._budgets.get(uid)
