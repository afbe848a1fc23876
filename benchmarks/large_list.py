"""Measures what a list costs that is far too long: a server that ignores ``limit`` shows every pending task.

    python benchmarks/large_list.py [--quick] [--tasks N] [--dry]

Reports memory above the page itself, how often the page is fetched, and how long the event loop was held up at most.
``--dry`` writes nothing into docs/; ``--quick`` takes 12,000 tasks and writes nothing either.
"""

import argparse
import http.client
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from asking import ask
from contenders import HERE, OURS, daemon_env
from processes import Group, machine, stand_in
from report import put
from startup import free_port, until_ready

LETTERS = 400
"""More letters in each text, so that 100,000 tasks are a page of 80 MB."""

WARM_UP = 3_000
MOST_MEMORY = 60.0
LONGEST_HOLD = 0.05

_BUCKET = re.compile(r'^ai_task_processor_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.]+)$', re.MULTILINE)


def main() -> int:
    """Measure, tell and write."""
    asked = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    with stand_in(cores[0]) as base:
        text = "\n".join(_lines(_measured(base, cores[-1], asked.tasks), asked.tasks))
    print(text)
    if not asked.dry:
        put(text, "large list", HERE.parent / "docs")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12,000 tasks")
    parser.add_argument("--tasks", type=int, help="tasks in the list")
    parser.add_argument("--dry", action="store_true", help="leave docs/ as it is")
    asked = parser.parse_args()
    asked.dry = asked.dry or asked.quick or asked.tasks is not None
    asked.tasks = asked.tasks or (12_000 if asked.quick else 100_000)
    return asked


def _measured(base: str, core: int, tasks: int) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        env = daemon_env(base, folder) | {"METRICS_PORT": str(port)}
        (command,) = OURS.commands(base, folder)
        with Group(command, core=core, folder=folder, env=env) as group:
            until_ready(group, port)
            _drained(base, group, f"count={WARM_UP}&lean")
            before, lags, waited = group.peak(), _lags(port), group.waited()
            found = _drained(base, group, f"count={tasks}&letters={LETTERS}&whole&lean")
            after = _lags(port)
            waited, page = group.waited() - waited, found["longest_page"] / 1024 / 1024
            return {
                "page": page,
                "before": before,
                "above": group.peak() - before - page,
                "fetches": found["fetches"],
                "listed": found["listed"] / found["longest_page"],
                "seconds": found["seconds"],
                "waited": waited,
                "held up": sum(after.values()) - sum(lags.values()),
                "longest": max((bound for bound in after if after[bound] > lags.get(bound, 0)), default=0.0),
                "too long": sum(after[bound] - lags[bound] for bound in after if bound > LONGEST_HOLD),
            }


def _drained(base: str, group: Group, lot: str) -> Mapping[str, float]:
    ask("POST", f"{base}/lot?{lot}")
    while not _is_done(base):
        if group.ended:
            raise SystemExit(f"it ended: {group.said}")
    time.sleep(0.1)  # until it has written down what it did
    found = ask("GET", f"{base}/lot/report")
    if found["wrong"]:
        raise SystemExit(f"{found['wrong']:.0f} wrong vectors")
    return found


def _is_done(base: str) -> bool:
    try:
        ask("GET", f"{base}/lot/done", within=5)
    except TimeoutError:
        return False
    return True


def _lags(port: int) -> Mapping[float, float]:
    """How often the loop was held up, by the least bound (seconds) that the metric knows above it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    shown = connection.getresponse().read().decode()
    connection.close()
    found, below = {}, 0.0
    for bound, count in _BUCKET.findall(shown):
        found[float(bound)] = float(count) - below
        below = float(count)
    return found


def _lines(found: Mapping[str, float], tasks: int) -> list[str]:
    above, fetches = f"{found['above']:.0f}", f"{found['fetches']:.0f}, together {found['listed']:.1f} times the page"
    longest, often = f"below {1_000 * found['longest']:.0f}", f"{found['too long']:.0f} of {found['held up']:.0f} looks"
    story = (
        f"{tasks:,} tasks in one page of {found['page']:.0f} MB, on {machine()}; done in {found['seconds']:.0f} s, for "
        f"{found['waited']:.1f} s of which it could have worked, but others had its core."
    )
    return [
        story,
        "",
        "| | seen | goal |",
        "|---|---|---|",
        f"| MB of memory at most, above the page and {found['before']:.0f} before it | {above} | {MOST_MEMORY:.0f} |",
        f"| fetches, with `HOLD_LIMIT=10000` | {fetches} | {_least(tasks):.1f} times, for so `HOLD_LIMIT` wants it |",
        f"| ms that the loop was held up, at most | {longest} | {1_000 * LONGEST_HOLD:.0f} |",
        f"| times that it was longer | {often} | 0 |",
        "",
    ]


def _least(tasks: int, hold: int = 10_000) -> float:
    """Times that the whole page comes, where so many go from the list between two fetches."""
    return sum(left / tasks for left in range(tasks, 0, -hold))


if __name__ == "__main__":
    sys.exit(main())
