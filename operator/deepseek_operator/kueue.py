"""Kueue's side of a job: its Workload, the flavors of its admission, the value of its priority. Reads only.

Kueue may be missing, or the operator may have no right to it: that is a problem to tell, never one of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.cluster.client import KubeClient, controller_uid
from deepseek_operator.cluster.errors import ApiError, Forbidden, NotFound
from deepseek_operator.decide.types import Queue, Workload
from deepseek_operator.render.kueue import (
    API_VERSION,
    HEAD_SET,
    POD_SET,
    WORKLOAD,
    Placement,
    priority_class,
    workload_name,
)

NOT_INSTALLED = (
    f"the API server knows no {WORKLOAD} of {API_VERSION}: install Kueue 0.15 or newer, or choose another "
    "scheduling.gang while the job is suspended"
)
NO_RIGHT = "the operator has no right to it (the chart's value rbac.kueue)"


class Kueue:
    """Looks at a job's place in Kueue."""

    def __init__(self, client: KubeClient, on_asked: Callable[[str, str], None] = lambda namespace, name: None) -> None:
        """Args: on_asked: is told namespace and name of each job that asks for quota."""
        self._client = client
        self._on_asked = on_asked

    async def look(self, job: DeepSeekJob) -> Queue | None:
        """What Kueue says now; None: the job asks for none.

        Raises:
            ApiError: a read failed for the moment.
        """
        if job.spec.scheduling.gang != "Kueue":
            return None
        name, meta = workload_name(job.metadata.name), job.metadata
        self._on_asked(meta.namespace, meta.name)
        address = {"apiVersion": API_VERSION, "kind": WORKLOAD, "metadata": {"namespace": meta.namespace, "name": name}}
        try:
            raw = await self._client.get_child(address)
            if controller_uid(raw["metadata"]) != meta.uid:
                return Queue(problem=f"Workload {name} belongs to something else; delete it or rename the job")
            heads = await self._flavors(raw, HEAD_SET) if job.spec.ray is not None else ()
            return Queue(strip(raw, await self._flavors(raw, POD_SET), heads))
        except NotFound as error:
            return await self._without(job) if name in error.message else Queue(problem=NOT_INSTALLED)
        except Forbidden as error:
            return Queue(problem=f"{error.message}: {NO_RIGHT}")

    async def _without(self, job: DeepSeekJob) -> Queue:
        """No Workload yet: what is needed to make one."""
        wanted = priority_class(job)
        if wanted is None:
            return Queue()
        try:
            found = await self._client.get_priority(wanted.group, wanted.kind, wanted.name)
        except NotFound:
            return Queue(problem=f"there is no {wanted.kind} {wanted.name}; create it, or name another one")
        except Forbidden as error:
            return Queue(problem=f"{error.message}: {NO_RIGHT}")
        return Queue(priority=int(found["value"]))

    async def _flavors(self, raw: Mapping[str, Any], pod_set: str) -> list[Mapping[str, Any]]:
        """The flavors that an admission assigned to a pod set.

        Raises:
            ApiError: one of them can't be read.
        """
        assigned = _assignment(raw, pod_set).get("flavors", {})
        flavors: list[Mapping[str, Any]] = []
        for name in sorted(set(assigned.values())):
            try:
                flavors.append((await self._client.get_flavor(name)).get("spec", {}))
            except NotFound as error:
                raise ApiError(error.status, error.reason, f"ResourceFlavor {name} is gone", error.request) from error
        return flavors


Flavors = Sequence[Mapping[str, Any]]
"""Specs of ResourceFlavors."""


def strip(raw: Mapping[str, Any], flavors: Flavors, head_flavors: Flavors = ()) -> Workload:
    """A Workload of the API server, stripped to what is decided by. Pure.

    Args:
        flavors: those of the workers; head_flavors: those of the Ray head.
    """
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
    conditions = tuple(status.get("conditions", ()))
    by_type = {condition["type"]: condition for condition in conditions}

    def holds(kind: str) -> bool:
        return bool(by_type.get(kind, {}).get("status") == "True")

    evicted = by_type.get("Evicted", {}) if holds("Evicted") else {}
    return Workload(
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        pods=sum(pods.get("count", 1) for pods in spec.get("podSets", ()) if pods.get("name") != HEAD_SET),
        active=spec.get("active", True),
        reserved=holds("QuotaReserved"),
        admitted=holds("Admitted"),
        finished=holds("Finished"),
        evicted=evicted.get("reason", ""),
        message=(evicted or by_type.get("QuotaReserved", {})).get("message", ""),
        conditions=conditions,
        placement=_placement(status, POD_SET, flavors),
        head_placement=_placement(status, HEAD_SET, head_flavors),
    )


def _assignment(raw: Mapping[str, Any], pod_set: str) -> Mapping[str, Any]:
    found = (raw.get("status", {}).get("admission") or {}).get("podSetAssignments", ())
    return next((assignment for assignment in found if assignment.get("name") == pod_set), {})


def _placement(status: Mapping[str, Any], pod_set: str, flavors: Flavors) -> Placement:
    """Flavors' labels and tolerations, and what admission checks ask for."""
    updates = [
        update
        for check in status.get("admissionChecks", ())
        for update in check.get("podSetUpdates", ())
        if update.get("name") == pod_set
    ]
    selectors = [flavor.get("nodeLabels", {}) for flavor in flavors]
    selectors += [update.get("nodeSelector", {}) for update in updates]
    return Placement(
        node_selector=_merged(selectors),
        tolerations=tuple(one for source in (*flavors, *updates) for one in source.get("tolerations", ())),
        labels=_merged([update.get("labels", {}) for update in updates]),
        annotations=_merged([update.get("annotations", {}) for update in updates]),
    )


def _merged(parts: list[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}
