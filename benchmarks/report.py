"""What was measured, as a table, a chart and the goals that were missed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from contenders import BARE, OURS, OURS_FULL, Contender

PAGE = "performance.md"
CHART = "performance.svg"

MOST_CPU = 1.5
LEAST_RATE = 0.9
LEAST_LEAD = 3.0


@dataclass(frozen=True)
class Range:
    """The median of all rounds, and the least and the greatest."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Figures:
    """One worker: tasks in a second; milliseconds of CPU for each; the rest as in a sample."""

    rate: Range
    cpu: Range
    peak: Range
    requests: Range
    fetches: Range
    p50: Range
    p99: Range


@dataclass(frozen=True)
class Story:
    """Under which conditions it was measured; ``starts`` are seconds of CPU, ``answers`` milliseconds."""

    machine: str
    tasks: int
    rounds: int
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    left_out: Mapping[str, str]
    starts: Mapping[str, Range]
    answers: Mapping[str, Range]


Measured = Mapping[Contender, Figures]


def write(measured: Measured, story: Story, folder: Path | None) -> str:
    """The figures in Markdown; with a folder they replace those on its page, and the chart beside it."""
    text = "\n".join(_lines(measured, story))
    if folder:
        put(text, "measured", folder)
        (folder / CHART).write_text(chart(measured))
    return text


def put(text: str, region: str, folder: Path) -> None:
    """Renew that region of the page."""
    page = folder / PAGE
    found = re.compile(rf"(<!-- {region} -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(found.sub(lambda old: f"{old[1]}\n{text}\n{old[2]}", page.read_text()))


def missed_goals(measured: Measured) -> list[str]:
    """The ratio goals that were missed, in words."""
    by_name = {one.name: figures for one, figures in measured.items()}
    bare, ours = by_name.get(BARE.name), by_name.get(OURS.name)
    if not ours:
        return []
    missed = list(_beside_bare(bare, ours)) if bare else []
    peers = {one.name: figures.rate.median for one, figures in measured.items() if one.is_peer}
    if peers:
        best = max(peers, key=lambda name: peers[name])
        lead = ours.rate.median / peers[best]
        if lead < LEAST_LEAD:
            missed.append(f"{lead:.2f} times the rate of {best}, at least {LEAST_LEAD} is the goal")
    return missed


def _beside_bare(bare: Figures, ours: Figures) -> Iterator[str]:
    cpu, rate = ours.cpu.median / bare.cpu.median, ours.rate.median / bare.rate.median
    if cpu > MOST_CPU:
        yield f"{cpu:.2f} times the CPU per task of the bare script, at most {MOST_CPU} is the goal"
    if rate < LEAST_RATE:
        yield f"{rate:.2f} times the rate of the bare script, at least {LEAST_RATE} is the goal"


# --- The table --------------------------------------------------------------------------------------------------------


def _lines(measured: Measured, story: Story) -> Iterator[str]:
    day = datetime.now(UTC).date().isoformat()
    yield f"Measured {day} on {story.machine}; {story.tasks:,} tasks in a round (slow workers a part of them), medians "
    yield f"of {story.rounds} rounds, in brackets the least and the greatest. Load of the machine (one minute): "
    yield f"{story.load_before[0]:.1f} before, {story.load_after[0]:.1f} after."
    yield ""
    yield (
        "| worker | tasks/s | ms CPU per task | beside the bare script: rate, CPU | peak memory, MB "
        "| provider requests per 1,000 | fetches per 1,000 | created → PATCHed, ms: p50, p99 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    bare = next((figures for one, figures in measured.items() if one.name == BARE.name), None)
    for one, figures in measured.items():
        yield _row(one, figures, bare)
    yield ""
    for name, why in story.left_out.items():
        yield f"Left out: {name} ({' '.join(why.split())[:200]})."
    if story.starts:
        yield from ["", "| cold start | s CPU |", "|---|---|"]
        yield from (f"| `{name}` | {_shown(taken, 2)} |" for name, taken in story.starts.items())
        yield ""
    if story.answers:
        yield from ["", "| idle, interval 30 s, asked to poll by | ms from created to PATCHed |", "|---|---|"]
        yield from (f"| `{name}` | {_shown(taken, 0)} |" for name, taken in story.answers.items())
        yield ""


def _row(one: Contender, figures: Figures, bare: Figures | None) -> str:
    beside = "" if bare is None else f"{figures.rate.median / bare.rate.median:.2f}, "
    beside += "" if bare is None else f"{figures.cpu.median / bare.cpu.median:.2f}"
    cells = (
        f"**{one.name}**: {one.about}",
        _shown(figures.rate, 0),
        _shown(figures.cpu, 2),
        beside,
        _shown(figures.peak, 0),
        f"{figures.requests.median:.0f}",
        f"{figures.fetches.median:.1f}",
        f"{figures.p50.median:.0f}, {figures.p99.median:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _shown(value: Range, digits: int) -> str:
    return f"{value.median:,.{digits}f} ({value.least:,.{digits}f} to {value.most:,.{digits}f})"


# --- The chart --------------------------------------------------------------------------------------------------------

WIDTH, BAR, GAP, LEFT, RIGHT = 760, 22, 12, 250, 110
FONT = 'font-family="system-ui, sans-serif" font-size="13"'
INK, OURS_INK, QUIET = "#57606a", "#1a7f37", "#8c959f"


def chart(measured: Measured) -> str:
    """Two groups of bars: tasks in a second, and CPU per task."""
    rates = {one.name: figures.rate for one, figures in measured.items()}
    cpus = {one.name: figures.cpu for one, figures in measured.items()}
    half = len(measured) * (BAR + GAP) + 50
    body = [*_bars("Tasks per second (more is better)", rates, 0, 0), *_bars("ms of CPU per task", cpus, half, 2)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * half}" width="{WIDTH}" {FONT}>',
            f'<rect width="{WIDTH}" height="{2 * half}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _bars(title: str, values: Mapping[str, Range], top: float, digits: int) -> Iterator[str]:
    scale = (WIDTH - LEFT - RIGHT) / max(value.most for value in values.values())
    yield f'<text x="12" y="{top + 24}" font-weight="600" fill="{INK}">{escape(title)}</text>'
    for place, (name, value) in enumerate(values.items()):
        y = top + 40 + place * (BAR + GAP)
        middle = y + BAR / 2
        ink = OURS_INK if name in {OURS.name, OURS_FULL.name} else QUIET
        end = LEFT + value.median * scale
        yield f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end" fill="{INK}">{escape(name)}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{value.median * scale:.1f}" height="{BAR}" rx="3" fill="{ink}"/>'
        yield (
            f'<line x1="{LEFT + value.least * scale:.1f}" x2="{LEFT + value.most * scale:.1f}" y1="{middle}" '
            f'y2="{middle}" stroke="#24292f"/>'
        )
        far = max(end, LEFT + value.most * scale) + 6
        yield f'<text x="{far:.1f}" y="{middle + 4}" fill="{INK}">{value.median:,.{digits}f}</text>'
