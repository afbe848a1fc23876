"""How many requests a provider is sent at once: fewer while it throttles, more again while it does not."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import ProviderThrottled
from ai_task_processor.domain.events import ConcurrencyChanged
from ai_task_processor.domain.ports import Embeddings, Observer
from ai_task_processor.domain.quota import Allowance, Quota

LONGEST_HOLD = 10.0
"""Seconds that requests are held back in memory; a provider that wants more is the business of its pause."""


CAREFUL = 0.1
"""How fast requests at once become more where that many were throttled the last time: a tenth of the usual."""


class Width(Struct, frozen=True):
    """How many requests at once, learned from throttling: one more for each round without, half of them after one.

    Never below 1, never above ``ceiling``. ``exact`` has the fraction that the successes of this round have earned;
    ``throttled_at`` is how many it were at the last throttling, 0 where nobody knows: that number is come near to
    slowly.
    """

    ceiling: int
    exact: float
    throttled_at: int = 0

    @property
    def at_once(self) -> int:
        """The whole number of requests."""
        return int(self.exact)

    def widened(self) -> "Width":
        """After a success while the width was fully used."""
        pace = CAREFUL if self.at_once < self.throttled_at <= self.at_once + 1 else 1.0
        exact = min(float(self.ceiling), self.exact + pace / self.at_once)
        return replace(self, exact=exact, throttled_at=self.throttled_at if exact < self.throttled_at else 0)

    def narrowed(self) -> "Width":
        """After a throttling."""
        return replace(self, exact=float(max(1, self.at_once // 2)), throttled_at=self.at_once)


class Pace(Struct, frozen=True):
    """What a provider's own figures allow: ``at_once`` requests, the next after ``rest`` seconds."""

    at_once: float = math.inf
    rest: float = 0.0


def pace(quota: Quota | None, tokens: int) -> Pace:
    """How to go on after an answer with these figures, where a request needs about ``tokens``."""
    if quota is None:
        return Pace()
    paces = [_pace(quota.requests, 1), _pace(quota.tokens, max(1, tokens))]
    return Pace(at_once=min(one.at_once for one in paces), rest=max(one.rest for one in paces))


def _pace(allowance: Allowance | None, need: int) -> Pace:
    if allowance is None:
        return Pace()
    return Pace(at_once=max(1, allowance.remaining // need), rest=min(LONGEST_HOLD, _refill(allowance, need)))


def _refill(allowance: Allowance, need: int) -> float:
    """Seconds until ``need`` remain; all that is used comes back evenly in ``reset`` seconds."""
    missing = need - allowance.remaining
    if missing <= 0 or allowance.reset is None:
        return 0.0
    used = max(missing, (allowance.limit or 0) - allowance.remaining)
    return allowance.reset * missing / used


class Concurrency:
    """Lets requests to one provider through in the order in which they come, ``ceiling`` at once at most.

    A throttling halves the number, and holds everybody back for as long as the provider wishes; throttlings of
    requests that were out together count as one. Successes widen it again where all of it was used. The figures that
    come with an answer hold requests back before the provider has to.
    """

    def __init__(self, provider: str, *, ceiling: int, clock: Clock, observer: Observer) -> None:
        self._provider = provider
        self._clock = clock
        self._observer = observer
        self._width = Width(ceiling, float(ceiling))
        self._allowed = math.inf
        self._held_until = -math.inf
        self._in_flight = 0
        self._era = 0
        self._told = ceiling
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def at_once(self) -> int:
        """How many requests may be out at this moment."""
        return int(min(self._width.at_once, self._allowed))

    async def call(self, function: Callable[[], Awaitable[Embeddings]]) -> Embeddings:
        """Await ``function`` when it is its turn, and learn from how it ends; its answer and errors pass through."""
        await self._enter()
        era = self._era
        try:
            answer = await function()
        except ProviderThrottled as error:
            self._throttled(error, era)
            raise
        else:
            self._succeeded(answer)
            return answer
        finally:
            self._in_flight -= 1
            self._changed.set()

    async def _enter(self) -> None:
        async with self._queue:
            while (rest := self._rest()) > 0:
                self._changed.clear()
                await self._change_within(rest)
            self._in_flight += 1

    def _rest(self) -> float:
        """Seconds until the next request may go; infinity where one must end before."""
        if self._in_flight >= self.at_once:
            return math.inf
        return self._held_until - self._clock.monotonic()

    async def _change_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds if math.isfinite(seconds) else None):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _throttled(self, error: ProviderThrottled, era: int) -> None:
        self._hold(error.retry_after or 0.0)
        if era == self._era:
            self._era += 1
            self._width = self._width.narrowed()
            self._tell(str(error))

    def _succeeded(self, answer: Embeddings) -> None:
        if self._in_flight >= self._width.at_once:
            self._width = self._width.widened()
        found = pace(answer.quota, answer.tokens)
        self._allowed = found.at_once
        self._hold(found.rest)
        self._tell("")

    def _hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + min(seconds, LONGEST_HOLD))

    def _tell(self, reason: str) -> None:
        if self.at_once != self._told:
            self._told = self.at_once
            self._observer(ConcurrencyChanged(provider=self._provider, at_once=self._told, reason=reason))
