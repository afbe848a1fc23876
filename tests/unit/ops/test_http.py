import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import pytest

from ai_task_processor.domain.errors import ConfigurationError, JournalError
from ai_task_processor.domain.events import PollPlanned, Running
from ai_task_processor.domain.ports import Backlog, WindowUsage
from ai_task_processor.ops.health import Health, HealthSettings
from ai_task_processor.ops.http import OnRequest, OpsServer
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status.facts import ParkedTask
from ai_task_processor.ops.status.lookout import Identity, Lookout, Readings
from ai_task_processor.ops.status.recent import Recent
from tests.fakes.time import BEGINNING, ManualClock

SETTINGS = HealthSettings(
    service="ai-task-processor",
    version="1.2.3",
    poll_margin=60,
    startup_grace=60,
    limits_enabled=True,
    limits_strategy="fixed",
    providers=("mock",),
)

IDENTITY = Identity("ai-task-processor", "1.2.3", host="here", mode="mock", limits_strategy="fixed")


async def backlog() -> Backlog:
    return Backlog(ready=7)


async def parked(limit: int) -> Sequence[ParkedTask]:
    return [ParkedTask("1", "text_embedding", BEGINNING, "refused")][:limit]


def make(
    host: str = "127.0.0.1",
    port: int = 0,
    counts: Callable[[], Awaitable[Backlog]] = backlog,
    on_request: OnRequest | None = None,
) -> OpsServer:
    clock = ManualClock()
    health = Health(SETTINGS, clock=clock, storage=lambda: None)
    readings = Readings(counts, parked, lambda: {"minute": WindowUsage(1, 20, 19, BEGINNING + 60)})
    return OpsServer(
        host,
        port,
        health=health,
        metrics=Metrics("1.2.3", clock=clock),
        lookout=Lookout(
            IDENTITY,
            health=health,
            recent=Recent(clock=clock, breakers=["mock"]),
            readings=readings,
            in_flight=lambda: 3,
            clock=clock,
        ),
        clock=clock,
        on_request=on_request,
        patience=0.01,
    )


def nothing() -> None:
    """Grants a wish that no test looks at."""


def wishes(
    *,
    poll: Callable[[], None] = nothing,
    pause: Callable[[], None] = nothing,
    resume: Callable[[], None] = nothing,
    token: str = "s3cret",  # noqa: S107  # see S106
) -> OnRequest:
    return OnRequest(poll=poll, pause=pause, resume=resume, token=token)


@dataclass
class Visitor:
    server: OpsServer
    session: aiohttp.ClientSession

    async def asks(self, method: str, path: str, **more: str) -> tuple[int, str, aiohttp.ClientResponse]:
        async with self.session.request(method, self.server.url + path, headers=more) as response:
            return response.status, await response.text(), response


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    async with make() as server, aiohttp.ClientSession() as session:
        yield Visitor(server, session)


async def test_health_is_answered(visitor: Visitor) -> None:
    status, text, response = await visitor.asks("GET", "/health")
    body = json.loads(text)
    assert (status, body["status"], response.content_type) == (200, "healthy", "application/json")
    assert body["rate_limiting"] == {
        "enabled": True,
        "strategy": "fixed",
        "current_usage": {
            "minute": {"current": 1, "limit": 20, "remaining": 19, "reset_at": "2023-11-14T22:14:20+00:00"}
        },
    }


async def test_what_is_not_alive_answers_503(visitor: Visitor) -> None:
    visitor.server._health(PollPlanned(by=BEGINNING))
    clock = visitor.server._clock
    assert isinstance(clock, ManualClock)
    clock.advance(61)
    assert (await visitor.asks("GET", "/health"))[0] == 503


async def test_ready_is_answered_with_every_check(visitor: Visitor) -> None:
    visitor.server._health(Running())
    status, text, _ = await visitor.asks("GET", "/ready")
    body = json.loads(text)
    assert (status, body["status"]) == (503, "not_ready")
    assert body["checks"]["running"] == {"ok": True, "detail": "all services run"}
    assert body["checks"]["token"] == {"ok": False, "detail": "not asked for yet"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_metrics_are_answered_in_the_format_asked_for(visitor: Visitor, accept: str, content_type: str) -> None:
    status, text, response = await visitor.asks("GET", "/metrics", Accept=accept)
    assert status == 200
    assert response.headers["Content-Type"].startswith(content_type)
    assert 'ai_task_processor_backlog_tasks{state="ready"} 7.0' in text
    assert 'ai_task_processor_rate_limit_used{window="minute"} 1.0' in text
    assert text.endswith("# EOF\n") == ("openmetrics" in content_type)


async def test_metrics_tell_of_every_check_whether_it_is_ok(visitor: Visitor) -> None:
    visitor.server._health(Running())
    _, ready, _ = await visitor.asks("GET", "/ready")
    _, metrics, _ = await visitor.asks("GET", "/metrics")
    for name, check in json.loads(ready)["checks"].items():
        assert f'ai_task_processor_ready{{check="{name}"}} {float(check["ok"])}\n' in metrics


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_head_answers_like_get_without_a_body(visitor: Visitor, path: str) -> None:
    asked, _, got = await visitor.asks("GET", path)
    status, text, response = await visitor.asks("HEAD", path)
    assert (status, text, response.headers["Content-Type"]) == (asked, "", got.headers["Content-Type"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/health/more", 404), ("POST", "/health", 405), ("DELETE", "/metrics", 405)],
)
async def test_anything_else_is_refused_in_a_few_words(visitor: Visitor, method: str, path: str, status: int) -> None:
    answered, text, _ = await visitor.asks(method, path)
    assert answered == status
    assert text.startswith(f"{status}: ")
    assert len(text) < 100


async def test_a_huge_request_is_refused_and_does_no_harm(visitor: Visitor) -> None:
    assert (await visitor.asks("GET", f"/{'x' * 10_000}"))[0] == 400
    assert (await visitor.asks("GET", "/health", Padding="x" * 10_000))[0] == 400
    assert (await visitor.asks("GET", "/health"))[0] == 200


async def broken_journal() -> Backlog:
    raise JournalError("disk full")


async def hanging_journal() -> Backlog:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("counts", [broken_journal, hanging_journal])
async def test_without_a_journal_the_other_metrics_are_answered(
    counts: Callable[[], Awaitable[Backlog]],
) -> None:
    async with make(counts=counts) as server, aiohttp.ClientSession() as session:
        status, text, _ = await Visitor(server, session).asks("GET", "/metrics")
    assert status == 200
    assert "ai_task_processor_scrape_errors_total 1.0" in text


# --- Polling on request


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer s3cret", 202),
        ("Bearer s3cre", 401),
        ("Bearer s3cret ", 202),  # the space is no part of a header's value
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer ", 401),
        ("Bearer s3crét", 401),
    ],
)
async def test_who_knows_the_secret_has_the_api_polled(header: str, status: int) -> None:
    polls: list[int] = []
    async with make(on_request=wishes(poll=lambda: polls.append(1))) as server, aiohttp.ClientSession() as one:
        answered, text, response = await Visitor(server, one).asks("POST", "/poll", Authorization=header)
        assert (answered, len(polls)) == (status, int(status == 202))
        assert "s3cret" not in text
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await Visitor(server, one).asks("POST", "/poll"))[0] == 401
        assert (await Visitor(server, one).asks("GET", "/poll", Authorization="Bearer s3cret"))[0] == 405
    assert len(polls) == int(status == 202)


@pytest.mark.parametrize("wish", ["poll", "pause", "resume"])
async def test_each_wish_has_a_route_of_its_own(wish: str) -> None:
    granted: list[str] = []
    on_request = wishes(
        poll=lambda: granted.append("poll"),
        pause=lambda: granted.append("pause"),
        resume=lambda: granted.append("resume"),
    )
    async with make(on_request=on_request) as server, aiohttp.ClientSession() as one:
        assert (await Visitor(server, one).asks("POST", f"/{wish}", Authorization="Bearer wrong"))[0] == 401
        status, text, _ = await Visitor(server, one).asks("POST", f"/{wish}", Authorization="Bearer s3cret")
    assert (status, json.loads(text), granted) == (202, {"status": "running"}, [wish])


@pytest.mark.parametrize("on_request", [None, wishes(token="")])
async def test_without_a_secret_nobody_has_wishes(on_request: OnRequest | None) -> None:
    async with make(on_request=on_request) as server, aiohttp.ClientSession() as one:
        for header in ("Bearer ", "Bearer", "Bearer None"):
            for path in ("/poll", "/pause", "/resume"):
                assert (await Visitor(server, one).asks("POST", path, Authorization=header))[0] == 404


# --- Listening


async def test_a_port_in_use_is_a_fault_of_the_configuration() -> None:
    async with make() as server:
        with pytest.raises(ConfigurationError, match=rf"METRICS_PORT={server.port} is in use on 127\.0\.0\.1"):
            await make(port=server.port).__aenter__()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("192.0.2.1", 0, "METRICS_HOST=192.0.2.1"),  # an address that is nobody's
        ("127.0.0.1", 70_000, "METRICS_PORT=70000 is no port"),
    ],
)
async def test_an_address_that_cannot_be_had_is_named(host: str, port: int, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await make(host, port).__aenter__()


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8001"), ("::", "http://[::1]:8001"), ("ops.example", "http://ops.example:8001")],  # noqa: S104  # no socket is bound
)
async def test_the_url_is_one_that_can_be_visited(host: str, url: str) -> None:
    assert make(host, 8001).url == url


async def test_leaving_ends_idle_and_half_sent_requests_at_once() -> None:
    async with asyncio.timeout(2):
        async with make() as server:
            idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
            idle_writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await idle_reader.readline()).startswith(b"HTTP/1.1 200")
            half_reader, half_writer = await asyncio.open_connection("127.0.0.1", server.port)
            half_writer.write(b"GET /health HTTP/1.1\r\n")
            await half_writer.drain()
            left_at = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left_at < 0.5
        await asyncio.gather(idle_reader.read(), half_reader.read())
        idle_writer.close()
        half_writer.close()
        await asyncio.gather(idle_writer.wait_closed(), half_writer.wait_closed())
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_port_that_was_left_can_be_had_again() -> None:
    async with make() as first:
        port = first.port
    async with make(port=port) as second:
        assert second.port == port


# --- The status page


async def test_the_page_is_html_that_nobody_keeps(visitor: Visitor) -> None:
    status, text, response = await visitor.asks("GET", "/")
    assert (status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    assert text.startswith("<!doctype html>\n")
    assert response.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert "starting" in text


async def test_the_same_facts_are_there_as_json(visitor: Visitor) -> None:
    status, text, response = await visitor.asks("GET", "/status")
    body = json.loads(text)
    assert (status, response.content_type, body["state"]) == (200, "application/json", "starting")
    assert body["backlog"]["ready"] == 7
    assert body["in_flight"] == 3
    assert body["windows"] == [
        {"unit": "tasks", "window": "minute", "current": 1, "limit": 20, "remaining": 19, "reset_at": BEGINNING + 60}
    ]


@pytest.mark.parametrize("path", ["/", "/status"])
async def test_the_page_answers_where_the_journal_does_not(path: str) -> None:
    async with make(counts=broken_journal) as server, aiohttp.ClientSession() as session:
        assert (await Visitor(server, session).asks("GET", path))[0] == 200


async def test_leaving_ends_every_stream_at_once() -> None:
    async with make() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(2):
            await reader.readuntil(b"data: ")
        left_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - left_at < 0.5
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_the_streams_route_is_for_reading_only(visitor: Visitor) -> None:
    for method in ("HEAD", "POST"):
        assert (await visitor.asks(method, "/events"))[0] == 405
