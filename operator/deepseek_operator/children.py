"""Which children of a job exist beside its pods: its Services, its PodGroup, its PodDisruptionBudget, its claim, and what its Ray
cluster needs.

Nobody watches them. What was seen or made is remembered until the next resync, so that a job usually costs one request
for each of them in its life, and one that somebody deletes is made again after the resync.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_operator.api.names import LABEL_RAY_HEAD
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.claims import Claims
from deepseek_operator.cluster.client import KubeClient, controller_uid
from deepseek_operator.cluster.errors import Forbidden, NotFound
from deepseek_operator.decide.types import Claim, RayChildren
from deepseek_operator.render import disruption_budget, headless_service, pod_group
from deepseek_operator.render.disruptions import BUDGET
from deepseek_operator.render.gang import POD_GROUP
from deepseek_operator.render.ray import POLICY, SECRET, head_service, network_policy


class Children:
    """Looks for children, and remembers them."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._claims = Claims(client)
        self._services: set[str] = set()
        self._groups: dict[str, int] = {}
        self._budgets: dict[str, int | str] = {}
        self._secrets: set[str] = set()
        self._policies: set[str] = set()
        self._ray_services: dict[str, int] = {}

    def made(self, manifest: Mapping[str, Any], job_uid: str) -> None:
        """The child was just made or put right, so the next pass needn't ask for it."""
        if manifest["kind"] == "Service" and (head := _head_of(manifest)) is not None:
            self._ray_services[job_uid] = head
        elif manifest["kind"] == "Service":
            self._services.add(job_uid)
        elif manifest["kind"] == SECRET:
            self._secrets.add(job_uid)
        elif manifest["kind"] == POLICY:
            self._policies.add(job_uid)
        elif manifest["kind"] == POD_GROUP:
            self._groups[job_uid] = manifest["spec"]["minMember"]
        elif manifest["kind"] == BUDGET:
            self._budgets[job_uid] = manifest["spec"]["maxUnavailable"]

    def forget(self) -> None:
        """All of them are asked for again: somebody may have deleted one."""
        for found in (self._services, self._secrets, self._policies, self._ray_services):
            found.clear()
        self._groups.clear()
        self._budgets.clear()
        self._claims.forget()

    async def service_exists(self, job: DeepSeekJob) -> bool:
        """Whether the job has its Service."""
        return await self._exists(self._services, headless_service(job), job)

    async def claims(self, job: DeepSeekJob) -> Mapping[str, Claim | None]:
        """The claims for the job's checkpoints: see `Claims.look`."""
        return await self._claims.look(job)

    async def ray(self, job: DeepSeekJob) -> RayChildren:
        """What there is of the job's Ray cluster beside pods. Secrets may not be read: an unknown one is made again, and
        found to exist."""
        uid, wanted = job.metadata.uid, job.spec.ray
        if wanted is None:
            return RayChildren()
        policy = network_policy(job, wanted)
        return RayChildren(
            secret=uid in self._secrets,
            policy=policy is not None and await self._exists(self._policies, policy, job),
            service_head=await self._ray_service_head(job),
        )

    async def _ray_service_head(self, job: DeepSeekJob) -> int | None:
        uid = job.metadata.uid
        if uid not in self._ray_services:
            try:
                service = await self._client.get_child(head_service(job, 0))
            except NotFound:
                return None
            if controller_uid(service["metadata"]) == uid:
                self._ray_services[uid] = _head_of(service) or 0
        return self._ray_services.get(uid)

    async def _exists(self, known: set[str], manifest: Mapping[str, Any], job: DeepSeekJob) -> bool:
        uid = job.metadata.uid
        if uid not in known:
            try:
                if await self._client.owner_of(manifest) == uid:
                    known.add(uid)
            except (NotFound, Forbidden):  # a creation will be refused with a reason, and that is told
                return False
        return uid in known

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


def _head_of(service: Mapping[str, Any]) -> int | None:
    """The number of the head that a Service points at; None: it is not the head's."""
    number = service["spec"].get("selector", {}).get(LABEL_RAY_HEAD, "")
    return int(number) if number.isdecimal() else None
