"""Puts the parts together and runs them: wait for the CRD, wait to lead, watch and work until told to stop.

Everything that a part needs is handed to it here; nothing is global. Writers end first and the Lease is given
back last, so that the next leader never meets a writer of ours.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import kopf
import structlog
from prometheus_client import CollectorRegistry

from deepseek_operator.api.v1alpha1 import ObjectMeta
from deepseek_operator.apply import Applier
from deepseek_operator.children import Children
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.credentials import BearerToken, find_credentials, open_session
from deepseek_operator.cluster.errors import ApiError, Unavailable
from deepseek_operator.cluster.transport import Transport
from deepseek_operator.controller import Controller, build_registry, watch, watch_metadata
from deepseek_operator.decide import decide
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.suspicion import Suspicion
from deepseek_operator.decide.types import Event
from deepseek_operator.health import Health, build_app, measure_lag, serve
from deepseek_operator.kueue import Kueue
from deepseek_operator.kueuewatch import WorkloadPoll
from deepseek_operator.leader import Elector, LeaseSpec
from deepseek_operator.metrics import Metrics
from deepseek_operator.observe import Observer
from deepseek_operator.probe import NodeProbe
from deepseek_operator.progress import ProgressBook, open_progress_session
from deepseek_operator.queue import WorkQueue
from deepseek_operator.ratelimit import TokenBucket
from deepseek_operator.reconcile import JobKey, Reconciler
from deepseek_operator.recorder import Recorder
from deepseek_operator.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

RETRIES_PER_S = 20.0
RETRY_BURST = 200.0
CRD_POLL_S = 2.0


def utc_now() -> datetime:
    """The time of day, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """One operator, put together and not yet running."""

    settings: Settings
    client: KubeClient
    controller: Controller
    elector: Elector
    poll: WorkloadPoll
    metrics: Metrics
    health: Health
    log_in: Callable[[], kopf.AiohttpSession]


async def assemble(settings: Settings, stack: AsyncExitStack) -> Parts:
    """Makes the parts; what has to be closed goes onto the stack.

    Raises:
        LoginError: there are no usable credentials.
    """
    credentials = find_credentials()
    token = BearerToken(credentials)
    metrics = Metrics(CollectorRegistry())
    health = Health(settings.resync_interval_s)
    session = await stack.enter_async_context(
        open_session(credentials, token, connections=settings.concurrent_requests, timeout_s=settings.request_timeout_s)
    )
    limit = TokenBucket(settings.qps, settings.burst, time.monotonic)
    client = KubeClient(Transport(session, credentials.server, token, limit, on_response=metrics.on_response))
    queue: WorkQueue[JobKey] = WorkQueue(TokenBucket(RETRIES_PER_S, RETRY_BURST, time.monotonic))
    stack.callback(queue.close)
    book = ProgressBook(
        await stack.enter_async_context(open_progress_session()),
        parse_report,
        interval_s=settings.progress_interval_s,
        on_change=queue.add,
        on_bad=partial(_bad_report, metrics),
    )
    stack.callback(book.close)
    probe: NodeProbe[JobKey] = NodeProbe(kubelet_port=settings.kubelet_port, on_change=queue.add)
    stack.callback(probe.close)
    recorder = Recorder(client, settings.identity, utc_now, _event_not_written)
    children = Children(client)
    poll = WorkloadPoll(client, settings.namespaces, lambda namespace, name: queue.add(JobKey(namespace, name)))
    observer: Observer[JobKey] = Observer(
        client,
        children,
        Kueue(client, poll.follow),
        book.follow,
        utc_now,
        is_silent=book.is_silent,
        consult=book.consult,
        lost_nodes=probe.lost,
    )
    applier = Applier(client, recorder, concurrency=settings.concurrent_requests, on_made=children.made)
    reconciler = Reconciler(
        client, observer, applier, recorder, decide, now=utc_now, on_gone=lambda key: _forget(book, probe, poll, key)
    )
    controller = Controller(client, queue, reconciler, metrics, health, settings, before_resync=children.forget)
    elector = Elector(
        client,
        LeaseSpec(
            settings.lease_namespace,
            settings.lease_name,
            settings.identity,
            settings.lease_duration_s,
            settings.renew_deadline_s,
        ),
        on_wait=lambda holder: log.info("waiting for the lead", holder=holder, identity=settings.identity),
        on_renew=health.canary_sent,
    )
    return Parts(settings, client, controller, elector, poll, metrics, health, partial(_watch_login, token))


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Runs an operator until SIGTERM, SIGINT or `stop`.

    Raises:
        LoginError: no credentials.
        ExceptionGroup: LeadershipLost or WatchEnded: this process can't go on, a fresh one can.
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        parts = await assemble(settings, stack)
        app = build_app(parts.health, parts.metrics, lambda: _count_jobs(parts))
        runner, port = await serve(app, settings.bind, settings.port)
        stack.push_async_callback(runner.cleanup)
        _on_signals(stop)
        log.info("operator started", port=port, identity=settings.identity, namespaces=settings.namespaces or "all")
        await _until(stop, _operate(parts, stop))
        log.info("operator stopped", identity=settings.identity)


async def _operate(parts: Parts, stop: asyncio.Event) -> None:
    settings = parts.settings
    async with asyncio.TaskGroup() as background:
        background.create_task(measure_lag(parts.health, parts.metrics), name="lag")
        await _wait_for_crd(parts.client)
        if settings.leader_election:
            await parts.elector.acquire()
        try:
            await _lead(parts, stop)
        finally:
            if settings.leader_election:
                await _give_back(parts.elector)


async def _lead(parts: Parts, stop: asyncio.Event) -> None:
    """Works until cancelled; ends with an exception when one of the parts does."""
    settings = parts.settings
    served = not settings.namespaces or settings.lease_namespace in settings.namespaces
    canary = settings.leader_election and served
    parts.health.lead(canary)
    parts.metrics.leader.set(1)
    log.info("leading", identity=settings.identity)
    registry = build_registry(parts.controller, parts.log_in, canary=canary)
    try:
        async with asyncio.TaskGroup() as group:
            if settings.leader_election:
                group.create_task(parts.elector.hold(), name="lease")
            for number in range(settings.workers):
                group.create_task(parts.controller.work(), name=f"worker {number}")
            group.create_task(parts.controller.resync(), name="resync")
            group.create_task(parts.poll.run(), name="workloads")
            group.create_task(watch(registry, settings, partial(_on_signals, stop)), name="watch")
    finally:
        parts.metrics.leader.set(0)


def _count_jobs(parts: Parts) -> None:
    since = parts.controller.unsaved_since()
    parts.metrics.count_jobs(
        parts.controller.states(),
        parts.controller.straggling(),
        checkpoint_failed=parts.controller.checkpoint_failed(),
        checkpoint_age_s=0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds()),
    )


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Does the work until it ends by itself or stop is set, and leaves nothing running."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.wait({working, stopping})
    if not working.cancelled() and (error := working.exception()):
        raise error


async def _wait_for_crd(client: KubeClient) -> None:
    """Returns when the API server serves DeepSeekJobs: kopf looks for them only once, at its start."""
    told = False
    while True:
        try:
            if await client.serves_jobs():
                return
            if not told:
                log.warning("the DeepSeekJob CRD is not installed; install it with the chart or from crds/")
                told = True
        except Unavailable as error:
            log.warning("the API server doesn't say whether it has the DeepSeekJob CRD", error=str(error))
        await asyncio.sleep(CRD_POLL_S)


async def _give_back(elector: Elector) -> None:
    try:
        async with asyncio.timeout(2):
            await elector.release()
    except (ApiError, TimeoutError) as error:
        log.warning("Lease not given back; it expires by itself", error=str(error) or "timeout")


def _on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set stop. Called again after kopf's start, which puts its own handlers in place."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _watch_login(token: BearerToken) -> kopf.AiohttpSession:
    """Kopf's own session, made anew each time that it asks to log in."""
    credentials = find_credentials()
    token.renew()
    return kopf.AiohttpSession(
        server=credentials.server,
        aiohttp_session=open_session(credentials, token, middlewares=(watch_metadata,)),
        default_namespace=credentials.default_namespace,
    )


def _forget(book: ProgressBook[JobKey], probe: NodeProbe[JobKey], poll: WorkloadPoll, key: JobKey) -> None:
    book.follow(key, None)
    probe.lost(key, Suspicion())
    poll.forget(key.namespace, key.name)


def _bad_report(metrics: Metrics, key: JobKey, problem: str) -> None:
    metrics.bad_reports.inc()
    log.debug("no progress report", job=str(key), problem=problem)


def _event_not_written(job: ObjectMeta, event: Event, error: ApiError) -> None:
    log.warning("Event not written", job=f"{job.namespace}/{job.name}", reason=event.reason, error=str(error))
