"""The one retry loop: tries a call again soon, in memory, and hands up what must wait longer."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct, field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from ai_task_processor.domain.errors import ProviderThrottled, ProviderUnavailable, TaskApiUnavailable
from ai_task_processor.domain.events import Retried
from ai_task_processor.domain.ports import Observer

T = TypeVar("T")


class Backoff(Struct, frozen=True):
    """How long to wait between attempts: exponential with full jitter, so that callers who failed together part.

    After attempt n a random time up to ``factor ** n`` seconds, never more than ``longest``. Where the error
    says ``retry_after``, at least that; an error that asks for more than ``longest`` is not retried at all.
    """

    factor: float
    longest: float = 10.0
    randomness: random.Random = field(default_factory=random.Random)

    def wait(self, attempt: int, error: BaseException) -> float:
        """Seconds to wait after ``attempt`` (the first is 1) ended with ``error``."""
        # The exponent is bounded because a float cannot hold every power.
        ceiling = min(self.longest, self.factor ** min(attempt, 64))
        return max(self.randomness.uniform(0, ceiling), asked_wait(error))

    def allows(self, error: BaseException) -> bool:
        """Whether what the error asks for is short enough to wait for in memory."""
        return asked_wait(error) <= self.longest


def asked_wait(error: BaseException) -> float:
    """The seconds that the other side asks for, 0 where it does not say."""
    if isinstance(error, ProviderUnavailable | ProviderThrottled | TaskApiUnavailable):
        return error.retry_after or 0.0
    return 0.0


def transient(error: Exception) -> bool:
    """Whether a provider may do better in a moment: it was unavailable, or says itself when to come back."""
    if isinstance(error, ProviderThrottled):
        return error.retry_after is not None
    return isinstance(error, ProviderUnavailable)


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    attempts: int,
    backoff: Backoff,
    name: str,
    observer: Observer,
    retryable: Callable[[Exception], bool] = transient,
) -> T:
    """Await ``call`` until it succeeds, at most ``attempts`` times in all (1: no retry).

    The last error passes up as it is: after the last attempt, when ``retryable`` says no, or when it asks for a longer
    wait than ``backoff`` allows. Cancellation passes at once, also while waiting.
    """

    def again(error: BaseException) -> bool:
        return isinstance(error, Exception) and retryable(error) and backoff.allows(error)

    def wait(state: RetryCallState) -> float:
        return backoff.wait(state.attempt_number, _error_of(state))

    def tell(state: RetryCallState) -> None:
        error = _error_of(state)
        reason = str(error) or type(error).__name__
        observer(Retried(provider=name, attempt=state.attempt_number, wait=state.upcoming_sleep, reason=reason))

    # A loop of its own for each call: one that is shared gives concurrent calls each other's results.
    loop = AsyncRetrying(
        sleep=asyncio.sleep,
        stop=stop_after_attempt(attempts),
        wait=wait,
        retry=retry_if_exception(again),
        before_sleep=tell,
        reraise=True,
    )
    return await loop(call)


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:  # tenacity asks about failed attempts only
        raise TypeError("the attempt has not failed")
    return error
