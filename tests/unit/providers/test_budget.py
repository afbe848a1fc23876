from collections.abc import Awaitable, Callable

import pytest

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderPaused,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    RateLimited,
)
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.providers.budget import Budget, tariff_of
from tests.fakes.scripted_provider import CountingLimiter

MODEL = "text-embedding-3-small"
TEXTS = ("one text", "another text")
RESERVED = sum(map(most_tokens, TEXTS))


def price(model: str) -> int:
    return 20 if model == MODEL else 0


def answering(tokens: int) -> Callable[[], Awaitable[Embeddings]]:
    async def send() -> Embeddings:
        return Embeddings((b"", b""), model=MODEL, provider="openai", tokens=tokens)

    return send


async def settled(limiter: CountingLimiter, send: Callable[[], Awaitable[Embeddings]]) -> list[Amount]:
    await Budget(limiter, price=price).call(send, texts=TEXTS, model=MODEL)
    return limiter.settled


@pytest.mark.parametrize("tokens", [1, RESERVED, RESERVED + 100])
async def test_reserves_an_estimate_and_settles_by_the_providers_figure(tokens: int) -> None:
    limiter = CountingLimiter()
    assert await settled(limiter, answering(tokens)) == [Amount(2, tokens, 20 * tokens)]
    assert limiter.taken == [Amount(2, RESERVED, 20 * RESERVED)]


async def test_without_a_figure_the_estimate_stands() -> None:
    assert await settled(CountingLimiter(), answering(0)) == [Amount(2, RESERVED, 20 * RESERVED)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProviderUnavailable("refused", sent=False), [Amount()]),
        (ProviderPaused("not prepared", until=1.0), [Amount()]),
        (ProviderThrottled("429"), [Amount(tasks=2)]),
        (ProviderRejected("400"), [Amount(tasks=2)]),
        (ProviderAccountRefused("402"), [Amount(tasks=2)]),
        (ProviderUnavailable("timeout"), []),
    ],
)
async def test_what_is_charged_for_a_failure(error: Exception, expected: list[Amount]) -> None:
    async def fail() -> Embeddings:
        raise error

    limiter = CountingLimiter()
    with pytest.raises(type(error)):
        await settled(limiter, fail)
    assert limiter.settled == expected


async def test_without_room_nothing_is_sent() -> None:
    async def never() -> Embeddings:
        raise AssertionError("sent")

    with pytest.raises(RateLimited):
        await settled(CountingLimiter(1), never)


def test_an_estimate_is_no_more_than_the_model_reads() -> None:
    long = "word " * 100_000
    assert tariff_of("text-embedding-3-small", price).most_for((long,)).tokens == 8192
    assert tariff_of("somebody-elses", price).most_for((long,)).tokens == most_tokens(long) > 8192
    assert tariff_of(MODEL, price).most_for((long, "short")).tokens == 8192 + most_tokens("short")


def test_money_is_told_in_dollars() -> None:
    assert Budget(CountingLimiter(), price=lambda _: 20_000).dollars(1_000_000, MODEL) == 0.02
