"""Whom the daemon believes: certificates are checked, and an authority of one's own can be named."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.task_api.requests import Exchange, NoAnswer, Request
from ai_task_processor.wiring.task_api import open_wire
from tests.fakes.authority import certified, https_server


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    _, server = certified(tmp_path)
    async with https_server(server) as address:
        yield address


@pytest.fixture
def trusted(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert url
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def task_api() -> Exchange:
    return open_wire(2)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_task_api_of_nobody_we_know_gets_nothing(url: str, method: str) -> None:
    exchange = task_api()
    with pytest.raises(NoAnswer, match=r"(?i)certificate"):
        await exchange.send(Request(method, url, {}))
    await exchange.aclose()


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.usefixtures("trusted")
async def test_a_task_api_of_an_authority_of_our_own_is_believed(url: str, method: str) -> None:
    exchange = task_api()
    assert (await exchange.send(Request(method, url, {}))).body == b"[]"
    await exchange.aclose()


async def test_a_provider_of_nobody_we_know_gets_nothing(url: str) -> None:
    async with HttpClient(base_url=url, timeout=5) as http:
        with pytest.raises(aiohttp.ClientError, match="certificate"):
            await http.post("/", b"[]")


@pytest.mark.usefixtures("trusted")
async def test_a_provider_of_an_authority_of_our_own_is_believed(url: str) -> None:
    async with HttpClient(base_url=url, timeout=5) as http:
        assert (await http.post("/", b"[]")).body == b"[]"
