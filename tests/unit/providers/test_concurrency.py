import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.errors import ProviderPaused, ProviderThrottled, ProviderUnavailable
from ai_task_processor.domain.events import ConcurrencyChanged
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.domain.quota import Allowance, Quota
from ai_task_processor.providers.budget import Budget
from ai_task_processor.providers.concurrency import LONGEST_HOLD, Concurrency, Pace, Width, pace
from ai_task_processor.providers.guarded import Guarded, Patience, counts
from ai_task_processor.providers.mock import Mock
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.retry import Backoff
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import CountingLimiter
from tests.fakes.time import LoopClock, virtual_time

ANSWER = Embeddings((b"",), model="m", provider="p", tokens=10)

# --- The decision, pure -----------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.lists(st.booleans(), max_size=200))
def test_the_width_stays_between_one_and_the_ceiling(ceiling: int, successes: list[bool]) -> None:
    width = Width(ceiling, float(ceiling))
    for success in successes:
        before = width
        width = width.widened() if success else width.narrowed()
        assert 1 <= width.at_once <= width.exact <= ceiling
        if success:
            assert before.exact <= width.exact <= before.exact + 1
        else:
            assert width.at_once == max(1, before.at_once // 2)


@pytest.mark.parametrize(("at_once", "successes"), [(1, 1), (2, 2), (4, 4), (7, 7)])
def test_a_round_of_successes_earns_one_more(at_once: int, successes: int) -> None:
    width = Width(10, float(at_once))
    for _ in range(successes):
        assert width.at_once == at_once
        width = width.widened()
    assert math.isclose(width.exact, at_once + 1, rel_tol=0.01)


def test_what_was_throttled_is_come_near_to_slowly_and_left_behind_quickly() -> None:
    width = Width(10, 6.0).narrowed()
    steps = []
    while width.at_once < 8:
        at, rounds = width.at_once, 0
        while width.at_once == at:
            width, rounds = width.widened(), rounds + 1
        steps.append(rounds)
    assert steps == pytest.approx([3, 4, 50, 6, 7], abs=1)


counts_of = st.integers(0, 10**9)
allowances = st.one_of(
    st.none(), st.builds(Allowance, counts_of, st.none() | st.integers(1, 10**9), st.none() | st.floats(0, 1e6))
)


@given(st.none() | st.builds(Quota, allowances, allowances), st.integers(0, 10**6))
def test_a_pace_always_goes_on(quota: Quota | None, tokens: int) -> None:
    found = pace(quota, tokens)
    assert found.at_once >= 1
    assert 0 <= found.rest <= LONGEST_HOLD


@given(st.integers(0, 1_000), st.integers(1, 1_000), st.floats(0, 9.0))
def test_more_that_remains_is_never_a_slower_pace(remaining: int, limit: int, reset: float) -> None:
    less = pace(Quota(requests=Allowance(remaining, limit, reset)), 1)
    more = pace(Quota(requests=Allowance(remaining + 1, limit, reset)), 1)
    assert more.at_once >= less.at_once
    assert more.rest <= less.rest


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (None, Pace()),
        (Quota(), Pace()),
        (Quota(requests=Allowance(3)), Pace(at_once=3)),
        (Quota(tokens=Allowance(250)), Pace(at_once=2)),
        (Quota(Allowance(3), Allowance(1_000)), Pace(at_once=3)),
        (Quota(requests=Allowance(0, 60, 60.0)), Pace(at_once=1, rest=1.0)),  # one a second comes back
        (Quota(requests=Allowance(0, None, 4.0)), Pace(at_once=1, rest=4.0)),
        (Quota(requests=Allowance(0, 60)), Pace(at_once=1)),
        (Quota(tokens=Allowance(40, 1_040, 10.0)), Pace(at_once=1, rest=0.6)),
        (Quota(requests=Allowance(0, 1, 3_600.0)), Pace(at_once=1, rest=LONGEST_HOLD)),
    ],
)
def test_figures_become_a_pace(quota: Quota | None, expected: Pace) -> None:
    assert pace(quota, tokens=100) == expected


# --- Taking turns -----------------------------------------------------------------------------------------------------


class Gate:
    """A concurrency whose requests end when the test says how."""

    def __init__(self, ceiling: int) -> None:
        self.clock = LoopClock()
        self.told = Recorder()
        self.concurrency = Concurrency("p", ceiling=ceiling, clock=self.clock, observer=self.told)
        self.open: dict[int, asyncio.Future[Embeddings]] = {}
        self.tasks: list[asyncio.Task[Embeddings]] = []

    def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self.concurrency.call(self._request(len(self.tasks)))))

    def _request(self, number: int) -> Callable[[], Awaitable[Embeddings]]:
        def send() -> Awaitable[Embeddings]:
            self.open[number] = asyncio.get_running_loop().create_future()
            return self.open[number]

        return send

    async def end(self, number: int, error: Exception | None = None, answer: Embeddings = ANSWER) -> None:
        future = self.open.pop(number)
        if error:
            future.set_exception(error)
        else:
            future.set_result(answer)
        await asyncio.wait([self.tasks[number]])
        await settle()

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
            if task.done() and not task.cancelled():
                task.exception()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@virtual_time
async def test_requests_go_in_their_order_up_to_the_ceiling() -> None:
    gate = Gate(2)
    gate.start(5)
    await settle()
    assert list(gate.open) == [0, 1]
    await gate.end(1)
    assert list(gate.open) == [0, 2]
    await gate.end(0)
    assert list(gate.open) == [2, 3]
    assert gate.told.events == []
    gate.close()


@virtual_time
async def test_a_throttling_halves_and_holds_everybody_back() -> None:
    gate = Gate(4)
    gate.start(8)
    await settle()
    await gate.end(0, ProviderThrottled("slow down", retry_after=3.0))
    for number in (1, 2, 3):
        await gate.end(number, ProviderThrottled("slow down", retry_after=2.0))
    assert gate.told.events == [ConcurrencyChanged(provider="p", at_once=2, reason="slow down")]
    await asyncio.sleep(2.9)
    assert not gate.open
    await asyncio.sleep(0.2)
    assert list(gate.open) == [4, 5]
    gate.close()


@virtual_time
async def test_a_later_throttling_halves_again_and_one_is_the_least() -> None:
    gate = Gate(4)
    for number in range(4):
        gate.start()
        await settle()
        await gate.end(number, ProviderThrottled("slow down"))
    assert [event.at_once for event in gate.told.of(ConcurrencyChanged)] == [2, 1]
    gate.start()
    await settle()
    assert gate.open
    gate.close()


@virtual_time
async def test_successes_widen_only_what_is_fully_used() -> None:
    gate = Gate(4)
    gate.start()
    await settle()
    await gate.end(0, ProviderThrottled("slow down"))
    for number in range(1, 30):
        gate.start()
        await settle()
        await gate.end(number)
    assert gate.concurrency.at_once == 2
    gate.start(60)
    await settle()
    for number in range(30, 70):
        await gate.end(number)
    assert gate.concurrency.at_once == 4
    assert [event.at_once for event in gate.told.of(ConcurrencyChanged)] == [2, 3, 4]
    gate.close()


@virtual_time
async def test_the_providers_figures_hold_back_before_it_must() -> None:
    gate = Gate(4)
    gate.start(9)
    await settle()
    left = Quota(requests=Allowance(0, limit=10, reset=5.0))
    await gate.end(0, answer=Embeddings((b"",), model="m", provider="p", tokens=10, quota=left))
    await gate.end(1, ProviderUnavailable("500"))
    await gate.end(2, ProviderUnavailable("500"))
    assert list(gate.open) == [3]
    await gate.end(3, ProviderUnavailable("500"))
    assert not gate.open
    await asyncio.sleep(0.6)
    assert list(gate.open) == [4]
    await gate.end(4)
    assert list(gate.open) == [5, 6, 7, 8]
    gate.close()


@virtual_time
async def test_one_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    gate = Gate(1)
    gate.start(4)
    await settle()
    gate.tasks[1].cancel()
    gate.tasks[2].cancel()
    await settle()
    await gate.end(0)
    assert list(gate.open) == [3]
    gate.tasks[3].cancel()
    gate.start()
    await settle()
    assert 4 in gate.open
    gate.close()


@virtual_time
async def test_a_very_long_wish_is_left_to_the_pause() -> None:
    gate = Gate(2)
    gate.start(3)
    await settle()
    await gate.end(0, ProviderThrottled("tomorrow", retry_after=86_400.0))
    await gate.end(1)
    await asyncio.sleep(LONGEST_HOLD + 0.1)
    assert gate.open
    gate.close()


# --- Against a server that throttles ----------------------------------------------------------------------------------


class Throttling:
    """Serves ``rate`` requests a second from a bucket of ``burst``, in ``latency`` seconds each; others get a 429."""

    name = "openai"

    def __init__(self, *, rate: float, burst: int, latency: float, tells: bool, names_wait: bool = True) -> None:
        self.served = self.refused = self.out = self.most_out = 0
        self._rate, self._burst, self._latency = rate, burst, latency
        self._tells, self._names_wait = tells, names_wait
        self._level, self._at = float(burst), 0.0
        self._mock = Mock()

    def serves(self, _model: str) -> bool:
        return True

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        self._refill()
        if self._level < 1:
            self.refused += 1
            wait = (1 - self._level) / self._rate
            raise ProviderThrottled("429", retry_after=wait if self._names_wait else None)
        self._level -= 1
        self.served += 1
        left = Quota(Allowance(int(self._level), self._burst, (self._burst - self._level) / self._rate))
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await asyncio.sleep(self._latency)
        finally:
            self.out -= 1
        answer = await self._mock.embed(texts, model=model, dimensions=dimensions)
        return Embeddings(answer.vectors, model, self.name, tokens=answer.tokens, quota=left if self._tells else None)

    def _refill(self) -> None:
        now = asyncio.get_running_loop().time()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


def guard(provider: Throttling, told: Recorder, *, at_once: int) -> Guarded:
    clock = LoopClock()
    return Guarded(
        provider,
        patience=Patience(attempts=4, backoff=Backoff(factor=2.0, randomness=random.Random(3)), timeout=60),
        concurrency=Concurrency("openai", ceiling=at_once, clock=clock, observer=told),
        breaker=Breaker("openai", threshold=5, recovery_seconds=30, clock=clock, observer=told, counts=counts),
        budget=Budget(CountingLimiter()),
        clock=clock,
        observer=told,
    )


async def lane(guarded: Guarded, until: float, deferred: list[float]) -> None:
    """What a lane of dispatch does: asks again and again, and puts off what cannot be done now."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        try:
            await guarded.embed(["a"], model="m", dimensions=None)
        except ProviderPaused as error:
            deferred.append(loop.time())
            await asyncio.sleep(max(0.0, error.until - LoopClock().now()))


@pytest.mark.parametrize("tells", [True, False])
def test_throttling_costs_little_and_no_task(tells: bool) -> None:  # noqa: FBT001 - a parameter of a test
    served, refused, deferred = asyncio_run(tells=tells, names_wait=True)
    assert served >= 0.9 * 10 * 300
    assert refused <= served * (0.001 if tells else 0.05)
    assert deferred == 0


def test_a_server_that_names_no_wait_is_still_used() -> None:
    served, refused, _ = asyncio_run(tells=True, names_wait=False)
    assert served >= 0.9 * 10 * 300
    assert refused <= served * 0.001


def asyncio_run(*, tells: bool, names_wait: bool) -> tuple[int, int, int]:
    @virtual_time
    async def run() -> tuple[int, int, int]:
        server = Throttling(rate=10, burst=20, latency=0.2, tells=tells, names_wait=names_wait)
        deferred: list[float] = []
        guarded = guard(server, Recorder(), at_once=16)
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(lane(guarded, 300.0, deferred))
        assert server.most_out <= 16
        return server.served, server.refused, len(deferred)

    return run()
