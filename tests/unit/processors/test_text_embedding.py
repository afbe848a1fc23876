import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.task import JsonValue, Task
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.domain.work import Batch, Rejection, Work
from ai_task_processor.processors.text_embedding import LONGEST_TEXT, MAX_DIMENSIONS, TextEmbedding
from ai_task_processor.providers.mock import mock_vector
from tests.fakes.scripted_provider import ScriptedProvider

SECRET = "a text that must not be repeated"


def processor(provider: ScriptedProvider | None = None, *, truncate: bool = False) -> TextEmbedding:
    only_known = ScriptedProvider(serves=lambda model: model.startswith(("nomic", "bge")))
    return TextEmbedding(
        provider or only_known,
        default_model="nomic-embed-text:latest",
        examples=("nomic-embed-text", "bge-m3"),
        truncate=truncate,
    )


def task(content: JsonValue, name: str = "t1") -> Task:
    return Task(id=name, type="text_embedding", content=content, created_at=0.0)


def planned(content: JsonValue, name: str = "t1") -> Work:
    work = processor().plan(task(content, name))
    assert isinstance(work, Work)
    return work


def batch(*works: Work) -> Batch:
    return Batch(type="text_embedding", key=works[0].key, works=works)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("a bare text", "nomic-embed-text"),
        ({"text": "a"}, "nomic-embed-text"),
        ({"text": "a", "model": None, "dimensions": None}, "nomic-embed-text"),
        ({"text": "a", "model": "nomic-embed-text"}, "nomic-embed-text"),
        ({"text": "a", "model": "nomic-embed-text:latest"}, "nomic-embed-text"),
        ({"text": "a", "model": "bge-m3", "extra": [1]}, "bge-m3"),
        ({"text": "a", "model": "bge-m3", "dimensions": 256}, "bge-m3 256"),
        ({"text": "a", "dimensions": 1}, "nomic-embed-text 1"),
        ({"text": "a", "dimensions": MAX_DIMENSIONS}, f"nomic-embed-text {MAX_DIMENSIONS}"),
        ({"text": "x" * LONGEST_TEXT}, "nomic-embed-text"),
        ({"text": "\x00 odd but text 😀"}, "nomic-embed-text"),
    ],
)
def test_what_can_be_planned(content: JsonValue, key: str) -> None:
    assert planned(content).key == key


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "content must be a text, or an object"),
        (3, "content must be a text, or an object"),
        (True, "content must be a text, or an object"),
        ([SECRET], "content must be a text, or an object"),
        ({}, "content.text must be a string, not missing"),
        ({"text": None}, "content.text must be a string, not missing"),
        ({"text": 3}, "not a number"),
        ({"text": True}, "not a boolean"),
        ({"text": [SECRET]}, "not a list"),
        ({"text": {"a": SECRET}}, "not an object"),
        ("", "content.text is empty"),
        ({"text": ""}, "content.text is empty"),
        ({"text": " \n\t\u3000"}, "content.text is empty"),
        ({"text": f"{SECRET} \ud83d"}, "valid Unicode"),
        ({"text": "x" * (LONGEST_TEXT + 1)}, f"{LONGEST_TEXT + 1} characters; at most {LONGEST_TEXT}"),
        ({"text": SECRET, "model": ""}, "content.model must be the name"),
        ({"text": SECRET, "model": ":latest"}, "content.model must be the name"),
        ({"text": SECRET, "model": "two words"}, "content.model must be the name"),
        ({"text": SECRET, "model": "m" * 201}, "content.model must be the name"),
        ({"text": SECRET, "model": "nomic\ud83d"}, "content.model must be the name"),
        ({"text": SECRET, "model": 3}, "content.model must be the name"),
        ({"text": SECRET, "model": "gpt-5"}, "gpt-5 is not supported here; use one of: nomic-embed-text, bge-m3"),
        ({"text": SECRET, "dimensions": 0}, "content.dimensions must be a whole number from 1 to 8192"),
        ({"text": SECRET, "dimensions": -1}, "content.dimensions must be"),
        ({"text": SECRET, "dimensions": MAX_DIMENSIONS + 1}, "content.dimensions must be"),
        ({"text": SECRET, "dimensions": 1.0}, "content.dimensions must be"),
        ({"text": SECRET, "dimensions": True}, "content.dimensions must be"),
        ({"text": SECRET, "dimensions": "256"}, "content.dimensions must be"),
    ],
)
def test_what_its_author_must_change(content: JsonValue, reason: str) -> None:
    rejection = processor().plan(task(content))
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason
    assert SECRET not in rejection.reason


def test_a_very_long_text_is_cut_on_request() -> None:
    plan = processor(truncate=True).plan(task("x" * (LONGEST_TEXT + 1)))
    assert isinstance(plan, Work)
    assert plan.size == most_tokens("x" * LONGEST_TEXT)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
contents = json | st.fixed_dictionaries({}, optional={"text": json, "model": json, "dimensions": json})


@given(contents)
def test_any_json_is_understood_or_rejected(content: Any) -> None:
    plan = processor().plan(task(content))
    if isinstance(plan, Work):
        assert plan.size > 0
    else:
        plan.reason.encode()


@given(st.lists(st.tuples(st.text("nomic/: 0123", min_size=1, max_size=9), st.none() | st.integers(1, 12)), max_size=9))
def test_equal_keys_mean_equal_requests(asked: list[tuple[str, int | None]]) -> None:
    seen: dict[str, tuple[str, int | None]] = {}
    for model, dimensions in asked:
        plan = processor().plan(task({"text": "a", "model": f"nomic{model}", "dimensions": dimensions}))
        if isinstance(plan, Work):
            request = (f"nomic{model}".removesuffix(":latest"), dimensions)
            assert seen.setdefault(plan.key, request) == request


async def test_each_task_gets_its_own_vector() -> None:
    provider = ScriptedProvider(name="openai")
    works = [planned({"text": text, "dimensions": 64}, text) for text in ("a", "b", "c")]
    outcomes = await processor(provider).perform(batch(*works))
    assert provider.calls == [(("a", "b", "c"), "nomic-embed-text", 64)]
    for name in ("a", "b", "c"):
        outcome = outcomes[name]
        assert isinstance(outcome, Succeeded)
        assert outcome.result == Vector(mock_vector(name, "nomic-embed-text", 64))
        assert (outcome.model, outcome.provider) == ("nomic-embed-text", "openai")


@given(
    texts=st.lists(st.text("ab ", min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=9),
    total=st.integers(0, 99),
    known=st.frozensets(st.integers(0, 8)),
)
def test_shares_of_the_tokens_add_up_and_what_was_known_has_none(
    texts: list[str], total: int, known: frozenset[int]
) -> None:
    asked = set(range(len(texts))) - known
    provider = ScriptedProvider()
    provider.change = lambda answer: replace(answer, tokens=total if asked else 0, known=known)
    works = [planned(text, str(number)) for number, text in enumerate(texts)]
    outcomes = asyncio.run(processor(provider).perform(batch(*works)))
    shares = [outcome.tokens for outcome in outcomes.values() if isinstance(outcome, Succeeded)]
    assert len(shares) == len(texts)
    assert sum(shares) == (total if asked else 0)
    assert min(shares) >= 0
    assert all(shares[place] == 0 for place in range(len(texts)) if place in known)


async def test_what_the_provider_raises_is_raised() -> None:
    error = ProviderUnavailable("down")
    with pytest.raises(ProviderUnavailable) as caught:
        await processor(ScriptedProvider(error)).perform(batch(planned("a")))
    assert caught.value is error


def test_it_has_a_type() -> None:
    assert processor().type == "text_embedding"
