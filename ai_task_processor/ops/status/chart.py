"""Throughput as a small drawing, and as a table for those who cannot see it."""

import math
from collections.abc import Iterator, Sequence

from ai_task_processor.ops.status.facts import Minute, busiest
from ai_task_processor.ops.status.figures import count, plural
from ai_task_processor.ops.status.markup import Markup, join, tag

HEIGHT = 100.0
STEP = 10.0
"""Units of the drawing from one minute to the next."""

BAR = 7.0
LEAST = 2.0
"""Height of a bar that stands for anything at all: one failure among thousands is to be seen."""

STRETCH = 10
"""Minutes in a row of the table."""


def chart(minutes: Sequence[Minute]) -> Markup:
    """A bar for each minute: what succeeded, and on top of it what failed."""
    top = ceiling(busiest(minutes))
    bars = [_bar(place, len(minutes), minute, top) for place, minute in enumerate(minutes) if minute.settled]
    grid = [tag("line", class_="grid", x1=0, x2="100%", y1=y, y2=y) for y in (0, HEIGHT / 2, HEIGHT)]
    drawing = tag(
        "svg",
        grid,
        bars,
        viewBox=f"0 0 {len(minutes) * STEP:g} {HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_summary(minutes),
    )
    scale = tag("div", tag("span", count(top)), tag("span", count(top / 2)), tag("span", "0"), class_="scale")
    axis = tag("div", *(tag("span", words) for words in _moments(len(minutes))), class_="axis")
    return tag("div", tag("div", scale, aria_hidden="true"), tag("div", drawing, axis), class_="chart")


def table(minutes: Sequence[Minute]) -> Markup:
    """The same in rows of ten minutes, the latest first."""
    headings = ("Minutes ago", "Succeeded", "Failed", "Put off")
    head = tag("tr", *(tag("th", words, scope="col") for words in headings))
    rows = [
        tag(
            "tr",
            tag("th", span, scope="row"),
            *(tag("td", count(number)) for number in (total.succeeded, total.failed, total.deferred)),
        )
        for span, total in _stretches(minutes)
    ]
    return tag("table", tag("thead", head), tag("tbody", rows), class_="numbers")


def ceiling(most: int) -> int:
    """The next of 2, 4, 10, 20, 40, 100 …: half of it is a whole number too."""
    scale = 1
    while True:
        for step in (2, 4, 10):
            if most <= step * scale:
                return step * scale
        scale *= 10


def _bar(place: int, places: int, minute: Minute, top: int) -> Markup:
    failed, succeeded = _height(minute.failed, top), _height(minute.succeeded, top)
    x = place * STEP + (STEP - BAR) / 2
    parts = join(_parts(x, (("succeeded", succeeded), ("failed", failed))))
    return tag("g", tag("title", _told(places - 1 - place, minute)), parts)


def _parts(x: float, heights: Sequence[tuple[str, float]]) -> Iterator[Markup]:
    y = HEIGHT
    for kind, height in heights:
        if height:
            y -= height
            yield tag("rect", class_=kind, x=f"{x:g}", y=f"{y:.1f}", width=f"{BAR:g}", height=f"{height:.1f}")


def _height(number: int, top: int) -> float:
    return max(LEAST, number / top * (HEIGHT - LEAST)) if number else 0.0


def _told(ago: int, minute: Minute) -> str:
    when = "This minute" if ago == 0 else f"{plural(ago, 'minute')} ago"
    return f"{when}: {count(minute.succeeded)} succeeded, {count(minute.failed)} failed"


def _summary(minutes: Sequence[Minute]) -> str:
    total = sum(minutes, Minute())
    return (
        f"Tasks settled in each of the last {len(minutes)} minutes: {count(total.settled)} in all, "
        f"{count(total.failed)} of them failed, and at most {count(busiest(minutes))} in one minute."
    )


def _moments(places: int) -> tuple[str, ...]:
    return (f"{places} min ago", f"{places // 2} min ago", "now")


def _stretches(minutes: Sequence[Minute]) -> Iterator[tuple[str, Minute]]:
    for first in range(math.ceil(len(minutes) / STRETCH)):
        ends = len(minutes) - first * STRETCH
        stretch = minutes[max(0, ends - STRETCH) : ends]
        yield f"{first * STRETCH} to {first * STRETCH + len(stretch)}", sum(stretch, Minute())
