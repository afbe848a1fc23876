import asyncio
import random
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.errors import (
    BreakerOpen,
    ProviderAccountRefused,
    ProviderPaused,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    RateLimited,
)
from ai_task_processor.domain.events import BreakerChanged, ProviderCalled, ProviderResumed, Retried
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.budget import Budget
from ai_task_processor.providers.concurrency import Concurrency
from ai_task_processor.providers.guarded import CANARY, Guarded, Patience, counts
from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.refusals import InputTooLong
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.retry import Backoff
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import Call, CountingLimiter, ScriptedProvider, Step
from tests.fakes.time import LoopClock, virtual_time

MODEL = "nomic-embed-text"
RECOVERY = 30.0


class House:
    """A guarded provider with everything around it; to be built inside the loop."""

    def __init__(
        self,
        *script: Step,
        attempts: int = 3,
        threshold: int = 5,
        room: int = 1_000_000,
        timeout: float = 60.0,
        at_once: int = 10,
    ) -> None:
        self.clock = LoopClock()
        self.told = Recorder()
        self.provider = ScriptedProvider(*script, name="openai")
        self.limiter = CountingLimiter(room, until=self.clock.now() + 100)
        self.breaker = Breaker(
            "openai",
            threshold=threshold,
            recovery_seconds=RECOVERY,
            clock=self.clock,
            observer=self.told,
            counts=counts,
        )
        self.guarded = Guarded(
            self.provider,
            patience=Patience(
                attempts=attempts,
                backoff=Backoff(factor=0.5, longest=10.0, randomness=random.Random(1)),
                timeout=timeout,
            ),
            concurrency=Concurrency("openai", ceiling=at_once, clock=self.clock, observer=self.told),
            breaker=self.breaker,
            budget=Budget(self.limiter),
            clock=self.clock,
            observer=self.told,
        )

    async def ask(self, *texts: str) -> Embeddings:
        return await self.guarded.embed(texts or ("a", "b"), model=MODEL, dimensions=None)

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.told.of(ProviderCalled)]

    def states(self) -> list[str]:
        return [event.state for event in self.told.of(BreakerChanged)]

    def canaries(self) -> int:
        return sum(texts == (CANARY,) for texts, _, _ in self.provider.calls)


def down(_call: Call) -> Step:
    return ProviderUnavailable("500")


def poisoned(call: Call) -> Step:
    """Fails whatever has the poison in it, and nothing else."""
    return ProviderUnavailable("500") if "poison" in call[0] else None


async def hang(_call: Call) -> None:
    await asyncio.Event().wait()


@virtual_time
async def test_a_good_answer_passes_through() -> None:
    house = House()
    answer = await house.ask("a", "b")
    assert answer.vectors == (mock_vector("a", MODEL), mock_vector("b", MODEL))
    assert house.limiter.booked == 2
    assert house.told.events == [
        ProviderCalled(provider="openai", model=MODEL, outcome="succeeded", inputs=2, tokens=answer.tokens, seconds=0.0)
    ]
    assert house.guarded.name == "openai"


@virtual_time
async def test_it_is_tried_again_and_each_sending_is_booked() -> None:
    house = House(ProviderUnavailable("500"), None)
    house.provider.script.insert(1, ProviderUnavailable("500"))  # the canary's
    await house.ask("a", "b")
    assert house.outcomes() == ["unavailable", "unavailable", "succeeded"]
    assert len(house.told.of(Retried)) == 1
    assert house.limiter.booked == 2 + 1 + 2


@virtual_time
async def test_attempts_are_bounded_and_an_outage_is_not_the_inputs_fault() -> None:
    house = House(attempts=3, threshold=100)
    house.provider.rule = down
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask()
    assert not caught.value.own_fault
    assert len(house.provider.calls) == 6
    assert house.canaries() == 3


@virtual_time
async def test_a_poisonous_batch_is_at_fault_and_leaves_the_breaker_closed() -> None:
    house = House(threshold=2)
    house.provider.rule = poisoned
    for _ in range(5):
        with pytest.raises(ProviderUnavailable) as caught:
            await house.ask("fine", "poison")
        assert caught.value.own_fault
    assert house.breaker.state == "closed"
    assert house.states() == []


@virtual_time
async def test_another_success_meanwhile_speaks_as_well_as_a_canary() -> None:
    house = House(attempts=1)

    async def fail_later(_call: Call) -> None:
        await asyncio.sleep(5)
        raise ProviderUnavailable("500")

    house.provider.script.append(fail_later)
    failing = asyncio.create_task(house.ask("poison"))
    await asyncio.sleep(1)
    await house.ask("fine")
    with pytest.raises(ProviderUnavailable) as caught:
        await failing
    assert caught.value.own_fault
    assert house.canaries() == 0


@virtual_time
async def test_those_who_fail_together_share_one_canary() -> None:
    house = House(attempts=1, threshold=100)

    async def fail_later(_call: Call) -> None:
        await asyncio.sleep(5)
        raise ProviderUnavailable("500")

    house.provider.rule = lambda _call: fail_later
    results = await asyncio.gather(*(house.ask(str(number)) for number in range(5)), return_exceptions=True)
    assert [isinstance(result, ProviderUnavailable) and result.own_fault for result in results] == [False] * 5
    assert house.canaries() == 1


@virtual_time
async def test_no_canary_where_nothing_could_be_sent_and_the_booking_is_given_back() -> None:
    house = House(attempts=2)
    house.provider.rule = lambda _call: ProviderUnavailable("connection refused", sent=False)
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask()
    assert not caught.value.own_fault
    assert len(house.provider.calls) == 2
    assert house.limiter.booked == 0


@virtual_time
async def test_an_outage_opens_the_breaker_and_costs_a_bounded_number_of_requests() -> None:
    house = House(attempts=3, threshold=5)
    house.provider.rule = down
    end = house.clock.monotonic() + 3600
    deferred, blamed = 0, False
    while house.clock.monotonic() < end:
        try:
            await house.ask()
        except BreakerOpen as error:
            deferred += 1
            await asyncio.sleep(error.until - house.clock.now() + 0.001)  # a float of today has no nanoseconds
        except ProviderUnavailable as error:
            blamed |= error.own_fault
    assert not blamed
    assert house.states()[:2] == ["open", "half_open"]
    assert deferred >= 100
    assert len(house.provider.calls) <= 2 * (5 + 3600 / RECOVERY + 1)


@virtual_time
async def test_a_poisonous_probe_does_not_keep_the_breaker_open() -> None:
    house = House(attempts=1, threshold=1)
    house.provider.script.extend([ProviderUnavailable("500"), ProviderUnavailable("500")])
    with pytest.raises(ProviderUnavailable):
        await house.ask()
    assert house.breaker.state == "open"
    await asyncio.sleep(RECOVERY)
    house.provider.rule = poisoned
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask("poison")
    assert caught.value.own_fault
    assert house.breaker.state == "closed"
    await house.ask("fine")


@virtual_time
async def test_a_request_has_a_timeout() -> None:
    house = House(hang, attempts=1, timeout=60)
    with pytest.raises(ProviderUnavailable, match="longer than 60 seconds"):
        await house.ask()
    assert house.clock.monotonic() == pytest.approx(60)
    (event, _canary) = house.told.of(ProviderCalled)
    assert (event.outcome, event.seconds) == ("unavailable", pytest.approx(60))


@virtual_time
async def test_a_cancellation_passes_and_says_nothing() -> None:
    house = House(hang, threshold=1)
    task = asyncio.create_task(house.ask())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.told.events == []
    assert house.breaker.state == "closed"
    assert house.limiter.booked == 2, "perhaps it was sent"


@virtual_time
async def test_a_limit_is_not_the_provider_s_fault_and_nothing_is_sent() -> None:
    house = House(room=3, threshold=1)
    await house.ask("a", "b")
    with pytest.raises(RateLimited):
        await house.ask("c", "d")
    await house.ask("c")
    assert len(house.provider.calls) == 2
    assert house.breaker.state == "closed"


@virtual_time
async def test_a_canary_without_room_says_nothing() -> None:
    house = House(room=2, attempts=1)
    house.provider.rule = poisoned
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask("fine", "poison")
    assert not caught.value.own_fault
    assert house.canaries() == 0


@virtual_time
async def test_what_the_provider_puts_off_is_given_back() -> None:
    house = House(ProviderPaused("the model is being pulled", until=1.0), threshold=1)
    with pytest.raises(ProviderPaused):
        await house.ask()
    assert house.limiter.booked == 0
    assert len(house.provider.calls) == 1
    assert house.told.events == []


@pytest.mark.parametrize(
    "error",
    [
        ProviderRejected("invalid"),
        ProviderRejected("no such model", every_input=True),
        InputTooLong("9000", measured=9, allowed=8),
    ],
)
def test_a_refusal_of_the_inputs_passes_at_once(error: ProviderRejected) -> None:
    @virtual_time
    async def check() -> None:
        house = House(error, threshold=1)
        with pytest.raises(ProviderRejected) as caught:
            await house.ask()
        assert caught.value is error
        assert house.outcomes() == ["rejected"]
        assert house.breaker.state == "closed"

    check()


@virtual_time
async def test_a_short_throttling_is_waited_for_and_does_not_count() -> None:
    house = House(ProviderThrottled("slow down", retry_after=4), threshold=1)
    await house.ask()
    assert house.clock.monotonic() >= 4
    assert house.outcomes() == ["throttled", "succeeded"]
    assert house.breaker.state == "closed"


@virtual_time
async def test_a_long_throttling_puts_everybody_off_and_does_not_count() -> None:
    house = House(ProviderThrottled("slow down", retry_after=120), threshold=1)
    for _ in range(3):
        with pytest.raises(ProviderPaused) as caught:
            await house.ask()
        assert caught.value.until == house.clock.now() + 120
    assert len(house.provider.calls) == 1
    await asyncio.sleep(120)
    await house.ask()


@virtual_time
async def test_a_refused_account_is_probed_slowly_and_comes_back() -> None:
    house = House(threshold=1)
    house.provider.rule = lambda _call: ProviderAccountRefused("insufficient_quota")
    end = house.clock.monotonic() + 24 * 3600
    while house.clock.monotonic() < end:
        with pytest.raises(ProviderPaused) as caught:
            await house.ask()
        await asyncio.sleep(caught.value.until - house.clock.now())
    assert len(house.provider.calls) < 24 * 6 + 10
    assert house.guarded.pause.refused == "insufficient_quota"
    assert house.breaker.state == "closed"
    house.provider.rule = lambda _call: None
    await house.ask()
    assert house.told.of(ProviderResumed)


@pytest.mark.parametrize(
    "vectors",
    [
        lambda answer: answer.vectors[:-1],
        lambda answer: [*answer.vectors, answer.vectors[0]],
        lambda answer: [b"\x00\x00\xc0\x7f" * 768 for _ in answer.vectors],
        lambda answer: [bytes(4 * 768) for _ in answer.vectors],
        lambda answer: [vector[:4] for vector in answer.vectors],
        lambda answer: [b"" for _ in answer.vectors],
    ],
)
def test_what_cannot_be_believed_is_unavailable(vectors: Callable[[Embeddings], Sequence[bytes]]) -> None:
    @virtual_time
    async def check() -> None:
        house = House(attempts=1)
        house.provider.change = lambda answer: replace(answer, vectors=tuple(vectors(answer)))
        with pytest.raises(ProviderUnavailable, match="not believed"):
            await house.ask()
        assert house.outcomes() == ["unavailable", "unavailable"]

    check()


@virtual_time
async def test_those_who_wait_for_their_turn_learn_of_a_pause() -> None:
    house = House(ProviderAccountRefused("no money"), at_once=1)
    first, second = await asyncio.gather(house.ask("a"), house.ask("b"), return_exceptions=True)
    assert isinstance(first, ProviderPaused)
    assert isinstance(second, ProviderPaused)
    assert len(house.provider.calls) == 1


@virtual_time
async def test_no_more_requests_at_once_than_the_ceiling() -> None:
    out = most = 0

    async def slow(_call: Call) -> None:
        nonlocal out, most
        out, most = out + 1, max(most, out + 1)
        await asyncio.sleep(1)
        out -= 1

    house = House(at_once=3)
    house.provider.rule = lambda _call: slow
    await asyncio.gather(*(house.ask(str(number)) for number in range(10)))
    assert most == 3
    assert house.clock.monotonic() == pytest.approx(4.0)


@virtual_time
async def test_inputs_found_at_fault_stay_so_when_a_limit_leaves_no_room_to_try_again() -> None:
    house = House(attempts=3, room=2)
    house.provider.rule = poisoned
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask("poison")
    assert caught.value.own_fault
    assert house.limiter.booked == 2


@virtual_time
async def test_inputs_found_at_fault_stay_so_when_a_limit_leaves_no_room_to_find_out_again() -> None:
    house = House(attempts=2, room=3)
    house.provider.rule = poisoned
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask("poison")
    assert caught.value.own_fault
    assert house.canaries() == 1
