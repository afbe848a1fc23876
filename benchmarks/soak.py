"""Sees whether the daemon stays as it is while it works: an hour of hard work, as fast as it goes. `make soak`.

    python benchmarks/soak.py [--quick] [--tasks N] [--dry]

Memory, open files, the size of the state and the number of metric series, looked at again and again; after a warm-up
they are to stay what they are, else it ends with exit code 1. What is remembered for hours by default is remembered for
seconds here, so that it is forgotten often enough. ``--quick`` takes about a minute; it and ``--dry`` write nothing.
"""

import argparse
import http.client
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from asking import ask
from contenders import HERE, OURS, daemon_env
from processes import Group, machine, stand_in
from report import FONT, INK, OURS_INK, put
from startup import free_port, until_ready

TASKS, QUICK = 500_000, 40_000
LOT = 2_000
WARM_UP = 1 / 3
"""The part of the tasks until everything is as large as it gets: cache, journal, pools."""

EVERY = 1.0
PATIENCE = 300.0
"""Seconds between two looks, and until a lot is given up."""

SHORT_MEMORY = {"STATE_RETENTION_HOURS": "0.0006", "EMBEDDING_CACHE_MB": "16", "POLLING_INTERVAL_SECONDS": "0.2"}

LOT_MB = 12.0
"""What a lot's vectors take on the disk, more or less of which may wait for delivery when it is looked at."""

CHART = "soak.svg"


@dataclass(frozen=True)
class Measure:
    """What is looked at: it may grow by ``share`` of itself, or by ``least``, if that is more."""

    name: str
    unit: str
    share: float
    least: float

    def allowed(self, value: float) -> float:
        """How much more than ``value`` is no growth yet."""
        return max(self.share * value, self.least)


MEASURES = {
    "memory": Measure("memory", "MB", share=0.05, least=5),
    "files": Measure("open files", "", share=0.05, least=2),
    "state": Measure("state on disk", "MB", share=0.1, least=LOT_MB),
    "series": Measure("metric series", "", share=0, least=0),
}


@dataclass(frozen=True)
class Look:
    """One look, after so many tasks."""

    done: int
    memory: float
    files: float
    state: float
    series: float


@dataclass(frozen=True)
class Change:
    """Medians of the first and the last quarter after the warm-up."""

    first: float
    last: float
    allowed: float

    @property
    def is_growth(self) -> bool:
        """Whether there is more of it in the end."""
        return self.last - self.first > self.allowed


def main() -> int:
    """Work, look, tell and write."""
    asked = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    began = time.monotonic()
    with stand_in(cores[0]) as base:
        looks = list(_soaked(base, cores[-1], asked.tasks))
    changes = {key: _change(measure, key, looks) for key, measure in MEASURES.items()}
    text = "\n".join(_lines(changes, asked.tasks, time.monotonic() - began, len(looks)))
    print(text)
    if not asked.dry:
        put(text, "soak", HERE.parent / "docs")
        (HERE.parent / "docs" / CHART).write_text(chart(looks))
    grown = [key for key, change in changes.items() if change.is_growth]
    for key in grown:
        print(f"GROWS: {MEASURES[key].name}")
    return 1 if grown else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} tasks")
    parser.add_argument("--tasks", type=int, help=f"tasks in all, {TASKS:,} by default")
    parser.add_argument("--dry", action="store_true", help="leave docs/ as it is")
    asked = parser.parse_args()
    asked.dry = asked.dry or asked.quick
    asked.tasks = asked.tasks or (QUICK if asked.quick else TASKS)
    return asked


# --- Work -------------------------------------------------------------------------------------------------------------


def _soaked(base: str, core: int, tasks: int) -> Iterator[Look]:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder, port = Path(name), free_port()
        env = daemon_env(base, folder) | SHORT_MEMORY | {"METRICS_PORT": str(port)}
        (command,) = OURS.commands(base, folder)
        with Group(command, core=core, folder=folder, env=env) as group:
            until_ready(group, port)
            for before in range(0, tasks, LOT):
                count = min(LOT, tasks - before)
                ask("POST", f"{base}/lot?count={count}&lean")
                for missing in _until_done(base, group):
                    yield _look(group, folder, port, before + count - missing)


def _until_done(base: str, group: Group) -> Iterator[int]:
    """How many tasks of the lot are missing, every now and then, and at its end."""
    deadline = time.monotonic() + PATIENCE
    while not _is_done(base):
        if group.ended or time.monotonic() > deadline:
            raise SystemExit(f"it does not get on: {group.said}")
        yield int(ask("GET", f"{base}/lot/report")["missing"])
    found = ask("GET", f"{base}/lot/report")
    if found["wrong"] or found["repeated"]:
        raise SystemExit(f"{found['wrong']:.0f} wrong vectors, {found['repeated']:.0f} tasks written twice")
    yield 0


def _is_done(base: str) -> bool:
    try:
        ask("GET", f"{base}/lot/done", within=EVERY)
    except TimeoutError:
        return False
    return True


def _look(group: Group, folder: Path, port: int, done: int) -> Look:
    return Look(
        done=done,
        memory=group.memory(),
        files=group.files(),
        state=sum(file.stat().st_size for file in folder.glob("state.db*")) / 2**20,
        series=_series(port),
    )


def _series(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        shown = connection.getresponse().read()
    finally:
        connection.close()
    return sum(1 for line in shown.splitlines() if not line.startswith(b"#"))


# --- Figures ----------------------------------------------------------------------------------------------------------


def _change(measure: Measure, key: str, looks: Sequence[Look]) -> Change:
    warm = [getattr(look, key) for look in looks if look.done >= WARM_UP * looks[-1].done]
    quarter = max(1, len(warm) // 4)
    first, last = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
    return Change(first, last, measure.allowed(first))


def _lines(changes: dict[str, Change], tasks: int, seconds: float, looks: int) -> Iterator[str]:
    day = datetime.now(UTC).date().isoformat()
    yield f"{tasks:,} tasks in {seconds / 60:.1f} minutes on {machine()}, {day}; {looks} looks. Medians of the first"
    yield "and of the last quarter after a warm-up of a third of the tasks:"
    yield ""
    yield "| | first | last | may grow by |"
    yield "|---|---|---|---|"
    for key, change in changes.items():
        measure = MEASURES[key]
        name = f"{measure.name}, {measure.unit}" if measure.unit else measure.name
        yield f"| {name} | {change.first:.0f} | {change.last:.0f} | {change.allowed:.0f} |"
    yield ""


# --- The chart --------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 130, 80, 20, 34, 22


def chart(looks: Sequence[Look]) -> str:
    """One line for each measure over the tasks done, from nothing up."""
    body = [line for place, key in enumerate(MEASURES) for line in _curve(key, looks, place * HEIGHT)]
    total = HEIGHT * len(MEASURES)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" {FONT}>',
            f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _curve(key: str, looks: Sequence[Look], top: float) -> Iterator[str]:
    measure = MEASURES[key]
    most, end = max(getattr(look, key) for look in looks), looks[-1].done
    low, high = top + HEIGHT - BOTTOM, top + TOP

    def point(look: Look) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * look.done / end
        return f"{across:.1f},{low - (low - high) * getattr(look, key) / most:.1f}"

    unit = f" {measure.unit}" if measure.unit else ""
    step = max(1, len(looks) // 400)
    yield f'<text x="12" y="{top + 20}" font-weight="600" fill="{INK}">{escape(measure.name)}</text>'
    yield f'<text x="{LEFT - 8}" y="{high + 4}" text-anchor="end" fill="{INK}">{most:,.0f}{unit}</text>'
    yield f'<text x="{LEFT - 8}" y="{low + 4}" text-anchor="end" fill="{INK}">0</text>'
    yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{low}" y2="{low}" stroke="{INK}"/>'
    yield f'<text x="{WIDTH - RIGHT}" y="{low + 16}" text-anchor="end" fill="{INK}">{end:,} tasks</text>'
    points = " ".join(point(look) for look in looks[::step])
    yield f'<polyline points="{points}" fill="none" stroke="{OURS_INK}" stroke-width="1.5"/>'


if __name__ == "__main__":
    sys.exit(main())
