"""The ways to the Task API: our own connections for what is PATCHed, aiohttp for all else and through proxies."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ai_task_processor.domain.proxies import Proxies, proxy_at, words_of
from ai_task_processor.task_api.exchange import Pool, encoded
from ai_task_processor.task_api.requests import Exchange, NoAnswer, Request
from tests.fakes.authority import certified, tls_of
from tests.fakes.proxy import ForwardProxy
from tests.fakes.task_api_server import FakeTaskApi, answer, drop, truncate
from tests.fakes.time import ManualClock

USER = "user:hunter2"
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi(clock=clock) as server:
        yield server


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    made = Pool(connections=2, trusted=NOBODY)
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
    assert "cookie" not in headers
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


# --- Through a proxy --------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(api: FakeTaskApi) -> AsyncIterator[ForwardProxy]:
    async with ForwardProxy({"api.test": api.port}, user=USER) as server:
        yield server


@asynccontextmanager
async def through(proxy: ForwardProxy, *, user: str = USER, direct: str = "") -> AsyncIterator[Pool]:
    proxies = Proxies(
        proxy_at(proxy.url_for(user), setting="HTTPS_PROXY"),
        proxy_at(proxy.url_for(user), setting="HTTP_PROXY"),
        words_of(direct),
    )
    pool = Pool(connections=2, trusted=NOBODY, proxies=proxies)
    yield pool
    await pool.aclose()


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_proxy_forwards_what_is_not_encrypted(api: FakeTaskApi, proxy: ForwardProxy, method: str) -> None:
    url = "http://api.test/api/ai-tasks/a%2Fb"
    async with through(proxy) as pool:
        for _ in range(2):
            assert (await pool.send(Request(method, url, {"X-Mark": "1"}, b"{}"))).status != 407
    assert proxy.forwarded == [url] * 2
    assert all("proxy-authorization" not in map(str.lower, recorded.headers) for recorded in api.requests)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_this_machine_is_asked_directly(api: FakeTaskApi, proxy: ForwardProxy, method: str) -> None:
    async with through(proxy) as pool:
        await pool.send(Request(method, f"{api.url}/api/ai-tasks/a", {}, b"{}"))
    assert proxy.forwarded == []


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_proxy_passes_on_what_only_the_server_reads(tmp_path: Path, clock: ManualClock, method: str) -> None:
    public, certificate = certified(tmp_path, "api.test")
    trusted = ssl.create_default_context(cafile=public)
    async with FakeTaskApi(clock=clock, tls=tls_of(certificate)) as api, ForwardProxy({"api.test": api.port}) as proxy:
        pool = Pool(connections=2, trusted=trusted, proxies=Proxies(proxy_at(proxy.url, setting="HTTPS_PROXY")))
        for _ in range(2):
            reply = await pool.send(Request(method, "https://api.test/api/ai-tasks/a", {}, b"{}"))
            assert reply.status == {"GET": 405, "PATCH": 401}[method], "the server's word"
        with pytest.raises(NoAnswer, match=r"gives no connection \(HTTP 502\)"):
            await pool.send(Request(method, "https://other.test/", {}))
        await pool.aclose()
    assert proxy.tunnels == ["api.test:443", "other.test:443"]


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize(("scheme", "setting"), [("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY")])
async def test_a_proxy_that_refuses_is_named(proxy: ForwardProxy, scheme: str, setting: str, method: str) -> None:
    async with through(proxy, user="user:hunter3") as pool:
        with pytest.raises(NoAnswer) as caught:
            await pool.send(Request(method, f"{scheme}://api.test/", {}))
    assert f"the proxy {proxy.url} refuses user or password (HTTP 407): check {setting}" in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_proxy_that_is_not_there_is_named(method: str) -> None:
    proxies = Proxies(proxy_at("http://user:hunter2@127.0.0.1:1", setting="HTTPS_PROXY"))
    pool = Pool(connections=2, trusted=NOBODY, proxies=proxies)
    with pytest.raises(NoAnswer, match=r"the proxy http://127\.0\.0\.1:1 gives no connection .* check HTTPS_PROXY"):
        await pool.send(Request(method, "https://api.test/", {}))
    await pool.aclose()
