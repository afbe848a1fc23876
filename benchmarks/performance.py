"""Measures the daemon beside a bare script and general workers on the same work: `make bench`.

    python benchmarks/performance.py [--quick] [--tasks N] [--rounds N] [--only NAME,NAME] [--dry]

One local server on one core plays everything outside; the workers run on another core, one after the other, in turn.
Ends with exit code 1 where a ratio goal is missed. ``--dry`` writes nothing into docs/.
"""

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from asking import ask
from contenders import BARE, HERE, NOT_TO_BE_HAD, OURS, OURS_FULL, PEERS, PEERS_PYTHON, TUNED, Contender
from processes import Group, machine, stand_in
from report import Figures, Range, Story, missed_goals, write
from startup import answered_at_once, cold_starts

WARM_UP = 256

BURST = 100
"""Tasks created at once while nothing is to be done, for the time from created to PATCHed."""

PATIENCE = 120.0
"""Seconds after which a worker that has not done its tasks is given up."""


@dataclass(frozen=True)
class Sample:
    """One worker, one round: requests and fetches in 1,000 tasks, memory in megabytes, times in milliseconds."""

    rate: float
    cpu: float
    peak: float
    requests: float
    fetches: float
    p50: float
    p99: float


class Gone(Exception):
    """A worker ended, or did not do what it was given; the message says which and why."""


def main() -> int:
    """Measure, tell and write."""
    asked = _arguments()
    chosen, left_out = _present(_chosen(asked))
    left_out |= {} if asked.quick or asked.only else NOT_TO_BE_HAD
    load = os.getloadavg()
    cores = sorted(os.sched_getaffinity(0))
    samples: dict[str, list[Sample]] = {one.name: [] for one in chosen}
    with stand_in(cores[0]) as base:
        for number in range(asked.rounds):
            order = chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
            for one in order:
                if one.name in left_out:
                    continue
                try:
                    samples[one.name].append(_measured(one, base, cores[-1], asked.tasks))
                except Gone as error:
                    left_out[one.name] = str(error)
                    continue
                print(f"round {number + 1}  {one.name:40} {_words(samples[one.name][-1])}", flush=True)
        starts = {} if asked.only else cold_starts(base, rounds=asked.rounds, core=cores[-1])
        answers = {} if asked.only else answered_at_once(base, rounds=asked.rounds, core=cores[-1])
    measured = {one: _figures(samples[one.name]) for one in chosen if samples[one.name]}
    story = Story(machine(), asked.tasks, asked.rounds, load, os.getloadavg(), left_out, starts, answers)
    text = write(measured, story, None if asked.dry else HERE.parent / "docs")
    print(text)
    missed = missed_goals(measured)
    missed += [f"{OURS.name} could not be measured: {left_out[OURS.name]}"] if OURS.name in left_out else []
    for goal in missed:
        print(f"MISSED: {goal}")
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer tasks, two rounds, no peers")
    parser.add_argument("--tasks", type=int, help="tasks in a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default="", help="names of workers, or parts of them, with commas between")
    parser.add_argument("--dry", action="store_true", help="leave docs/ as it is")
    asked = parser.parse_args()
    asked.tasks = asked.tasks or (1_500 if asked.quick else 5_000)
    asked.rounds = asked.rounds or (2 if asked.quick else 5)
    asked.dry = asked.dry or asked.quick or bool(asked.only)
    return asked


def _chosen(asked: argparse.Namespace) -> list[Contender]:
    everybody = [BARE, TUNED, OURS, OURS_FULL, *([] if asked.quick else PEERS)]
    wanted = [name for name in asked.only.split(",") if name]
    return [one for one in everybody if not wanted or any(name in one.name for name in wanted)]


def _present(chosen: Sequence[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Those that can be measured here, and why the others cannot."""
    absent = {one.name: why for one in chosen if (why := _why_absent(one))}
    return [one for one in chosen if one.name not in absent], absent


def _why_absent(one: Contender) -> str:
    if one.is_peer and not PEERS_PYTHON.exists():
        return "its virtual environment is missing: `make bench` makes it"
    if one.server is None:
        return ""
    try:
        socket.create_connection(one.server, timeout=1).close()
    except OSError:
        return f"nothing listens on {one.server[0]}:{one.server[1]}"
    return ""


# --- One measurement --------------------------------------------------------------------------------------------------


def _measured(one: Contender, base: str, core: int, tasks: int) -> Sample:
    """Start it, let it warm up, give it the tasks, and read what they took."""
    count = max(WARM_UP, int(tasks * one.share))
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        one.prepare(folder)
        with ExitStack() as stack:
            groups = [
                stack.enter_context(Group(command, core=core, folder=folder, env=one.env(base, folder)))
                for command in one.commands(base, folder)
            ]
            _drained(base, groups, WARM_UP)
            before = sum(group.cpu() for group in groups)
            found = _drained(base, groups, count)
            cpu = sum(group.cpu() for group in groups) - before
            peak = sum(group.peak() for group in groups)
            burst = _drained(base, groups, BURST)
    finally:
        shutil.rmtree(folder)
    return Sample(
        rate=count / found["seconds"],
        cpu=1_000 * cpu / count,
        peak=peak,
        requests=found["requests"] * 1_000 / count,
        fetches=found["fetches"] * 1_000 / count,
        p50=1_000 * burst["p50"],
        p99=1_000 * burst["p99"],
    )


def _drained(base: str, groups: Sequence[Group], count: int) -> dict[str, float]:
    """Create so many tasks, wait until each has its vector, and see that it is the right one."""
    ask("POST", f"{base}/lot?count={count}")
    deadline = time.monotonic() + PATIENCE
    while not _is_done(base):
        said = " ".join(" ".join(group.said for group in groups).split())[-500:]
        if any(group.ended for group in groups):
            raise Gone(f"one of its processes ended: {said}")
        if time.monotonic() > deadline:
            raise Gone(f"did not do {count} tasks in {PATIENCE:.0f} s: {said}")
    time.sleep(0.05)  # until it has written down what it did
    found = ask("GET", f"{base}/lot/report")
    if found["wrong"] or found["missing"]:
        raise Gone(f"wrote {found['wrong']:.0f} wrong vectors")
    if found["repeated"]:
        print(f"{found['repeated']:.0f} tasks were written more than once")
    return found


def _is_done(base: str) -> bool:
    """Wait a while for the end; the answer comes in the moment of the last PATCH."""
    try:
        ask("GET", f"{base}/lot/done", within=2)
    except TimeoutError:
        return False
    return True


# --- Figures ----------------------------------------------------------------------------------------------------------


def _figures(samples: Sequence[Sample]) -> Figures:
    def of(name: str) -> Range:
        values = [getattr(sample, name) for sample in samples]
        return Range(statistics.median(values), min(values), max(values))

    return Figures(**{name: of(name) for name in Sample.__dataclass_fields__})


def _words(sample: Sample) -> str:
    return f"{sample.rate:7.0f} tasks/s {sample.cpu:7.3f} ms CPU/task {sample.peak:6.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
