"""Replay one seed with its trace, or run many: ``python -m tests.simulation SEED`` or ``FIRST-LAST``."""

import sys
import time
from collections import Counter

from tests.simulation.scenario import drawn
from tests.simulation.world import simulate

SLOW = 2.0
"""Seconds of real time after which a seed is worth a look."""


def write(line: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def replay(seed: int) -> int:
    """Print everything that happened; answer how many invariants were violated."""
    report = simulate(drawn(seed))
    write("\n".join(report.trace.lines))
    write(f"\nseed {seed}: {report.simulated:.0f} simulated seconds, hash {report.trace.hash}")
    for violation in report.violations:
        write(f"violated: {violation}")
    return len(report.violations)


def run_many(first: int, last: int) -> int:
    """Print the seeds that fail, and what happened how often; answer how many failed."""
    began, failed = time.perf_counter(), 0
    counts = Counter[str]()
    for seed in range(first, last + 1):
        started = time.perf_counter()
        report = simulate(drawn(seed))
        counts.update(report.counts)
        if time.perf_counter() - started > SLOW:
            write(f"seed {seed}: took {time.perf_counter() - started:.1f} s, {len(report.trace.lines)} lines")
        if report.violations:
            failed += 1
            write(f"seed {seed}: {report.violations[0].splitlines()[0]}")
    seeds, seconds = last - first + 1, time.perf_counter() - began
    for what, count in sorted(counts.items()):
        write(f"{count:9}  {what}")
    write(f"{failed} of {seeds} seeds failed; {seconds:.1f} s, {1000 * seconds / seeds:.0f} ms a seed")
    return failed


def main() -> int:
    """Understand the argument."""
    first, _, last = sys.argv[1].partition("-")
    return run_many(int(first), int(last)) if last else replay(int(first))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
