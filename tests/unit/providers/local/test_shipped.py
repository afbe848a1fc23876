import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ai_task_processor.domain.errors import ConfigurationError, ProviderRejected
from ai_task_processor.providers.local.shipped import DIMENSIONS, LENGTHS, MODEL, TOKENS_AT_ONCE, Local, _require

TEXTS = [
    "The cat sat on the mat.",
    "A kitten rests upon a rug.",
    "Interest rates rose by half a point.",
    "日本語のテキスト",
    "😀",
    "\u200b",
    "a",
    "many words " * 300,
]


@pytest.fixture(scope="module")
def local() -> Local:
    return Local()


def numbers(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, dtype="<f4")


async def test_vectors_mean_something(local: Local) -> None:
    answer = await local.embed(TEXTS[:3], model="any", dimensions=None)
    cat, kitten, rates = map(numbers, answer.vectors)
    assert cat @ kitten > cat @ rates + 0.2
    assert (answer.model, answer.provider) == (MODEL, "local")


async def test_the_same_bits_as_the_package_gives(local: Local) -> None:
    import wordllama  # noqa: PLC0415 - slow, and only here

    package = Path(wordllama.__file__).parent
    reference = wordllama.WordLlama.load(cache_dir=package, disable_download=True).embed(TEXTS, norm=True)
    answer = await local.embed(TEXTS, model="any", dimensions=None)
    assert [numbers(vector).tolist() for vector in answer.vectors] == reference.tolist()


async def test_the_same_bits_whatever_the_neighbours(local: Local) -> None:
    together = await local.embed(TEXTS, model="any", dimensions=None)
    backwards = await local.embed(TEXTS[::-1], model="any", dimensions=None)
    alone = [await local.embed([text], model="any", dimensions=None) for text in TEXTS]
    assert together.vectors == backwards.vectors[::-1] == tuple(answer.vectors[0] for answer in alone)
    assert together.tokens == sum(answer.tokens for answer in alone)


@pytest.mark.parametrize("length", LENGTHS)
async def test_shorter_vectors_are_the_beginning_made_to_length_one(local: Local, length: int) -> None:
    whole = await local.embed(TEXTS, model="any", dimensions=None)
    short = await local.embed(TEXTS, model="any", dimensions=length)
    for long_vector, short_vector in zip(map(numbers, whole.vectors), map(numbers, short.vectors), strict=True):
        assert len(short_vector) == length
        assert np.linalg.norm(short_vector) == pytest.approx(1, abs=1e-6)
        beginning = long_vector[:length] / np.linalg.norm(long_vector[:length])
        assert short_vector == pytest.approx(beginning, abs=1e-6)


@pytest.mark.parametrize("length", [1, 100, 512, 8192])
async def test_other_lengths_are_refused_with_those_there_are(local: Local, length: int) -> None:
    with pytest.raises(ProviderRejected, match=r"64, 128, 256") as caught:
        await local.embed(["a"], model="any", dimensions=length)
    assert caught.value.every_input


async def test_a_very_long_text_is_added_up_in_pieces(local: Local) -> None:
    text = "word " * (3 * TOKENS_AT_ONCE)
    answer = await local.embed([text, "short"], model="any", dimensions=None)
    assert answer.tokens > 3 * TOKENS_AT_ONCE
    word, long = map(numbers, (await local.embed(["word word word", text], model="any", dimensions=None)).vectors)
    assert word @ long > 0.95


async def test_a_text_without_tokens_is_refused_alone(local: Local) -> None:
    with pytest.raises(ProviderRejected) as caught:
        await local.embed(["fine", ""], model="any", dimensions=None)
    assert not caught.value.every_input


async def test_the_loop_goes_on_meanwhile(local: Local) -> None:
    work = asyncio.create_task(local.embed(["word " * 20_000], model="any", dimensions=None))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await work).tokens > 20_000
    assert turns > 10


async def test_many_at_once_load_it_once() -> None:
    fresh = Local()
    answers = await asyncio.gather(*(fresh.embed([text], model="any", dimensions=None) for text in TEXTS[:4]))
    assert len({answer.vectors[0] for answer in answers}) == 4
    assert len(numbers(answers[0].vectors[0])) == DIMENSIONS


def test_any_model_name_is_served(local: Local) -> None:
    assert local.serves("nomic-embed-text")


def test_a_missing_package_is_told_with_its_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'ai-task-processor\[local\]'"):
        _require("no_such_package_anywhere")


def test_neither_importing_it_nor_loading_it_touches_the_root_logger() -> None:
    program = """
import asyncio, logging, sys
from ai_task_processor.providers.local.shipped import Local
provider = Local()
assert "wordllama" not in sys.modules, "imported before it is needed"
asyncio.run(provider.embed(["a"], model="any", dimensions=None))
assert "wordllama" in sys.modules
assert logging.root.handlers == [], logging.root.handlers
assert logging.root.level == logging.WARNING, logging.root.level
"""
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - our own words
