"""What a booking costs with a million admissions behind it: `python benchmarks/limiter.py`."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.events import Event
from ai_task_processor.limits.ledger import LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.store import MemoryLimitStore, SqlLimitStore
from ai_task_processor.limits.windows import LENGTHS, Strategy
from ai_task_processor.storage.engine import open_storage

HISTORY = 1_000_000
MEASURED = 2_000
BATCH = 64
TARGET_MS = 0.2


class SteppedClock:
    """A clock that the benchmark moves."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> float:
        """Unix seconds."""
        return 1_700_000_000.0 + self.elapsed

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.elapsed


async def history(store: LimitStore, clock: SteppedClock, strategy: Strategy) -> Limiter:
    """A limiter with every window configured and a million admissions spread over the last thirty days."""
    limiter = await Limiter.open(
        dict.fromkeys(LENGTHS, 10 * HISTORY),
        strategy=strategy,
        zone=ZoneInfo("Europe/Berlin"),
        store=store,
        clock=clock,
        observer=_ignore,
    )
    bookings = 20_000
    for _ in range(bookings):
        clock.elapsed += LENGTHS["month"] / bookings
        await limiter.take(Amount(tasks=HISTORY // bookings))
    return limiter


def _ignore(event: Event) -> None:
    pass


async def measure(limiter: Limiter, clock: SteppedClock, timer: Callable[[], float]) -> float:
    """Milliseconds of ``timer`` for what one batch costs: asking for room, and booking."""
    began = timer()
    for _ in range(MEASURED):
        clock.elapsed += 0.1
        limiter.opens_at()
        limiter.headroom()
        await limiter.take(Amount(tasks=BATCH))
    return (timer() - began) / MEASURED * 1_000


async def main() -> None:
    """Print the figures."""
    for strategy in ("rolling", "fixed"):
        clock, store = SteppedClock(), MemoryLimitStore()
        limiter = await history(store, clock, strategy)
        buckets = len((await store.load()).buckets)
        cost = await measure(limiter, clock, time.process_time)
        print(f"{strategy:8} {cost:.4f} ms of CPU per batch (target {TARGET_MS}), {buckets} buckets kept")
    with tempfile.TemporaryDirectory() as folder:
        async with open_storage(f"sqlite:///{Path(folder) / 'state.db'}") as storage:
            clock = SteppedClock()
            limiter = await Limiter.open(
                dict.fromkeys(LENGTHS, 10 * HISTORY),
                strategy="rolling",
                zone=ZoneInfo("UTC"),
                store=SqlLimitStore(storage),
                clock=clock,
                observer=_ignore,
            )
            cpu = await measure(limiter, clock, time.process_time)
            wall = await measure(limiter, clock, time.perf_counter)
            print(f"with SQLite on disk: {cpu:.4f} ms of CPU, {wall:.4f} ms until durable, per batch")


if __name__ == "__main__":
    asyncio.run(main())
