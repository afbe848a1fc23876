"""What every embedding provider promises, whatever is inside."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.errors import NotNow, ProviderError, ProviderRejected
from ai_task_processor.domain.ports import EmbeddingProvider
from ai_task_processor.providers.batch_size import Sized
from ai_task_processor.providers.budget import Budget
from ai_task_processor.providers.cache_store import MemoryCacheStore
from ai_task_processor.providers.cached import Cached
from ai_task_processor.providers.concurrency import Concurrency
from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.providers.guarded import Guarded, Patience, counts
from ai_task_processor.providers.hybrid import Hybrid
from ai_task_processor.providers.local.files import find_model
from ai_task_processor.providers.local.gguf import GgufModel
from ai_task_processor.providers.local.model import LocalModel
from ai_task_processor.providers.local.onnx import OnnxModel
from ai_task_processor.providers.local.shipped import Local
from ai_task_processor.providers.mock import Mock
from ai_task_processor.providers.ollama import Ollama
from ai_task_processor.providers.ollama_models import OllamaModels, sdk_client
from ai_task_processor.providers.openai import OpenAI
from ai_task_processor.providers.space_store import MemorySpaceStore
from ai_task_processor.providers.spaces import Spaced, Spaces
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.retry import Backoff
from tests.fakes.flow import Recorder
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.openai_server import API_KEY, OpenAIServer
from tests.fakes.provider_faults import Answer, Drop, Fault, Faults
from tests.fakes.scripted_provider import CountingLimiter

MODEL = "nomic-embed-text"
TEXTS = ["one", "two words", "ein längerer Satz über nichts", "日本語", "😀", "one "]


@asynccontextmanager
async def openai() -> AsyncIterator[EmbeddingProvider]:
    async with OpenAIServer(reverses=True) as server, _openai(server) as provider:
        yield provider


@asynccontextmanager
async def _openai(server: OpenAIServer) -> AsyncIterator[EmbeddingProvider]:
    async with HttpClient(base_url=server.url, timeout=5) as http:
        yield OpenAI(http, api_key=API_KEY, clock=SystemClock())


@asynccontextmanager
async def ollama() -> AsyncIterator[EmbeddingProvider]:
    async with OllamaServer(models=[MODEL]) as server, _ollama(server) as provider:
        yield provider


@asynccontextmanager
async def _ollama(server: OllamaServer) -> AsyncIterator[EmbeddingProvider]:
    clock = SystemClock()
    async with HttpClient(base_url=server.url, timeout=5) as http, sdk_client(server.url, download_timeout=5) as sdk:
        models = OllamaModels(sdk, [MODEL], download_timeout=5, clock=clock, observer=Recorder())
        await models.prepare()
        yield Ollama(http, models, clock=clock)


@asynccontextmanager
async def local() -> AsyncIterator[EmbeddingProvider]:
    yield Local()


@asynccontextmanager
async def local_onnx(minilm: Path) -> AsyncIterator[EmbeddingProvider]:
    files = find_model(minilm)
    yield LocalModel(OnnxModel(files, truncate=False), model=files.name)


@asynccontextmanager
async def local_gguf(smollm2: GgufModel) -> AsyncIterator[EmbeddingProvider]:
    yield LocalModel(smollm2, model="smollm2")


@asynccontextmanager
async def mock() -> AsyncIterator[EmbeddingProvider]:
    yield Mock()


def guard(provider: EmbeddingProvider) -> Guarded:
    clock, told = SystemClock(), Recorder()
    breaker = Breaker(provider.name, threshold=5, recovery_seconds=30, clock=clock, observer=told, counts=counts)
    return Guarded(
        provider,
        patience=Patience(attempts=2, backoff=Backoff(factor=0.001), timeout=5),
        concurrency=Concurrency(provider.name, ceiling=5, clock=clock, observer=told),
        breaker=breaker,
        budget=Budget(CountingLimiter()),
        clock=clock,
        observer=told,
    )


@asynccontextmanager
async def sized() -> AsyncIterator[EmbeddingProvider]:
    async with ollama() as provider:
        yield Sized(provider, most=64, clock=SystemClock())


@asynccontextmanager
async def guarded() -> AsyncIterator[EmbeddingProvider]:
    async with openai() as provider:
        yield guard(provider)


@asynccontextmanager
async def hybrid() -> AsyncIterator[EmbeddingProvider]:
    async with ollama() as primary, openai() as fallback:
        yield Hybrid(guard(primary), guard(fallback), fallback_model="text-embedding-3-small", observer=Recorder())


@asynccontextmanager
async def fallen_back() -> AsyncIterator[EmbeddingProvider]:
    async with OllamaServer(models=[MODEL]) as server, _ollama(server) as primary, openai() as fallback:
        server.faults.rule = lambda _body: Answer(500)
        yield Hybrid(guard(primary), guard(fallback), fallback_model="text-embedding-3-small", observer=Recorder())


@asynccontextmanager
async def cached() -> AsyncIterator[EmbeddingProvider]:
    async with openai() as provider:
        yield Cached(guard(provider), MemoryCacheStore(1_000_000), observer=Recorder())


@asynccontextmanager
async def spaced() -> AsyncIterator[EmbeddingProvider]:
    async with cached() as provider:
        spaces = await Spaces.open(MemorySpaceStore(), identities={}, clock=SystemClock())
        yield Spaced(provider, spaces, observer=Recorder())


@pytest.fixture(
    params=[
        *(openai, ollama, local, mock, sized, guarded, hybrid, fallen_back, cached, spaced),
        pytest.param(local_onnx, marks=pytest.mark.engines),
        pytest.param(local_gguf, marks=pytest.mark.engines),
    ],
    ids=lambda make: make.__name__,
)
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddingProvider]:
    make = request.param
    models = [request.getfixturevalue(name) for name in inspect.signature(make).parameters]
    async with make(*models) as made:
        yield made


async def test_one_vector_for_each_text_in_order(provider: EmbeddingProvider) -> None:
    together = await provider.embed(TEXTS, model=MODEL, dimensions=None)
    alone = [await provider.embed([text], model=MODEL, dimensions=None) for text in TEXTS]
    assert together.vectors == tuple(answer.vectors[0] for answer in alone)
    assert len(set(together.vectors)) >= len({text.strip() for text in TEXTS})  # some models do not see spaces


async def test_vectors_do_not_depend_on_their_neighbours(provider: EmbeddingProvider) -> None:
    forwards = await provider.embed(TEXTS, model=MODEL, dimensions=None)
    backwards = await provider.embed(TEXTS[::-1], model=MODEL, dimensions=None)
    assert forwards.vectors == backwards.vectors[::-1]


@pytest.mark.parametrize("dimensions", [None, 64, 128, 256])
async def test_vectors_are_float32_of_one_length(provider: EmbeddingProvider, dimensions: int | None) -> None:
    answer = await provider.embed(TEXTS, model=MODEL, dimensions=dimensions)
    for vector in answer.vectors:
        assert isinstance(vector, bytes)
        numbers = np.frombuffer(vector, "<f4")
        assert len(numbers) == dimensions or dimensions is None
        assert np.isfinite(numbers).all()
        assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-5)
    assert len({len(vector) for vector in answer.vectors}) == 1


async def test_answers_name_who_gave_them_and_what_it_cost(provider: EmbeddingProvider) -> None:
    answer = await provider.embed(TEXTS, model=MODEL, dimensions=None)
    assert answer.provider
    assert answer.model
    assert answer.tokens > 0


async def test_equal_texts_have_equal_vectors(provider: EmbeddingProvider) -> None:
    answer = await provider.embed(["same", "other", "same"], model=MODEL, dimensions=None)
    assert answer.vectors[0] == answer.vectors[2] != answer.vectors[1]


async def test_it_says_what_it_serves_and_has_a_name(provider: EmbeddingProvider) -> None:
    assert provider.serves(MODEL)
    assert provider.serves(f"{MODEL}:latest")
    assert provider.name.isidentifier()


async def test_impossible_dimensions_are_refused_or_answered_never_ignored(provider: EmbeddingProvider) -> None:
    try:
        answer = await provider.embed(["a"], model=MODEL, dimensions=7777)
    except ProviderRejected as error:
        assert error.every_input  # noqa: PT017 - either is right
    else:
        assert len(answer.vectors[0]) == 4 * 7777


FAULTS: list[Fault] = [
    Answer(200, "<html>"),
    Answer(200, {}),
    Answer(200, {"data": [], "embeddings": []}),
    Answer(200, {"data": [{"embedding": "AAAA"}], "embeddings": [[float("nan")]]}),
    Answer(400, {"error": "bad"}),
    Answer(401, {"error": "who are you"}),
    Answer(404, "nothing here"),
    Answer(404, {"error": 'model "x" not found'}),
    Answer(429, ["busy"], {"Retry-After": "100"}),
    Answer(500, "null"),
    Answer(503, "", {"Retry-After": "100"}),
    Drop(),
    Drop(sent=10),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("engine", ["openai", "ollama"])
async def test_whatever_the_server_does_errors_are_ours(engine: str, fault: Fault) -> None:
    def always(faults: Faults) -> None:
        faults.rule = lambda _body: fault

    async with OpenAIServer() as one, OllamaServer(models=[MODEL]) as other, _openai(one) as a, _ollama(other) as b:
        always(one.faults)
        always(other.faults)
        with pytest.raises((ProviderError, NotNow)):
            await guard(a if engine == "openai" else b).embed(TEXTS, model=MODEL, dimensions=None)
