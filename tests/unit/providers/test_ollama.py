from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderError,
    ProviderPaused,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.ollama import MOMENT, WHILE_PULLED, Ollama
from ai_task_processor.providers.ollama_models import OllamaModels, sdk_client
from tests.fakes.flow import Recorder
from tests.fakes.ollama_server import OllamaServer, count_tokens
from tests.fakes.provider_faults import Answer, Drop, Hang
from tests.fakes.time import BEGINNING, ManualClock

NOMIC = "nomic-embed-text"
TEXTS = ("one", "two words", "drei Wörter hier")


@asynccontextmanager
async def ollama(
    server: OllamaServer, *supported: str, prepared: bool = True, silence: float = 5.0, truncate: bool = False
) -> AsyncIterator[tuple[Ollama, OllamaModels]]:
    clock = ManualClock()
    async with (
        HttpClient(base_url=server.url, timeout=silence) as http,
        sdk_client(server.url, download_timeout=5.0) as sdk,
    ):
        models = OllamaModels(sdk, supported or (NOMIC,), download_timeout=5.0, clock=clock, observer=Recorder())
        if prepared:
            await models.prepare()
        yield Ollama(http, models, clock=clock, truncate=truncate), models


async def refused(answer: Answer, texts: tuple[str, ...] = TEXTS) -> ProviderError:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        server.faults.queue(answer)
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts, model=NOMIC, dimensions=None)
        assert len(server.requests) == 1, "no retry inside a leaf"
        return caught.value


async def test_one_request_for_a_batch() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        answer = await provider.embed(TEXTS, model=NOMIC, dimensions=None)
    assert answer.vectors == tuple(mock_vector(text, NOMIC) for text in TEXTS)
    assert (answer.model, answer.provider, answer.tokens) == (NOMIC, "ollama", sum(map(count_tokens, TEXTS)))
    assert server.requests == [{"model": NOMIC, "input": list(TEXTS), "truncate": False}]


async def test_dimensions_are_passed_on_when_asked_for() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        answer = await provider.embed(TEXTS, model=NOMIC, dimensions=256)
    assert answer.vectors == tuple(mock_vector(text, NOMIC, 256) for text in TEXTS)


async def test_more_dimensions_than_the_model_has_are_refused_unsent() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        with pytest.raises(ProviderRejected, match="at most 768") as caught:
            await provider.embed(TEXTS, model=NOMIC, dimensions=1024)
        assert server.requests == []
    assert caught.value.every_input


@pytest.mark.parametrize("asked", [NOMIC, f"{NOMIC}:latest"])
@pytest.mark.parametrize("supported", [NOMIC, f"{NOMIC}:latest"])
async def test_latest_is_the_same_model(asked: str, supported: str) -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server, supported) as (provider, _):
        assert provider.serves(asked)
        answer = await provider.embed(TEXTS, model=asked, dimensions=None)
        assert server.pulls == []
    assert answer.vectors == tuple(mock_vector(text, NOMIC) for text in TEXTS)


async def test_only_supported_models_are_served() -> None:
    async with OllamaServer(models=[NOMIC, "bge-m3"]) as server, ollama(server) as (provider, _):
        assert not provider.serves("bge-m3")
        assert not provider.serves(f"{NOMIC}:v1.5")


async def test_not_now_before_anybody_has_looked() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server, prepared=False) as (provider, _):
        with pytest.raises(ProviderPaused) as caught:
            await provider.embed(TEXTS, model=NOMIC, dimensions=None)
        assert server.requests == []
    assert caught.value.until == BEGINNING + MOMENT


async def test_a_model_that_vanished_is_pulled_again() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, models):
        server.installed.clear()
        with pytest.raises(ProviderPaused) as caught:
            await provider.embed(TEXTS, model=NOMIC, dimensions=None)
        assert caught.value.until == BEGINNING + WHILE_PULLED
        assert models.missing == (NOMIC,)
        await models.prepare()
        assert server.pulls == [NOMIC]
        await provider.embed(TEXTS, model=NOMIC, dimensions=None)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(400, {"error": "invalid input type"}), ProviderRejected),
        (Answer(401, {"error": "unauthorized"}), ProviderAccountRefused),
        (Answer(403, "<html>"), ProviderAccountRefused),
        (Answer(404, "404 page not found"), ProviderUnavailable),
        (Answer(429, {"error": "too many requests"}), ProviderThrottled),
        (Answer(503, {"error": "server busy, please try again. maximum pending requests exceeded"}), ProviderThrottled),
        (Answer(500, {"error": "failed to encode response: json: unsupported value: NaN"}), ProviderUnavailable),
        (Answer(500, {"error": "llama runner process has terminated: signal: killed"}), ProviderUnavailable),
        (Answer(500, ["what"]), ProviderUnavailable),
        (Answer(502, "<html>Bad gateway</html>"), ProviderUnavailable),
        (Answer(204, ""), ProviderUnavailable),
        (Answer(200, "<html>Welcome</html>"), ProviderUnavailable),
        (Answer(200, "null"), ProviderUnavailable),
        (Answer(200, {}), ProviderUnavailable),
        (Answer(200, {"embeddings": None}), ProviderUnavailable),
        (Answer(200, {"embeddings": 3}), ProviderUnavailable),
        (Answer(200, {"embeddings": [None]}), ProviderUnavailable),
        (Answer(200, {"embeddings": [{"a": 1}]}), ProviderUnavailable),
    ],
)
async def test_each_refusal_has_its_class(answer: Answer, kind: type[ProviderError]) -> None:
    assert type(await refused(answer)) is kind


async def test_a_model_that_cannot_embed_is_refused_for_every_input() -> None:
    error = await refused(Answer(501, {"error": "this model does not support embeddings"}))
    assert isinstance(error, ProviderRejected)
    assert error.every_input


async def test_retry_after_is_passed_on() -> None:
    error = await refused(Answer(503, "", {"Retry-After": "9"}))
    assert isinstance(error, ProviderUnavailable)
    assert error.retry_after == 9.0


async def test_a_long_text_is_refused_with_its_length_and_the_allowed_one() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        with pytest.raises(ProviderRejected, match=r"about \d+ tokens; .* at most 2048") as caught:
            await provider.embed(["word " * 3000], model=NOMIC, dimensions=None)
    assert not caught.value.every_input


async def test_a_long_text_is_cut_by_the_server_on_request() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server, truncate=True) as (provider, _):
        await provider.embed(["word " * 3000], model=NOMIC, dimensions=None)
        assert server.requests[0]["truncate"] is True


async def test_a_message_that_repeats_a_text_is_not_passed_on() -> None:
    text = "the patient's name is in this text"
    assert "patient" not in str(await refused(Answer(400, {"error": f"cannot embed {text}"}), texts=(text,)))


@pytest.mark.parametrize(("fault", "silence"), [(Drop(), 5.0), (Drop(sent=10), 5.0), (Hang(), 0.02)])
async def test_no_answer_may_have_been_seen(fault: Any, silence: float) -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server, silence=silence) as (provider, _):
        server.faults.queue(fault)
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.embed(TEXTS, model=NOMIC, dimensions=None)
    assert caught.value.sent


async def test_a_refused_connection_was_never_seen() -> None:
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (_, models):
        pass
    async with HttpClient(base_url=server.url, timeout=5) as http:
        provider = Ollama(http, models, clock=ManualClock())
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.embed(TEXTS, model=NOMIC, dimensions=None)
    assert not caught.value.sent


async def test_numbers_beyond_float32_are_left_for_the_checks() -> None:
    body = orjson.dumps({"embeddings": [[1e300, 1.0]]})
    async with OllamaServer(models=[NOMIC]) as server, ollama(server) as (provider, _):
        server.faults.queue(Answer(200, body))
        answer = await provider.embed(["a"], model=NOMIC, dimensions=None)
    assert answer.vectors == (b"\x00\x00\x80\x7f\x00\x00\x80\x3f",)
