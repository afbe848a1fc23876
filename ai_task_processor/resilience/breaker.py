"""A circuit breaker for asynchronous calls: keeps calls away from something that is down."""

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

import pybreaker

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import BreakerOpen, NotNow
from ai_task_processor.domain.events import BreakerChanged
from ai_task_processor.domain.ports import Observer

T = TypeVar("T")

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

PROBE_FLOOR = 1.0
"""Seconds that a refused caller is told to wait, at least, while a probe is out: nobody knows when it will end."""

ROUNDING = 0.001
"""Seconds that a pause may end early: a short time added to Unix seconds is rounded, and who waits would spin."""

_STATES: dict[str, BreakerState] = {
    pybreaker.STATE_CLOSED: "closed",
    pybreaker.STATE_OPEN: "open",
    pybreaker.STATE_HALF_OPEN: "half_open",
}


class Breaker:
    """Opens after ``threshold`` consecutive failures; after ``recovery_seconds`` lets one probe through at a time.

    What a call's end means:

    - an error for which ``counts`` answers True is a failure; at the threshold, or of a probe, it opens the circuit;
    - a success ends a row of failures, and of a probe closes the circuit;
    - an error that does not count shows that the other side answers: of a probe it closes the circuit, else it is
      passed over;
    - a cancellation, and NotNow (the call was never made), say nothing: a probe's place becomes free again;
    - the end of a call that began before the last change of state is passed over, whatever it was. So late failures
      do not prolong the pause, and only a probe closes the circuit.

    pybreaker counts and changes state; each outcome is replayed inside it after it is known, because it cannot await.
    The pause is measured here, by the monotonic clock.
    """

    def __init__(
        self,
        name: str,
        *,
        threshold: int,
        recovery_seconds: float,
        clock: Clock,
        observer: Observer,
        counts: Callable[[Exception], bool],
    ) -> None:
        self.name = name
        self._recovery_seconds = recovery_seconds
        self._clock = clock
        self._observer = observer
        self._counts = counts
        self._circuit = pybreaker.CircuitBreaker(fail_max=threshold, throw_new_error_on_trip=False, name=name)
        self._state: BreakerState = "closed"
        self._era = 0
        self._pause_ends = -math.inf
        self._probing = False
        self._probing_since = -math.inf

    @property
    def state(self) -> BreakerState:
        """``closed``, ``open`` or ``half_open``; an open circuit becomes half-open with its first probe."""
        return self._state

    @property
    def until(self) -> float | None:
        """When a call may next be tried (Unix seconds); None where that is now."""
        if self._state == "closed":
            return None
        now = self._clock.monotonic()
        remaining = self._rest_of_probe(now) if self._probing else self._pause_ends - now
        return self._clock.now() + remaining if remaining > ROUNDING else None

    def _rest_of_probe(self, now: float) -> float:
        """Once more as long as the probe has taken: who is refused comes back a few times, not every second."""
        return max(PROBE_FLOOR, min(now - self._probing_since, self._recovery_seconds))

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await ``function`` and learn from how it ends; its result and errors pass through.

        Raises BreakerOpen without calling it while the circuit is open, or while another call probes.
        """
        probing = self._enter()
        era = self._era
        try:
            answer = await function()
        except Exception as error:
            if era == self._era:
                self._learn_from(error)
            raise
        else:
            if era == self._era and self._success_matters:
                self._replay(_succeed)
            return answer
        finally:
            if probing:
                self._probing = False

    @property
    def _success_matters(self) -> bool:
        """Not while all is well, which is nearly always: to replay a success costs more than a small request."""
        return self._circuit.fail_counter > 0 or self._state != "closed"

    def _enter(self) -> bool:
        """Let a call in, or raise BreakerOpen; answers whether the call is the probe."""
        if self._state == "closed":
            return False
        until = self.until
        if until is not None:
            raise BreakerOpen(f"{self.name} is down and is not called for now", until=until)
        if self._state == "open":
            self._change(self._circuit.half_open)
        self._probing = True
        self._probing_since = self._clock.monotonic()
        return True

    def _learn_from(self, error: Exception) -> None:
        if self._counts(error):
            self._replay(_fail, reason=str(error) or type(error).__name__)
        elif self._state == "half_open" and not isinstance(error, NotNow):
            self._replay(_succeed)

    def _replay(self, outcome: Callable[[], None], reason: str = "") -> None:
        with contextlib.suppress(_ReplayedFailure):
            self._change(lambda: self._circuit.call(outcome), reason)

    def _change(self, step: Callable[[], object], reason: str = "") -> None:
        before = self._state
        try:
            step()
        finally:
            self._state = _STATES[self._circuit.current_state]
            if self._state != before:
                self._entered_new_state(reason)

    def _entered_new_state(self, reason: str) -> None:
        self._era += 1
        if self._state == "open":
            self._pause_ends = self._clock.monotonic() + self._recovery_seconds
        self._observer(BreakerChanged(name=self.name, state=self._state, reason=reason))


class _ReplayedFailure(Exception):
    """Stands for a failure that has already happened."""


def _succeed() -> None:
    pass


def _fail() -> None:
    raise _ReplayedFailure
