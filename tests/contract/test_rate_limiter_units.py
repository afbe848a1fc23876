"""Tokens and money beside tasks: what every rate limiter promises of them, over each of its stores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ai_task_processor.domain.amount import UNLIMITED, USD, Amount, window_key
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import RateLimited
from ai_task_processor.domain.events import Event, LimitReached
from ai_task_processor.domain.ports import RateLimiter
from ai_task_processor.limits.ledger import Decide, LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.store import MemoryLimitStore, SharedLimitStore, SqlLimitStore
from ai_task_processor.limits.windows import KEYS, LENGTHS, Strategy, period_of
from ai_task_processor.storage.engine import open_storage
from tests.fakes.limits import SECONDS, Caller, Inline, Machine
from tests.fakes.time import BEGINNING, ManualClock

UTC = ZoneInfo("UTC")
MINUTE = BEGINNING - BEGINNING % 60 + 60


class Counting(MemoryLimitStore):
    """A store that counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    async def change(self, decide: Decide) -> None:
        self.changes += 1
        await super().change(decide)


@contextlib.asynccontextmanager
async def opened_store(kind: str, clock: Clock) -> AsyncIterator[LimitStore]:
    if kind == "memory":
        yield MemoryLimitStore()
        return
    async with open_storage("sqlite://", executor=Inline()) as storage:
        yield SqlLimitStore(storage) if kind == "sql" else SharedLimitStore(storage, time=lambda _: clock.now())


@pytest.fixture(params=["memory", "sql", "shared"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[LimitStore]:
    async with opened_store(request.param, clock) as store:
        yield store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MINUTE)


async def opened(
    store: LimitStore,
    clock: Clock,
    limits: Mapping[str, int],
    *,
    strategy: Strategy = "rolling",
    seen: list[Event] | None = None,
) -> RateLimiter:
    return await Limiter.open(
        limits,
        strategy=strategy,
        zone=UTC,
        store=store,
        clock=clock,
        observer=[].append if seen is None else seen.append,
        boot="b",
    )


def used(limiter: RateLimiter) -> Mapping[str, int]:
    return {key: window.current for key, window in limiter.usage().items()}


def test_every_window_of_every_unit_has_its_name() -> None:
    assert len(KEYS) == 15
    assert KEYS["minute"] == ("tasks", "minute")
    assert KEYS["tokens_per_day"] == ("tokens", "day")
    assert all(window_key(unit, name) == key for key, (unit, name) in KEYS.items())


async def test_books_all_units_or_none(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, {"minute": 5, "tokens_per_minute": 100, "cost_per_hour": 3 * USD})
    await limiter.take(Amount(2, 60, USD))
    with pytest.raises(RateLimited, match="50 tokens in the limit per minute"):
        await limiter.take(Amount(1, 50, USD))
    with pytest.raises(RateLimited, match=r"2\.5 USD in the limit per hour"):
        await limiter.take(Amount(1, 10, 5 * USD // 2))
    with pytest.raises(RateLimited, match="4 tasks in the limit per minute"):
        await limiter.take(Amount(4, 10, USD))
    assert used(limiter) == {"minute": 2, "tokens_per_minute": 60, "cost_per_hour": USD}
    await limiter.take(Amount(3, 40, 2 * USD))
    assert limiter.headroom() == Amount(0, 0, 0)
    assert [window.unit for window in limiter.usage().values()] == ["tasks", "tokens", "cost"]


async def test_room_is_told_for_each_unit(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, {"tokens_per_minute": 100, "tokens_per_day": 70})
    assert limiter.headroom() == Amount(UNLIMITED.tasks, 70, UNLIMITED.cost)
    await limiter.take(Amount(9, 50, 7))
    assert limiter.headroom() == Amount(UNLIMITED.tasks, 20, UNLIMITED.cost)
    assert limiter.opens_at() is None
    assert limiter.opens_at(Amount(1, 20)) is None
    opens_at = limiter.opens_at(Amount(1, 21))
    assert opens_at == pytest.approx(clock.now() + LENGTHS["day"], rel=0.01)


async def test_a_unit_that_is_full_keeps_nobody_from_what_needs_none_of_it(
    store: LimitStore, clock: ManualClock
) -> None:
    limiter = await opened(store, clock, {"cost_per_month": 10})
    await limiter.take(Amount(1, 5, 10))
    assert limiter.opens_at() is None
    assert limiter.opens_at(Amount(1, 1, 1)) is not None
    await limiter.take(Amount(1, 5, 0))
    with pytest.raises(RateLimited):
        await limiter.take(Amount(1, 5, 1))


async def test_what_was_not_used_is_given_back(store: LimitStore, clock: ManualClock) -> None:
    limits = {"minute": 10, "tokens_per_minute": 100, "cost_per_minute": 50}
    limiter = await opened(store, clock, limits)
    await limiter.take(Amount(2, 80, 40))
    await limiter.settle(Amount(2, 30, 15))
    assert used(limiter) == {"minute": 2, "tokens_per_minute": 30, "cost_per_minute": 15}
    await limiter.settle(Amount(2, 30, 15))
    clock.advance(5)
    await limiter.take(Amount(1, 1, 1))
    assert used(limiter) == used(await opened(store, clock, limits))
    assert used(limiter) == {"minute": 3, "tokens_per_minute": 31, "cost_per_minute": 16}


async def test_what_is_given_back_waits_for_the_next_change_of_a_store_of_our_own(clock: ManualClock) -> None:
    store = Counting()
    limits = {"tokens_per_minute": 100}
    limiter = await opened(store, clock, limits)
    await limiter.take(Amount(1, 80))
    await limiter.settle(Amount(1, 30))
    assert store.changes == 2  # the first is the look at the opening
    assert used(await opened(store, clock, limits)) == {"tokens_per_minute": 80}
    await limiter.take(Amount(1, 1))
    assert used(await opened(store, clock, limits)) == {"tokens_per_minute": 31}


async def test_what_was_used_beyond_the_estimate_counts_on_top(store: LimitStore, clock: ManualClock) -> None:
    limits = {"tokens_per_minute": 100}
    limiter = await opened(store, clock, limits)
    await limiter.take(Amount(1, 90))
    clock.advance(10)
    await limiter.settle(Amount(1, 130))
    assert used(limiter) == {"tokens_per_minute": 130}
    assert limiter.headroom().tokens == 0
    assert used(await opened(store, clock, limits)) == {"tokens_per_minute": 130}
    clock.advance(51)
    assert used(limiter) == {"tokens_per_minute": 40}
    clock.advance(10)
    assert used(limiter) == {"tokens_per_minute": 0}


async def test_an_exact_estimate_is_settled_without_a_word_to_the_store(clock: ManualClock) -> None:
    store = Counting()
    limiter = await opened(store, clock, {"minute": 9, "tokens_per_minute": 100})
    await limiter.take(Amount(1, 40, 7))
    before = store.changes
    await limiter.settle(Amount(1, 40, 9))
    assert store.changes == before
    await limiter.settle(Amount(1, 41))
    assert store.changes == before + 1


async def test_without_a_booking_there_is_nothing_to_settle(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, {"tokens_per_minute": 100})
    await limiter.settle(Amount(1, 50))
    await limiter.refund(Amount(1, 50))
    assert used(limiter) == {"tokens_per_minute": 0}


async def test_a_limit_that_is_new_begins_empty_and_the_others_stay(store: LimitStore, clock: ManualClock) -> None:
    before = await opened(store, clock, {"minute": 9})
    await before.take(Amount(4, 40, 400))
    after = await opened(store, clock, {"minute": 9, "tokens_per_minute": 100})
    assert used(after) == {"minute": 4, "tokens_per_minute": 0}


async def test_a_window_without_room_for_the_next_text_is_told_once(store: LimitStore, clock: ManualClock) -> None:
    seen: list[Event] = []
    limiter = await opened(store, clock, {"tokens_per_minute": 100, "cost_per_day": USD}, seen=seen)
    await limiter.take(Amount(1, 95, USD))
    for _ in range(3):
        assert limiter.opens_at(Amount(1, 10)) is not None
    tokens, cost = (event for event in seen if isinstance(event, LimitReached))
    assert (cost.window, cost.limit) == ("tokens_per_minute", 100) or (tokens.window, tokens.limit) == (
        "tokens_per_minute",
        100,
    )
    assert {event.window: event.limit for event in (tokens, cost)} == {"tokens_per_minute": 100, "cost_per_day": 1.0}


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
async def test_a_steady_load_can_use_what_is_allowed(clock: ManualClock, strategy: Strategy) -> None:
    limiter = await opened(MemoryLimitStore(), clock, {"tokens_per_minute": 1_000}, strategy=strategy)
    sent = []
    while clock.now() < MINUTE + 660:
        with contextlib.suppress(RateLimited):
            await limiter.take(Amount(1, 20))
            sent.append(clock.now())
        clock.advance(0.1)
    steady = sum(20 for moment in sent if moment >= MINUTE + 60)
    assert 0.98 * 10_000 <= steady <= 10_000


# --- State machine ----------------------------------------------------------------------------------------------------

LIMITED = ("minute", "tokens_per_minute", "tokens_per_hour", "cost_per_minute")


class Booked:
    """One admission, or what one turned out to be above its estimate."""

    def __init__(self, moment: float, line: float, amount: Amount) -> None:
        self.moment, self.line, self.amount = moment, line, amount


class UnitsMachine(RuleBasedStateMachine):
    """Takes, settlements, refunds, restarts and clocks that are set, against a log of all that was used."""

    strategy: Strategy = "rolling"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.machine = Machine(MINUTE)
        self.stack = contextlib.AsyncExitStack()
        self.log: list[Booked] = []
        self.last: dict[int, Booked] = {}
        self.line, self.line_read_at = 0.0, self.machine.monotonic

    @initialize(
        kind=st.sampled_from(["memory", "sql"]),
        limits=st.tuples(st.integers(1, 12), st.integers(1, 60), st.integers(1, 200), st.integers(1, 60)),
    )
    def begin(self, kind: str, limits: tuple[int, ...]) -> None:
        self.limits = dict(zip(LIMITED, limits, strict=True))
        self.store = self.loop.run_until_complete(
            self.stack.enter_async_context(opened_store(kind, self.machine.clock()))
        )
        self._open()

    def _open(self) -> None:
        self.clock = self.machine.clock()
        self.callers = [Caller(self.loop) for _ in range(3)]
        self.last.clear()
        self.limiter = self.loop.run_until_complete(opened(self.store, self.clock, self.limits, strategy=self.strategy))

    def _end(self) -> None:
        tasks = [caller.task for caller in self.callers]
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def teardown(self) -> None:
        if hasattr(self, "callers"):
            self._end()
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.close()

    @rule(who=st.integers(0, 2), tasks=st.integers(1, 3), tokens=st.integers(0, 30), cost=st.integers(0, 30))
    def take(self, who: int, tasks: int, tokens: int, cost: int) -> None:
        self._try(who, Amount(tasks, tokens, cost))

    @rule(who=st.integers(0, 2))
    def take_what_fits(self, who: int) -> None:
        room = self.limiter.headroom()
        if room.tasks and room.tokens:
            assert self._try(who, room)

    @rule(who=st.integers(0, 2), tokens=st.integers(1, 30))
    def wait_and_take(self, who: int, tokens: int) -> None:
        """Coming back at the time that was told is always in time."""
        amount = Amount(1, min(tokens, self.limits["tokens_per_minute"], self.limits["tokens_per_hour"]))
        for _ in range(3):
            opens_at = self.limiter.opens_at(amount)
            if opens_at is None:
                assert self._try(who, amount)
                return
            assert opens_at > self.clock.now()
            self.machine.advance(opens_at - self.clock.now())
        raise AssertionError("closed at the time that it had told")

    @rule(who=st.integers(0, 2), share=st.floats(0, 1))
    def settle_below(self, who: int, share: float) -> None:
        if who in self.last:
            booked = self.last[who].amount
            self._settle(who, Amount(booked.tasks, int(booked.tokens * share), int(booked.cost * share)))

    @rule(who=st.integers(0, 2), more=st.integers(0, 40))
    def settle_above(self, who: int, more: int) -> None:
        if who in self.last:
            booked = self.last[who].amount
            self._settle(who, Amount(booked.tasks, booked.tokens + more, booked.cost + more))

    @rule(who=st.integers(0, 2), tasks=st.integers(0, 3), tokens=st.integers(0, 30))
    def refund(self, who: int, tasks: int, tokens: int) -> None:
        back = Amount(tasks, tokens, tokens)
        self.callers[who].do(self.limiter.refund(back))
        if who in self.last:
            self.last[who].amount = self.last[who].amount.above(back)

    @rule(seconds=SECONDS)
    def advance(self, seconds: float) -> None:
        self.machine.advance(seconds)

    @rule(seconds=st.sampled_from([-3_600.0, -61.0, -1.0, 1.0, 61.0, 3_600.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.machine.jump(seconds)

    @rule()
    def restart(self) -> None:
        self._end()
        reading = self.loop.run_until_complete(self.store.load()).reading
        if reading:  # where the line was seen to be since then, the next run cannot know: nothing was admitted there
            self.line, self.line_read_at = reading.line, reading.monotonic
        self._open()

    def _try(self, who: int, amount: Amount) -> bool:
        room = amount.at_most(Amount(10**6, 10**6, 10**6))
        try:
            self.callers[who].do(self.limiter.take(room))
        except RateLimited:
            return False
        self.last[who] = self._note(room)
        for key, limit in self.limits.items():
            if room.of(KEYS[key][0]):
                assert self._in_window(key) <= limit
        return True

    def _settle(self, who: int, actual: Amount) -> None:
        booking = self.last[who]
        self.callers[who].do(self.limiter.settle(actual))
        over = actual.above(booking.amount)
        booking.amount = booking.amount.at_most(actual)
        if over != Amount():
            self._note(over)

    def _note(self, amount: Amount) -> Booked:
        booked = Booked(self.machine.monotonic, self._now_on_the_line(), amount)
        self.log.append(booked)
        return booked

    def _now_on_the_line(self) -> float:
        steady = self.line + self.machine.monotonic - self.line_read_at
        self.line, self.line_read_at = max(self.clock.now(), steady), self.machine.monotonic
        return self.line

    def _in_window(self, key: str) -> int:
        """What was used within the window that ends now."""
        unit, name = KEYS[key]
        if self.strategy == "rolling":
            begin = self.machine.monotonic - LENGTHS[name]
            return sum(one.amount.of(unit) for one in self.log if one.moment > begin)
        start, end = period_of(name, self._now_on_the_line(), UTC)
        return sum(one.amount.of(unit) for one in self.log if start <= one.line < end)

    @invariant()
    def counts_no_less_than_was_used(self) -> None:
        if self.log:
            for key, window in self.limiter.usage().items():
                assert window.current >= self._in_window(key)


class FixedUnitsMachine(UnitsMachine):
    strategy = "fixed"


TestRolling = UnitsMachine.TestCase
TestFixed = FixedUnitsMachine.TestCase


def test_what_was_only_seen_is_not_known_to_the_next_run() -> None:
    machine = FixedUnitsMachine()
    machine.begin(kind="memory", limits=(1, 1, 1, 1))
    machine.take_what_fits(who=0)
    machine.set_the_clock(seconds=3_600.0)
    machine.counts_no_less_than_was_used()
    machine.set_the_clock(seconds=-61.0)
    machine.restart()
    machine.take_what_fits(who=0)
    machine.advance(seconds=1.0)
    machine.counts_no_less_than_was_used()
    machine.teardown()


for case in (TestRolling, TestFixed):
    case.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
