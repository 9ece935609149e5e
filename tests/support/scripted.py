"""An API server that answers from a script, for tests of what the operator asks and how it takes the answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import kopf
from aiohttp import web
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.credentials import BearerToken
from deepseek_operator.cluster.transport import Transport
from deepseek_operator.ratelimit import TokenBucket

Script = list[web.Response | Callable[[web.Request], web.Response]]


class Server:
    """Answers from a script, one answer a request, and remembers the requests."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.script: Script = []
        self.requests: list[tuple[str, str, Any]] = []
        self.slept: list[float] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, json.loads(body) if body else None))
        answer = self.script.pop(0)
        return answer(request) if callable(answer) else answer

    async def client(self) -> KubeClient:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        token = BearerToken(kopf.ConnectionInfo(server=url))

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        limit = TokenBucket(1e6, 1e6, lambda: 0.0)
        return KubeClient(Transport(session, url, token, limit, rng=random.Random(1), sleep=sleep))


def refusal(status: int, reason: str = "", message: str = "no", **headers: str) -> web.Response:
    """An answer that says no."""
    return web.json_response({"kind": "Status", "reason": reason, "message": message}, status=status, headers=headers)
