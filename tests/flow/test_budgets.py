"""Budgets of tokens and money, kept by the whole daemon on simulated time."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ai_task_processor.domain.events import LimitReached
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.providers.mock import Mock
from ai_task_processor.wiring.engines import Bench, Engine
from tests.fakes.daemon import running, simulated_time
from tests.fakes.task_api_server import FakeTaskApi
from tests.fakes.time import LoopClock

SMALL = "text-embedding-3-small"


class Metered(Mock):
    """Answers as the mock provider, under another name, and counts ``each`` (at most) for a text."""

    name = "mock"

    def __init__(self, name: str = "mock", each: float = 1.0) -> None:
        super().__init__()
        self.name = name
        self.spent: list[tuple[float, int]] = []
        self.order: list[str] = []
        self._each = each

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        tokens = sum(max(1, int(self._each * most_tokens(text))) for text in texts)
        self.spent.append((LoopClock().now(), tokens))
        self.order += texts
        answer = await super().embed(texts, model=model, dimensions=dimensions)
        return Embeddings(answer.vectors, model=model, provider=self.name, tokens=tokens)

    def engine(self, _bench: Bench, _name: str) -> Engine:
        return Engine(self, timeout=60)

    def most_within(self, seconds: float) -> int:
        """The largest number of tokens that any stretch of time of this length has seen."""
        return max(sum(n for at, n in self.spent if begin <= at < begin + seconds) for begin, _ in self.spent)


def text(number: int, length: int = 40) -> dict[str, object]:
    """A task whose text is the only one of its kind."""
    return {"_id": f"{number:03}", "content": {"text": f"{number:03}".ljust(length, "x"), "model": SMALL}}


@pytest.mark.parametrize("each", [1.0, 0.4])
@simulated_time
async def test_tokens_flow_at_the_rate_that_is_allowed(tmp_path: Path, each: float) -> None:
    provider = Metered(each=each)
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*(text(number) for number in range(100)))
        began = LoopClock().now()
        limits = {"token_limit_per_minute": 500, "polling_interval_seconds": 5}
        async with running(api, tmp_path, engine=provider.engine, **limits) as daemon:
            await daemon.reported(100)
            assert daemon.watch.of(LimitReached, window="tokens_per_minute", limit=500)
            _, body = await daemon.get("/health")
            assert body["rate_limiting"]["current_usage"]["tokens_per_minute"]["limit"] == 500
            assert await daemon.metric("token_limit_limit", window="minute") == 500
        needed = sum(n for _, n in provider.spent) / 500 * 60
        assert provider.most_within(60) <= 500
        assert LoopClock().now() - began <= needed * 1.1 + 30
        assert api.states()["succeeded"] == 100


@simulated_time
async def test_a_text_larger_than_the_whole_window_fails_in_words_and_holds_up_nobody(tmp_path: Path) -> None:
    provider = Metered()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(text(0, length=4_000), *(text(number) for number in range(1, 10)))
        async with running(api, tmp_path, engine=provider.engine, token_limit_per_minute=500) as daemon:
            await daemon.reported(10)
        assert api.states() == {"succeeded": 9, "failed": 1}
        (told,) = api.patches["000"]
        assert "500 tokens per minute" in told["error"]


@simulated_time
async def test_a_large_text_is_not_starved_by_small_ones(tmp_path: Path) -> None:
    provider = Metered()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*(text(number) for number in range(20)), text(20, length=900), *(text(n) for n in range(21, 60)))
        limits = {"token_limit_per_minute": 500, "concurrency_limit": 4}
        async with running(api, tmp_path, engine=provider.engine, **limits) as daemon:
            await daemon.reported(60)
        assert provider.order.index(next(one for one in provider.order if one.startswith("020"))) <= 25
        assert provider.most_within(60) <= 500


@simulated_time
async def test_money_is_not_spent_beyond_its_limit(tmp_path: Path) -> None:
    provider = Metered(name="openai")
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*(text(number) for number in range(40)))
        settings = {
            "processing_mode": "openai",
            "openai_api_key": "sk-1",
            "model_prices": {SMALL: 100},  # 500 tokens are five cents
            "cost_limit_per_hour": "0.05",
        }
        async with running(api, tmp_path, engine=provider.engine, **settings) as daemon:
            await daemon.watch.seen(LimitReached, window="cost_per_hour", limit=0.05)
            _, body = await daemon.get("/health")
            shown = body["rate_limiting"]["current_usage"]["cost_per_hour"]
            assert 0.045 <= shown["current"] <= shown["limit"] == 0.05
            assert shown["reset_at"]
            spent = await daemon.metric("cost_limit_used_usd", window="hour")
            assert spent == shown["current"]
            await daemon.watch.until(lambda: len(provider.order) == 40, within=20 * 3_600)
        assert provider.most_within(3_600) <= 500


@simulated_time
async def test_engines_of_our_own_spend_nothing(tmp_path: Path) -> None:
    provider = Metered()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*(text(number) for number in range(40)))
        began = LoopClock().now()
        async with running(api, tmp_path, engine=provider.engine, cost_limit_per_day="0.000001") as daemon:
            await daemon.reported(40)
            assert LoopClock().now() - began < 10
            assert await daemon.metric("cost_limit_used_usd", window="day") == 0
