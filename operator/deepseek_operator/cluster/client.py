"""What the operator does to Kubernetes, and nothing more: each method is one request, and one line of RBAC.

Writes carry a precondition: status and Leases the version that was read, pods their UID; creation has
deterministic names. So a request may be repeated, and a stale one is refused instead of doing harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepseek_operator.api.names import (
    API_VERSION,
    GROUP,
    KIND,
    LABEL_JOB_NAME,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_RAY,
    LABEL_RAY_HEAD,
    MANAGER,
    PLURAL,
    PROFILE_PLURAL,
    VERSION,
)
from deepseek_operator.cluster.errors import AlreadyExists, Forbidden, NamespaceTerminating, NotFound, NotServed
from deepseek_operator.cluster.transport import METADATA_LIST, METADATA_ONLY, Answer, Transport
from deepseek_operator.decide.types import PatchClaim
from deepseek_operator.render import kueue
from deepseek_operator.render.claims import CLAIM

Object = dict[str, Any]
JOBS = f"/apis/{GROUP}/{VERSION}"
CORE = "/api/v1"
EVENTS = "/apis/events.k8s.io/v1"
LEASES = "/apis/coordination.k8s.io/v1"
KUEUE = f"/apis/{kueue.API_VERSION}"
_PLURALS = {
    "Pod": "pods",
    "Service": "services",
    "PodGroup": "podgroups",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Workload": "workloads",
    "Secret": "secrets",
    "NetworkPolicy": "networkpolicies",
    CLAIM: "persistentvolumeclaims",
}
CHANGEABLE = ("Service", "PodGroup", "PodDisruptionBudget")
"""Kinds of children that are put right where they exist; of the others nothing that matters can change."""
ON_DEMAND = {
    **dict.fromkeys(("Secret", "NetworkPolicy"), "rights for jobs with data.ray: the chart's value rbac.ray"),
    CLAIM: "rights for jobs with checkpoint.volume.template: the chart's value rbac.claims",
}
"""Kinds that only few jobs need -> where the right to make them is given."""
PAGE = 500


@dataclass(frozen=True, slots=True)
class JobRef:
    """One job as a list shows it: enough to know it again."""

    namespace: str
    name: str
    uid: str
    resource_version: str


class KubeClient:
    """The one adapter to Kubernetes. All errors are those of `cluster.errors`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    async def serves_jobs(self) -> bool:
        """Whether the API server knows DeepSeekJobs, that is whether the CRD is installed."""
        try:
            found = (await self._http.send("get", JOBS)).json()
        except NotFound:
            return False
        return any(resource["name"] == PLURAL for resource in found.get("resources", ()))

    # ---- jobs ---------------------------------------------------------------------------------
    async def get_job(self, namespace: str, name: str) -> Object:
        return await self._get(f"{JOBS}/namespaces/{namespace}/{PLURAL}/{name}")

    async def list_jobs(self, namespace: str | None) -> list[JobRef]:
        """All jobs of a namespace, or of the cluster (None); metadata alone is transferred, in pages."""
        path = f"{JOBS}/namespaces/{namespace}/{PLURAL}" if namespace else f"{JOBS}/{PLURAL}"
        query = {"limit": str(PAGE)}
        jobs: list[JobRef] = []
        while True:
            page = (await self._http.send("list", path, query=query, accept=METADATA_LIST)).json()
            for item in page["items"] or ():
                meta = item["metadata"]
                jobs.append(JobRef(meta["namespace"], meta["name"], meta["uid"], meta["resourceVersion"]))
            token = page["metadata"].get("continue")
            if not token:
                return jobs
            query = {"limit": str(PAGE), "continue": token}

    async def patch_status(self, namespace: str, name: str, resource_version: str, status: Object) -> str:
        """Merges `status` into the job's, if the job is still of that version. Returns the new version.

        Raises:
            Conflict: somebody else changed the job in the meantime.
        """
        change = {"metadata": {"resourceVersion": resource_version}, "status": status}
        answer = await self._patch(f"{JOBS}/namespaces/{namespace}/{PLURAL}/{name}/status", change)
        return str(answer.json()["metadata"]["resourceVersion"])

    async def get_profile(self, name: str) -> Object:
        return await self._get(f"{JOBS}/{PROFILE_PLURAL}/{name}")

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Deletes the job with that UID; Kubernetes collects its children. No harm done when it is gone or another one
        has its name."""
        await self._delete(f"{JOBS}/namespaces/{namespace}/{PLURAL}/{name}", uid, propagationPolicy="Background")

    # ---- children -----------------------------------------------------------------------------
    async def list_pods(self, namespace: str, job_uid: str) -> list[Object]:
        """The workers' pods, which carry the job's UID, as the API server has them now (a consistent read)."""
        return await self._list_pods(namespace, f"{LABEL_JOB_UID}={job_uid}")

    async def list_heads(self, namespace: str, job_uid: str) -> list[Object]:
        """The pods of the head of the job's Ray cluster."""
        return await self._list_pods(namespace, f"{LABEL_RAY}={job_uid},{LABEL_RAY_HEAD}")

    async def _list_pods(self, namespace: str, labels: str) -> list[Object]:
        query = {"labelSelector": f"{LABEL_MANAGED_BY}={MANAGER},{labels}"}
        answer = await self._http.send("list", f"{CORE}/namespaces/{namespace}/pods", query=query)
        items: list[Object] = answer.json()["items"]
        return items

    async def owner_of(self, child: Mapping[str, Any]) -> str | None:
        """The UID of the controller of the object that has the manifest's kind and name; None when it has none.

        Raises:
            NotFound: there is no such object.
        """
        meta = (await self._http.send("get", _path(child), accept=METADATA_ONLY)).json()["metadata"]
        return controller_uid(meta)

    async def get_child(self, child: Mapping[str, Any]) -> Object:
        """The whole object that has the manifest's kind and name.

        Raises:
            NotFound: there is no such object, or no such kind.
        """
        return await self._get(_path(child))

    async def create(self, manifest: Mapping[str, Any]) -> None:
        """Creates a child of a job.

        Raises:
            AlreadyExists: there is one of that name, whoever owns it.
            NotServed: the API server doesn't know the kind.
            Forbidden: the operator has no right to it, or a policy or a quota says no.
        """
        try:
            await self._http.send(
                "create",
                _collection(manifest),
                body=manifest,
                query={"fieldManager": MANAGER},
                accept=METADATA_ONLY,
            )
        except Forbidden as error:
            remedy = ON_DEMAND.get(manifest["kind"])
            if remedy is None or isinstance(error, NamespaceTerminating):
                raise
            message = f"{error.message} ({remedy})"
            raise Forbidden(error.status, error.reason, message, error.request) from error
        except NotFound as error:
            if "namespaces" in error.message:
                raise
            kind = f"{manifest['kind']} of {manifest['apiVersion']}"
            message = f"{kind} is unknown here: install what scheduling.gang names, or choose another gang"
            raise NotServed(error.status, error.reason, message, error.request) from error

    async def apply(self, manifest: Mapping[str, Any]) -> None:
        """Server-side apply of a child: what the manifest says holds, what it leaves out is not touched."""
        query = {"fieldManager": MANAGER, "force": "true"}
        await self._http.send("apply", _path(manifest), body=manifest, query=query, accept=METADATA_ONLY)

    async def annotate_pod(self, namespace: str, name: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Writes annotations of the pod with that UID.

        Raises:
            Conflict: the pod of that name is another one by now.
            NotFound: it is gone.
        """
        change = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        await self._patch(f"{CORE}/namespaces/{namespace}/pods/{name}", change)

    async def delete_pod(self, namespace: str, name: str, uid: str, *, force: bool = False) -> None:
        """Deletes the pod with that UID; no harm done when it is gone or another one has its name.

        Args:
            force: without waiting for its node to confirm that it has ended.
        """
        options = {"gracePeriodSeconds": 0} if force else {}
        await self._delete(f"{CORE}/namespaces/{namespace}/pods/{name}", uid, **options)

    # ---- claims -------------------------------------------------------------------------------
    async def get_claim(self, namespace: str, name: str) -> Object:
        """A PersistentVolumeClaim.

        Raises:
            NotFound: there is none of that name.
        """
        return await self._get(f"{CORE}/namespaces/{namespace}/persistentvolumeclaims/{name}")

    async def patch_claim(self, namespace: str, change: PatchClaim) -> None:
        """Writes a claim's owners and its size, if it is still of that version.

        Raises:
            Conflict: it changed in the meantime, or is another one.
            Forbidden: its class doesn't let it grow.
        """
        meta: Object = {"uid": change.uid, "resourceVersion": change.version}
        if change.owners is not None:
            meta["ownerReferences"] = list(change.owners)
        grown = {"spec": {"resources": {"requests": {"storage": change.size}}}} if change.size is not None else {}
        path = f"{CORE}/namespaces/{namespace}/persistentvolumeclaims/{change.name}"
        await self._patch(path, {"metadata": meta, **grown})

    # ---- Kueue --------------------------------------------------------------------------------
    async def get_flavor(self, name: str) -> Object:
        """A ResourceFlavor: what nodes of that kind are labelled and tainted with."""
        return await self._get(f"{KUEUE}/resourceflavors/{name}")

    async def get_priority(self, group: str, kind: str, name: str) -> Object:
        """A WorkloadPriorityClass of Kueue, or a PriorityClass of Kubernetes.

        Raises:
            NotFound: there is no such class.
        """
        root = KUEUE if group == kueue.GROUP else f"/apis/{group}/v1"
        return await self._get(f"{root}/{kind.lower()}es/{name}")

    async def list_workloads(self, namespace: str | None) -> list[JobRef]:
        """Our Workloads of a namespace, or of the cluster (None), under the names of their jobs; metadata alone, and from
        the API server's cache: this is asked often.
        """
        path = f"{KUEUE}/namespaces/{namespace}/workloads" if namespace else f"{KUEUE}/workloads"
        query = {"labelSelector": f"{LABEL_MANAGED_BY}={MANAGER}", "resourceVersion": "0"}
        page = (await self._http.send("list", path, query=query, accept=METADATA_LIST)).json()
        metas = [item["metadata"] for item in page["items"] or ()]
        return [
            JobRef(m["namespace"], m["labels"].get(LABEL_JOB_NAME, ""), m["uid"], m["resourceVersion"]) for m in metas
        ]

    async def patch_workload_status(self, namespace: str, name: str, version: str, status: Mapping[str, Any]) -> None:
        """Merges `status` into a Workload's, if it is still of that version.

        Raises:
            Conflict: Kueue changed it in the meantime.
        """
        change = {"metadata": {"resourceVersion": version}, "status": dict(status)}
        await self._patch(f"{KUEUE}/namespaces/{namespace}/workloads/{name}/status", change)

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        """Deletes the Workload with that UID."""
        await self._delete(f"{KUEUE}/namespaces/{namespace}/workloads/{name}", uid)

    # ---- nodes --------------------------------------------------------------------------------
    async def get_node(self, name: str) -> Object:
        """A node of the cluster.

        Raises:
            NotFound: there is no such node any more.
            Forbidden: the operator was not given the right to read nodes.
        """
        return await self._get(f"{CORE}/nodes/{name}")

    # ---- Events -------------------------------------------------------------------------------
    async def create_event(self, namespace: str, event: Mapping[str, Any]) -> None:
        """Creates an events.k8s.io/v1 Event.

        Raises:
            AlreadyExists: the same event was told before; count it with `repeat_event`.
        """
        await self._http.send("create", f"{EVENTS}/namespaces/{namespace}/events", body=event, accept=METADATA_ONLY)

    async def repeat_event(self, namespace: str, name: str, count: int, last: str) -> None:
        """Says that an Event happened `count` times, last at `last` (RFC 3339 with microseconds)."""
        await self._http.send(
            "patch",
            f"{EVENTS}/namespaces/{namespace}/events/{name}",
            body={"series": {"count": count, "lastObservedTime": last}},
            accept=METADATA_ONLY,
        )

    # ---- Leases -------------------------------------------------------------------------------
    async def get_lease(self, namespace: str, name: str) -> Object:
        return await self._get(f"{LEASES}/namespaces/{namespace}/leases/{name}")

    async def create_lease(self, namespace: str, lease: Mapping[str, Any]) -> Object:
        created: Object = (
            await self._http.send("create", f"{LEASES}/namespaces/{namespace}/leases", body=lease)
        ).json()
        return created

    async def update_lease(self, namespace: str, lease: Mapping[str, Any]) -> Object:
        """Replaces a Lease that still is of the version in its metadata.

        Raises:
            Conflict: another replica was faster.
        """
        path = f"{LEASES}/namespaces/{namespace}/leases/{lease['metadata']['name']}"
        updated: Object = (await self._http.send("update", path, body=lease)).json()
        return updated

    async def _get(self, path: str) -> Object:
        found: Object = (await self._http.send("get", path)).json()
        return found

    async def _patch(self, path: str, change: Object) -> Answer:
        """Merges a change into an object. The metadata in it may say which one, or which version of it, is meant."""
        query = {"fieldManager": MANAGER}
        return await self._http.send("patch", path, body=change, query=query, accept=METADATA_ONLY)

    async def _delete(self, path: str, uid: str, **options: str | int) -> None:
        """Deletes the object with that UID."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, **options}
        await self._http.send("delete", path, body=body, accept=METADATA_ONLY)


def _collection(manifest: Mapping[str, Any]) -> str:
    """Where objects of the manifest's kind and namespace are."""
    version = manifest["apiVersion"]
    root = CORE if version == "v1" else f"/apis/{version}"
    return f"{root}/namespaces/{manifest['metadata']['namespace']}/{_PLURALS[manifest['kind']]}"


def _path(manifest: Mapping[str, Any]) -> str:
    return f"{_collection(manifest)}/{manifest['metadata']['name']}"


def controller_uid(metadata: Mapping[str, Any]) -> str | None:
    """The UID of the DeepSeekJob that controls an object; None when none does."""
    for owner in metadata.get("ownerReferences", ()):
        if owner.get("controller") and owner.get("kind") == KIND and owner.get("apiVersion") == API_VERSION:
            return str(owner["uid"])
    return None


async def create_or_own(client: KubeClient, manifest: Mapping[str, Any], job_uid: str) -> None:
    """Creates a child; one that exists and belongs to this very job is a success. What can change is brought up to date.

    Raises:
        AlreadyExists: the name is taken by something that is not this job's.
    """
    try:
        return await client.create(manifest)
    except AlreadyExists as error:
        kind, meta = manifest["kind"], manifest["metadata"]
        if kind in ("Secret", CLAIM):
            # A Secret may not be read, and has a part of the job's UID in its name; a claim is looked at before any pod.
            return None
        owner = await client.owner_of(manifest)
        if owner != job_uid:
            whose = f"another job (UID {owner})" if owner else "something else"
            raise AlreadyExists(
                error.status,
                error.reason,
                f"{kind} {meta['name']} exists and belongs to {whose}; delete it or rename the job",
                error.request,
            ) from error
    if kind in CHANGEABLE:
        await client.apply(manifest)
