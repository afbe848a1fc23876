import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.proxies import proxy_at
from ai_task_processor.domain.quota import Allowance, Quota
from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.openai import OpenAI
from tests.fakes.openai_server import API_KEY, OpenAIServer, count_tokens, refusal
from tests.fakes.provider_faults import Answer, Drop, Hang
from tests.fakes.proxy import ForwardProxy
from tests.fakes.time import ManualClock

SMALL = "text-embedding-3-small"
TEXTS = ("one", "two words", "drei Wörter hier")


@asynccontextmanager
async def openai(
    server: OpenAIServer, *, key: str = API_KEY, silence: float = 5.0, truncate: bool = False
) -> AsyncIterator[OpenAI]:
    async with HttpClient(base_url=server.url, timeout=silence) as http:
        yield OpenAI(http, api_key=key, clock=ManualClock(), truncate=truncate)


async def refused(answer: Answer, texts: tuple[str, ...] = TEXTS) -> ProviderError:
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(answer)
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts, model=SMALL, dimensions=None)
        assert len(server.requests) == 1, "no retry inside a leaf"
        return caught.value


async def test_one_request_for_a_batch_in_base64_and_without_dimensions() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        answer = await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert answer.vectors == tuple(mock_vector(text, SMALL) for text in TEXTS)
    assert (answer.model, answer.provider, answer.tokens) == (SMALL, "openai", sum(map(count_tokens, TEXTS)))
    assert server.requests == [{"input": list(TEXTS), "model": SMALL, "encoding_format": "base64"}]


async def test_what_the_server_says_of_its_limits_comes_with_the_answer() -> None:
    headers = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-limit-requests": "60"}
    async with OpenAIServer() as server, openai(server) as provider:
        item = {"index": 0, "embedding": base64.b64encode(mock_vector("one", SMALL)).decode()}
        server.faults.queue(Answer(body={"data": [item]}, headers=headers))
        told = await provider.embed(["one"], model=SMALL, dimensions=None)
        untold = await provider.embed(["one"], model=SMALL, dimensions=None)
    assert told.quota == Quota(requests=Allowance(59, 60))
    assert untold.quota is None


async def test_dimensions_are_passed_on_when_asked_for() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        answer = await provider.embed(TEXTS, model=SMALL, dimensions=256)
    assert answer.vectors == tuple(mock_vector(text, SMALL, 256) for text in TEXTS)
    assert server.requests[0]["dimensions"] == 256


async def test_a_server_that_ignores_base64_gives_the_same_bits() -> None:
    async with OpenAIServer(ignores_base64=True) as server, openai(server) as provider:
        answer = await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert answer.vectors == tuple(mock_vector(text, SMALL) for text in TEXTS)


async def test_the_order_is_restored() -> None:
    async with OpenAIServer(reverses=True) as server, openai(server) as provider:
        answer = await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert answer.vectors == tuple(mock_vector(text, SMALL) for text in TEXTS)


async def test_items_without_an_index_are_in_order() -> None:
    data = [{"embedding": [1.0, place]} for place in range(3)]
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(Answer(body={"data": data}))
        answer = await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert [np.frombuffer(vector, "<f4")[1] for vector in answer.vectors] == [0, 1, 2]
    assert answer.tokens == 0


@pytest.mark.parametrize(
    "body",
    [
        "<html>Welcome</html>",
        b"\xff\xfe",
        "null",
        "[]",
        {},
        {"data": None},
        {"data": 3},
        {"data": [1]},
        {"data": ["text"]},
        {"data": {"0": {}}},
        {"data": [{"index": 0}]},
        {"data": [{"index": [], "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]},
        {"data": [{"index": 1, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": None}]},
        {"data": [{"index": 0, "embedding": ["a"]}]},
        {"data": [{"index": 0, "embedding": [[1.0], [2.0]]}]},
        {"data": [{"index": 0, "embedding": [[1.0], 2.0]}]},
        {"data": [{"index": 0, "embedding": "not base64"}]},
        {"data": [{"index": 0, "embedding": base64.b64encode(b"12345").decode()}]},
    ],
)
async def test_an_answer_that_cannot_be_read_is_unavailable(body: Any) -> None:
    error = await refused(Answer(body=body))
    assert isinstance(error, ProviderUnavailable)
    assert error.sent


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(429, "You exceeded your current quota.", code="insufficient_quota"), ProviderAccountRefused),
        (refusal(429, "Quota.", kind="insufficient_quota"), ProviderAccountRefused),
        (
            refusal(400, "Billing hard limit has been reached", code="billing_hard_limit_reached"),
            ProviderAccountRefused,
        ),
        (refusal(401, "Incorrect API key provided", code="invalid_api_key"), ProviderAccountRefused),
        (Answer(401, ""), ProviderAccountRefused),
        (Answer(402, {"error": {"message": "Insufficient Balance"}}), ProviderAccountRefused),
        (refusal(403, "Country, region, or territory not supported"), ProviderAccountRefused),
        (refusal(429, "Rate limit reached", code="rate_limit_exceeded"), ProviderThrottled),
        (Answer(429, "slow down"), ProviderThrottled),
        (refusal(400, "'$.input' is invalid"), ProviderRejected),
        (Answer(413, "<html>too large</html>"), ProviderRejected),
        (Answer(422, {"detail": [{"loc": ["body"], "msg": "field required"}]}), ProviderRejected),
        (Answer(404, "<html>no such page</html>"), ProviderUnavailable),
        (Answer(404, {"detail": "Not Found"}), ProviderUnavailable),
        (Answer(405, ""), ProviderUnavailable),
        (Answer(408, ""), ProviderUnavailable),
        (Answer(409, ""), ProviderUnavailable),
        (refusal(500, "The server had an error"), ProviderUnavailable),
        (Answer(502, "<html>Bad gateway</html>"), ProviderUnavailable),
        (Answer(503, ""), ProviderUnavailable),
        (Answer(302, "", {"Location": "/elsewhere"}), ProviderUnavailable),
        (Answer(418, {"error": "teapot"}), ProviderUnavailable),
    ],
)
async def test_each_refusal_has_its_class(answer: Answer, kind: type[ProviderError]) -> None:
    error = await refused(answer)
    assert type(error) is kind


@pytest.mark.parametrize(
    "answer",
    [
        refusal(404, "The model `x` does not exist", code="model_not_found"),
        refusal(403, "Project `p` does not have access to model `x`", code="model_not_found"),
        Answer(404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}),
        Answer(404, {"error": {"message": 'model "x" not found, try pulling it first', "type": "api_error"}}),
    ],
)
async def test_an_unknown_model_is_refused_for_every_input(answer: Answer) -> None:
    error = await refused(answer)
    assert isinstance(error, ProviderRejected)
    assert error.every_input
    assert SMALL in str(error)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({}, None),
    ],
)
async def test_a_throttling_says_when_to_come_back(headers: Mapping[str, str], wait: float | None) -> None:
    answer = refusal(429, "Rate limit reached", code="rate_limit_exceeded")
    error = await refused(Answer(answer.status, answer.body, headers))
    assert isinstance(error, ProviderThrottled)
    assert error.retry_after == wait


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, above one megabyte
async def test_too_many_tokens_for_one_request_can_be_split() -> None:
    texts = tuple("word " * 8000 for _ in range(38))
    async with OpenAIServer() as server, openai(server) as provider:
        with pytest.raises(ProviderRejected, match="max 300000 tokens") as caught:
            await provider.embed(texts, model=SMALL, dimensions=None)
    assert not caught.value.every_input


async def test_too_many_inputs_can_be_split_and_are_not_even_sent() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        with pytest.raises(ProviderRejected) as caught:
            await provider.embed(["a"] * 2049, model=SMALL, dimensions=None)
        assert not caught.value.every_input
        assert server.requests == []


async def test_dimensions_that_the_model_cannot_give_are_refused_for_every_input() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        with pytest.raises(ProviderRejected) as caught:
            await provider.embed(TEXTS, model="text-embedding-ada-002", dimensions=64)
    assert caught.value.every_input


async def test_a_long_text_is_refused_with_its_length_and_the_allowed_one() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        with pytest.raises(ProviderRejected, match=r"9000 tokens; .* at most 8192") as caught:
            await provider.embed(["word " * 9000], model=SMALL, dimensions=None)
    assert not caught.value.every_input


async def test_a_long_text_is_shortened_on_request() -> None:
    async with OpenAIServer() as server, openai(server, truncate=True) as provider:
        answer = await provider.embed(["word " * 9000], model=SMALL, dimensions=None)
        assert len(server.requests) == 2
    (sent,) = server.requests[-1]["input"]
    assert answer.vectors == (mock_vector(sent, SMALL),)
    assert 7000 < count_tokens(sent) <= 8192


async def test_a_long_text_of_a_batch_is_left_to_the_caller_to_isolate() -> None:
    async with OpenAIServer() as server, openai(server, truncate=True) as provider:
        with pytest.raises(ProviderRejected):
            await provider.embed(["fine", "word " * 9000], model=SMALL, dimensions=None)
        assert len(server.requests) == 1


async def test_a_message_that_repeats_a_text_is_not_passed_on() -> None:
    secret = "the patient's name is in this text"
    error = await refused(refusal(400, f"cannot embed {secret!r}"), texts=(secret,))
    assert "patient" not in str(error)


async def test_a_message_that_repeats_the_key_is_not_passed_on() -> None:
    error = await refused(refusal(401, f"Incorrect API key provided: {API_KEY}"))
    assert API_KEY not in str(error)


async def test_a_message_is_bounded() -> None:
    assert len(str(await refused(refusal(400, "so " * 5000)))) < 500


@pytest.mark.parametrize("fault", [Drop(), Drop(sent=10)])
async def test_a_dropped_connection_may_have_been_seen(fault: Drop) -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(fault)
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert caught.value.sent


async def test_a_refused_connection_was_never_seen() -> None:
    async with OpenAIServer() as server:
        pass
    async with openai(server) as provider:
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert not caught.value.sent


async def test_silence_is_unavailable_after_the_timeout() -> None:
    async with OpenAIServer() as server, openai(server, silence=0.02) as provider:
        server.faults.queue(Hang())
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.embed(TEXTS, model=SMALL, dimensions=None)
    assert caught.value.sent


async def test_a_cancellation_passes() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(Hang())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await provider.embed(TEXTS, model=SMALL, dimensions=None)


async def test_an_answer_that_is_not_http_is_unavailable() -> None:
    async def talk_nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk_nonsense, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with HttpClient(base_url=url, timeout=5) as http:
            provider = OpenAI(http, api_key=API_KEY, clock=ManualClock())
            with pytest.raises(ProviderUnavailable):
                await provider.embed(TEXTS, model=SMALL, dimensions=None)


async def test_every_model_is_served() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        assert provider.serves("anything-at-all")


async def test_a_text_too_long_for_llama_cpp_which_answers_500_is_refused_at_once() -> None:
    message = "input (701 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(Answer(500, {"error": {"code": 500, "message": message, "type": "server_error"}}))
        with pytest.raises(ProviderRejected, match="it has 701 tokens; m takes at most 512") as caught:
            await provider.embed(["word " * 700], model="m", dimensions=None)
    assert not caught.value.every_input


async def test_a_server_that_passes_over_dimensions_refuses_them() -> None:
    async with OpenAIServer() as server, openai(server) as provider:
        server.faults.queue(Answer(200, {"data": [{"embedding": [1.0, 2.0]}, {"embedding": [3.0, 4.0]}]}))
        with pytest.raises(
            ProviderRejected, match=r"dimensions is 64, but the provider gives 2 .* leave it out"
        ) as caught:
            await provider.embed(["a", "b"], model="m", dimensions=64)
    assert caught.value.every_input


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}),
        (400, {"message": "/embeddings: Invalid model name passed in model=x. Call `/v1/models`", "code": "400"}),
    ],
    ids=["azure", "litellm"],
)
async def test_a_missing_model_is_understood_in_the_words_of_other_servers(status: int, error: dict[str, str]) -> None:
    caught = await refused(Answer(status, {"error": error}))
    assert isinstance(caught, ProviderRejected)
    assert "does not have the model" in str(caught)
    assert caught.every_input


async def test_vllm_refuses_dimensions_for_every_text() -> None:
    message = 'Model "bge-m3" does not support matryoshka representation, changing output dimensions will lead to worse'
    caught = await refused(Answer(400, {"object": "error", "message": message, "type": "BadRequestError", "code": 400}))
    assert isinstance(caught, ProviderRejected)
    assert caught.every_input


async def test_a_batch_larger_than_text_embeddings_inference_takes_is_halved() -> None:
    message = "batch size 64 > maximum allowed batch size 32"
    caught = await refused(Answer(422, {"message": message, "code": 422, "type": "Validation"}))
    assert isinstance(caught, ProviderRejected)
    assert message in str(caught)
    assert not caught.every_input


async def test_a_proxy_that_refuses_has_sent_nothing_and_is_named() -> None:
    async with ForwardProxy({}, user="user:hunter2") as server:
        way = proxy_at(server.url_for("user:hunter3"), setting="HTTPS_PROXY")
        async with HttpClient(base_url="https://provider.test", timeout=5, proxy=way) as http:
            with pytest.raises(ProviderUnavailable) as caught:
                await OpenAI(http, api_key=API_KEY, clock=ManualClock()).embed(TEXTS, model=SMALL, dimensions=None)
    words = f"the proxy {server.url} refuses user or password (HTTP 407): check HTTPS_PROXY"
    assert str(caught.value) == f"openai gave no answer: {words}"
    assert not caught.value.sent
