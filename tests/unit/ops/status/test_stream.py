import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from ai_task_processor.ops.status.stream import Streams, changed, event


class Page:
    """What is shown, and how often it was looked at."""

    def __init__(self) -> None:
        self.sections: dict[str, str] = {"a": "one", "b": "two\n\ndata: three"}
        self.looks = 0
        self.swells = False

    async def __call__(self) -> Mapping[str, str]:
        self.looks += 1
        if self.swells:
            self.sections["a"] = str(self.looks) * 100_000
        return dict(self.sections)


@asynccontextmanager
async def serving(streams: Streams) -> AsyncIterator[str]:
    application = web.Application()
    application.add_routes([web.get("/events", streams.answer, allow_head=False)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    finally:
        streams.end()
        await runner.cleanup()


async def next_event(response: aiohttp.ClientResponse) -> dict[str, str]:
    async with asyncio.timeout(5):
        while not (line := await response.content.readline()).startswith(b"data: "):
            assert line in (b"retry: 1000\n", b"\n")
    return dict(json.loads(line.removeprefix(b"data: ")))


async def until_admitted(session: aiohttp.ClientSession, url: str) -> None:
    """Ask until there is room."""
    async with asyncio.timeout(10):
        while True:
            async with session.get(url) as response:
                if response.status == 200:
                    assert await next_event(response)
                    return


async def test_a_stream_begins_with_everything_and_goes_on_with_what_changes() -> None:
    page = Page()
    streams = Streams(page, pace=0.001)
    async with serving(streams) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert await next_event(response) == {"a": "one", "b": "two\n\ndata: three"}
        assert await next_event(response) == {}, "a sign of life"
        page.sections["a"] = "four"
        while not (news := await next_event(response)):
            pass
        assert news == {"a": "four"}


async def test_there_are_never_too_many_and_who_leaves_makes_room() -> None:
    streams = Streams(Page(), most=2, pace=0.001)
    async with serving(streams) as url, aiohttp.ClientSession() as session:
        async with session.get(url) as first, session.get(url) as second:
            await next_event(first)
            await next_event(second)
            async with session.get(url) as third:
                assert (third.status, third.headers["Retry-After"]) == (503, "5")
        await until_admitted(session, url)


async def test_who_reads_nothing_is_not_waited_for() -> None:
    page = Page()
    streams = Streams(page, most=1, pace=0, patience=0.05)
    async with serving(streams) as url, aiohttp.ClientSession() as session:
        host, port = url.removeprefix("http://").removesuffix("/events").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read(1) == b"H"
        page.swells = True
        await until_admitted(session, url)
        writer.close()


async def test_every_stream_ends_at_once_when_it_is_to_end() -> None:
    streams = Streams(Page(), pace=60)
    async with serving(streams) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        await next_event(response)
        began = asyncio.get_running_loop().time()
        streams.end()
        async with asyncio.timeout(5):
            assert await response.content.read() == b"\n"
        assert asyncio.get_running_loop().time() - began < 1
        assert streams.open == 0
        async with session.get(url) as late:
            assert b'"a":"one"' in await late.read(), "one look, and then the end"


@pytest.mark.parametrize(
    ("shown", "sections", "news"),
    [
        ({}, {"a": "1"}, {"a": "1"}),
        ({"a": "1"}, {"a": "1"}, {}),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"b": "3"}),
    ],
)
def test_only_what_is_different_is_sent(shown: dict[str, str], sections: dict[str, str], news: dict[str, str]) -> None:
    assert changed(shown, sections) == news


def test_an_event_is_one_line() -> None:
    assert event({"a": "x\n\ny\r"}) == b'data: {"a":"x\\n\\ny\\r"}\n\n'
