"""Probes that mean something, and /metrics, on one port.

/healthz fails when this process can no longer do its work though it runs: the event loop lags, no resync was
completed for three intervals, or what it wrote does not come back through the watch (a deaf watch stream is
the classic failure of operators). /readyz tells whether it leads and has looked at every job, or waits its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from deepseek_operator.metrics import Metrics

MAX_LAG_S = 10.0
CANARY_MAX_AGE_S = 90.0
RESYNCS_MISSED = 3


@dataclass(slots=True)
class Health:
    """What the probes answer by. Whoever does something says so here."""

    resync_interval_s: float
    clock: Callable[[], float] = time.monotonic
    leading_since: float | None = None
    resynced_at: float | None = None
    lag_s: float = 0.0
    _canary_sent: dict[str, float] = field(default_factory=dict)
    """Versions of the Lease that we wrote and that the watch has not brought back, with the time of writing."""
    _canary_on: bool = False

    def lead(self, canary: bool) -> None:
        """This replica leads from now on; with canary, its Lease renewals are expected back through the watch."""
        self.leading_since = self.clock()
        self._canary_sent.clear()
        self._canary_on = canary

    def resynced(self) -> None:
        """Every job was listed."""
        self.resynced_at = self.clock()

    def canary_sent(self, version: str) -> None:
        """The Lease was written and has this version now."""
        if self._canary_on:
            self._canary_sent[version] = self.clock()

    def canary_seen(self, version: str) -> None:
        """The watch brought this version of the Lease; everything that was written before it has come too."""
        if version in self._canary_sent:
            seen_at = self._canary_sent[version]
            self._canary_sent = {v: at for v, at in self._canary_sent.items() if at > seen_at}

    def problems(self) -> list[str]:
        """Why this process should be restarted; empty when it is well."""
        now, found = self.clock(), []
        if self.lag_s > MAX_LAG_S:
            found.append(f"event loop lags {self.lag_s:.1f} s")
        if self.leading_since is not None:
            limit_s = RESYNCS_MISSED * self.resync_interval_s
            last = max(self.leading_since, self.resynced_at or 0.0)
            if now - last > limit_s:
                found.append(f"no resync for {now - last:.0f} s, expected one each {self.resync_interval_s:.0f} s")
            oldest = min(self._canary_sent.values(), default=now)
            if now - oldest > CANARY_MAX_AGE_S:
                found.append(f"watch is deaf: the Lease written {now - oldest:.0f} s ago has not come back")
        return found

    def waits_for(self) -> str | None:
        """Why this replica is not ready; None when it is. A replica that waits for the lead is ready to take over."""
        if self.leading_since is not None and self.resynced_at is None:
            return "first look at all jobs is not complete"
        return None


async def measure_lag(health: Health, metrics: Metrics, interval_s: float = 0.5) -> None:
    """Measures for ever how late the event loop is."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        health.lag_s = max(0.0, loop.time() - due)
        metrics.loop_lag.set(health.lag_s)


def build_app(health: Health, metrics: Metrics, refresh: Callable[[], None] = lambda: None) -> web.Application:
    """The web application; refresh is called before metrics are read."""

    async def healthz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(status=503 if problems else 200, text="\n".join(problems) or "ok")

    async def readyz(_: web.Request) -> web.Response:
        reason = health.waits_for()
        return web.Response(status=503 if reason else 200, text=reason or "ok")

    async def show_metrics(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return app


async def serve(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Opens the port. Returns the runner, which the caller cleans up, and the port (a free one for 0)."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    return runner, int(runner.addresses[0][1])
