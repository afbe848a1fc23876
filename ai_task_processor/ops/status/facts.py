"""How the daemon is, as one value: what a person on call asks first."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from ai_task_processor.domain.amount import Unit
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.health import Check

Phase: TypeAlias = Literal["starting", "running", "stopping"]
State: TypeAlias = Literal["starting", "ready", "not_ready", "paused", "stopping"]


class Minute(Struct, frozen=True):
    """What one minute came to; ``cost`` in US dollars."""

    succeeded: int = 0
    failed: int = 0
    deferred: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def settled(self) -> int:
        """Tasks that have their final outcome."""
        return self.succeeded + self.failed

    def __add__(self, other: "Minute") -> "Minute":
        return Minute(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.deferred + other.deferred,
            self.tokens + other.tokens,
            self.cost + other.cost,
        )


class Window(Struct, frozen=True):
    """One limit and how far it is used; money in US dollars, ``reset_at`` in Unix seconds."""

    unit: Unit
    window: str
    current: float
    limit: float
    remaining: float
    reset_at: float | None

    @property
    def is_full(self) -> bool:
        """Whether tasks wait because of it."""
        return self.remaining <= 0

    @property
    def is_budget(self) -> bool:
        """Whether it is for long: a minute that is full is how a limit works, a day that is full is worth a look."""
        return self.window in {"day", "week", "month"}

    @property
    def share(self) -> float:
        """How much of it is used, from 0 to 1."""
        return min(1.0, self.current / self.limit) if self.limit else 1.0


class Breaker(Struct, frozen=True):
    """A circuit breaker, and since when it is as it is (Unix seconds)."""

    name: str
    state: str
    since: float
    reason: str = ""


class Refusal(Struct, frozen=True):
    """A provider that refuses our account; probed again at ``until`` (Unix seconds)."""

    provider: str
    until: float
    reason: str


class Failure(Struct, frozen=True):
    """A task that failed, ``at`` in Unix seconds; the reason is what its author is told."""

    task_id: str
    type: str
    at: float
    reason: str


class ParkedTask(Struct, frozen=True):
    """A task whose outcome the Task API refuses; ``settled_at`` in Unix seconds."""

    task_id: str
    type: str
    settled_at: float | None
    reason: str


class Status(Struct, frozen=True):
    """Everything, as it was ``at`` a moment; times in Unix seconds, ``uptime`` in seconds.

    ``minutes`` are those of the last hour, the current one last. ``total`` counts since the start. ``backlog`` is None
    where the journal could not tell in time. ``failures`` are the latest first, ``parked`` the oldest first, and both
    are cut: the figures beside them are not. ``polled_at`` is when the last poll succeeded. While it is ``paused``
    nothing new is taken, because somebody wants it so.
    """

    service: str
    version: str
    host: str
    mode: str
    phase: Phase
    paused: bool
    alive: bool
    at: float
    uptime: float
    polled_at: float | None
    checks: Mapping[str, Check]
    in_flight: int
    backlog: Backlog | None
    minutes: tuple[Minute, ...]
    total: Minute
    limits_strategy: str
    windows: tuple[Window, ...]
    breakers: tuple[Breaker, ...]
    refusals: tuple[Refusal, ...]
    failures: tuple[Failure, ...]
    parked: tuple[ParkedTask, ...]

    @property
    def hour(self) -> Minute:
        """What the last hour came to."""
        return sum(self.minutes, Minute())

    @property
    def is_ready(self) -> bool:
        """Whether every check is ok, as /ready says."""
        return all(check.ok for check in self.checks.values())

    @property
    def state(self) -> State:
        """All of it in one word."""
        if self.phase != "running":
            return self.phase
        if not self.is_ready:
            return "not_ready"
        return "paused" if self.paused else "ready"


def busiest(minutes: Sequence[Minute]) -> int:
    """The most tasks that were settled in one of these minutes."""
    return max((minute.settled for minute in minutes), default=0)
