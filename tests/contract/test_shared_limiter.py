"""Several limiters on one ledger admit no more than one would, whatever their clocks say."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import RateLimited
from ai_task_processor.domain.events import Event
from ai_task_processor.limits.limiter import REFRESH, Limiter
from ai_task_processor.limits.store import SharedLimitStore
from ai_task_processor.limits.windows import LENGTHS, READING_ERROR, Strategy, period_of
from ai_task_processor.storage.engine import Storage, open_storage
from ai_task_processor.storage.postgres import database_time
from tests.fakes.time import BEGINNING, ManualClock, virtual_time

T = TypeVar("T")
UTC = ZoneInfo("UTC")
MINUTE = BEGINNING - BEGINNING % 60 + 60


def ignored(event: Event) -> None:
    del event


async def opened(
    storage: Storage, clock: Clock, time: Callable[[Any], float], strategy: Strategy = "rolling", **limits: int
) -> Limiter:
    store = SharedLimitStore(storage, time=time)
    return await Limiter.open(limits, strategy=strategy, zone=UTC, store=store, clock=clock, observer=ignored)


class TestOnPostgres:
    """Real transactions of three replicas, each with connections of its own."""

    @pytest.fixture
    async def limiters(self, postgres_url: str) -> AsyncIterator[list[Limiter]]:
        async with contextlib.AsyncExitStack() as stack:
            storages = [await stack.enter_async_context(open_storage(postgres_url)) for _ in range(3)]
            clocks = [ManualClock(MINUTE + offset) for offset in (-7_200, 0, 500)]
            yield [
                await opened(each, clock, database_time, hour=50) for each, clock in zip(storages, clocks, strict=True)
            ]

    async def test_admit_as_much_as_one_would(self, limiters: list[Limiter]) -> None:
        takes = [limiter.take(Amount(3)) for limiter in limiters for _ in range(12)]
        ends = await asyncio.gather(*takes, return_exceptions=True)
        assert ends.count(None) == 16
        assert all(end is None or isinstance(end, RateLimited) for end in ends)
        for limiter in limiters:
            await limiter.refresh()
            assert limiter.usage()["hour"].current == 48
            assert limiter.headroom().tasks == 2

    async def test_what_one_gives_back_another_can_use(self, limiters: list[Limiter]) -> None:
        first, second, _ = limiters
        await first.take(Amount(50))
        with pytest.raises(RateLimited):
            await second.take(Amount(1))
        await first.refund(Amount(20))
        await second.take(Amount(20))
        with pytest.raises(RateLimited):
            await first.take(Amount(1))

    async def test_a_refusal_is_told_by_the_replicas_own_clock(self, limiters: list[Limiter]) -> None:
        await limiters[0].take(Amount(50))
        for limiter, offset in zip(limiters, (-7_200, 0, 500), strict=True):
            with pytest.raises(RateLimited) as refusal:
                await limiter.take(Amount(1))
            assert refusal.value.until == pytest.approx(MINUTE + offset + 3_600, abs=40)


@virtual_time
async def test_limits_given_late_are_watched_as_others_are() -> None:
    async with open_storage("sqlite://", executor=Inline()) as storage:
        clock = ManualClock(MINUTE)
        others = await opened(storage, clock, lambda _: clock.now(), hour=10)
        ours = await opened(storage, clock, lambda _: clock.now())
        watch = asyncio.create_task(ours.watch())
        await asyncio.sleep(3 * REFRESH)
        await ours.adjust({"hour": 10})
        for booked in (4, 7):
            await others.take(Amount(booked - ours.usage()["hour"].current))
            await asyncio.sleep(2 * REFRESH)
            assert ours.usage()["hour"].current == booked
        watch.cancel()


# --- State machine ----------------------------------------------------------------------------------------------------


class Inline(Executor):
    """Runs what it is given at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # a future carries whatever was raised
            future.set_exception(error)
        return future


class ReplicaClock:
    """The clocks of one machine: its monotonic one is right, its wall clock may say anything."""

    def __init__(self, world: "SharedLimiterMachine", wall: float, monotonic: float) -> None:
        self.wall = wall
        self._world = world
        self._monotonic = monotonic

    def now(self) -> float:
        return self._world.elapsed + self.wall

    def monotonic(self) -> float:
        return self._world.elapsed + self._monotonic


SECONDS = st.one_of(st.floats(0, 2), st.floats(0, 130), st.sampled_from([0.46875, 59.999, 60.0, 60.47, 3_600.0]))
WHO = st.integers(0, 2)


class SharedLimiterMachine(RuleBasedStateMachine):
    """Takes, refunds and restarts of three replicas, against a log of every admission by true time."""

    strategy: Strategy = "rolling"

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0
        self.database_offset = MINUTE
        self.line = 0.0
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.log: list[tuple[float, float, int]] = []  # true time, line, count

    @initialize(minute=st.integers(1, 12), offsets=st.tuples(*[st.sampled_from([-90_000.0, -3.0, 0.0, 7_000.0])] * 3))
    def begin(self, minute: int, offsets: tuple[float, ...]) -> None:
        self.limit = minute
        self.clocks = [ReplicaClock(self, MINUTE + offset, 1_000 * offset) for offset in offsets]
        self.storage = self.runner.run(self.stack.enter_async_context(open_storage("sqlite://", executor=Inline())))
        self.limiters = [self._opened(who) for who in range(3)]

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def _opened(self, who: int) -> Limiter:
        return self.runner.run(
            opened(self.storage, self.clocks[who], lambda _: self._database_time(), self.strategy, minute=self.limit)
        )

    def _database_time(self) -> float:
        return self.elapsed + self.database_offset

    @rule(who=WHO, count=st.integers(1, 12))
    def take(self, who: int, count: int) -> None:
        self._try(who, count)

    @rule(who=WHO)
    def refresh_and_take_what_fits(self, who: int) -> None:
        self.runner.run(self.limiters[who].refresh())
        room = self.limiters[who].headroom().tasks
        assert not room or self._try(who, room)

    @rule(who=WHO, count=st.integers(1, 12))
    def wait_and_take(self, who: int, count: int) -> None:
        """Coming back at the time that was told is in time, once the database's clock is where it was before."""
        count = min(count, self.limit)
        self.elapsed += max(0.0, self.line - self._database_time())
        for _ in range(3):
            if self._try(who, count):
                return
            self.elapsed += self.until - self.clocks[who].now()
        raise AssertionError("refused at the time that it had told")

    @rule(who=WHO, count=st.integers(1, 12))
    def take_and_give_back(self, who: int, count: int) -> None:
        async def both() -> None:
            await self.limiters[who].take(Amount(count))
            await self.limiters[who].refund(Amount(count))

        with contextlib.suppress(RateLimited):
            self.runner.run(both())
            self._now_on_the_line()

    @rule(seconds=SECONDS)
    def advance(self, seconds: float) -> None:
        self.elapsed += seconds

    @rule(seconds=st.sampled_from([0.5, 61.0, 3_600.0]))
    def set_the_databases_clock_back(self, seconds: float) -> None:
        self.database_offset -= seconds

    @rule(who=WHO, seconds=st.sampled_from([-3_600.0, 61.0]))
    def set_a_replicas_clock(self, who: int, seconds: float) -> None:
        self.clocks[who].wall += seconds

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        self.limiters[who] = self._opened(who)

    def _try(self, who: int, count: int) -> bool:
        try:
            self.runner.run(self.limiters[who].take(Amount(count)))
        except RateLimited as error:
            self.until = error.until
            return False
        self.log.append((self.elapsed, self._now_on_the_line(), count))
        return True

    def _now_on_the_line(self) -> float:
        self.line = max(self.line, self._database_time())
        return self.line

    @invariant()
    def holds(self) -> None:
        if not self.log:
            return
        newest = self.log[-1]
        if self.strategy == "rolling":
            count = sum(entry[2] for entry in self.log if entry[0] > newest[0] - LENGTHS["minute"])
        else:
            start, end = period_of("minute", newest[1], UTC)
            inside = [entry for entry in self.log if start + READING_ERROR <= entry[1] < end - READING_ERROR]
            count = sum(entry[2] for entry in inside)
        assert count <= self.limit


class FixedSharedLimiterMachine(SharedLimiterMachine):
    strategy = "fixed"


TestRolling = SharedLimiterMachine.TestCase
TestFixed = FixedSharedLimiterMachine.TestCase
TestRolling.settings = TestFixed.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
