"""How the daemon is, as one value: what a person on call asks first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from ai_task_processor.domain.amount import Unit
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.figures import duration, plural
from ai_task_processor.ops.health import Check

Phase: TypeAlias = Literal["starting", "running", "stopping"]
State: TypeAlias = Literal["starting", "ready", "not_ready", "paused", "stopping"]
Level: TypeAlias = Literal["good", "attention", "bad", "resting"]

UNDELIVERED_TOO_LONG = 900.0
"""Seconds after which a result that waits for delivery is worth a look; the alert's patience."""


@dataclass(frozen=True, slots=True)
class Minute:
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


@dataclass(frozen=True, slots=True)
class Window:
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
    def share(self) -> float:
        """How much of it is used, from 0 to 1."""
        return min(1.0, self.current / self.limit) if self.limit else 1.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker, and since when it is as it is (Unix seconds)."""

    name: str
    state: str
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider that refuses our account; probed again at ``until`` (Unix seconds)."""

    provider: str
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed, ``at`` in Unix seconds; the reason is what its author is told."""

    task_id: str
    type: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """A task whose outcome the Task API refuses; ``settled_at`` in Unix seconds."""

    task_id: str
    type: str
    settled_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
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


def as_json(status: Status) -> dict[str, object]:
    """The same for machines, with what follows from it: ``state``, ``level`` and ``worries``."""
    head = headline(status)
    return {"state": status.state, "level": head.level, "worries": head.worries} | asdict(status)


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer to the first question, in a word or two and a sentence; ``worries`` are what is worth a look."""

    level: Level
    title: str
    sentence: str
    worries: tuple[str, ...] = ()


def headline(status: Status) -> Headline:
    """How the daemon is, for somebody who has five seconds."""
    worries = tuple(_worries(status))
    if not status.alive:
        return Headline(
            "bad", "Not alive", "No poll was attempted when one was due: a supervisor restarts it.", worries
        )
    if status.state == "not_ready":
        return Headline("bad", "Not ready", f"It waits for: {_failing(status)}. Nothing is lost meanwhile.", worries)
    if status.state == "ready":
        level: Level = "attention" if worries else "good"
        return Headline(level, "Ready, with something to look at" if worries else "Ready", _doing(status), worries)
    return Headline("resting", *_RESTING[status.state], worries)


_RESTING: Mapping[State, tuple[str, str]] = {
    "starting": ("Starting", "What is needed is being opened; nothing runs yet."),
    "stopping": ("Stopping", "Nothing new is taken; what is held is finished and delivered first."),
    "paused": ("Paused", "Nothing new is taken until somebody resumes it; what is held is finished."),
}


def _failing(status: Status) -> str:
    return " and ".join(readable(name) for name, check in status.checks.items() if not check.ok)


def _doing(status: Status) -> str:
    if status.in_flight:
        return f"At work on {plural(status.in_flight, 'task')}."
    if full := [one for one in status.windows if one.is_full]:
        return f"Waits until there is room: {limit_name(full[0])} are used up."
    if status.backlog and status.backlog.ready:
        return f"{plural(status.backlog.ready, 'task')} to be taken up."
    if status.backlog and status.backlog.deferred:
        return f"{plural(status.backlog.deferred, 'task')} put off until later, nothing to do before that."
    return "Nothing to do at the moment."


def _worries(status: Status) -> Iterator[str]:
    if status.backlog is None:
        yield "The journal does not answer in time: what waits is not known."
    else:
        yield from _of_backlog(status.backlog, status.at)
    if status.paused and status.state != "paused":
        yield "It is paused: nothing new is taken until somebody resumes it."
    for refusal in status.refusals:
        yield f"{refusal.provider} is paused: {refusal.reason}"
    for breaker in status.breakers:
        if breaker.state != "closed":
            yield f"The circuit breaker of {readable(breaker.name)} is {readable(breaker.state)}: {breaker.reason}"
    for window in status.windows:
        if window.is_full:
            yield f"Used up: {limit_name(window)}; tasks wait and none fails."


def _of_backlog(backlog: Backlog, now: float) -> Iterator[str]:
    if backlog.parked:
        yield f"{plural(backlog.parked, 'result')} parked: the Task API refuses them, or they are damaged."
    waited = 0.0 if backlog.oldest_unreported is None else now - backlog.oldest_unreported
    if waited > UNDELIVERED_TOO_LONG:
        yield f"A result has been waiting for delivery for {duration(waited)}."


def limit_name(window: Window) -> str:
    """``tasks per minute``; money is what it is."""
    return f"{'money' if window.unit == 'cost' else window.unit} per {window.window}"


def readable(name: str) -> str:
    """A name as it stands in a sentence."""
    return {"task_api": "Task API", "half_open": "half-open"}.get(name, name)


def busiest(minutes: Sequence[Minute]) -> int:
    """The most tasks that were settled in one of these minutes."""
    return max((minute.settled for minute in minutes), default=0)
