import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ai_task_processor.domain.amount import UNLIMITED, Amount
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import JournalError, RateLimited
from ai_task_processor.domain.events import Event, LimitReached
from ai_task_processor.domain.ports import RateLimiter
from ai_task_processor.limits.ledger import Change, Decide, Ledger, LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.store import MemoryLimitStore, SharedLimitStore, SqlLimitStore
from ai_task_processor.limits.windows import BUCKETS, LENGTHS, READING_ERROR, Strategy, WindowName, period_of
from ai_task_processor.storage.engine import is_postgres, open_storage
from tests.fakes.limits import SECONDS, Caller, Inline, Machine
from tests.fakes.time import BEGINNING, LoopClock, ManualClock, virtual_time

T = TypeVar("T")
UTC = ZoneInfo("UTC")
MINUTE = BEGINNING - BEGINNING % 60 + 60


@pytest.fixture(params=["memory", "sql", "shared", "postgresql"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the ledger is; the URL of a database for the last two, whose clock is the test's."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return str(request.param)


alone = pytest.mark.parametrize("place", ["memory", "sql"], indirect=True)
"""For what is said of the process's own clocks; replicas go by the database's."""


quick = pytest.mark.parametrize("place", ["memory", "sql", "shared"], indirect=True)
"""For what takes a thousand bookings."""


@pytest.fixture
async def store(place: str, clock: ManualClock) -> AsyncIterator[LimitStore]:
    if place == "memory":
        yield MemoryLimitStore()
        return
    url = place if is_postgres(place) else "sqlite://"
    async with open_storage(url, executor=Inline()) as storage:
        yield SqlLimitStore(storage) if place == "sql" else SharedLimitStore(storage, time=lambda _: clock.now())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MINUTE)


async def opened(
    store: LimitStore,
    clock: Clock,
    seen: list[Event] | None = None,
    *,
    strategy: Strategy = "rolling",
    zone: ZoneInfo = UTC,
    boot: str = "",
    **limits: int,
) -> Limiter:
    return await Limiter.open(
        limits,  # type: ignore[arg-type]  # keyword names are strings
        strategy=strategy,
        zone=zone,
        store=store,
        clock=clock,
        observer=[].append if seen is None else seen.append,
        boot=boot,
    )


def tasks(count: int) -> Amount:
    return Amount(tasks=count)


def used(limiter: RateLimiter) -> Mapping[str, int]:
    return {name: window.current for name, window in limiter.usage().items()}


class Watched:
    """A store around another; ``on_save`` is awaited before each save takes effect."""

    def __init__(self, inner: LimitStore, on_save: Callable[[], Awaitable[None]]) -> None:
        self.inner = inner
        self.on_save = on_save
        self.saves = 0

    async def load(self) -> Ledger:
        return await self.inner.load()

    async def change(self, decide: Decide) -> None:
        if isinstance(self.inner, SharedLimitStore):
            await self.on_save()
            await self.inner.change(lambda ledger: self._counted(decide(ledger)))
            return
        change = decide(None)
        if change is not None:
            self.saves += 1
            await self.on_save()
            await self.inner.change(lambda _: change)

    async def replace(self, ledger: Ledger) -> None:
        await self.inner.replace(ledger)

    def _counted(self, change: Change | None) -> Change | None:
        self.saves += change is not None
        return change


class Untouchable:
    """A store that nobody may use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the store was used")


async def test_books_in_all_windows_or_in_none(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=5, hour=8)
    await limiter.take(tasks(5))
    clock.advance(120)
    with pytest.raises(RateLimited, match="hour"):
        await limiter.take(tasks(4))
    assert used(limiter) == {"minute": 0, "hour": 5}
    await limiter.take(tasks(3))
    assert used(limiter) == {"minute": 3, "hour": 8}
    assert (limiter.headroom().tasks, limiter.usage()["minute"].remaining, limiter.usage()["hour"].remaining) == (
        0,
        2,
        0,
    )


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
async def test_a_refusal_says_from_when_on_it_fits(store: LimitStore, clock: ManualClock, strategy: Strategy) -> None:
    limiter = await opened(store, clock, strategy=strategy, minute=10, hour=25)
    for _ in range(2):
        await limiter.take(tasks(6))
        clock.advance(20)
        await limiter.take(tasks(4))
        with pytest.raises(RateLimited) as refusal:
            await limiter.take(tasks(3))
        assert refusal.value.until == pytest.approx(clock.now() + 40, abs=0.5)
        assert limiter.opens_at() == refusal.value.until
        assert limiter.headroom().tasks == 0
        clock.advance(refusal.value.until - clock.now() - 0.01)
        assert limiter.opens_at() is not None
        clock.advance(0.011)
        assert limiter.opens_at() is None
        clock.advance(60)
    await limiter.take(tasks(5))
    with pytest.raises(RateLimited) as refusal:
        await limiter.take(tasks(1))
    clock.advance(refusal.value.until - clock.now())
    await limiter.take(tasks(1))
    assert refusal.value.until >= (MINUTE + 3_600 if strategy == "rolling" else period_of("hour", MINUTE, UTC)[1])


async def test_calendar_windows_open_at_the_very_moment(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, strategy="fixed", minute=2, day=3)
    clock.advance(59.9)
    await limiter.take(tasks(2))
    assert limiter.opens_at() == MINUTE + 60 == limiter.usage()["minute"].reset_at
    clock.advance(0.1)
    await limiter.take(tasks(1))
    assert limiter.opens_at() == period_of("day", MINUTE, UTC)[1] == limiter.usage()["day"].reset_at


async def test_a_limit_smaller_than_what_is_asked_for(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=5)
    await limiter.take(tasks(2))
    with pytest.raises(RateLimited) as refusal:
        await limiter.take(tasks(64))
    assert refusal.value.until == pytest.approx(clock.now() + 60, abs=0.5)
    clock.advance(refusal.value.until - clock.now())
    assert limiter.headroom().tasks == 5
    with pytest.raises(RateLimited):
        await limiter.take(tasks(64))
    await limiter.take(tasks(5))


async def test_without_limits_everything_is_free_and_the_store_is_left_alone(clock: ManualClock) -> None:
    limiter = await opened(Untouchable(), clock, minute=0, month=0)  # type: ignore[arg-type]  # stands for any store
    await limiter.take(tasks(1_000_000))
    await limiter.refund(tasks(5))
    assert (limiter.headroom(), limiter.opens_at(), limiter.usage()) == (UNLIMITED, None, {})


async def test_a_booking_is_durable_before_it_returns(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10, month=100)
    await limiter.take(tasks(7))
    clock.advance(20)
    await limiter.take(tasks(2))
    await limiter.refund(tasks(1))
    again = await opened(store, clock, minute=10, month=100)
    assert used(again) == used(limiter) == {"minute": 8, "month": 8}
    assert again.usage()["minute"].reset_at == pytest.approx(limiter.usage()["minute"].reset_at or 0, abs=0.01)


async def test_concurrent_takes_never_exceed_the_limit(store: LimitStore, clock: ManualClock) -> None:
    async def pause() -> None:
        await asyncio.sleep(0)

    limiter = await opened(Watched(store, pause), clock, minute=20)
    ends = await asyncio.gather(*(limiter.take(tasks(3)) for _ in range(50)), return_exceptions=True)
    assert ends.count(None) == 6
    assert all(end is None or isinstance(end, RateLimited) for end in ends)
    assert used(await opened(store, clock, minute=20)) == {"minute": 18}


async def test_a_refusal_writes_nothing(store: LimitStore, clock: ManualClock) -> None:
    async def nothing() -> None:
        pass

    watched = Watched(store, nothing)
    limiter = await opened(watched, clock, minute=1)
    await limiter.take(tasks(1))
    for _ in range(10):
        with pytest.raises(RateLimited):
            await limiter.take(tasks(1))
    assert watched.saves == 1


# --- Refunds ----------------------------------------------------------------------------------------------------------


async def test_gives_back_at_most_what_the_last_take_booked(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10, hour=10)
    await limiter.refund(tasks(5))
    await limiter.take(tasks(2))
    await limiter.take(tasks(4))
    await limiter.refund(tasks(3))
    assert used(limiter) == {"minute": 3, "hour": 3}
    await limiter.refund(tasks(3))
    assert used(limiter) == {"minute": 2, "hour": 2}
    assert used(await opened(store, clock, minute=10, hour=10)) == {"minute": 2, "hour": 2}


async def test_gives_back_only_where_the_booking_still_counts(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10, hour=20)

    async def slow() -> None:
        await limiter.take(tasks(8))
        begun.set()
        await go_on.wait()
        await limiter.refund(tasks(8))

    begun, go_on = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(slow())
        await begun.wait()
        clock.advance(90)
        await limiter.take(tasks(10))
        go_on.set()
    assert used(limiter) == {"minute": 10, "hour": 10}


async def test_each_task_gives_back_its_own_booking(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10)

    async def early() -> None:
        await limiter.take(tasks(4))
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    first = asyncio.create_task(early())
    await begun.wait()
    clock.advance(30)
    await limiter.take(tasks(6))
    await limiter.refund(tasks(6))
    assert limiter.usage()["minute"].reset_at == pytest.approx(MINUTE + 60, abs=0.5)
    await asyncio.create_task(limiter.refund(tasks(4)))
    assert used(limiter) == {"minute": 4}
    first.cancel()


# --- Closings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
async def test_a_closing_is_told_once(store: LimitStore, clock: ManualClock, strategy: Strategy) -> None:
    seen: list[Event] = []
    limiter = await opened(store, clock, seen, strategy=strategy, minute=4, hour=100)
    await limiter.take(tasks(3))
    assert seen == []
    await limiter.take(tasks(1))
    for _ in range(5):
        with pytest.raises(RateLimited):
            await limiter.take(tasks(1))
    told = LimitReached(window="minute", limit=4, until=limiter.opens_at() or 0)
    assert seen == [told]
    clock.advance(told.until - clock.now())
    await limiter.take(tasks(4))
    assert seen == [told, LimitReached(window="minute", limit=4, until=limiter.opens_at() or 0)]


async def test_a_window_that_closes_late_and_again_early_is_told_of_twice(
    store: LimitStore, clock: ManualClock
) -> None:
    seen: list[Event] = []
    limiter = await opened(store, clock, seen, strategy="fixed", minute=4)
    clock.advance(55)
    await limiter.take(tasks(4))
    clock.advance(10)
    await limiter.take(tasks(4))
    assert [event.until for event in seen if isinstance(event, LimitReached)] == [MINUTE + 60, MINUTE + 120]


@quick
async def test_a_window_in_steady_use_is_not_told_of_at_every_breath(store: LimitStore, clock: ManualClock) -> None:
    seen: list[Event] = []
    limiter = await opened(store, clock, seen, minute=60)
    for _ in range(600):
        with contextlib.suppress(RateLimited):
            await limiter.take(tasks(1))
        clock.advance(0.5)
    assert 1 <= len(seen) <= 5


# --- Trouble ----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_take_that_is_cancelled_in_the_middle_stays_booked_and_can_be_given_back() -> None:
    store, clock = MemoryLimitStore(), LoopClock(MINUTE)
    limiter = await opened(Watched(store, lambda: asyncio.sleep(0.1)), clock, minute=10)

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await limiter.take(tasks(4))
        assert used(limiter) == {"minute": 4}
        await limiter.take(tasks(1))
        await limiter.refund(tasks(1))

    await asyncio.create_task(cancelled())
    assert used(limiter) == used(await opened(store, clock, minute=10)) == {"minute": 4}
    waiting = [asyncio.create_task(limiter.take(tasks(1))) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert used(limiter) == used(await opened(store, clock, minute=10)) == {"minute": 7}


@virtual_time
async def test_bookings_that_come_together_are_written_down_together_and_fit_together() -> None:
    store, clock, written, returned = MemoryLimitStore(), LoopClock(MINUTE), asyncio.Event(), 0

    async def write() -> None:
        await written.wait()  # wakes those who wait in their order

    limiter = await opened(Watched(store, write), clock, minute=5)
    asyncio.get_running_loop().call_later(0.1, written.set)

    async def book() -> None:
        nonlocal returned
        await limiter.take(tasks(1))
        returned += 1
        assert used(await opened(store, clock, minute=5))["minute"] >= returned

    ended = await asyncio.gather(*(book() for _ in range(8)), return_exceptions=True)
    assert [type(each) for each in ended if each is not None] == [RateLimited] * 3


@virtual_time
async def test_the_task_that_was_cancelled_can_give_its_booking_back() -> None:
    store, clock = MemoryLimitStore(), LoopClock(MINUTE)
    limiter = await opened(Watched(store, lambda: asyncio.sleep(0.1)), clock, minute=10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await limiter.take(tasks(4))
    await limiter.refund(tasks(4))
    assert used(limiter) == used(await opened(store, clock, minute=10)) == {"minute": 0}


async def test_a_store_that_fails_books_nothing(store: LimitStore, clock: ManualClock) -> None:
    async def fail() -> None:
        if broken:
            raise JournalError("the disk is full")

    broken = False
    limiter = await opened(Watched(store, fail), clock, minute=10)
    broken = True
    with pytest.raises(JournalError):
        await limiter.take(tasks(4))
    assert used(limiter) == {"minute": 0}
    await limiter.refund(tasks(4))
    broken = False
    await limiter.take(tasks(10))
    assert used(await opened(store, clock, minute=10)) == {"minute": 10}


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
async def test_a_slow_store_makes_no_admission_look_earlier_than_it_was(
    store: LimitStore, clock: ManualClock, strategy: Strategy
) -> None:
    async def slowly() -> None:
        clock.advance(slowness)

    slowness = 40.0
    watched = Watched(store, slowly)
    limiter = await opened(watched, clock, strategy=strategy, minute=10)
    clock.advance(30)
    await limiter.take(tasks(10))
    returned, slowness = clock.now(), 0.0
    again = await opened(store, clock, strategy=strategy, minute=10)
    assert limiter.headroom().tasks == again.headroom().tasks == 0
    begin, end = period_of("minute", returned, UTC) if strategy == "fixed" else (returned, returned + 60)
    assert (limiter.opens_at() or 0) >= end > begin
    assert watched.saves == 2


# --- Between runs -----------------------------------------------------------------------------------------------------


async def test_limits_may_change_between_runs(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10)
    await limiter.take(tasks(6))
    seen: list[Event] = []
    lowered = await opened(store, clock, seen, minute=3, hour=5)
    assert lowered.headroom().tasks == 0
    usage = lowered.usage()
    assert (usage["minute"].current, usage["minute"].remaining, usage["hour"].current) == (6, 0, 0)
    with pytest.raises(RateLimited) as refusal:
        await lowered.take(tasks(1))
    assert refusal.value.until == pytest.approx(clock.now() + 60, abs=0.5)
    assert seen == [LimitReached(window="minute", limit=3, until=refusal.value.until)]
    raised = await opened(store, clock, minute=20)
    assert raised.headroom().tasks == 14


@pytest.mark.parametrize(("before", "after"), [("rolling", "fixed"), ("fixed", "rolling")])
async def test_another_strategy_counts_what_the_one_before_admitted(
    store: LimitStore, clock: ManualClock, before: Strategy, after: Strategy
) -> None:
    clock.advance(10)
    limiter = await opened(store, clock, strategy=before, minute=10, day=100)
    await limiter.take(tasks(8))
    clock.advance(20)
    changed = await opened(store, clock, strategy=after, minute=10, day=100)
    assert used(changed) == {"minute": 8, "day": 8}
    await changed.take(tasks(2))
    expected = MINUTE + 60 if after == "fixed" else MINUTE + 70
    assert changed.opens_at() == pytest.approx(expected, abs=0.5)
    once_more = await opened(store, clock, strategy=after, minute=10, day=100)
    assert used(once_more) == {"minute": 10, "day": 10}


async def test_calendar_windows_of_another_time_zone_count_what_overlaps(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, strategy="fixed", zone=ZoneInfo("Asia/Tokyo"), day=10)
    await limiter.take(tasks(4))
    elsewhere = await opened(store, clock, strategy="fixed", zone=ZoneInfo("America/New_York"), day=10)
    assert used(elsewhere) == {"day": 4}
    assert elsewhere.usage()["day"].reset_at == period_of("day", MINUTE, ZoneInfo("America/New_York"))[1]


@quick
async def test_what_is_kept_stays_bounded(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10**6, hour=10**6)
    for _ in range(1_000):
        await limiter.take(tasks(1))
        clock.advance(0.7)
    kept = (await store.load()).buckets
    assert len([bucket for bucket in kept if bucket.window == "minute"]) <= BUCKETS + 3
    assert len(kept) < 2 * BUCKETS
    assert sum(bucket.count for bucket in kept if bucket.window == "hour") == 1_000


@pytest.mark.parametrize("jump", [-3_600.0, 3_600.0, 90.0, -90.0])
@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
@alone
async def test_a_jump_of_the_clock_over_a_restart(store: LimitStore, jump: float, strategy: Strategy) -> None:
    """The same run of the machine: its monotonic clock tells what really passed, except to the calendar."""
    machine = Machine(MINUTE)
    limiter = await opened(store, machine.clock(), strategy=strategy, boot="b", minute=10)
    await limiter.take(tasks(10))
    machine.jump(jump)
    machine.advance(10)
    limiter = await opened(store, machine.clock(), strategy=strategy, boot="b", minute=10)
    assert limiter.headroom().tasks == (10 if strategy == "fixed" and jump > 0 else 0)
    machine.advance(51)
    assert limiter.headroom().tasks == 10


@alone
async def test_after_a_restart_of_the_machine_the_wall_clock_is_believed(store: LimitStore) -> None:
    machine = Machine(MINUTE, monotonic=5_000)
    await (await opened(store, machine.clock(), boot="one", minute=10)).take(tasks(10))
    after = Machine(MINUTE + 59, monotonic=6_000)
    limiter = await opened(store, after.clock(), boot="two", minute=10)
    assert limiter.headroom().tasks == 0
    after.advance(2)
    assert limiter.headroom().tasks == 10


@alone
async def test_a_wall_clock_that_was_set_back_meanwhile_counts_as_no_time(store: LimitStore) -> None:
    machine = Machine(MINUTE)
    await (await opened(store, machine.clock(), minute=10)).take(tasks(10))
    machine.jump(-3_600)
    machine.advance(30)
    limiter = await opened(store, machine.clock(), minute=10)
    assert limiter.headroom().tasks == 0
    assert limiter.opens_at() == pytest.approx(machine.wall + 60, abs=0.5)
    machine.advance(61)
    assert limiter.headroom().tasks == 10


async def test_without_a_readable_reading_the_buckets_still_count(clock: ManualClock) -> None:
    async with open_storage("sqlite://", executor=Inline()) as storage:
        store = SqlLimitStore(storage)
        await (await opened(store, clock, minute=10)).take(tasks(10))
        for damage in ("", "{", "[]", '{"line": null}', '{"strategy": "x", "line": 1, "wall": 1, "monotonic": 1}'):
            await storage.write(
                lambda connection, value=damage: connection.exec_driver_sql("UPDATE meta SET value = ?", (value,))
            )
            assert (await opened(store, clock, minute=10)).headroom().tasks == 0


# --- Limits that change in the middle of a run ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["rolling", "fixed"])
async def test_new_limits_hold_for_what_was_admitted_before(
    store: LimitStore, clock: ManualClock, strategy: Strategy
) -> None:
    limiter = await opened(store, clock, strategy=strategy, minute=5, hour=100)
    await limiter.take(tasks(5))
    assert limiter.headroom().tasks == 0
    await limiter.adjust({"minute": 8, "hour": 100})
    assert (limiter.headroom().tasks, used(limiter)) == (3, {"minute": 5, "hour": 5})
    await limiter.take(tasks(3))
    await limiter.adjust({"minute": 4, "hour": 9})
    with pytest.raises(RateLimited):
        await limiter.take(tasks(1))
    clock.advance(61)
    with pytest.raises(RateLimited, match="hour"):
        await limiter.take(tasks(2))
    await limiter.take(tasks(1))
    again = await opened(store, clock, strategy=strategy, minute=4, hour=9)
    assert used(again) == {"minute": 1, "hour": 9}


async def test_a_limit_that_is_taken_away_while_something_is_booked(store: LimitStore, clock: ManualClock) -> None:
    limiter = await opened(store, clock, minute=10, tokens_per_minute=1_000, hour=50)
    await limiter.take(Amount(tasks=2, tokens=500))
    await limiter.adjust({"hour": 50})
    await limiter.settle(Amount(tasks=2, tokens=100))
    await limiter.refund(tasks(1))
    assert used(limiter) == {"hour": 1}
    await limiter.take(tasks(49))
    with pytest.raises(RateLimited, match="hour"):
        await limiter.take(tasks(1))
    await limiter.adjust({})
    await limiter.take(tasks(1_000))
    assert limiter.usage() == {}


async def test_a_limit_that_is_given_takes_up_what_is_kept_of_its_window(store: LimitStore, clock: ManualClock) -> None:
    earlier = await opened(store, clock, minute=10, day=100)
    await earlier.take(tasks(6))
    clock.advance(30)
    limiter = await opened(store, clock)
    await limiter.adjust({"minute": 10})
    assert used(limiter) == {"minute": 6}
    await limiter.adjust({"minute": 10, "day": 7, "hour": 5})
    assert used(limiter) == {"minute": 6, "day": 6, "hour": 0}
    await limiter.take(tasks(1))
    clock.advance(31)
    assert used(limiter) == {"minute": 1, "day": 7, "hour": 1}
    await limiter.adjust({})
    await limiter.adjust({"minute": 10, "day": 7})
    assert used(limiter) == {"minute": 1, "day": 7}


async def test_a_limit_given_late_counts_by_the_strategy_of_now(store: LimitStore, clock: ManualClock) -> None:
    await (await opened(store, clock, strategy="rolling", minute=10)).take(tasks(6))
    limiter = await opened(store, clock, strategy="fixed")
    await limiter.adjust({"minute": 10})
    assert used(limiter) == {"minute": 6}
    clock.advance(61)
    assert used(limiter) == {"minute": 0}
    await limiter.take(tasks(4))
    assert used(await opened(store, clock, strategy="fixed", minute=10)) == {"minute": 4}


async def test_a_window_that_is_full_by_a_new_limit_is_told_again(clock: ManualClock) -> None:
    seen: list[Event] = []
    limiter = await opened(MemoryLimitStore(), clock, seen, minute=5, hour=10)
    await limiter.take(tasks(5))
    await limiter.adjust({"minute": 6, "hour": 5})
    limiter.opens_at()
    assert [(event.window, event.limit) for event in seen if isinstance(event, LimitReached)] == [
        ("minute", 5),
        ("hour", 5),
    ]
    await limiter.take(Amount(tokens=1))
    await limiter.adjust({"minute": 5, "hour": 5})
    limiter.opens_at()
    assert [event.window for event in seen if isinstance(event, LimitReached)] == ["minute", "hour", "minute"]


# --- State machine ----------------------------------------------------------------------------------------------------


class LimiterMachine(RuleBasedStateMachine):
    """Takes, refunds, restarts, new limits and clocks that are set, against a log of admissions by true time."""

    strategy: Strategy = "rolling"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.machine = Machine(MINUTE)
        self.stack = contextlib.AsyncExitStack()
        self.log: list[list[float]] = []  # true time, line, count
        self.line = 0.0
        self.line_read_at = self.machine.monotonic

    @initialize(kind=st.sampled_from(["memory", "sql"]), minute=st.integers(1, 12), hour=st.integers(1, 40))
    def begin(self, kind: str, minute: int, hour: int) -> None:
        self.limits: dict[WindowName, int] = {"minute": minute, "hour": hour}
        self.limits_obeyed = self.limits
        self.store = self.loop.run_until_complete(self._store(kind))
        self._open()

    async def _store(self, kind: str) -> LimitStore:
        if kind == "memory":
            return MemoryLimitStore()
        return SqlLimitStore(await self.stack.enter_async_context(open_storage("sqlite://", executor=Inline())))

    def _open(self) -> None:
        self.clock = self.machine.clock()
        self.callers = [Caller(self.loop) for _ in range(3)]
        self.limiter = self.loop.run_until_complete(
            opened(self.store, self.clock, strategy=self.strategy, boot="b", **self.limits)
        )

    def _end(self) -> None:
        for caller in self.callers:
            caller.task.cancel()
        tasks = [caller.task for caller in self.callers]
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def teardown(self) -> None:
        if hasattr(self, "callers"):
            self._end()
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.close()

    @rule(who=st.integers(0, 2), count=st.integers(1, 12))
    def take(self, who: int, count: int) -> None:
        self._try(self.callers[who], count)

    @rule(who=st.integers(0, 2))
    def take_what_fits(self, who: int) -> None:
        room = self.limiter.headroom().tasks
        assert room is not None
        if room:
            assert self._try(self.callers[who], room)

    @rule(who=st.integers(0, 2), count=st.integers(1, 12))
    def wait_and_take(self, who: int, count: int) -> None:
        """Coming back at the time that was told is always in time."""
        count = min(count, *self.limits.values())
        for _ in range(3):
            if self._try(self.callers[who], count):
                return
            assert self.until > self.clock.now()
            self.machine.advance(self.until - self.clock.now())
        raise AssertionError("refused at the time that it had told")

    @rule(who=st.integers(0, 2), count=st.integers(1, 12))
    def refund(self, who: int, count: int) -> None:
        caller = self.callers[who]
        caller.do(self.limiter.refund(tasks(count)))
        if caller.booked is not None:
            caller.booked[2] -= min(count, caller.booked[2])

    @rule(seconds=SECONDS)
    def advance(self, seconds: float) -> None:
        self.machine.advance(seconds)

    @rule(seconds=st.sampled_from([-3_600.0, -61.0, -1.0, 1.0, 61.0, 3_600.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.machine.jump(seconds)

    @rule(minute=st.integers(1, 12), hour=st.integers(1, 40))
    def adjust(self, minute: int, hour: int) -> None:
        self.limits = {"minute": minute, "hour": hour}
        self.loop.run_until_complete(self.limiter.adjust(self.limits))

    @rule()
    def restart(self) -> None:
        self._end()
        self._open()

    def _try(self, caller: Caller, count: int) -> bool:
        try:
            caller.do(self.limiter.take(tasks(count)))
        except RateLimited as error:
            self.until = error.until
            return False
        caller.booked = [self.machine.monotonic, self._now_on_the_line(), count]
        self.log.append(caller.booked)
        self.limits_obeyed = self.limits
        return True

    def _now_on_the_line(self) -> float:
        """Calendar time as it should be: the wall clock's, but never back behind an admission."""
        steady = self.line + self.machine.monotonic - self.line_read_at
        self.line, self.line_read_at = max(self.clock.now(), steady), self.machine.monotonic
        return self.line

    @invariant()
    def holds(self) -> None:
        if not self.log:
            return
        for name, limit in self.limits_obeyed.items():
            newest = self.log[-1]
            if self.strategy == "rolling":
                count = sum(entry[2] for entry in self.log if entry[0] > newest[0] - LENGTHS[name])
            else:
                start, end = period_of(name, newest[1], UTC)
                start, end = start + READING_ERROR, end - READING_ERROR  # where the model's own floats are too coarse
                count = sum(entry[2] for entry in self.log if start <= entry[1] < end)
            assert count <= limit


class FixedLimiterMachine(LimiterMachine):
    strategy = "fixed"


TestRolling = LimiterMachine.TestCase
TestFixed = FixedLimiterMachine.TestCase
TestRolling.settings = TestFixed.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
