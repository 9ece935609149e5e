"""One request to the API server: limited, timed, tried again where that can help, and answered by typed errors.

Every write of the operator may be sent twice without harm (deterministic names, preconditions on version or
UID), so a write whose answer was lost is tried again like a read.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from deepseek_operator.cluster.credentials import BearerToken
from deepseek_operator.cluster.errors import ApiError, Unauthorized, Unavailable, from_answer
from deepseek_operator.ratelimit import TokenBucket

Verb = Literal["get", "list", "create", "update", "patch", "apply", "delete"]
METHODS: dict[Verb, str] = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "apply": "PATCH",
    "delete": "DELETE",
}
CONTENT_TYPES: dict[Verb, str] = {
    "patch": "application/merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MAX_ERROR_BYTES = 65536


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a request is tried again."""

    attempts: int = 4
    first_s: float = 0.2
    longest_s: float = 10.0

    def delay_s(self, attempt: int, retry_after_s: float | None, jitter: float) -> float:
        """Seconds to wait after the attempt'th try (from 0); jitter in [0, 1) spreads clients out."""
        backoff: float = min(self.longest_s, self.first_s * 4**attempt) * (0.5 + jitter)
        return backoff if retry_after_s is None else min(max(retry_after_s, backoff), 60.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A raw answer with a status below 400."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Transport:
    """Sends requests over one session."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        token: BearerToken,
        limit: TokenBucket,
        *,
        retry: RetryPolicy = RetryPolicy(),
        on_response: Callable[[Verb, int, float], None] = lambda verb, code, seconds: None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._server = server.rstrip("/")
        self._token = token
        self._limit = limit
        self._retry = retry
        self._on_response = on_response
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._sleep = sleep

    async def send(
        self,
        verb: Verb,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        accept: str | None = None,
    ) -> Answer:
        """Sends one request and returns its answer.

        Raises:
            ApiError: its subclass for the status; Unavailable when every try failed.
        """
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": CONTENT_TYPES.get(verb, "application/json")} if data else {}
        if accept:
            headers["Accept"] = accept
        attempt = 0
        while True:
            if wait_s := self._limit.reserve():
                await self._sleep(wait_s)
            try:
                return await self._try(verb, path, data, query, headers)
            except _Retry as retry:
                attempt += 1
                if attempt >= self._retry.attempts:
                    raise retry.error from retry.__cause__
                await self._sleep(self._retry.delay_s(attempt - 1, retry.after_s, self._rng.random()))

    async def _try(
        self, verb: Verb, path: str, data: bytes | None, query: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> Answer:
        request = f"{verb} {path}"
        begin = time.perf_counter()
        status = 0
        try:
            async with self._session.request(
                METHODS[verb], self._server + path, data=data, params=query, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                if status < 300:
                    return Answer(status, await response.read())
                error = from_answer(status, await response.content.read(MAX_ERROR_BYTES), request)
                retry_after = response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as cause:
            text = str(cause) or type(cause).__name__
            raise _Retry(Unavailable(0, type(cause).__name__, f"no answer: {text}", request)) from cause
        finally:
            self._on_response(verb, status, time.perf_counter() - begin)
        if isinstance(error, Unauthorized):
            self._token.renew()
        if isinstance(error, (Unauthorized, Unavailable)):
            raise _Retry(error, _seconds(retry_after))
        raise error


class _Retry(Exception):
    """The request may be tried again; error is what to raise when it may not any more."""

    def __init__(self, error: ApiError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


def _seconds(header: str | None) -> float | None:
    """The seconds of a Retry-After header; None for its date form, which the API server does not use."""
    try:
        return float(header) if header else None
    except ValueError:
        return None
