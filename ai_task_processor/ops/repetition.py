"""Keeps a condition that lasts from filling the log."""

from collections.abc import Hashable
from dataclasses import dataclass

from msgspec import Struct

from ai_task_processor.domain.clock import Clock

MOST_CONDITIONS = 1_000
"""Conditions remembered at once; beyond, the one that was told of longest ago is forgotten."""


class Lasted(Struct, frozen=True):
    """How often a condition was met and for how many seconds, from the first time to its end."""

    times: int
    seconds: float


@dataclass(slots=True)
class _Condition:
    began: float
    told: float
    times: int = 0
    untold: int = 0


class Repetition:
    """Says when to tell of a condition: the first time, and then once in a while with how often it was met."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._conditions: dict[Hashable, _Condition] = {}

    def met(self, key: Hashable, *, every: float) -> int:
        """Note that the condition was met; answer how many times to tell of now, 0 to stay silent.

        ``every`` is the least number of seconds between two tellings.
        """
        now = self._clock.monotonic()
        condition = self._conditions.get(key)
        first = condition is None
        if condition is None:
            condition = self._begin(key, now)
        condition.times += 1
        condition.untold += 1
        if not first and now - condition.told < every:
            return 0
        condition.told, told = now, condition.untold
        condition.untold = 0
        return told

    def over(self, key: Hashable) -> Lasted | None:
        """Forget the condition; answer how it was, None where it was not met since it was last over."""
        condition = self._conditions.pop(key, None)
        if condition is None:
            return None
        return Lasted(condition.times, self._clock.monotonic() - condition.began)

    def _begin(self, key: Hashable, now: float) -> _Condition:
        if len(self._conditions) >= MOST_CONDITIONS:
            self._conditions.pop(min(self._conditions, key=lambda known: self._conditions[known].told))
        return self._conditions.setdefault(key, _Condition(began=now, told=now))
