"""Reads one job's world, once, into a frozen Observation. Reads only.

Reads are spared where their answer is known: a job that was created a moment ago and has no status cannot have
children; a Service that was seen is asked for again only after the next resync forgot it; a profile is read until the
job has started, if it names one; claims as `Claims` says; and a node only when a gang waits for its node ranks, or a pod of it should have been
gone long ago.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from deepseek_operator.api.names import Reason
from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob
from deepseek_operator.children import Children
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import ApiError, Forbidden, NotFound
from deepseek_operator.decide.effective import effective, needs_profile, take
from deepseek_operator.decide.hang import accused_by
from deepseek_operator.decide.suspicion import Suspicion, suspicion
from deepseek_operator.decide.topology import nodes_to_read
from deepseek_operator.decide.types import Consulted, Held, Observation, Pod, Progress, RayChildren
from deepseek_operator.kueue import Kueue
from deepseek_operator.nodes import is_lost, marked, overdue_on
from deepseek_operator.pods import own_heads, own_pods
from deepseek_operator.progress import Source
from deepseek_operator.render.membership import Announced, read_announced

K = TypeVar("K")
K_contra = TypeVar("K_contra", contravariant=True)


class Follow(Protocol[K_contra]):
    """`ProgressBook.follow`: reads from a source from now on, and answers its last report."""

    def __call__(self, key: K_contra, source: Source | None) -> Progress | None: ...


class Consult(Protocol[K_contra]):
    """`ProgressBook.consult`: reads from a second source, and answers its last report and whether it is silent."""

    def __call__(self, key: K_contra, source: Source | None) -> tuple[Progress | None, bool]: ...


class Observer(Generic[K]):
    """Makes Observations."""

    def __init__(
        self,
        client: KubeClient,
        children: Children,
        kueue: Kueue,
        follow: Follow[K],
        now: Callable[[], datetime],
        *,
        is_silent: Callable[[K], bool] = lambda key: False,
        consult: Consult[K] = lambda key, source: (None, False),
        lost_nodes: Callable[[K, Suspicion], frozenset[str]] = lambda key, suspicion: frozenset(),
    ) -> None:
        """Makes Observations of these parts.

        Args:
            is_silent: whether the source that a job follows gave no report when it was last asked.
            consult: asks a second one.
            lost_nodes: `NodeProbe.lost`: which of a job's suspected nodes were found to be lost.
        """
        self._client = client
        self._children = children
        self._kueue = kueue
        self._follow = follow
        self._now = now
        self._is_silent = is_silent
        self._consult = consult
        self._lost_nodes = lost_nodes

    async def observe(self, key: K, job: DeepSeekJob, *, newborn: bool = False) -> Observation:
        """The world of this job, now. newborn: the job as the watch announced its creation.

        Raises:
            ApiError: a read failed.
            UnusableSnapshotError: the job has started and can't go on with what its status says of its profile.
        """
        whole = effective(job, await self._profile(job))
        claims = await self._children.claims(whole.job)
        if newborn:
            queue = await self._kueue.look(whole.job)
            return Observation(
                now=self._now(), job=whole.job, queue=queue, profile=whole.profile, held=whole.held, claims=claims
            )
        meta = job.metadata
        pods = own_pods(await self._client.list_pods(meta.namespace, meta.uid), meta.uid)
        wants_ray = job.spec.ray is not None
        heads = await self._client.list_heads(meta.namespace, meta.uid) if wants_ray else []
        progress = self._follow(key, progress_source(pods, job.status.generation))
        seen = Observation(
            now=self._now(),
            job=whole.job,
            pods=pods,
            heads=own_heads(heads, meta.uid),
            ray=await self._children.ray(job) if wants_ray else RayChildren(),
            service_exists=await self._children.service_exists(job),
            group_members=await self._children.group_members(whole.job),
            max_unavailable=await self._children.max_unavailable(whole.job),
            queue=await self._kueue.look(whole.job),
            progress=progress,
            unanswered=self._is_silent(key),
            consulted=self._second_opinion(key, pods, job.status.generation, progress),
            profile=whole.profile,
            held=whole.held,
            claims=claims,
        )
        pods, found = await self._marked(key, seen)
        seen = replace(seen, pods=pods, heads=found)
        names = nodes_to_read(seen)
        return replace(seen, nodes=await self._topology_of(names, whole.job)) if names else seen

    def _second_opinion(
        self, key: K, pods: tuple[Pod, ...], generation: int, progress: Progress | None
    ) -> Consulted | None:
        pod = doubtful(pods, generation, progress, silent=self._is_silent(key))
        report, silent = self._consult(key, None if pod is None else Source(pod.uid, pod.ip or ""))
        return None if pod is None else Consulted(pod.name, report, silent)

    async def _marked(self, key: K, seen: Observation) -> tuple[tuple[Pod, ...], tuple[Pod, ...]]:
        """The pods and the heads, those marked whose node is lost."""
        doubt = suspicion(seen)
        names = {*overdue_on((*seen.pods, *seen.heads), seen.now), *(suspect.node for suspect in doubt.suspects)}
        proven = [node for node in sorted(names) if await self._is_lost(node)]
        lost = frozenset(proven), self._lost_nodes(key, doubt)
        return marked(seen.pods, *lost, seen.now), marked(seen.heads, *lost, seen.now)

    async def _is_lost(self, node: str) -> bool:
        """Only a clear answer is a proof; without one the pod is asked about again in the next pass."""
        try:
            return is_lost(await self._client.get_node(node))
        except NotFound:
            return is_lost(None)
        except ApiError:
            return False

    async def _topology_of(self, nodes: tuple[str, ...], job: DeepSeekJob) -> dict[str, str | None]:
        """The nodes' values of the job's topology label; None where there is no such label or no such node to read."""
        topology = job.spec.scheduling.topology
        return {node: await self._label(node, topology.key) for node in nodes} if topology is not None else {}

    async def _label(self, node: str, key: str) -> str | None:
        try:
            value = (await self._client.get_node(node))["metadata"].get("labels", {}).get(key)
        except (NotFound, Forbidden):
            return None
        return None if value is None else str(value)

    async def _profile(self, job: DeepSeekJob) -> AppliedProfile | Held | None:
        name = job.spec.profile
        if name is None or not needs_profile(job):
            return None
        try:
            return take(await self._client.get_profile(name))
        except NotFound:
            message = f"there is no DeepSeekProfile {name}; create it, or delete the job and name another one"
        except Forbidden as error:
            message = (
                f"the operator may not read DeepSeekProfile {name}: {error.message}; let its service account get "
                "deepseekprofiles in the cluster (the chart's value rbac.readProfiles)"
            )
        return Held(Reason.PROFILE_NOT_FOUND, message)


def doubtful(pods: tuple[Pod, ...], generation: int, progress: Progress | None, *, silent: bool) -> Pod | None:
    """Whom to ask as well: the one that node rank 0 can't reach, or another member where node rank 0 is silent itself."""
    told = [(read_announced(pod.membership), pod) for pod in pods if pod.phase == "Running" and pod.ip]
    others = [
        pair for pair in told if pair[0].generation == generation and pair[0].node_rank and not pair[1].terminating
    ]
    if silent:
        return min(others, key=lambda pair: (not pair[1].ready, pair[0].node_rank), default=(None, None))[1]
    accused = accused_by(progress)
    return next((pod for _, pod in others if pod.name == accused), None)


def progress_source(pods: tuple[Pod, ...], generation: int) -> Source | None:
    """The running pod that is node rank 0 of this generation; None when there is none."""
    for pod in pods:
        if pod.phase != "Running" or not pod.ip or pod.terminating:
            continue
        if read_announced(pod.membership) == Announced(generation, node_rank=0):
            return Source(pod.uid, pod.ip)
    return None
