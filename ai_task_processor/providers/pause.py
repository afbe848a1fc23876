"""Keeps requests away from a provider that refuses our account or is throttling us."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderPaused,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.events import ProviderResumed, ProviderWasPaused
from ai_task_processor.domain.ports import Observer

T = TypeVar("T")

FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
"""Seconds without a request after the account was refused; twice as long after each probe that is refused."""

PROBE_FLOOR = 1.0
"""Seconds that others are told to wait while a probe is out: nobody knows when the probe will end."""

FIRST_HOLD = 5.0
LONGEST_HOLD = 60.0
"""Seconds without a request after a throttling that did not say for how long; doubled until something succeeds."""


class Pause:
    """What refusals of the account and throttlings mean for all requests to one provider.

    A refused account: nothing is sent until the pause is over, then one request at a time tries whether it still is;
    its success ends the matter, its refusal begins a longer pause, anything else leaves the trying to the next.
    A throttling, or being unavailable with a wish to wait: nothing is sent until the time that the provider gave.
    """

    def __init__(self, provider: str, *, clock: Clock, observer: Observer) -> None:
        self._provider = provider
        self._clock = clock
        self._observer = observer
        self._closed_until = 0.0
        self._reason = ""
        self._length = 0.0
        self._hold = FIRST_HOLD
        self._probing = False

    @property
    def refused(self) -> str | None:
        """Why the account is refused, None while it is not known to be: for the operator."""
        return self._reason if self._length else None

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await ``function``; ProviderAccountRefused and ProviderThrottled become ProviderPaused for everybody."""
        probing = self._enter()
        try:
            answer = await function()
        except ProviderAccountRefused as error:
            self._refuse(str(error), probing=probing)
            raise self._paused(str(error)) from error
        except ProviderThrottled as error:
            self._throttle(error)
            raise self._paused(str(error)) from error
        except ProviderUnavailable as error:
            if error.retry_after and not error.own_fault:
                self._close_for(error.retry_after, str(error))
            raise
        else:
            self._succeed(probing=probing)
            return answer
        finally:
            if probing:
                self._probing = False

    def check(self) -> None:
        """Raise ProviderPaused while nothing is to be sent."""
        if self._closed_until > self._clock.monotonic():
            raise self._paused(self._reason)

    def _enter(self) -> bool:
        """Let a request in, or raise ProviderPaused; answers whether it is the probe."""
        self.check()
        if self._probing:
            raise self._paused(self._reason)
        self._probing = self._length > 0
        return self._probing

    def _refuse(self, reason: str, *, probing: bool) -> None:
        if self._length and not probing:
            return  # sent before the pause began: it tells nothing new
        self._length = min(2 * self._length, LONGEST_PAUSE) or FIRST_PAUSE
        self._close_for(self._length, reason)
        until = self._clock.now() + self._length
        self._observer(ProviderWasPaused(provider=self._provider, until=until, reason=reason))

    def _throttle(self, error: ProviderThrottled) -> None:
        if error.retry_after is None:
            self._close_for(self._hold, str(error))
            self._hold = min(2 * self._hold, LONGEST_HOLD)
        else:
            self._close_for(error.retry_after, str(error))

    def _succeed(self, *, probing: bool) -> None:
        self._hold = FIRST_HOLD
        if probing:
            self._length = 0.0
            self._observer(ProviderResumed(provider=self._provider))

    def _close_for(self, seconds: float, reason: str) -> None:
        self._closed_until = max(self._closed_until, self._clock.monotonic() + seconds)
        self._reason = reason

    def _paused(self, reason: str) -> ProviderPaused:
        rest = max(self._closed_until - self._clock.monotonic(), PROBE_FLOOR)
        return ProviderPaused(reason, until=self._clock.now() + rest)
