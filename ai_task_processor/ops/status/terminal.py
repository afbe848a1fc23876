"""The status for a terminal: the same facts as the page, drawn from characters."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ai_task_processor.ops.status.facts import Breaker, Minute, Refusal, Status, Window, busiest
from ai_task_processor.ops.status.figures import ago, count, duration, plain, plural
from ai_task_processor.ops.status.wording import (
    CALLS,
    Level,
    figures,
    headline,
    identity,
    limit_name,
    nothing_settled,
    readable,
    room,
    spending,
    used,
    window_level,
)

BARS = " ▁▂▃▄▅▆▇█"
BAR_WIDTH = 24

MARKS: dict[Level, tuple[str, str]] = {
    "good": ("✓", "green"),
    "attention": ("!", "yellow"),
    "bad": ("✗", "red"),
    "resting": ("‖", "blue"),
}
"""What stands before a condition, and its colour; the mark says it without colours too."""


def rendered(status: Status) -> RenderableType:
    """Everything, from top to bottom as it is asked for."""
    return Group(
        *_headline(status),
        _figures(status),
        _titled("Last hour", _throughput(status)),
        _titled("Checks", _checks(status)),
        _titled("Limits", _limits(status.windows, status)),
        _titled("Circuit breakers", _breakers(status)),
        _titled("Money and work", _spending(status)),
        *_tasks(status),
    )


def sparkline(minutes: Sequence[Minute]) -> str:
    """A character for each minute; what is not nothing is to be seen."""
    most = busiest(minutes) or 1
    eighths = [-(-minute.settled * (len(BARS) - 1) // most) for minute in minutes]
    return "".join(BARS[height] for height in eighths)


def _headline(status: Status) -> Iterable[RenderableType]:
    head = headline(status)
    mark, colour = MARKS[head.level]
    yield Text.assemble((f"{mark} {head.title}", f"bold {colour}"), "  ", _text(head.sentence))
    yield Text(" · ".join((f"{status.mode} mode", *map(plain, identity(status)))), style="dim")
    for worry in head.worries:
        yield Text.assemble(("! ", "yellow"), _text(worry))


def _figures(status: Status) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for one in figures(status):
        style = f"bold {MARKS[one.level][1]}" if one.level else "bold"
        table.add_row(one.name, Text(one.number, style=style), Text(one.note, style="dim"))
    return Padding(table, (1, 0, 0, 0))


def _throughput(status: Status) -> RenderableType:
    if not status.hour.settled:
        return _text(nothing_settled(status))
    most = f"at most {count(busiest(status.minutes))} a minute"
    first, last = f"{len(status.minutes)} min ago", "now"
    axis = f"{first}{most.center(len(status.minutes) - len(first) - len(last))}{last}"
    return Group(Text(sparkline(status.minutes), style="cyan"), Text(axis, style="dim"))


def _checks(status: Status) -> RenderableType:
    return _rows(
        ("good" if check.ok else "bad", readable(name), _text(check.detail)) for name, check in status.checks.items()
    )


def _limits(windows: Sequence[Window], status: Status) -> RenderableType:
    if not windows:
        return Text("No limit is set.")
    table = Table.grid(padding=(0, 2, 0, 0))
    for window in windows:
        colour = {"good": "cyan"}.get(window_level(window)) or MARKS[window_level(window)][1]
        filled = round(window.share * BAR_WIDTH)
        bar = Text.assemble(("█" * filled, colour), ("░" * (BAR_WIDTH - filled), "dim"))
        note = room(window, status.limits_strategy)
        until = "" if window.reset_at is None else f" in {duration(window.reset_at - status.at)}"
        table.add_row(limit_name(window).capitalize(), bar, " of ".join(used(window)), Text(note + until, style="dim"))
    return table


def _breakers(status: Status) -> RenderableType:
    rows: list[tuple[Level, str, Text]] = [("bad", one.provider, _refusal(one, status.at)) for one in status.refusals]
    rows += [(_breaker_level(one), readable(one.name), _breaker(one, status.at)) for one in status.breakers]
    return _rows(rows)


def _refusal(refusal: Refusal, now: float) -> Text:
    return _text(f"paused, tried again in {duration(refusal.until - now)}: {refusal.reason}")


def _breaker(breaker: Breaker, now: float) -> Text:
    meaning = f"{readable(breaker.state)}, {CALLS.get(breaker.state, '')}, for {duration(now - breaker.since)}"
    return _text(f"{meaning}: {breaker.reason}" if breaker.reason and breaker.state != "closed" else meaning)


def _breaker_level(breaker: Breaker) -> Level:
    levels: dict[str, Level] = {"closed": "good", "open": "bad"}
    return levels.get(breaker.state, "attention")


def _spending(status: Status) -> RenderableType:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_row("", Text("last hour", style="dim"), Text("since the start", style="dim"))
    for row in spending(status):
        table.add_row(*row)
    return table


def _tasks(status: Status) -> Iterable[RenderableType]:
    """Only where there are any: whoever looks at a terminal sees few lines."""
    if status.parked and status.backlog:
        left = status.backlog.parked - len(status.parked)
        more = f" ({plural(left, 'more task')} not shown)" if left > 0 else ""
        parked = [(one.task_id, one.reason, one.settled_at) for one in status.parked]
        yield _titled(f"Parked tasks{more}", _task_rows(parked, status.at))
        yield Text("When the cause is mended: ai-task-processor journal retry", style="dim")
    if status.failures:
        failures = [(one.task_id, one.reason, one.at) for one in status.failures]
        yield _titled("Last failures", _task_rows(failures, status.at))


def _task_rows(rows: Iterable[tuple[str, str, float | None]], now: float) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for task_id, reason, moment in rows:
        table.add_row(_text(task_id), _text(reason), Text("" if moment is None else ago(moment, now), style="dim"))
    return table


def _rows(rows: Iterable[tuple[Level, str, Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for level, name, detail in rows:
        mark, colour = MARKS[level]
        table.add_row(Text(mark, style=colour), _text(name), detail)
    return table


def _titled(title: str, inside: RenderableType) -> RenderableType:
    return Padding(Group(Text(title, style="bold"), inside), (1, 0, 0, 0))


def _text(words: str) -> Text:
    """Words from a server: no markup and nothing that moves the cursor."""
    return Text(plain(words))
