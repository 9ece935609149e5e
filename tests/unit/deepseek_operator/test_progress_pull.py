"""A hostile or broken agent at the other end of a progress pull: nothing worse than no report."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.types import Progress, Silence
from deepseek_operator.progress import BadReport, ProgressBook, Source, open_progress_session, pull

SENT: Counter[str] = Counter()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(1024):  # a gigabyte
            await response.write(b"x" * 2**20)
            SENT["bytes"] += 2**20
    except ConnectionError:
        pass
    return response


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.1)
    except ConnectionError:
        pass
    return response


async def bomb(_: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(b" " * 5_000_000), headers={"Content-Encoding": "gzip"})


async def redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/good")


async def good(_: web.Request) -> web.Response:
    return web.json_response({"generation": 1, "phase": "training", "step": 7, "loss": 2.5})


@pytest.fixture
async def agent() -> AsyncIterator[str]:
    app = web.Application()
    for handler in (endless, slow, bomb, redirect, good):
        app.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_progress_session() as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("endless", "more than 65536 bytes"),
        ("slow", "Timeout"),
        ("bomb", "is not unpacked"),
        ("redirect", "status 302"),
        ("absent", "status 404"),
    ],
)
async def test_hostile_agents_give_no_report(
    agent: str, session: aiohttp.ClientSession, path: str, problem: str
) -> None:
    with pytest.raises(BadReport, match=problem):
        await pull(session, f"{agent}/{path}")


async def test_of_an_endless_report_little_is_taken(agent: str, session: aiohttp.ClientSession) -> None:
    with pytest.raises(BadReport):
        await pull(session, f"{agent}/endless?forever")
    assert SENT["bytes"] < 64 * 2**20, "what lies in the sockets' buffers, not a gigabyte"


async def test_nobody_listens(session: aiohttp.ClientSession) -> None:
    with pytest.raises(BadReport):
        await pull(session, "http://127.0.0.1:9/progress")


async def test_a_good_agent_gives_its_report(agent: str, session: aiohttp.ClientSession) -> None:
    report = parse_report(await pull(session, f"{agent}/good"))
    assert report is not None
    assert (report.step, report.loss) == (7, 2.5)


async def test_a_changed_report_queues_the_job_and_a_lost_agent_takes_it_back(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [b'{"step": 1}', b'{"step": 1}', b"[]", b'{"step": 2, "loss": NaN}']
    changed: asyncio.Queue[str] = asyncio.Queue()
    bad: list[str] = []

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=answers.pop(0) if answers else b'{"step": 2}')

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr("deepseek_operator.progress.AGENT_PORT", runner.addresses[0][1])
    book: ProgressBook[str] = ProgressBook(
        session, parse_report, interval_s=0.01, on_change=changed.put_nowait, on_bad=lambda key, text: bad.append(text)
    )
    source = Source("uid", "127.0.0.1")
    seen: list[Progress | None] = [book.follow("job", source)]
    silent = [book.is_silent("job")]
    async with asyncio.timeout(10):
        for _ in range(3):
            await changed.get()
            seen.append(book.follow("job", source))
            silent.append(book.is_silent("job"))
    assert silent == [False, False, True, False], "what was not asked yet is not silent"
    assert not book.is_silent("another job")
    assert [report.step if report else None for report in seen] == [None, 1, None, 2]
    assert seen[-1] is not None
    assert seen[-1].loss is None, "NaN is not a loss"
    assert len(bad) == 1
    assert book.follow("job", Source("another", "127.0.0.1")) is None, "another pod's report is not this one's"
    assert book.consult("job", source) == (None, False)
    async with asyncio.timeout(10):
        while book.consult("job", source)[0] is None:
            await changed.get()
    assert book.consult("job", Source("another", "127.0.0.1")) == (None, False)
    assert book.follow("job", None) is None
    assert book.consult("job", None) == (None, False)
    book.close()
    await runner.cleanup()


async def test_an_agent_with_news_is_asked_to_wait_for_other_news(session: aiohttp.ClientSession) -> None:
    """The report is there as soon as there is news, though the interval is a minute."""
    asked: list[str] = []
    news = asyncio.Event()
    changed: asyncio.Queue[str] = asyncio.Queue()

    async def progress(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        if request.query_string:
            await news.wait()
        silence = {"generation": 1, "nodes": [1]} if news.is_set() else None
        return web.json_response({"generation": 1, "news": 2 if news.is_set() else 1, "silence": silence})

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]

    class At(Source):
        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{port}/progress"

    book = ProgressBook(session, parse_report, interval_s=60, on_change=changed.put_nowait, on_bad=lambda *_: None)
    source = At("uid", "127.0.0.1")
    book.follow("job", source)
    async with asyncio.timeout(20):
        await changed.get()
        first = book.follow("job", source)
        news.set()
        await changed.get()
    second = book.follow("job", source)
    assert first is not None
    assert second is not None
    assert (first.silence, second.silence) == (None, Silence(1, (1,)))
    assert asked[:2] == ["", "wait=60&seen=1"]
    book.close()
    await runner.cleanup()
