import pytest

from ai_task_processor.providers.connection import HttpClient, TooLarge, never_sent
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.provider_faults import Answer


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
