"""Limits as an operator sets them, kept by the whole daemon on simulated time and across restarts."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ai_task_processor.domain.events import LimitReached, ProviderCalled
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.mock import Mock
from ai_task_processor.wiring.engines import Bench, Engine
from tests.fakes.daemon import Daemon, running, simulated_time
from tests.fakes.task_api_server import FakeTaskApi
from tests.fakes.time import LoopClock


class Counted(Mock):
    """The mock provider, which remembers when it was asked for how many texts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        self.asked += [LoopClock().now()] * len(texts)
        return await super().embed(texts, model=model, dimensions=dimensions)

    def engine(self, _bench: Bench, _name: str) -> Engine:
        return Engine(self, timeout=60)

    def most_within(self, seconds: float) -> int:
        """The largest number of texts that any stretch of time of this length has seen."""
        return max(sum(begin <= moment < begin + seconds for moment in self.asked) for begin in self.asked)


async def usage(daemon: Daemon) -> dict[str, int]:
    _, body = await daemon.get("/health")
    return {window: used["current"] for window, used in body["rate_limiting"]["current_usage"].items()}


@simulated_time
async def test_twenty_a_minute_with_fifty_tasks(tmp_path: Path) -> None:
    clock, provider = LoopClock(), Counted()
    async with FakeTaskApi(clock=clock) as api:
        api.add(*({"_id": str(number)} for number in range(50)))
        began = clock.now()
        async with running(api, tmp_path, engine=provider.engine, rate_limit_per_minute=20) as daemon:
            await daemon.reported(20)
            assert await usage(daemon) == {"minute": 20}
            assert await daemon.metric("rate_limit_remaining", window="minute") == 0
            assert (await daemon.get("/ready"))[0] == 200
            await daemon.reported(50)
        assert 120 <= clock.now() - began < 135
        assert provider.most_within(60) == 20
        assert daemon.watch.of(LimitReached, window="minute")
        assert daemon.watch.of(ProviderCalled)
        assert {len(bodies) for bodies in api.patches.values()} == {1}


@simulated_time
async def test_a_restart_forgets_no_admission(tmp_path: Path) -> None:
    provider = Counted()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(50)))
        done = 0
        while done < 50:
            async with running(api, tmp_path, engine=provider.engine, rate_limit_per_minute=20) as daemon:
                await daemon.reported(min(15, 50 - done))
            done = api.states()["succeeded"]
        assert provider.most_within(60) == 20
        assert len(provider.asked) == 50


@simulated_time
async def test_several_windows_hold_at_once(tmp_path: Path) -> None:
    provider = Counted()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(30)))
        limits = {"rate_limit_per_minute": 10, "rate_limit_per_hour": 12}
        async with running(api, tmp_path, engine=provider.engine, polling_interval_seconds=300, **limits) as daemon:
            await daemon.watch.until(lambda: len(provider.asked) == 30, within=4 * 3_600)
        assert provider.most_within(60) == 10
        assert provider.most_within(3_600) == 12


@simulated_time
async def test_a_calendar_window_opens_when_the_calendar_says_so(tmp_path: Path) -> None:
    provider = Counted()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(30)))
        limits = {"rate_limit_strategy": "fixed", "rate_limit_per_hour": 10, "rate_limit_timezone": "Asia/Kathmandu"}
        async with running(api, tmp_path, engine=provider.engine, **limits) as daemon:
            await daemon.reported(30)
        moments = sorted(provider.asked)
        for number in (10, 20):
            assert moments[number] - moments[number - 1] > 60
            assert datetime.fromtimestamp(moments[number], UTC).minute == 15, "full hours begin there at a quarter past"


@simulated_time
async def test_limits_that_are_switched_off_limit_nothing(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(50)))
        async with running(api, tmp_path, rate_limit_per_minute=5, rate_limit_enabled=False) as daemon:
            began = LoopClock().now()
            await daemon.reported(50)
            assert LoopClock().now() - began < 5
            _, body = await daemon.get("/health")
            assert body["rate_limiting"]["enabled"] is False


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@simulated_time
async def test_a_batch_larger_than_the_limit_is_cut_to_it(tmp_path: Path, batch_size: int) -> None:
    provider = Counted()
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(12)))
        sizes = {"rate_limit_per_minute": 3, "batch_size": batch_size}
        async with running(api, tmp_path, engine=provider.engine, **sizes) as daemon:
            await daemon.reported(12)
        assert provider.most_within(60) == 3
        assert len(provider.asked) == 12
