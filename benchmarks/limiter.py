"""What a booking costs with a million admissions behind it: `python benchmarks/limiter.py`."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from zoneinfo import ZoneInfo

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.events import Event
from ai_task_processor.limits.ledger import LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.store import MemoryLimitStore, SqlLimitStore
from ai_task_processor.limits.windows import KEYS, LENGTHS, Strategy
from ai_task_processor.storage.engine import open_storage

HISTORY = 1_000_000
MEASURED = 2_000
BATCH = 64
LANES = 5
"""As many requests to providers as there are at once by default."""

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


async def history(store: LimitStore, clock: SteppedClock, strategy: Strategy, keys: Iterable[str]) -> Limiter:
    """A limiter with these windows and a million admissions spread over the last thirty days."""
    limiter = await Limiter.open(
        dict.fromkeys(keys, 10**15),
        strategy=strategy,
        zone=ZoneInfo("Europe/Berlin"),
        store=store,
        clock=clock,
        observer=_ignore,
    )
    bookings = 20_000
    for _ in range(bookings):
        clock.elapsed += LENGTHS["month"] / bookings
        await limiter.take(_amount(HISTORY // bookings))
    return limiter


def _amount(tasks: int, used: float = 1.0) -> Amount:
    tokens = int(tasks * 200 * used)
    return Amount(tasks=tasks, tokens=tokens, cost=20_000 * tokens)


def _ignore(event: Event) -> None:
    pass


async def measure(limiter: Limiter, clock: SteppedClock, timer: Callable[[], float], lanes: int = 1) -> float:
    """Milliseconds of ``timer`` for what one batch costs: asking for room, booking, and settling by what was used."""

    async def lane() -> None:
        for _ in range(MEASURED // lanes):
            clock.elapsed += 0.1
            limiter.opens_at()
            limiter.headroom()
            await limiter.take(_amount(BATCH))
            await limiter.settle(_amount(BATCH, used=0.5))

    began = timer()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    return (timer() - began) / MEASURED * 1_000


async def main() -> None:
    """Print the figures."""
    for what, keys in (("5 windows of tasks", tuple(LENGTHS)), ("15 windows of tasks, tokens and money", tuple(KEYS))):
        print(what)
        for strategy in ("rolling", "fixed"):
            clock, store = SteppedClock(), MemoryLimitStore()
            limiter = await history(store, clock, strategy, keys)
            buckets = len((await store.load()).buckets)
            cost = await measure(limiter, clock, time.process_time)
            print(f"  {strategy:8} {cost:.4f} ms of CPU per batch (target {TARGET_MS}), {buckets} buckets kept")
        for lanes in (1, LANES):
            print(f"  {await on_disk(keys, lanes)}")


async def on_disk(keys: Iterable[str], lanes: int) -> str:
    """The figures with SQLite, where so many batches are booked at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_storage(f"sqlite:///{Path(folder) / 'state.db'}") as storage:
            clock = SteppedClock()
            limiter = await Limiter.open(
                dict.fromkeys(keys, 10**15),
                strategy="rolling",
                zone=ZoneInfo("UTC"),
                store=SqlLimitStore(storage),
                clock=clock,
                observer=_ignore,
            )
            cpu = await measure(limiter, clock, time.process_time, lanes)
            wall = await measure(limiter, clock, time.perf_counter, lanes)
            return f"with SQLite on disk, {lanes} at once: {cpu:.4f} ms of CPU, {wall:.4f} ms of time per batch"


if __name__ == "__main__":
    asyncio.run(main())
