import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    RateLimited,
)
from ai_task_processor.domain.events import Event, Retried
from ai_task_processor.resilience.retry import Backoff, retry, transient
from tests.fakes.time import virtual_time


class Script:
    """A call that ends as it is told, and notes when it was made."""

    def __init__(self, *ends: object) -> None:
        self.ends = list(ends)
        self.calls: list[float] = []

    async def __call__(self) -> object:
        self.calls.append(asyncio.get_running_loop().time())
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


def seeded(factor: float = 2.0, longest: float = 10.0) -> Backoff:
    return Backoff(factor=factor, longest=longest, randomness=random.Random(7))


async def tried(script: Script, *, attempts: int = 4, backoff: Backoff | None = None, seen: list[Event]) -> object:
    return await retry(script, attempts=attempts, backoff=backoff or seeded(), name="openai", observer=seen.append)


@virtual_time
async def test_tries_again_until_it_succeeds_and_tells_of_each_wait() -> None:
    script, seen = Script(ProviderUnavailable("reset"), ProviderUnavailable(""), "vector"), []
    assert await tried(script, seen=seen) == "vector"
    first, second = seen
    assert isinstance(first, Retried)
    assert isinstance(second, Retried)
    assert (first.provider, first.attempt, first.reason) == ("openai", 1, "reset")
    assert (second.attempt, second.reason) == (2, "ProviderUnavailable")
    gaps = [later - earlier for earlier, later in zip(script.calls, script.calls[1:], strict=False)]
    assert gaps == pytest.approx([first.wait, second.wait], abs=1e-3)
    assert 0 < first.wait <= 2
    assert 0 < second.wait <= 4


@virtual_time
async def test_the_last_error_passes_up_as_it_is() -> None:
    errors = [ProviderUnavailable(str(number)) for number in range(4)]
    script, seen = Script(*errors), []
    with pytest.raises(ProviderUnavailable) as raised:
        await tried(script, seen=seen)
    assert raised.value is errors[-1]
    assert (len(script.calls), len(seen)) == (4, 3)


@pytest.mark.parametrize(
    "error",
    [
        ProviderRejected("too long"),
        ProviderAccountRefused("no credit"),
        ProviderThrottled("slow down"),
        ProviderThrottled("slow down", retry_after=60),
        ProviderThrottled("slow down", retry_after=float("nan")),
        ProviderUnavailable("maintenance", retry_after=3_600),
        RateLimited("full", until=0),
        ValueError("a defect"),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
    ],
)
async def test_what_cannot_get_better_soon_passes_up_at_once(error: BaseException) -> None:
    script, seen = Script(error, "never"), []
    with pytest.raises(type(error)) as raised:
        await tried(script, seen=seen)
    assert raised.value is error
    assert (len(script.calls), seen) == (1, [])


@virtual_time
async def test_a_short_wish_of_the_other_side_is_obeyed() -> None:
    script = Script(ProviderThrottled("slow down", retry_after=9.5), ProviderUnavailable("x", retry_after=7), "vector")
    assert await tried(script, backoff=seeded(factor=0.001), seen=[]) == "vector"
    assert script.calls == pytest.approx([0, 9.5, 16.5], abs=1e-3)


@virtual_time
async def test_one_attempt_means_no_retry() -> None:
    script = Script(ProviderUnavailable("down"), "never")
    with pytest.raises(ProviderUnavailable):
        await tried(script, attempts=1, seen=[])
    assert len(script.calls) == 1


@virtual_time
async def test_a_cancellation_ends_the_wait_at_once() -> None:
    script = Script(ProviderUnavailable("down", retry_after=10), "never")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await tried(script, seen=[])
    assert asyncio.get_running_loop().time() < 1
    assert len(script.calls) == 1


@virtual_time
async def test_concurrent_calls_get_their_own_results() -> None:
    backoff = seeded()
    scripts = [Script(ProviderUnavailable("down"), ProviderUnavailable("down"), number) for number in range(50)]
    results = await asyncio.gather(*(tried(script, backoff=backoff, seen=[]) for script in scripts))
    assert results == list(range(50))
    assert len({script.calls[1] for script in scripts}) > 40, "jitter parts those who failed together"


async def test_the_caller_may_choose_what_is_worth_another_attempt() -> None:
    script = Script(ValueError("odd"), "vector")
    again = await retry(
        script,
        attempts=2,
        backoff=seeded(factor=0),
        name="x",
        observer=[].append,
        retryable=lambda error: isinstance(error, ValueError),
    )
    assert again == "vector"


@given(
    factor=st.floats(0, 100),
    longest=st.floats(0, 60),
    attempt=st.integers(1, 10_000),
    asked=st.none() | st.floats(-5, 60),
)
def test_a_wait_is_between_what_is_asked_and_what_is_allowed(
    factor: float, longest: float, attempt: int, asked: float | None
) -> None:
    backoff = Backoff(factor=factor, longest=longest, randomness=random.Random(1))
    error = ProviderUnavailable("down", retry_after=asked)
    wait = backoff.wait(attempt, error)
    assert wait >= (asked or 0)
    if backoff.allows(error):
        assert 0 <= wait <= longest


def test_only_a_provider_that_says_when_is_worth_waiting_for_when_it_throttles() -> None:
    assert transient(ProviderUnavailable("down"))
    assert transient(ProviderThrottled("slow", retry_after=1))
    assert not transient(ProviderThrottled("slow"))
    assert not transient(ProviderRejected("no"))
