"""Both ways to send a request mean the same."""

import ssl
from collections.abc import AsyncIterator

import httpx2
import pytest

from ai_task_processor.task_api.exchange import Pool, encoded
from ai_task_processor.task_api.requests import Exchange, NoAnswer, Request
from tests.fakes.over_transport import OverTransport
from tests.fakes.task_api_server import FakeTaskApi, answer, drop, truncate
from tests.fakes.time import ManualClock

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi(clock=clock) as server:
        yield server


@pytest.fixture(params=["pool", "transport"])
async def exchange(request: pytest.FixtureRequest) -> AsyncIterator[Exchange]:
    by_transport = request.param == "transport"
    made = OverTransport(httpx2.AsyncHTTPTransport()) if by_transport else Pool(connections=2, trusted=NOBODY)
    yield made
    await made.aclose()


def patch(api: FakeTaskApi, *, most: int = 1_000) -> Request:
    return Request("PATCH", f"{api.url}/api/ai-tasks/a%2Fb", {"X-Mark": "1"}, b'{"state":"failed"}', most=most)


async def test_what_is_sent_arrives_and_what_is_answered_comes_back(api: FakeTaskApi, exchange: Exchange) -> None:
    api.script("patch", answer(503, {"message": "no"}, headers={"Retry-After": "7", "Set-Cookie": "a=b"}))
    reply = await exchange.send(patch(api))
    assert (reply.status, reply.headers.get("retry-after"), reply.incomplete) == (503, "7", "")
    assert b"no" in reply.body
    await exchange.send(patch(api))
    assert [recorded.task_id for recorded in api.requests] == ["a/b"] * 2
    headers = {name.lower(): value for name, value in api.requests[1].headers.items()}
    assert headers["x-mark"] == "1"
    assert "cookie" not in headers or isinstance(exchange, OverTransport)  # which is for simulations
    assert api.patches["a/b"] == [{"state": "failed"}] * 2


async def test_a_redirect_is_an_answer(api: FakeTaskApi, exchange: Exchange) -> None:
    api.script("patch", answer(307, headers={"Location": f"{api.url}/elsewhere"}))
    assert (await exchange.send(patch(api))).status == 307


async def test_an_answer_whose_head_came_is_one(api: FakeTaskApi, exchange: Exchange) -> None:
    api.script("patch", truncate())
    assert (await exchange.send(patch(api))).incomplete.startswith("broke off")


async def test_no_more_is_read_than_was_asked_for(api: FakeTaskApi, exchange: Exchange) -> None:
    api.script("patch", answer(200, "x" * 5_000))
    reply = await exchange.send(patch(api))
    assert (reply.status, reply.body) == (200, b"")
    assert reply.incomplete == "is larger than 0 MB"
    assert (await exchange.send(patch(api))).status == 401, "the connection, or another one, can be used again"


async def test_nobody_answers(api: FakeTaskApi, exchange: Exchange) -> None:
    api.script("patch", drop())
    with pytest.raises(NoAnswer):
        await exchange.send(patch(api))


def test_addresses_are_sent_in_ascii() -> None:
    assert encoded("http://exämple.com:80/über") == "http://xn--exmple-cua.com/%C3%BCber"
