from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from ai_task_processor.domain.proxies import proxy_at
from ai_task_processor.providers.connection import HttpClient, ProxyFailed, TooLarge, never_sent, told_of
from tests.fakes.authority import certified, tls_of
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.provider_faults import Answer
from tests.fakes.proxy import ForwardProxy

USER = "user:hunter2"


async def test_an_answer_that_is_too_large_is_not_read() -> None:
    async with OpenAIServer() as server, HttpClient(base_url=server.url, timeout=5, largest_answer=1_000) as http:
        server.faults.queue(Answer(body="x" * 1_001), Answer(body="x" * 1_000))
        with pytest.raises(TooLarge) as caught:
            await http.post("/embeddings", b"{}")
        assert not never_sent(caught.value)
        assert (await http.post("/embeddings", b"{}")).text == "x" * 1_000


async def test_nobody_but_the_server_named_is_sent_anything() -> None:
    async with OpenAIServer() as other, OpenAIServer() as server, HttpClient(base_url=server.url, timeout=5) as http:
        server.faults.queue(Answer(307, "", {"Location": f"{other.url}/embeddings"}))
        reply = await http.post("/embeddings", b"{}", {"Authorization": "Bearer secret"})
        assert (reply.status, other.requests) == (307, [])


async def test_vectors_are_asked_for_unpacked_and_without_cookies() -> None:
    async with OpenAIServer() as server, HttpClient(base_url=server.url, timeout=5) as http:
        server.faults.queue(Answer(headers={"Set-Cookie": "a=b"}), Answer())
        for _ in range(2):
            await http.post("/embeddings", b"{}")
        assert server.headers[1]["Accept-Encoding"] == "identity"
        assert "Cookie" not in server.headers[1]


# --- Through a proxy --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def through(proxy: ForwardProxy, url: str, *, user: str = "") -> AsyncIterator[HttpClient]:
    setting = "HTTPS_PROXY" if url.startswith("https") else "HTTP_PROXY"
    way = proxy_at(proxy.url_for(user) if user else proxy.url, setting=setting)
    async with HttpClient(base_url=url, timeout=5, proxy=way) as http:
        yield http


async def test_what_is_not_encrypted_is_forwarded() -> None:
    async with OpenAIServer() as server, ForwardProxy({"provider.test": server.port}, user=USER) as proxy:
        server.faults.queue(Answer(), Answer())
        async with through(proxy, "http://provider.test/v1", user=USER) as http:
            for _ in range(2):
                assert (await http.post("/embeddings", b"{}")).status == 200
    assert proxy.forwarded == ["http://provider.test/v1/embeddings"] * 2
    assert "Proxy-Authorization" not in server.headers[0]


async def test_what_is_encrypted_goes_through_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public, certificate = certified(tmp_path, "provider.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    async with OpenAIServer(tls=tls_of(certificate)) as server:
        server.faults.queue(Answer(), Answer())
        async with (
            ForwardProxy({"provider.test": server.port}, user=USER) as proxy,
            through(proxy, "https://provider.test/v1", user=USER) as http,
        ):
            for _ in range(2):
                assert (await http.post("/embeddings", b"{}")).status == 200
    assert proxy.tunnels == ["provider.test:443"], "one tunnel serves both"
    assert "Proxy-Authorization" not in server.headers[0]


@pytest.mark.parametrize("named", ["", "someone-else.test"])
async def test_a_tunnel_to_nobody_we_know_carries_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    public, certificate = certified(tmp_path, named or "provider.test")
    if named:
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    async with (
        OpenAIServer(tls=tls_of(certificate)) as server,
        ForwardProxy({"provider.test": server.port}) as proxy,
        through(proxy, "https://provider.test/v1") as http,
    ):
        with pytest.raises(aiohttp.ClientError, match="certificate") as caught:
            await http.post("/embeddings", b"{}")
        assert never_sent(caught.value)
        assert server.requests == []


@pytest.mark.parametrize(
    ("url", "user", "refusal", "words"),
    [
        ("https://provider.test", "", 0, "wants http://user:password@host:port (HTTP 407): check HTTPS_PROXY"),
        ("https://provider.test", "user:hunter3", 0, "refuses user or password (HTTP 407): check HTTPS_PROXY"),
        ("http://provider.test", "user:hunter3", 0, "refuses user or password (HTTP 407): check HTTP_PROXY"),
        ("https://provider.test", USER, 503, "gives no connection (HTTP 503)"),
        ("https://unknown.test", USER, 0, "gives no connection (HTTP 502)"),
    ],
)
async def test_a_proxy_that_refuses_is_named(url: str, user: str, refusal: int, words: str) -> None:
    async with (
        ForwardProxy({"provider.test": 9}, user=USER, refusal=refusal) as proxy,
        through(proxy, url, user=user) as http,
    ):
        with pytest.raises(ProxyFailed) as caught:
            await http.post("/embeddings", b"{}")
    assert f"the proxy {proxy.url} {words}" in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert told_of(caught.value) == str(caught.value)
    assert never_sent(caught.value)


@pytest.mark.parametrize("url", ["https://provider.test", "http://provider.test"])
@pytest.mark.parametrize("where", ["http://127.0.0.1:1", "http://no-such-host.invalid:3128"])
async def test_a_proxy_that_is_not_there_is_named(url: str, where: str) -> None:
    way = proxy_at(where, setting="HTTPS_PROXY" if url.startswith("https") else "HTTP_PROXY")
    async with HttpClient(base_url=url, timeout=5, proxy=way) as http:
        with pytest.raises(
            ProxyFailed, match=f"the proxy {where} gives no connection .* check {way.setting}"
        ) as caught:
            await http.post("/embeddings", b"{}")
    assert never_sent(caught.value)


async def test_a_proxy_that_holds_its_tongue_is_given_up() -> None:
    async with ForwardProxy({}, silent=True) as proxy:
        way = proxy_at(proxy.url, setting="HTTPS_PROXY")
        async with HttpClient(base_url="https://provider.test", timeout=0.05, proxy=way) as http:
            with pytest.raises(ProxyFailed, match="gives no connection") as caught:
                await http.post("/embeddings", b"{}")
    assert never_sent(caught.value)
