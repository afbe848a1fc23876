"""Makes the status from what observers and ports know."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.amount import USD
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import TaskProcessorError
from ai_task_processor.domain.ports import Backlog, WindowUsage
from ai_task_processor.ops.health import Check, Health
from ai_task_processor.ops.logs import scrubbed
from ai_task_processor.ops.status.facts import Breaker, Failure, ParkedTask, Phase, Refusal, Status, Window
from ai_task_processor.ops.status.figures import plain
from ai_task_processor.ops.status.recent import Recent

T = TypeVar("T", Breaker, Refusal, Failure, ParkedTask)

PATIENCE = 2.0
"""Seconds that a look waits for the journal."""

MOST_PARKED = 20

PACE = 1.0
"""Seconds for which one look serves all who ask."""

LARGEST_SHARE = 0.05
"""How much of the time may be spent on asking the journal, which has other things to do."""

LONGEST_PACE = 5.0
"""Seconds that a look is shown at most, however long it took."""


class Identity(Struct, frozen=True):
    """What runs: never changes while it does."""

    service: str
    version: str
    host: str
    mode: str
    limits_strategy: str


class Readings(Struct, frozen=True):
    """Where the figures of this moment come from; ``parked`` answers at most so many tasks, the oldest first."""

    backlog: Callable[[], Awaitable[Backlog]]
    parked: Callable[[int], Awaitable[Sequence[ParkedTask]]]
    usage: Callable[[], Mapping[str, WindowUsage]]


class Lookout:
    """Looks when it is asked, at most once a second, however many ask."""

    def __init__(
        self,
        identity: Identity,
        *,
        health: Health,
        recent: Recent,
        readings: Readings,
        in_flight: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._health = health
        self._recent = recent
        self.readings = readings
        self._in_flight = in_flight
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._status: Status | None = None
        self._good_until = 0.0

    async def status(self) -> Status:
        """How it is, or was a moment ago."""
        async with self._one_at_a_time:
            began = self._clock.monotonic()
            if self._status is None or began >= self._good_until:
                self._status = await self._look()
                ended = self._clock.monotonic()
                self._good_until = ended + min(LONGEST_PACE, max(PACE, (ended - began) / LARGEST_SHARE))
            return self._status

    async def _look(self) -> Status:
        backlog, parked = await self._held()
        identity, health, recent = self._identity, self._health, self._recent
        return Status(
            service=identity.service,
            version=identity.version,
            host=identity.host,
            mode=identity.mode,
            phase=_phase(recent),
            paused=health.paused,
            alive=health.alive,
            at=self._clock.now(),
            uptime=recent.uptime,
            polled_at=recent.polled_at,
            checks={name: Check(check.ok, _told(check.detail)) for name, check in health.checks().items()},
            in_flight=self._in_flight(),
            backlog=backlog,
            minutes=recent.minutes,
            total=recent.total,
            limits_strategy=identity.limits_strategy,
            windows=tuple(_window(key, used) for key, used in self.readings.usage().items()),
            breakers=_clean(recent.breakers),
            refusals=_clean(recent.refusals),
            failures=_clean(recent.failures),
            parked=_clean(parked),
        )

    async def _held(self) -> tuple[Backlog | None, Sequence[ParkedTask]]:
        """What the journal holds, where it can tell in time."""
        try:
            async with asyncio.timeout(PATIENCE):
                backlog = await self.readings.backlog()
                return backlog, await self.readings.parked(MOST_PARKED) if backlog.parked else ()
        except (TaskProcessorError, TimeoutError):
            return None, ()


def _phase(recent: Recent) -> Phase:
    if recent.is_stopping:
        return "stopping"
    return "running" if recent.is_running else "starting"


def _window(key: str, used: WindowUsage) -> Window:
    scale = USD if used.unit == "cost" else 1
    return Window(
        unit=used.unit,
        window=key.rpartition("_")[2],
        current=used.current / scale,
        limit=used.limit / scale,
        remaining=used.remaining / scale,
        reset_at=used.reset_at,
    )


def _clean(told: Sequence[T]) -> tuple[T, ...]:
    """Reasons come from servers: without what looks like a secret, on one line, cut."""
    return tuple(replace(one, reason=_told(one.reason)) for one in told)


def _told(reason: str) -> str:
    return plain(scrubbed(reason))
