"""``python -m tests.chaos --kills 100 --seed 1``: kills the real daemon for a few minutes and says what came of it."""

import argparse
import asyncio
import random
import re
import signal
import sys
from collections import defaultdict

from rich.console import Console
from rich.markup import escape

from tests.chaos.run import Report, chaos

SHOWN = 5
"""Breaches of each kind that are shown."""


def main() -> int:
    """Exit code 0 where every invariant held, else 1."""
    options = _options()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{options.kills} kills, seed {options.seed}", style="bold")
    try:
        report = asyncio.run(_interruptible(options, console))
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("Interrupted; nothing is left running.")
        return 130
    _show(report, console)
    return 1 if report.breaches else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often the daemon is killed (100)")
    parser.add_argument("--seed", type=int, default=None, help="decides tasks, faults and plans; chosen if not given")
    parser.add_argument("--hurry", action="store_true", help="let an operator end all waits before the last process")
    options = parser.parse_args()
    options.seed = random.randrange(10**6) if options.seed is None else options.seed
    return options


async def _interruptible(options: argparse.Namespace, console: Console) -> Report:
    """Run so that SIGTERM, like SIGINT, ends the run and the process that it has started."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with console.status("starting …") as status:

        def tell(line: str) -> None:
            status.update(escape(line))
            console.print(escape(line), style="dim")

        return await chaos(kills=options.kills, seed=options.seed, hurry=options.hurry, tell=tell)


def _show(report: Report, console: Console) -> None:
    console.print(f"\n{report.kills} kills in {report.seconds:.0f} s, seed {report.seed}", style="bold")
    for name, figure in report.figures.items():
        console.print(f"  {name}: {escape(str(figure))}")
    if not report.breaches:
        console.print("Every invariant held.", style="bold green")
        return
    console.print(f"{len(report.breaches)} breaches:", style="bold red")
    for kind, breaches in _by_kind(report.breaches).items():
        console.print(f"  {len(breaches)} like this: {escape(kind)}")
        for breach in breaches[:SHOWN]:
            console.print(f"    {escape(breach)}")


def _by_kind(breaches: list[str]) -> dict[str, list[str]]:
    """The breaches by what they say when ids and numbers are left out."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for breach in breaches:
        kinds[re.sub(r"[\d.]+", "#", breach)[:160]].append(breach)
    return kinds


if __name__ == "__main__":
    sys.exit(main())
