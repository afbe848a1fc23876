"""The status page: what a person on call wants to see in five seconds, as HTML from a status."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import MappingProxyType

from ai_task_processor.ops.health import Check
from ai_task_processor.ops.status import chart
from ai_task_processor.ops.status.facts import Breaker, Failure, ParkedTask, Refusal, Status, Window
from ai_task_processor.ops.status.figures import ago, clock_time, duration, iso, plural
from ai_task_processor.ops.status.markup import Inside, Markup, join, tag
from ai_task_processor.ops.status.wording import (
    CALLS,
    Figure,
    Headline,
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

RELOAD = 10
"""Seconds after which a browser without JavaScript asks again."""


def _asset(name: str) -> str:
    return resources.files("ai_task_processor.ops.status").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE = _asset("page.css")
_SCRIPT = _asset("page.js")

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
"""What goes with the page: nothing but its own style and script is obeyed, nothing is fetched from elsewhere."""


def page(status: Status) -> str:
    """The whole page; it asks ``events`` for what changes, and is complete without that."""
    head = headline(status)
    return "<!doctype html>\n" + tag("html", _head(status, head), _body(status), lang="en")


def sections(status: Status) -> Mapping[str, Markup]:
    """The parts of the page that change, by the id of their element."""
    return {name: make(status) for name, make in _SECTIONS.items()}


# --- The frame --------------------------------------------------------------------------------------------------------


def _head(status: Status, head: Headline) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="robots", content="noindex"),
        tag("title", _title(status, head)),
        tag("link", rel="icon", href=_ICONS[head.level]),
        tag("noscript", tag("meta", http_equiv="refresh", content=RELOAD)),
        tag("style", Markup(_STYLE)),
    )


_COLUMNS = (("checks", "breakers"), ("limits", "spending"))


def _body(status: Status) -> Markup:
    parts = sections(status)
    masthead = tag("header", parts["identity"], _connection(status), class_="masthead")
    columns = [tag("div", *(parts[name] for name in names)) for names in _COLUMNS]
    return tag(
        "body",
        tag("a", "Skip to the status", href="#status", class_="skip"),
        masthead,
        tag(
            "main",
            (parts["headline"], parts["figures"], parts["throughput"]),
            tag("div", columns, class_="columns"),
            (parts["parked"], parts["failures"]),
            id_="status",
            tabindex=-1,
        ),
        _footer(),
        tag("script", Markup(_SCRIPT)),
    )


def _connection(status: Status) -> Markup:
    """How old this is; the script says instead whether it is live."""
    return tag(
        "p",
        tag("span", "As of ", _moment(status.at, clock_time(status.at)), ". "),
        tag("a", "Reload", href="./"),
        id_="connection",
        class_="connection",
        role="status",
    )


def _footer() -> Markup:
    routes = (
        ("status", "these facts as JSON"),
        ("health", "alive?"),
        ("ready", "able?"),
        ("metrics", "for Prometheus"),
    )
    links = [tag("li", tag("a", tag("code", f"/{route}"), href=route), f" {why}") for route, why in routes]
    return tag("footer", tag("nav", tag("ul", links), aria_label="Routes"))


def _title(status: Status, head: Headline) -> str:
    return f"{head.title} · {status.host} · AI Task Processor"


# --- The parts --------------------------------------------------------------------------------------------------------


def _identity(status: Status) -> Markup:
    facts: Sequence[Inside] = ((tag("b", status.mode), " mode"), *identity(status))
    return tag(
        "div",
        tag("h1", "AI Task Processor"),
        tag("ul", *(tag("li", fact) for fact in facts), class_="facts"),
        id_="identity",
    )


def _headline(status: Status) -> Markup:
    head = headline(status)
    worries = tag("ul", *(tag("li", worry) for worry in head.worries), class_="worries") if head.worries else None
    return tag(
        "section",
        _icon(head.level),
        tag(
            "div",
            tag("h2", head.title, id_="headline-title", aria_live="polite"),
            tag("p", head.sentence),
            worries,
        ),
        id_="headline",
        class_=f"headline {head.level}",
        aria_labelledby="headline-title",
        data_title=_title(status, head),
        data_icon=_ICONS[head.level],
    )


def _figures(status: Status) -> Markup:
    tiles = [_tile(figure) for figure in figures(status)]
    return tag("section", tag("dl", tiles), id_="figures", class_="figures", aria_label="Figures of this moment")


def _tile(figure: Figure) -> Markup:
    number = tag("strong", figure.number, class_=figure.level)
    return tag("div", tag("dt", figure.name), tag("dd", number, tag("small", figure.note)))


def _throughput(status: Status) -> Markup:
    if not status.hour.settled:
        return _section("throughput", "Last hour", _empty(nothing_settled(status)))
    legend = tag(
        "p",
        tag("span", "succeeded", class_="succeeded"),
        tag("span", "failed", class_="failed"),
        " tasks in each minute",
        class_="legend",
        aria_hidden="true",
    )
    numbers = tag("details", tag("summary", "In numbers"), chart.table(status.minutes))
    return _section("throughput", "Last hour", legend, chart.chart(status.minutes), numbers)


def _checks(status: Status) -> Markup:
    return _section("checks", "Checks", tag("ul", [_check(*one) for one in status.checks.items()], class_="rows"))


def _check(name: str, check: Check) -> Markup:
    level: Level = "good" if check.ok else "bad"
    return _row(level, "ok" if check.ok else "not ok", readable(name), check.detail)


def _limits(status: Status) -> Markup:
    if not status.windows:
        hint = ("No limit is set. ", tag("code", "RATE_LIMIT_PER_DAY"), " and its like in the settings set one.")
        return _section("limits", "Limits", _empty(hint))
    rows = [_window(window, status) for window in status.windows]
    how = "of the last stretch of time" if status.limits_strategy == "rolling" else "of the calendar's"
    return _section("limits", "Limits", tag("ul", rows, class_="windows", aria_label=f"What is used {how}"))


def _window(window: Window, status: Status) -> Markup:
    bar = tag(
        "svg",
        tag("rect", class_="track", width="100%", height="100%", rx=4),
        tag("rect", class_="used", width=f"{100 * window.share:.1f}%", height="100%", rx=4),
        class_="bar",
        aria_hidden="true",
    )
    current, limit = used(window)
    name = tag("span", limit_name(window).capitalize(), class_="name")
    figure = tag("span", tag("b", current), f" of {limit}", class_="used")
    note = tag("small", room(window, status.limits_strategy), _until(window.reset_at, status.at))
    return tag("li", name, figure, bar, note, class_=f"window {window_level(window)}")


def _until(moment: float | None, now: float) -> Inside:
    return None if moment is None else (" ", _moment(moment, f"in {duration(moment - now)}"))


def _breakers(status: Status) -> Markup:
    rows = [_refusal(one, status) for one in status.refusals] + [_breaker(one, status) for one in status.breakers]
    return _section(
        "breakers", "Circuit breakers", tag("ul", rows, class_="rows") if rows else _empty("There are none.")
    )


def _breaker(breaker: Breaker, status: Status) -> Markup:
    since = _moment(breaker.since, duration(status.at - breaker.since))
    levels: Mapping[str, Level] = {"closed": "good", "open": "bad"}
    detail: Inside = (readable(breaker.state), ", ", CALLS.get(breaker.state, ""), ", for ", since)
    reason = f": {breaker.reason}" if breaker.reason and breaker.state != "closed" else ""
    return _row(levels.get(breaker.state, "attention"), "", readable(breaker.name), (detail, reason))


def _refusal(refusal: Refusal, status: Status) -> Markup:
    detail = ("paused, tried again", _until(refusal.until, status.at), f": {refusal.reason}")
    return _row("bad", "", refusal.provider, detail)


def _spending(status: Status) -> Markup:
    headings = [tag("th", words, scope="col") for words in ("Last hour", "Since the start")]
    head = tag("thead", tag("tr", tag("td"), headings))
    rows = [tag("tr", tag("th", name, scope="row"), *map(_cell, cells)) for name, *cells in spending(status)]
    return _section("spending", "Money and work", tag("table", head, tag("tbody", rows), class_="numbers"))


def _cell(inside: Inside) -> Markup:
    return tag("td", inside)


def _failures(status: Status) -> Markup:
    if not status.failures:
        return _section("failures", "Last failures", _empty("No task has failed since the start."))
    rows = [_failure(one, status) for one in status.failures]
    hint = "A task fails by its own fault only; its author is told the reason."
    return _section("failures", "Last failures", _tasks(rows, "Failed"), tag("p", hint, class_="hint"))


def _failure(failure: Failure, status: Status) -> Sequence[Inside]:
    return failure.task_id, failure.reason, _moment(failure.at, ago(failure.at, status.at))


def _parked(status: Status) -> Markup:
    if status.backlog is None:
        return _section("parked", "Parked tasks", _empty("The journal does not answer in time."))
    if not status.backlog.parked:
        return _section(
            "parked", "Parked tasks", _empty("Nothing is parked. A result that the Task API refuses would stand here.")
        )
    rows = [_parked_task(one, status) for one in status.parked]
    left = status.backlog.parked - len(rows)
    more = f"{plural(left, 'more task')} not shown. " if left > 0 else ""
    command = tag("code", "ai-task-processor journal retry")
    hint = tag("p", more, "When the cause is mended, ", command, " sends them again.", class_="hint")
    return _section("parked", "Parked tasks", _tasks(rows, "Settled"), hint)


def _parked_task(task: ParkedTask, status: Status) -> Sequence[Inside]:
    settled = "" if task.settled_at is None else _moment(task.settled_at, ago(task.settled_at, status.at))
    return task.task_id, task.reason, settled


def _tasks(rows: Sequence[Sequence[Inside]], moment: str) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", words, scope="col") for words in ("Task", "Reason", moment))))
    body = [tag("tr", tag("th", tag("code", name), scope="row"), _cell(why), _cell(when)) for name, why, when in rows]
    return tag("table", head, tag("tbody", body), class_="tasks")


_SECTIONS: Mapping[str, Callable[[Status], Markup]] = MappingProxyType(
    {
        "identity": _identity,
        "headline": _headline,
        "figures": _figures,
        "throughput": _throughput,
        "checks": _checks,
        "limits": _limits,
        "breakers": _breakers,
        "spending": _spending,
        "failures": _failures,
        "parked": _parked,
    }
)


# --- Smaller things ---------------------------------------------------------------------------------------------------


def _section(name: str, heading: str, *inside: Inside) -> Markup:
    title = tag("h2", heading, id_=f"{name}-title")
    return tag("section", title, inside, id_=name, class_="card", aria_labelledby=f"{name}-title")


def _empty(inside: Inside) -> Markup:
    return tag("p", inside, class_="empty")


def _row(level: Level, said: str, name: str, detail: Inside) -> Markup:
    """A condition: its mark, also in words for those who do not see it, its name and how it is."""
    mark = join((_icon(level), tag("span", f"{said}: ", class_="unseen") if said else None))
    return tag("li", mark, tag("b", name), tag("span", detail, class_="detail"), class_=level)


def _moment(moment: float, words: str) -> Markup:
    return tag("time", words, datetime=iso(moment), title=clock_time(moment))


_PATHS: Mapping[Level, str] = {
    "good": "M4.5 8.5l2.5 2.5 4.5-5",
    "attention": "M8 4v5M8 11.4v.2",
    "bad": "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6",
    "resting": "M6.2 5v6M9.8 5v6",
}
_COLOURS: Mapping[Level, str] = {"good": "1a7f4b", "attention": "b57500", "bad": "c62828", "resting": "5f6b7a"}


def _icon(level: Level) -> Markup:
    return tag(
        "svg",
        tag("circle", cx=8, cy=8, r=8),
        tag("path", d=_PATHS[level]),
        class_="icon",
        viewBox="0 0 16 16",
        aria_hidden="true",
    )


def _favicon(level: Level) -> str:
    return (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
        f"%3Ccircle cx='8' cy='8' r='8' fill='%23{_COLOURS[level]}'/%3E"
        f"%3Cpath d='{_PATHS[level]}' fill='none' stroke='white' stroke-width='2' stroke-linecap='round'/%3E%3C/svg%3E"
    )


_ICONS: Mapping[Level, str] = {level: _favicon(level) for level in _PATHS}
