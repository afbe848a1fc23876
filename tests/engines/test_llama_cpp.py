"""What the ``openai`` provider makes of a real llama.cpp, and what that taught is in docs/providers.md."""

import base64
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.errors import ProviderAccountRefused, ProviderRejected, ProviderUnavailable
from ai_task_processor.providers.checks import check_embeddings
from ai_task_processor.providers.connection import HttpClient
from ai_task_processor.providers.neighbours import ALIKE, PROBES, Neighbours
from ai_task_processor.providers.openai import OpenAI
from tests.engines.llama_server import DIMENSIONS, MODEL, MOST_TOKENS, llama_server
from tests.fakes.daemon import started
from tests.fakes.fleet import CLIENT_ID, CLIENT_SECRET, task_server
from tests.fakes.flow import Recorder

pytestmark = pytest.mark.engines

TEXTS = ("The cat sat on the mat.", "Zinsen", "日本語", "😀", "The cat sat on the mat. ")


@asynccontextmanager
async def openai(url: str, *, key: str = "none", truncate: bool = False) -> AsyncIterator[OpenAI]:
    async with HttpClient(base_url=url, timeout=60) as http:
        yield OpenAI(http, api_key=key, clock=SystemClock(), truncate=truncate)


def numbers(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, dtype="<f4")


async def asked(url: str, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(f"{url}/embeddings", json=body, timeout=60)


async def test_a_batch_has_a_vector_for_each_text_in_order_and_its_tokens(llama: str) -> None:
    async with openai(llama) as provider:
        together = await provider.embed(TEXTS, model=MODEL, dimensions=None)
        alone = [await provider.embed([text], model=MODEL, dimensions=None) for text in TEXTS]
    assert together.vectors == tuple(answer.vectors[0] for answer in alone)
    assert {len(numbers(vector)) for vector in together.vectors} == {DIMENSIONS}
    assert together.tokens == sum(answer.tokens for answer in alone) > len(TEXTS)
    check_embeddings(together, inputs=len(TEXTS), dimensions=None)


async def test_base64_is_what_the_numbers_are_to_the_last_bit(llama: str) -> None:
    as_base64 = (await asked(llama, input=TEXTS[:1], model=MODEL, encoding_format="base64")).json()
    as_numbers = (await asked(llama, input=TEXTS[:1], model=MODEL)).json()
    data = base64.b64decode(as_base64["data"][0]["embedding"])
    assert data == np.array(as_numbers["data"][0]["embedding"], dtype="<f4").tobytes()
    async with openai(llama) as provider:
        answer = await provider.embed(TEXTS[:1], model=MODEL, dimensions=None)
    assert answer.vectors == (data,)


async def test_a_text_too_long_is_answered_with_500_and_fails_alone(llama: str) -> None:
    assert (await asked(llama, input="word " * 200, model=MODEL)).status_code == 500
    async with openai(llama) as provider:
        with pytest.raises(ProviderRejected, match=f"it has 201 tokens; {MODEL} takes at most {MOST_TOKENS}") as caught:
            await provider.embed(["fine", "word " * 200], model=MODEL, dimensions=None)
    assert not caught.value.every_input


async def test_a_text_too_long_is_shortened_on_request(llama: str) -> None:
    async with openai(llama, truncate=True) as provider:
        answer = await provider.embed(["word " * 200], model=MODEL, dimensions=None)
    assert MOST_TOKENS * 0.8 < answer.tokens <= MOST_TOKENS


async def test_any_name_is_answered_with_the_one_model_there_is(llama: str) -> None:
    async with openai(llama) as provider:
        right = await provider.embed(TEXTS[:1], model=MODEL, dimensions=None)
        wrong = await provider.embed(TEXTS[:1], model="mxbai-embed-large", dimensions=None)
        strange = await provider.embed(TEXTS[:1], model="no-such-model", dimensions=None)
    assert right.vectors == wrong.vectors == strange.vectors
    with pytest.raises(ProviderUnavailable, match="mxbai-embed-large gave 576 dimensions instead of 1024"):
        check_embeddings(wrong, inputs=1, dimensions=None)
    check_embeddings(strange, inputs=1, dimensions=None)  # nothing tells it from a model of that name


async def test_dimensions_are_passed_over_and_so_refused(llama: str) -> None:
    async with openai(llama) as provider:
        with pytest.raises(ProviderRejected, match="dimensions is 64, but the provider gives 576") as caught:
            await provider.embed(TEXTS[:2], model=MODEL, dimensions=64)
        assert caught.value.every_input
        answer = await provider.embed(TEXTS[:1], model=MODEL, dimensions=DIMENSIONS)
    assert len(numbers(answer.vectors[0])) == DIMENSIONS


@pytest.mark.parametrize("texts", [[""], ["fine", ""]], ids=str)
async def test_an_empty_text_is_refused_alone(llama: str, texts: list[str]) -> None:
    async with openai(llama) as provider:
        with pytest.raises(ProviderRejected, match="cannot be empty") as caught:
            await provider.embed(texts, model=MODEL, dimensions=None)
    assert not caught.value.every_input


async def test_a_key_that_it_does_not_take_is_the_account_s_fault() -> None:
    with llama_server(api_keys=["right"]) as url:
        async with openai(url, key="wrong") as provider:
            with pytest.raises(ProviderAccountRefused, match="401"):
                await provider.embed(TEXTS[:1], model=MODEL, dimensions=None)
        async with openai(url, key="right") as provider:
            assert (await provider.embed(TEXTS[:1], model=MODEL, dimensions=None)).tokens


@pytest.mark.parametrize("unified", [True, False])
async def test_slots_that_mix_texts_are_found_out(unified: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with llama_server(n_parallel=4, kv_unified=unified) as url:
        async with openai(url) as provider:
            together = await provider.embed(PROBES, model=MODEL, dimensions=None)
            alone = [(await provider.embed([text], model=MODEL, dimensions=None)).vectors[0] for text in PROBES]
            cosines = [numbers(one) @ numbers(other) for one, other in zip(alone, together.vectors, strict=True)]
            if min(cosines) >= ALIKE:
                await Neighbours(provider, observer=Recorder()).embed(TEXTS[:2], model=MODEL, dimensions=None)
            else:
                assert not unified
                with pytest.raises(ProviderUnavailable, match="-np 1, or try -kvu"):
                    await Neighbours(provider, observer=Recorder()).embed(TEXTS[:2], model=MODEL, dimensions=None)


async def test_real_vectors_go_through_the_whole_flow(llama: str, tmp_path: Path) -> None:
    async with task_server(tmp_path) as tasks:
        ids = await tasks.post([*TEXTS, "word " * 200], model=MODEL)
        env = {
            "API_BASE_URL": tasks.url,
            "OAUTH2_TOKEN_URL": f"{tasks.url}/oauth2/token",
            "OAUTH2_CLIENT_ID": CLIENT_ID,
            "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
            "PROCESSING_MODE": "openai",
            "OPENAI_BASE_URL": llama,
            "OPENAI_API_KEY": "none",
            "POLLING_INTERVAL_SECONDS": "0.2",
            "METRICS_PORT": "0",
            "LOG_FORMAT": "json",
        }
        async with started("run", folder=tmp_path, env=env) as daemon:
            await tasks.until("succeeded", len(TEXTS), within=15)
            await tasks.until("failed", 1, within=60)
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0
        results = await tasks.results()
    async with openai(llama) as provider:
        direct = await provider.embed(TEXTS, model=MODEL, dimensions=None)
    received = tuple(np.array(results[one], dtype="<f4").tobytes() for one in ids[:-1])
    assert received == direct.vectors
    assert results[ids[-1]] is None
