"""What the facts of a status mean, in words for the page and the terminal alike."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

from msgspec import Struct, to_builtins

from ai_task_processor.domain.ports import Backlog
from ai_task_processor.ops.status.facts import Minute, State, Status, Window
from ai_task_processor.ops.status.figures import ago, count, duration, money, plural, short_count

Level: TypeAlias = Literal["good", "attention", "bad", "resting"]

UNDELIVERED_TOO_LONG = 900.0
"""Seconds after which a result that waits for delivery is worth a look; the alert's patience."""

NEARLY = 0.9
"""From this share on a limit is shown as nearly used up; the alert's share."""

MANY = 0.2
"""From this share on failures stand out; the alert's share."""

CALLS: Mapping[str, str] = {"closed": "calls pass", "open": "calls are kept away", "half_open": "one call tries"}
"""What a circuit breaker's state means."""


def as_json(status: Status) -> dict[str, object]:
    """The same for machines, with what follows from it: ``state``, ``level`` and ``worries``."""
    head = headline(status)
    facts: dict[str, object] = to_builtins(status)
    return {"state": status.state, "level": head.level, "worries": head.worries} | facts


class Headline(Struct, frozen=True):
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
    return ", ".join(readable(name) for name, check in status.checks.items() if not check.ok)


def _doing(status: Status) -> str:
    if status.in_flight:
        return f"At work on {plural(status.in_flight, 'task')}."
    if full := [one for one in status.windows if one.is_full]:
        return f"Waits until there is room again: {limit_name(full[0])} are used up."
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
    if fails_much(status.hour):
        yield f"{count(status.hour.failed)} of {plural(status.hour.settled, 'task')} failed in an hour."
    for window in status.windows:
        if window.is_full and window.is_budget:
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


class Figure(Struct, frozen=True):
    """One of the large numbers, with a note on it; ``level`` where it stands out."""

    name: str
    number: str
    note: str
    level: Level | None = None


def figures(status: Status) -> tuple[Figure, ...]:
    """The numbers that are looked at first."""
    hour = status.hour
    level: Level | None = "bad" if fails_much(hour) else None
    return (
        Figure("Settled in an hour", short_count(hour.settled), f"{count(status.minutes[-1].settled)} in this minute"),
        Figure("Failed in an hour", short_count(hour.failed), _share(hour), level),
        Figure("In flight", short_count(status.in_flight), "with an engine now"),
        *_held(status.backlog, status.at),
    )


def fails_much(hour: Minute) -> bool:
    """Whether so many tasks fail that somebody should look."""
    return hour.failed > MANY * hour.settled


def _share(hour: Minute) -> str:
    if not hour.failed:
        return "all succeeded" if hour.settled else "none settled"
    return f"{100 * hour.failed / hour.settled:.1f} % of the settled"


def _held(backlog: Backlog | None, now: float) -> Iterator[Figure]:
    if backlog is None:
        yield from (Figure(name, "?", "the journal does not answer") for name in ("Waiting", "To deliver", "Parked"))
        return
    oldest = backlog.oldest_unreported
    waited = "all delivered" if oldest is None else f"oldest for {duration(now - oldest)}"
    waiting = backlog.ready + backlog.deferred
    later = f"{count(backlog.deferred)} of them put off" if backlog.deferred else "to be taken up"
    yield Figure("Waiting", short_count(waiting), later if waiting else "all taken up")
    yield Figure("To deliver", short_count(backlog.unreported), waited)
    yield Figure("Parked", short_count(backlog.parked), "for an operator", "attention" if backlog.parked else None)


def spending(status: Status) -> tuple[tuple[str, str, str], ...]:
    """What was spent and done: its name, in the last hour, since the start."""
    hour, total = status.hour, status.total
    return (
        ("Money", money(hour.cost), money(total.cost)),
        ("Tokens", short_count(hour.tokens), short_count(total.tokens)),
        ("Succeeded", short_count(hour.succeeded), short_count(total.succeeded)),
        ("Failed", short_count(hour.failed), short_count(total.failed)),
        ("Put off", short_count(hour.deferred), short_count(total.deferred)),
    )


def identity(status: Status) -> tuple[str, ...]:
    """Who it is, beside its mode."""
    polled = "not polled yet" if status.polled_at is None else f"polled {ago(status.polled_at, status.at)}"
    return (f"version {status.version}", f"up {duration(status.uptime)}", polled, status.host)


def nothing_settled(status: Status) -> str:
    """Why there is no throughput to show."""
    if status.polled_at is not None:
        return f"Nothing was settled in the last hour. The last poll was {ago(status.polled_at, status.at)}."
    why = next((check.detail for name, check in status.checks.items() if not check.ok and name != "running"), "")
    return f"Nothing has been fetched yet: {why}." if why else "Nothing has been fetched yet."


def window_level(window: Window) -> Level:
    """How near a limit is."""
    if window.is_full and window.is_budget:
        return "bad"
    return "attention" if window.is_full or (window.is_budget and window.share >= NEARLY) else "good"


def used(window: Window) -> tuple[str, str]:
    """How much of a limit is used, and what it is."""
    shown = _shown(window)
    return shown(window.current), shown(window.limit)


def room(window: Window, strategy: str) -> str:
    """What is left of a limit; where something is used, a time from now on when that changes is to follow."""
    left = "used up" if window.is_full else f"{_shown(window)(window.remaining)} left"
    if window.reset_at is None:
        return left
    if strategy != "rolling":
        return f"{left}, anew"
    return f"{left}, {'room again' if window.is_full else 'more room'}"


def _shown(window: Window) -> Callable[[float], str]:
    return money if window.unit == "cost" else short_count
