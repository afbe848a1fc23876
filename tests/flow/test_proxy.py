"""The daemon where the way out leads through a proxy, which the standard variables name."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.authority import certified, tls_of
from tests.fakes.daemon import environment_for, finished, right_vector, started
from tests.fakes.openai_server import API_KEY, OpenAIServer
from tests.fakes.proxy import ForwardProxy
from tests.fakes.task_api_server import FakeTaskApi

MODEL = "text-embedding-3-small"
USER = "user:hunter2"
BASIC = "dXNlcjpodW50ZXIy"

TASKS = 5


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[OpenAIServer]:
    _, certificate = certified(tmp_path, "provider.test", "api.test")
    async with OpenAIServer(tls=tls_of(certificate)) as server:
        yield server


@pytest.fixture
async def plain_api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        server.add(*tasks())
        yield server


def tasks() -> list[dict[str, object]]:
    return [{"_id": str(number), "content": {"text": f"text {number}", "model": MODEL}} for number in range(TASKS)]


def env(api: FakeTaskApi, folder: Path, proxy: ForwardProxy, **more: object) -> dict[str, str]:
    """Both kinds of address through the proxy, but for what NO_PROXY names."""
    way = proxy.url_for(USER)
    given = {
        "processing_mode": "openai",
        "openai_api_key": API_KEY,
        "https_proxy": way,
        "http_proxy": way,
        "ssl_cert_file": folder / "authority.pem",
        **more,
    }
    return environment_for(api, folder, **given)


def tell_nothing(*texts: str) -> None:
    for text in texts:
        assert "hunter" not in text
        assert BASIC not in text


async def drained(api: FakeTaskApi, folder: Path, environment: dict[str, str]) -> str:
    """What the daemon wrote while it did every task; nothing of the proxy's secrets is in that or in its routes."""
    async with started("run", folder=folder, env=environment) as daemon:
        await api.until(lambda: set(api.states()) == {"succeeded"})
        tell_nothing(*[(await daemon.get(route))[1] for route in ("/", "/status", "/metrics", "/health", "/ready")])
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    for task in api.tasks.values():
        assert right_vector(task["result"], task["content"]["text"], model=MODEL)
    tell_nothing(daemon.text)
    return daemon.text


async def test_the_provider_through_the_proxy_and_the_api_directly(
    plain_api: FakeTaskApi, provider: OpenAIServer, tmp_path: Path
) -> None:
    async with ForwardProxy({"provider.test": provider.port}, user=USER) as proxy:
        given = env(plain_api, tmp_path, proxy, openai_base_url="https://provider.test/v1", no_proxy="127.0.0.0/8")
        text = await drained(plain_api, tmp_path, given)
        assert proxy.url in text, "the first line of the log says where the proxy is"
    assert set(proxy.tunnels) == {"provider.test:443"}
    assert proxy.forwarded == []
    assert API_KEY.encode() not in b"".join(proxy.passed_on), "it is encrypted for the provider alone"


async def test_the_api_through_the_proxy_and_the_provider_directly(provider: OpenAIServer, tmp_path: Path) -> None:
    async with FakeTaskApi(tls=tls_of(tmp_path / "server.pem")) as api:
        api.add(*tasks())
        given = {
            "api_base_url": "https://api.test",
            "oauth2_token_url": "http://auth.test/oauth2/token",
            "openai_base_url": f"https://127.0.0.1:{provider.port}/v1",
        }
        async with (
            FakeTaskApi() as auth,
            ForwardProxy({"api.test": api.port, "auth.test": auth.port}, user=USER) as proxy,
        ):
            auth._tokens = api._tokens  # the tokens of one are those of the other
            await drained(api, tmp_path, env(api, tmp_path, proxy, **given))
    assert set(proxy.tunnels) == {"api.test:443"}
    assert set(proxy.forwarded) == {"http://auth.test/oauth2/token"}


async def test_check_says_what_goes_through_which_proxy(
    plain_api: FakeTaskApi, provider: OpenAIServer, tmp_path: Path
) -> None:
    async with ForwardProxy({"provider.test": provider.port}, user=USER) as proxy:
        given = env(plain_api, tmp_path, proxy, openai_base_url="https://provider.test/v1")
        code, text = await finished("check", "--json", folder=tmp_path, env=given)
        assert code == 0
        found = {finding["name"]: finding["detail"] for finding in json.loads(text)}
        assert f"https://provider.test/v1 through {proxy.url}" in found["proxies"]
        assert f"{plain_api.url} directly" in found["proxies"]
    tell_nothing(text)


async def test_a_proxy_that_refuses_is_told_by_check_and_by_the_log(
    plain_api: FakeTaskApi, provider: OpenAIServer, tmp_path: Path
) -> None:
    async with ForwardProxy({"provider.test": provider.port}, user="user:another") as proxy:
        given = env(plain_api, tmp_path, proxy, openai_base_url="https://provider.test/v1", max_retries=0)
        code, text = await finished("check", "--json", folder=tmp_path, env=given)
        words = f"the proxy {proxy.url} refuses user or password (HTTP 407): check HTTPS_PROXY"
        assert (code, words in text) == (1, True)
        async with started("run", folder=tmp_path, env=given) as daemon:
            await daemon.until(lambda: words in daemon.text)
            (_, ready), (_, page) = await daemon.get("/ready"), await daemon.get("/status")
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0
    assert provider.requests == []
    assert set(plain_api.states()) == {"pending"}, "no task fails by it"
    tell_nothing(text, daemon.text, ready, page)


async def test_what_is_no_proxy_is_not_begun_with(plain_api: FakeTaskApi, tmp_path: Path) -> None:
    given = environment_for(plain_api, tmp_path, https_proxy="socks5://user:hunter2@proxy:1080")
    code, text = await finished("run", folder=tmp_path, env=given)
    assert code == 78
    assert "HTTPS_PROXY: is no proxy; give one like http://proxy.example.com:3128" in text
    tell_nothing(text)
