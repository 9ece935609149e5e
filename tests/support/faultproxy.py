"""A proxy between the operator and the API server that sees each request, and can act at a chosen one.

It listens on loopback without TLS and is admin towards the API server, so nothing but tests may use it. Requests
are counted as they are answered; `at_write` runs after the API server has committed a write and before the
operator hears of it: the moment at which a crash is most telling.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from support.api import Api

HOP_HEADERS = {"host", "connection", "transfer-encoding", "content-length", "authorization", "keep-alive"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that was answered."""

    method: str
    path: str
    status: int

    @property
    def is_write(self) -> bool:
        """A write about jobs: Leases are the operator's own affair."""
        return self.method != "GET" and "/leases" not in self.path


class FaultProxy:
    """Runs in a thread of its own while it is entered."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self.url = ""
        self.seen: list[Seen] = []
        self.at_write: Callable[[int], None] = lambda number: None
        """Called with the number of the write, counted from 1."""

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(60), "fault proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def writes(self) -> list[Seen]:
        """Writes about jobs and their children, in the order of their answers."""
        return [seen for seen in list(self.seen) if seen.is_write]

    def kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig that leads through this proxy."""
        path = directory / "proxy.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        # An aborted TLS connection lets go of its socket a few turns of the loop later.
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _serve(self) -> None:
        trust = ssl.create_default_context(cafile=self._api.ca)
        if self._api.cert:
            trust.load_cert_chain(self._api.cert, self._api.key)
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout) as session:

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._forward(session, request)

            app = web.Application(client_max_size=16 * 2**20)
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()
            await connector.close(abort_ssl=True)  # watch streams have no end to wait for

    async def _forward(self, session: aiohttp.ClientSession, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_HEADERS}
        url = self._api.server + request.raw_path
        body = await request.read()
        async with session.request(request.method, url, data=body or None, headers=headers) as answer:
            seen = Seen(request.method, request.raw_path, answer.status)
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_HEADERS}
            if "watch=true" in request.raw_path:
                return await self._stream(request, answer, kept)
            data = await answer.read()
            self.seen.append(seen)
            if seen.is_write and seen.status < 300:
                self.at_write(sum(1 for s in self.seen if s.is_write and s.status < 300))
            return web.Response(status=answer.status, body=data, headers=kept)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except ConnectionError:
            pass  # the operator went away, as it may
        return response
