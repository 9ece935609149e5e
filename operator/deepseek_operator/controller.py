"""The only module that knows kopf: watch streams in, keys into the queue; workers take keys and make passes.

Handlers are `kopf.on.event` alone and do nothing but enqueue: no finalizer, no annotation, no daemon, timer
or index. The registry is made by a function and passed to kopf; importing this module registers nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import aiohttp
import kopf
import structlog

from deepseek_operator.api.names import GROUP, LABEL_JOB_NAME, LABEL_MANAGED_BY, MANAGER, PLURAL, VERSION
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.errors import ApiError, Conflict
from deepseek_operator.cluster.transport import METADATA_ONLY
from deepseek_operator.health import Health
from deepseek_operator.metrics import Metrics
from deepseek_operator.queue import WorkQueue
from deepseek_operator.reconcile import JobKey, Reconciler, Result
from deepseek_operator.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

PASS_TIMEOUT_S = 120.0
POD_CREATED_DELAY_S = 0.3
"""The pass that made a pod knows it; one look when all of them are there is enough."""
POD_CHANGED_DELAY_S = 0.03
"""Pods of a job change together: this collects them into one pass."""


class WatchEnded(Exception):
    """kopf stopped watching: a stream broke for good. A fresh process is the remedy."""


class Controller:
    """Feeds the queue from events and the resync, and empties it with workers."""

    def __init__(
        self,
        client: KubeClient,
        queue: WorkQueue[JobKey],
        reconciler: Reconciler,
        metrics: Metrics,
        health: Health,
        settings: Settings,
        *,
        before_resync: Callable[[], None],
    ) -> None:
        self._client = client
        self._queue = queue
        self._reconciler = reconciler
        self._metrics = metrics
        self._health = health
        self._settings = settings
        self._before_resync = before_resync
        self._newborn: dict[JobKey, Mapping[str, Any]] = {}

    # ---- events -------------------------------------------------------------------------------
    def on_job(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A job changed. kind: ADDED, MODIFIED, DELETED, or None from a list."""
        meta = raw["metadata"]
        key = JobKey(meta["namespace"], meta["name"])
        self._metrics.watch_events.labels("deepseekjobs").inc()
        memory = self._reconciler.memory.get(key)
        if kind != "DELETED" and memory and memory.version == meta["resourceVersion"]:
            return  # what our own status write made of it: that pass has seen all there was
        if kind == "ADDED" and not raw.get("status"):
            self._newborn[key] = raw
        self._queue.add(key)

    def on_pod(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A pod changed; its job's name is on its label."""
        meta = raw["metadata"]
        self._metrics.watch_events.labels("pods").inc()
        if name := meta.get("labels", {}).get(LABEL_JOB_NAME):
            key = JobKey(meta["namespace"], name)
            delays = {"ADDED": POD_CREATED_DELAY_S, "DELETED": 0.0}
            self._queue.add_after(key, delays.get(kind or "", POD_CHANGED_DELAY_S))

    def on_lease(self, raw: Mapping[str, Any]) -> None:
        """Our own Lease came back through the watch."""
        self._metrics.watch_events.labels("leases").inc()
        self._health.canary_seen(raw["metadata"]["resourceVersion"])

    # ---- loops --------------------------------------------------------------------------------
    async def work(self) -> None:
        """One worker: takes keys for ever."""
        while True:
            key = await self._queue.get()
            self._metrics.queue_depth.set(len(self._queue))
            try:
                await self._one(key)
            finally:
                self._queue.done(key)

    async def resync(self) -> None:
        """Lists all jobs for ever, at each interval, and queues those that have not ended for good."""
        while True:
            try:
                await self._list_all()
            except ApiError as error:
                log.warning("resync failed", error=str(error))
                await asyncio.sleep(min(5.0, self._settings.resync_interval_s))
                continue
            await asyncio.sleep(self._settings.resync_interval_s)

    def states(self) -> list[str]:
        """The states of all known jobs."""
        return [memory.state for memory in self._reconciler.memory.values() if memory.state]

    def straggling(self) -> int:
        """How many of them have a rank that is slower than the others."""
        return sum(memory.straggling for memory in self._reconciler.memory.values())

    def checkpoint_failed(self) -> int:
        """How many of them could not save their last checkpoint."""
        return sum(memory.checkpoint_failed for memory in self._reconciler.memory.values())

    def unsaved_since(self) -> datetime | None:
        """Since when the one that trains longest without a new checkpoint does so; None: none trains."""
        moments = (memory.unsaved_since for memory in self._reconciler.memory.values())
        return min((moment for moment in moments if moment is not None), default=None)

    async def _list_all(self) -> None:
        self._before_resync()
        seen: set[JobKey] = set()
        for namespace in self._settings.namespaces or (None,):
            for job in await self._client.list_jobs(namespace):
                key = JobKey(job.namespace, job.name)
                seen.add(key)
                memory = self._reconciler.memory.get(key)
                if not (memory and memory.uid == job.uid and memory.settled):
                    self._queue.add(key)
        for key in self._reconciler.memory.keys() - seen:
            self._queue.add(key)  # gone while the watch was broken: the pass finds out
        self._health.resynced()
        self._metrics.last_resync.set_to_current_time()

    async def _one(self, key: JobKey) -> None:
        begin, outcome = time.perf_counter(), "error"
        try:
            async with asyncio.timeout(PASS_TIMEOUT_S):
                result = await self._reconciler.reconcile(key, self._newborn.pop(key, None))
            outcome = result.outcome
            self._schedule(key, result)
        except Conflict:
            outcome = "conflict"
            self._queue.retry(key)
        except (ApiError, TimeoutError) as error:
            delay_s = self._queue.retry(key)
            log.warning("pass failed", job=str(key), error=str(error) or "timeout", retry_in_s=round(delay_s, 2))
        except Exception:  # a fault of ours in one job must not end the others' worker
            delay_s = self._queue.retry(key)
            log.exception("pass failed unexpectedly", job=str(key), retry_in_s=round(delay_s, 2))
        finally:
            self._metrics.reconcile_seconds.labels(outcome).observe(time.perf_counter() - begin)

    def _schedule(self, key: JobKey, result: Result) -> None:
        if result.outcome == "retry":
            self._queue.retry(key)
            return
        self._queue.forget(key)
        if result.requeue_after_s is not None:
            self._queue.add_after(key, result.requeue_after_s)


def build_registry(
    controller: Controller, log_in: Callable[[], kopf.AiohttpSession], *, canary: bool
) -> kopf.OperatorRegistry:
    """Kopf's handlers: one for each kind that is watched, and the log-in."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return log_in()

    @kopf.on.event(group=GROUP, version=VERSION, plural=PLURAL, registry=registry)
    async def job_event(event: Mapping[str, Any], **_: Any) -> None:
        controller.on_job(event["type"], event["object"])

    @kopf.on.event(group="", version="v1", plural="pods", registry=registry)
    async def pod_event(event: Mapping[str, Any], **_: Any) -> None:
        controller.on_pod(event["type"], event["object"])

    if canary:

        @kopf.on.event(group="coordination.k8s.io", version="v1", plural="leases", registry=registry)
        async def lease_event(event: Mapping[str, Any], **_: Any) -> None:
            controller.on_lease(event["object"])

    return registry


class NothingStored(kopf.DiffBaseStorage):
    """Keeps and compares nothing: without change handlers there is no use for it.

    By default kopf copies each object deeply for each event, which took a fifth of the operator's CPU time.
    """

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Nothing of the object."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Only change handlers lead here, and there are none.

        Raises:
            RuntimeError: always, before anything is written to the object.
        """
        raise RuntimeError("kopf wants to annotate an object; only on.event handlers may be registered")


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """kopf, told to watch and to do nothing else."""
    tuned = kopf.OperatorSettings()
    tuned.watching.server_timeout = 240
    tuned.watching.client_timeout = 300
    tuned.watching.connect_timeout = 10
    tuned.watching.inactivity_timeout = 70
    tuned.watching.chunk_size = 500
    tuned.watching.label_selectors["", "v1", "pods"] = f"{LABEL_MANAGED_BY}={MANAGER}"
    tuned.watching.field_selectors["coordination.k8s.io", "v1", "leases"] = f"metadata.name={settings.lease_name}"
    tuned.networking.request_timeout = 30
    tuned.networking.connect_timeout = 10
    tuned.posting.enabled = False
    tuned.scanning.disabled = True
    tuned.peering.standalone = True
    tuned.persistence.diffbase_storage = NothingStored()
    tuned.queueing.idle_timeout = 1.0
    tuned.queueing.exit_timeout = 0.5
    return tuned


async def watch_metadata(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Middleware of kopf's session: of pods and Leases the watch needs the metadata alone.

    Lists stay whole: an empty list of metadata has `items: null`, which kopf does not take for a list.
    """
    if request.url.query.get("watch") == "true" and request.url.path.endswith(("/pods", "/leases")):
        request.headers["Accept"] = METADATA_ONLY
    return await handler(request)


async def watch(
    registry: kopf.OperatorRegistry,
    settings: Settings,
    ready: Callable[[], None],
) -> None:
    """Runs kopf until it is cancelled or a watch stream breaks for good; then everything must end."""
    ignored = {task for task in asyncio.all_tasks() if not task.done()}
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings(settings),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    ready()
    await kopf.run_tasks(tasks, ignored=ignored)
    raise WatchEnded("the watch streams ended; the lines above say why")
