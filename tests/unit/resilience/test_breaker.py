import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ai_task_processor.domain.errors import BreakerOpen, ProviderRejected, ProviderUnavailable, RateLimited
from ai_task_processor.domain.events import BreakerChanged, Event
from ai_task_processor.resilience.breaker import PROBE_FLOOR, Breaker
from tests.fakes.time import LoopClock, ManualClock, virtual_time

THRESHOLD = 3
RECOVERY = 30.0


def down(error: Exception) -> bool:
    return isinstance(error, ProviderUnavailable)


def breaker_with(clock: ManualClock | LoopClock, seen: list[Event] | None = None) -> Breaker:
    observer = [].append if seen is None else seen.append
    return Breaker(
        "ollama",
        threshold=THRESHOLD,
        recovery_seconds=RECOVERY,
        clock=clock,
        observer=observer,
        counts=down,
    )


def answers(value: str = "vector") -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        return value

    return call


def raises(error: BaseException) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        raise error

    return call


async def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ProviderUnavailable):
            await breaker.call(raises(ProviderUnavailable("connection refused")))


async def test_a_closed_breaker_passes_results_and_errors_through() -> None:
    breaker = breaker_with(ManualClock())
    assert await breaker.call(answers("a")) == "a"
    with pytest.raises(ProviderRejected, match="too long"):
        await breaker.call(raises(ProviderRejected("too long")))
    assert (breaker.state, breaker.until) == ("closed", None)


async def test_opens_at_the_threshold_and_says_until_when() -> None:
    clock, seen = ManualClock(), []
    breaker = breaker_with(clock, seen)
    await fail(breaker, THRESHOLD - 1)
    assert breaker.state == "closed"
    await fail(breaker)
    assert breaker.state == "open"
    assert seen == [BreakerChanged(name="ollama", state="open", reason="connection refused")]
    clock.advance(10)
    with pytest.raises(BreakerOpen) as refusal:
        await breaker.call(answers())
    assert refusal.value.until == clock.now() + 20 == breaker.until


async def test_a_success_ends_a_row_of_failures() -> None:
    breaker = breaker_with(ManualClock())
    for _ in range(4):
        await fail(breaker, THRESHOLD - 1)
        await breaker.call(answers())
    assert breaker.state == "closed"


async def test_errors_that_do_not_count_leave_the_row_as_it_is() -> None:
    breaker = breaker_with(ManualClock())
    for _ in range(2 * THRESHOLD):
        with pytest.raises(ProviderRejected):
            await breaker.call(raises(ProviderRejected("empty")))
    await fail(breaker, THRESHOLD - 1)
    with pytest.raises(ProviderRejected):
        await breaker.call(raises(ProviderRejected("empty")))
    await fail(breaker)
    assert breaker.state == "open"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (None, "closed"),
        (ProviderRejected("empty"), "closed"),
        (ValueError("a defect"), "closed"),
        (ProviderUnavailable("still down"), "open"),
        (RateLimited("not now", until=0), "half_open"),
        (asyncio.CancelledError(), "half_open"),
    ],
)
async def test_what_a_probe_decides(outcome: BaseException | None, state: str) -> None:
    clock, seen = ManualClock(), []
    breaker = breaker_with(clock, seen)
    await fail(breaker, THRESHOLD)
    clock.advance(RECOVERY)
    assert (breaker.state, breaker.until) == ("open", None)
    if outcome is None:
        await breaker.call(answers())
    else:
        with pytest.raises(type(outcome)):
            await breaker.call(raises(outcome))
    assert breaker.state == state
    changes = [event.state for event in seen if isinstance(event, BreakerChanged)]
    assert changes == ["open", "half_open"] + ([state] if state != "half_open" else [])
    assert breaker.until == (clock.now() + RECOVERY if state == "open" else None)


@virtual_time
async def test_one_probe_at_a_time_and_a_floor_for_the_others() -> None:
    clock = LoopClock()
    breaker = breaker_with(clock)
    await fail(breaker, THRESHOLD)
    await asyncio.sleep(RECOVERY)
    reached = 0

    async def slow() -> str:
        nonlocal reached
        reached += 1
        await asyncio.sleep(5)
        return "vector"

    ends = await asyncio.gather(*(breaker.call(slow) for _ in range(50)), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, BreakerOpen)]
    assert (reached, len(refused)) == (1, 49)
    assert {round(end.until - (clock.now() - 5), 3) for end in refused} == {PROBE_FLOOR}
    assert breaker.state == "closed"


@virtual_time
async def test_while_a_probe_hangs_the_others_come_back_seldom() -> None:
    clock = LoopClock()
    breaker = breaker_with(clock)
    await fail(breaker, THRESHOLD)
    await asyncio.sleep(RECOVERY)
    probe = asyncio.create_task(breaker.call(lambda: asyncio.sleep(300)))
    await asyncio.sleep(0)
    began, refusals = clock.now(), 0
    while clock.now() < began + 290:
        with pytest.raises(BreakerOpen) as refused:
            await breaker.call(lambda: asyncio.sleep(0))
        refusals += 1
        assert PROBE_FLOOR <= refused.value.until - clock.now() <= max(RECOVERY, PROBE_FLOOR) + 0.001
        await asyncio.sleep(refused.value.until - clock.now())
    assert refusals < 30
    await probe
    assert breaker.state == "closed"


@virtual_time
async def test_a_cancelled_probe_makes_room_for_the_next() -> None:
    breaker = breaker_with(LoopClock())
    await fail(breaker, THRESHOLD)
    await asyncio.sleep(RECOVERY)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await breaker.call(asyncio.Event().wait)
    assert breaker.state == "half_open"
    assert await breaker.call(answers()) == "vector"
    assert breaker.state == "closed"


@virtual_time
async def test_late_failures_do_not_prolong_the_pause() -> None:
    clock = LoopClock()
    breaker = breaker_with(clock)

    async def fail_after(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ProviderUnavailable("down")

    late = [asyncio.create_task(breaker.call(lambda: fail_after(10))) for _ in range(20)]
    await asyncio.sleep(0)
    await fail(breaker, THRESHOLD)
    opened_until = breaker.until
    await asyncio.gather(*late, return_exceptions=True)
    assert breaker.until == opened_until


@virtual_time
async def test_late_ends_of_earlier_calls_change_nothing_in_any_later_state() -> None:
    breaker = breaker_with(LoopClock())

    async def end_after(seconds: float, error: Exception | None) -> str:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return "late"

    def begin(seconds: float, error: Exception | None) -> asyncio.Task[str]:
        return asyncio.create_task(breaker.call(lambda: end_after(seconds, error)))

    late_success = begin(1, None)
    late_rejections = [begin(1, ProviderRejected("empty")), begin(RECOVERY + 1, ProviderRejected("empty"))]
    success_while_probing = begin(RECOVERY + 1, None)
    failures_after_closing = [begin(RECOVERY + 10, ProviderUnavailable("down")) for _ in range(THRESHOLD)]
    await asyncio.sleep(0)
    await fail(breaker, THRESHOLD)
    await late_success
    await asyncio.gather(late_rejections[0], return_exceptions=True)
    assert breaker.state == "open"
    await asyncio.sleep(RECOVERY - 1)
    probe = begin(5, None)
    await success_while_probing
    await asyncio.gather(late_rejections[1], return_exceptions=True)
    assert breaker.state == "half_open"
    await probe
    assert breaker.state == "closed"
    await asyncio.gather(*failures_after_closing, return_exceptions=True)
    assert breaker.state == "closed"


async def test_the_pause_is_measured_by_the_monotonic_clock() -> None:
    class Wandering(ManualClock):
        shift = 0.0

        def now(self) -> float:
            return super().now() + self.shift

    clock = Wandering()
    breaker = breaker_with(clock)
    await fail(breaker, THRESHOLD)
    clock.shift = 3_600
    assert breaker.until == clock.now() + RECOVERY
    clock.advance(RECOVERY)
    assert breaker.until is None


async def test_an_error_without_words_is_named_by_its_class() -> None:
    seen: list[Event] = []
    breaker = breaker_with(ManualClock(), seen)
    for _ in range(THRESHOLD):
        with pytest.raises(ProviderUnavailable):
            await breaker.call(raises(ProviderUnavailable("")))
    assert seen == [BreakerChanged(name="ollama", state="open", reason="ProviderUnavailable")]


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin and end in any order; a model of a few lines says what the breaker must be."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.seen: list[Event] = []
        self.breaker = breaker_with(self.clock, self.seen)
        self.calls: list[tuple[asyncio.Task[str], asyncio.Future[str], int]] = []
        self.state, self.row, self.era, self.opens = "closed", 0, 0, 0.0
        self.probe: asyncio.Task[str] | None = None
        self.changes: list[str] = []

    def teardown(self) -> None:
        for task, _, _ in self.calls:
            task.cancel()
        self._turn()
        self.loop.close()

    def _turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))

    def _change(self, state: str) -> None:
        self.state, self.row = state, 0
        self.era += 1
        self.changes.append(state)
        if state == "open":
            self.opens = self.clock.monotonic() + RECOVERY

    @rule()
    def begin(self) -> None:
        end: asyncio.Future[str] = self.loop.create_future()

        async def wait() -> str:
            return await end

        task = self.loop.create_task(self.breaker.call(wait))
        self._turn()
        may = self.state == "closed" or (self.probe is None and self.clock.monotonic() >= self.opens)
        assert task.done() is not may
        if not may:
            error = task.exception()
            assert isinstance(error, BreakerOpen)
            assert error.until > self.clock.now()
            return
        if self.state != "closed":
            if self.state == "open":
                self._change("half_open")
            self.probe = task
        self.calls.append((task, end, self.era))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "rejection", "not now", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        task, end, era = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        if how == "cancel":
            task.cancel()
        elif how == "success":
            end.set_result("vector")
        else:
            errors = {
                "failure": ProviderUnavailable("down"),
                "rejection": ProviderRejected("empty"),
                "not now": RateLimited("full", until=0),
            }
            end.set_exception(errors[how])
        self._turn()
        assert task.done()
        assert task.cancelled() or (task.exception() is None) == (how == "success")
        if task is self.probe:
            self.probe = None
        if era == self.era:
            self._learn(how)

    def _learn(self, how: str) -> None:
        if how == "failure":
            self.row += 1
            if self.state == "half_open" or self.row >= THRESHOLD:
                self._change("open")
        elif how == "success":
            self.row = 0
        if self.state == "half_open" and how in {"success", "rejection"}:
            self._change("closed")

    @rule(seconds=st.sampled_from([0.5, 10.0, RECOVERY]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state == self.state
        assert [event.state for event in self.seen if isinstance(event, BreakerChanged)] == self.changes
        waits = self.state != "closed" and (self.probe is not None or self.clock.monotonic() < self.opens)
        assert (self.breaker.until is not None) == waits


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
