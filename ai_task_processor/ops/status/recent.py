"""What happened lately, kept for those who look: throughput, spending, failures, breakers."""

from collections import deque
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import (
    BatchSettled,
    BreakerChanged,
    Event,
    Polled,
    ProviderCalled,
    ProviderResumed,
    ProviderWasPaused,
    Running,
    Stopping,
    TaskSettled,
)
from ai_task_processor.ops.observers import Handler, Selective
from ai_task_processor.ops.status.facts import Breaker, Failure, Minute, Refusal

MINUTES = 60
MOST_FAILURES = 20
MOST_BREAKERS = 50
"""Breakers, and refusing providers, that are told apart; there are as many as engines."""


class Recent(Selective):
    """An observer that remembers a bounded part of what it was told; ``breakers`` are closed until they change."""

    def __init__(self, *, clock: Clock, breakers: Collection[str] = ()) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._hour = _Hour(clock)
        self._failures: deque[Failure] = deque(maxlen=MOST_FAILURES)
        self._breakers = {name: Breaker(name, "closed", clock.now()) for name in breakers}
        self._refusals: dict[str, Refusal] = {}
        self._handlers: Mapping[type[Event], Handler] = {
            BatchSettled: self._batch_settled,
            TaskSettled: self._task_settled,
            ProviderCalled: self._provider_called,
            Polled: self._polled,
            BreakerChanged: self._breaker_changed,
            ProviderWasPaused: self._provider_paused,
            ProviderResumed: self._provider_resumed,
            Running: self._running,
            Stopping: self._stopping,
        }
        self.total = Minute()
        """Everything since the start."""
        self.polled_at: float | None = None
        """When the last poll succeeded (Unix seconds)."""
        self.is_running = False
        self.is_stopping = False

    def handler(self, kind: type[Event]) -> Handler | None:
        """What remembers events of this type; None where they are not remembered."""
        return self._handlers.get(kind)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._began

    @property
    def minutes(self) -> tuple[Minute, ...]:
        """The last hour, minute by minute, the current one last."""
        return self._hour.minutes()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Tasks that failed, the latest first."""
        return tuple(reversed(self._failures))

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """Every circuit breaker that is known."""
        return tuple(self._breakers.values())

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The providers that are paused."""
        return tuple(self._refusals.values())

    def _batch_settled(self, event: BatchSettled) -> None:
        self._add(Minute(succeeded=event.succeeded, failed=event.failed, deferred=event.deferred))

    def _provider_called(self, event: ProviderCalled) -> None:
        self._add(Minute(tokens=event.tokens, cost=event.cost))

    def _add(self, more: Minute) -> None:
        self._hour.add(more)
        self.total += more

    def _task_settled(self, event: TaskSettled) -> None:
        if event.status == "failed":
            self._failures.append(Failure(event.task_id, event.type, self._clock.now(), event.reason))

    def _polled(self, _event: Polled) -> None:
        self.polled_at = self._clock.now()

    def _breaker_changed(self, event: BreakerChanged) -> None:
        known = self._breakers.get(event.name)
        if known is None and len(self._breakers) >= MOST_BREAKERS:
            return
        changed = Breaker(event.name, event.state, self._clock.now(), event.reason)
        if known and event.state == "half_open":  # the probe is out: why it opened is still the question
            changed = replace(changed, reason=event.reason or known.reason)
        self._breakers[event.name] = changed

    def _provider_paused(self, event: ProviderWasPaused) -> None:
        if event.provider in self._refusals or len(self._refusals) < MOST_BREAKERS:
            self._refusals[event.provider] = Refusal(event.provider, event.until, event.reason)

    def _provider_resumed(self, event: ProviderResumed) -> None:
        self._refusals.pop(event.provider, None)

    def _running(self, _event: Running) -> None:
        self.is_running = True

    def _stopping(self, _event: Stopping) -> None:
        self.is_stopping = True


class _Hour:
    """Sixty minutes on the monotonic clock; a minute that passed is not written to any more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._minutes = deque([Minute()] * MINUTES, maxlen=MINUTES)
        self._latest = self._number()

    def add(self, more: Minute) -> None:
        self._turn()
        self._minutes[-1] += more

    def minutes(self) -> tuple[Minute, ...]:
        self._turn()
        return tuple(self._minutes)

    def _turn(self) -> None:
        now = self._number()
        self._minutes.extend([Minute()] * min(MINUTES, now - self._latest))
        self._latest = now

    def _number(self) -> int:
        return int(self._clock.monotonic() // 60)
