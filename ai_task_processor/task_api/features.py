"""Which optional routes the Task API has: learned by asking, remembered, and looked for again now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import FeatureFound, FeatureLost
from ai_task_processor.domain.ports import Observer

FIRST_WAIT = 15.0
LONGEST_WAIT = 600.0
"""Seconds until a route that was not there is asked for again: doubled each time, between these bounds."""


class Feature(StrEnum):
    """An optional route: tasks for one worker alone, or many results at once."""

    CLAIM = "claim"
    BULK = "bulk"


class _Known(Struct, frozen=True):
    """What is known of a route: it is asked for again at ``ask_at`` (by the monotonic clock) if it is not there."""

    there: bool = False
    ask_at: float = 0.0
    wait: float = FIRST_WAIT


class Features:
    """What is known of the routes of ``ask``, which are those that may be used; none other is ever there.

    ``ask`` has the API asked, without any effect; it raises RouteMissing, or why that could not be learned.
    """

    def __init__(
        self, ask: Mapping[Feature, Callable[[], Awaitable[None]]], *, clock: Clock, observer: Observer
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._observer = observer
        self._known = {feature: _Known(ask_at=clock.monotonic()) for feature in ask}
        self._asking = {feature: asyncio.Lock() for feature in ask}

    def known(self, feature: Feature) -> bool:
        """Whether the route was there when it was last asked for or used."""
        known = self._known.get(feature)
        return known is not None and known.there

    def is_due(self, feature: Feature) -> bool:
        """Whether the route is not known to be there, and it is time to ask for it."""
        known = self._known.get(feature)
        return known is not None and not known.there and self._clock.monotonic() >= known.ask_at

    async def has(self, feature: Feature) -> bool:
        """Whether the route is there; where that is not known, the API is asked.

        Raises RouteMissing where it has just turned out not to be, and whatever else stands in the way of learning it.
        What follows from that is the caller's to say, by :meth:`lack`.
        """
        if self.is_due(feature):
            async with self._asking[feature]:
                if self.is_due(feature):
                    await self._ask[feature]()
                    self._known[feature] = _Known(there=True)
                    self._observer(FeatureFound(feature))
        return self.known(feature)

    def lack(self, feature: Feature, reason: str) -> None:
        """Do without the route for a while."""
        known = self._known[feature]
        if known.there:
            self._observer(FeatureLost(feature, reason))
        ask_at = self._clock.monotonic() + known.wait
        self._known[feature] = replace(known, there=False, ask_at=ask_at, wait=min(2 * known.wait, LONGEST_WAIT))
