"""Progress of running jobs, pulled from node rank 0's agent, and from a second one where there is doubt. Untrusted.

A pull has a time limit and a size limit, follows no redirect and unpacks nothing; what it got is parsed and
checked by `decide.report`. An agent that has told its news before is asked to answer when it has other news, at the
latest when the interval is over: so a lost peer is heard of at once, and a quiet job costs no more. Pulls run beside
the passes, never inside one: an agent that hangs costs its job a report, and nobody else anything. A report that
changed puts its job into the queue.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp

from deepseek_operator.api.names import AGENT_PORT, PROGRESS_MAX_BYTES
from deepseek_operator.decide.types import Progress

Key = TypeVar("Key")
Parse = Callable[[bytes], Progress | None]
PULL_TIMEOUT_S = 2.0
NEWS_PAUSE_S = 0.2
"""After news: an agent that always has some is not asked without end."""


class BadReport(Exception):
    """The agent answered with something that is no report; the message says what."""


def open_progress_session() -> aiohttp.ClientSession:
    """A session that carries no credentials, no cookies and no proxy, and unpacks nothing. The caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_attentive_socket),
        timeout=aiohttp.ClientTimeout(total=PULL_TIMEOUT_S),
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "deepseek-operator"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _attentive_socket(address: tuple[Any, ...]) -> socket.socket:
    """One whose connection breaks within four seconds when the other machine is gone, though nothing is sent."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, option):  # Linux
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), 1)
    if hasattr(socket, "TCP_KEEPCNT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made


async def pull(
    session: aiohttp.ClientSession, url: str, limit: int = PROGRESS_MAX_BYTES, *, patience_s: float = 0.0
) -> bytes:
    """What the URL answers.

    Args:
        patience_s: how much longer than usual it may take.

    Raises:
        BadReport: not within the time, not status 200, or longer than limit bytes.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=PULL_TIMEOUT_S + patience_s)
        async with session.get(url, allow_redirects=False, timeout=timeout) as response:
            if response.status != 200:
                raise BadReport(f"{url}: status {response.status}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise BadReport(f"{url}: content encoding {response.headers['Content-Encoding']!r} is not unpacked")
            body = bytearray()
            async for chunk in response.content.iter_chunked(8192):
                body += chunk
                if len(body) > limit:
                    raise BadReport(f"{url}: more than {limit} bytes")
            return bytes(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise BadReport(f"{url}: {str(error) or type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class Source:
    """Where a job's progress is read: one pod, so that another pod's report is never taken for its."""

    pod_uid: str
    ip: str

    @property
    def url(self) -> str:
        """The agent's address.

        Raises:
            ValueError: the pod's address is not an IP address.
        """
        address = ipaddress.ip_address(self.ip)
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"http://{host}:{AGENT_PORT}/progress"


@dataclass(slots=True)
class _Follower:
    source: Source
    task: asyncio.Task[None]
    latest: Progress | None = None
    silent: bool = False
    """The last pull gave no report."""


class ProgressBook(Generic[Key]):
    """Follows one source for each running job, at times a second one, and remembers their last reports."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        parse: Parse,
        *,
        interval_s: float,
        on_change: Callable[[Key], None],
        on_bad: Callable[[Key, str], None],
    ) -> None:
        self._session = session
        self._parse = parse
        self._interval_s = interval_s
        self._on_change = on_change
        self._on_bad = on_bad
        self._followers: dict[Key, _Follower] = {}
        self._seconds: dict[Key, _Follower] = {}

    def follow(self, key: Key, source: Source | None) -> Progress | None:
        """Reads from this source from now on (None: from none). Returns its last report, if there is one."""
        if source is None:
            self.consult(key, None)
        follower = self._follow(self._followers, key, source)
        return None if follower is None else follower.latest

    def consult(self, key: Key, source: Source | None) -> tuple[Progress | None, bool]:
        """Reads from this source, too (None: from none). Its last report, and whether it was asked and gave none."""
        follower = self._follow(self._seconds, key, source)
        return (None, False) if follower is None else (follower.latest, follower.silent)

    def is_silent(self, key: Key) -> bool:
        """Whether the job's source was asked, and gave no report the last time."""
        follower = self._followers.get(key)
        return follower is not None and follower.silent

    def close(self) -> None:
        """Stops all pulls."""
        for followers in (self._followers, self._seconds):
            for follower in followers.values():
                follower.task.cancel()
            followers.clear()

    def _follow(self, followers: dict[Key, _Follower], key: Key, source: Source | None) -> _Follower | None:
        """The follower of this source, where it is not a new one."""
        follower = followers.get(key)
        if follower is not None and follower.source == source:
            return follower
        if follower is not None:
            followers.pop(key).task.cancel()
        if source is not None:
            task = asyncio.create_task(self._poll(followers, key, source), name=f"progress of {key}")
            followers[key] = _Follower(source, task)
        return None

    async def _poll(self, followers: dict[Key, _Follower], key: Key, source: Source) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begin, before = loop.time(), followers[key].latest
            report: Progress | None = None
            try:
                report = self._parse(await self._ask(source, before))
                if report is None:
                    self._on_bad(key, f"{source.url}: not a report")
            except (BadReport, ValueError) as error:
                self._on_bad(key, str(error))
            follower = followers[key]
            changed = (report, report is None) != (follower.latest, follower.silent)
            follower.latest, follower.silent = report, report is None
            if changed:
                self._on_change(key)
            tells = report is not None and report.news != (before.news if before is not None else 0)
            pause_s = NEWS_PAUSE_S if tells else self._interval_s - (loop.time() - begin)
            await asyncio.sleep(max(0.0, pause_s))

    async def _ask(self, source: Source, before: Progress | None) -> bytes:
        wait_s = int(self._interval_s) if before is not None and before.news else 0
        query = f"?wait={wait_s}&seen={before.news}" if before is not None and wait_s else ""
        return await pull(self._session, source.url + query, patience_s=wait_s)
