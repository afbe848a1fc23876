import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderPaused,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.events import ProviderResumed, ProviderWasPaused
from ai_task_processor.providers.pause import FIRST_HOLD, FIRST_PAUSE, LONGEST_HOLD, LONGEST_PAUSE, PROBE_FLOOR, Pause
from tests.fakes.flow import Recorder
from tests.fakes.time import BEGINNING, ManualClock

QUOTA = ProviderAccountRefused("quota used up")


class House:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told = Recorder()
        self.pause = Pause("openai", clock=self.clock, observer=self.told)
        self.sent = 0

    async def ask(self, end: Exception | None = None) -> None:
        """One request that ends with ``end``."""

        async def request() -> None:
            self.sent += 1
            if end:
                raise end

        await self.pause.call(request)

    async def until(self, end: Exception | None = None) -> float:
        """Seconds for which a request is sent away, or ends with a pause."""
        with pytest.raises(ProviderPaused) as caught:
            await self.ask(end)
        return caught.value.until - self.clock.now()


def hold(release: asyncio.Event, end: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def request() -> None:
        await release.wait()
        if end:
            raise end

    return request


async def test_a_refused_account_keeps_requests_away() -> None:
    house = House()
    assert await house.until(QUOTA) == FIRST_PAUSE
    house.clock.advance(10)
    assert await house.until() == FIRST_PAUSE - 10
    assert house.sent == 1
    assert house.pause.refused == "quota used up"
    assert house.told.events == [ProviderWasPaused("openai", BEGINNING + FIRST_PAUSE, "quota used up")]


async def test_each_refused_probe_doubles_the_pause_up_to_ten_minutes() -> None:
    house = House()
    pauses = []
    for _ in range(7):
        pauses.append(await house.until(QUOTA))
        house.clock.advance(pauses[-1])
    assert pauses == [30, 60, 120, 240, 480, LONGEST_PAUSE, LONGEST_PAUSE]
    assert len(house.told.of(ProviderWasPaused)) == 7


async def test_a_probe_that_succeeds_ends_it() -> None:
    house = House()
    await house.until(QUOTA)
    house.clock.advance(FIRST_PAUSE)
    await house.ask()
    await house.ask()
    assert house.told.of(ProviderResumed) == [ProviderResumed("openai")]
    assert house.pause.refused is None
    assert await house.until(QUOTA) == FIRST_PAUSE, "a later refusal begins anew"


async def test_one_probe_at_a_time() -> None:
    house, release = House(), asyncio.Event()
    await house.until(QUOTA)
    house.clock.advance(FIRST_PAUSE)
    probe = asyncio.create_task(house.pause.call(hold(release)))
    await asyncio.sleep(0)
    assert await house.until() == PROBE_FLOOR
    release.set()
    await probe
    await house.ask()
    assert house.sent == 2


@pytest.mark.parametrize("end", [ProviderUnavailable("down"), asyncio.CancelledError()])
async def test_a_probe_that_says_nothing_leaves_the_trying_to_the_next(end: Exception) -> None:
    house = House()
    await house.until(QUOTA)
    house.clock.advance(FIRST_PAUSE)
    with pytest.raises(type(end)):
        await house.ask(end)
    assert house.pause.refused
    await house.ask()
    assert house.told.of(ProviderResumed)


async def test_refusals_that_were_on_their_way_neither_prolong_nor_tell_again() -> None:
    house, release = House(), asyncio.Event()
    late = [asyncio.create_task(house.pause.call(hold(release, QUOTA))) for _ in range(5)]
    await asyncio.sleep(0)
    await house.until(QUOTA)
    house.clock.advance(5)
    release.set()
    results = await asyncio.gather(*late, return_exceptions=True)
    assert {type(result) for result in results} == {ProviderPaused}
    assert {result.until for result in results if isinstance(result, ProviderPaused)} == {BEGINNING + FIRST_PAUSE}
    assert len(house.told.of(ProviderWasPaused)) == 1


async def test_a_success_that_was_on_its_way_does_not_end_it() -> None:
    house, release = House(), asyncio.Event()
    late = asyncio.create_task(house.pause.call(hold(release)))
    await asyncio.sleep(0)
    await house.until(QUOTA)
    release.set()
    await late
    assert await house.until() == FIRST_PAUSE


async def test_a_throttling_holds_everybody_for_as_long_as_it_says() -> None:
    house = House()
    assert await house.until(ProviderThrottled("slow down", retry_after=90)) == 90
    assert await house.until() == 90
    house.clock.advance(90)
    await house.ask()
    assert house.sent == 2
    assert house.told.events == []
    assert house.pause.refused is None


async def test_a_throttling_without_advice_holds_longer_each_time() -> None:
    house = House()
    holds = []
    for _ in range(6):
        holds.append(await house.until(ProviderThrottled("slow down")))
        house.clock.advance(holds[-1])
    assert holds == [5, 10, 20, 40, LONGEST_HOLD, LONGEST_HOLD]
    await house.ask()
    assert await house.until(ProviderThrottled("slow down")) == FIRST_HOLD


async def test_a_provider_that_is_unavailable_and_says_for_how_long_is_left_alone() -> None:
    house = House()
    with pytest.raises(ProviderUnavailable):
        await house.ask(ProviderUnavailable("busy", retry_after=600))
    house.clock.advance(10)
    assert await house.until() == 590
    assert house.sent == 1
    assert house.pause.refused is None
    house.clock.advance(590)
    await house.ask()


async def test_inputs_at_fault_keep_no_others_away() -> None:
    house = House()
    with pytest.raises(ProviderUnavailable):
        await house.ask(ProviderUnavailable("busy", retry_after=600, own_fault=True))
    await house.ask()
