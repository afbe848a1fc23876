"""Prints what more replicas give, and what the database then does.

    python -m benchmarks.replicas [TASKS]

One, two and four daemons as processes on one PostgreSQL (found or started as the tests do) drain TASKS tasks from a
task server that is a process too. The mock provider takes 200 ms for a batch. All of them share this machine, so that
where the provider is not the bound, its cores are: run it where nothing else runs.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.fleet import Fleet, Tasks, fleet, task_server
from tests.fakes.postgres import Database, database

LATENCY = 0.2
SIZES = (1, 2, 4)
SHAPES = ((1, 16), (5, 64))
"""Provider requests at once and texts in each: one that waits for its provider most of the time, and the usual one."""
TRANSACTIONS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


async def main(count: int) -> None:
    """Measure every size of the fleet, where the provider is the bound and with the usual settings."""
    print(f"{count} tasks, {LATENCY * 1000:.0f} ms for each provider request; {os.cpu_count()} cores for everything")
    print(f"{'requests x texts':>16} {'replicas':>9} {'tasks/s':>9} {'ratio':>6} {'transactions/s':>15} {'cores':>6}")
    for lanes, batch in SHAPES:
        alone = 0.0
        for size in SIZES:
            rate, transactions, cores = await measured(size, lanes, batch, count)
            alone = alone or rate
            shape = f"{lanes} x {batch}"
            print(f"{shape:>16} {size:9} {rate:9.0f} {rate / alone:6.2f} {transactions:15.0f} {cores:6.2f}")


async def measured(size: int, lanes: int, batch: int, count: int) -> tuple[float, float, float]:
    """Tasks and transactions per second, and how many cores the replicas used."""
    with tempfile.TemporaryDirectory() as folder, database() as own:
        async with (
            task_server(Path(folder)) as tasks,
            fleet(
                tasks,
                own.url,
                Path(folder),
                mock_latency_seconds=LATENCY,
                concurrency_limit=lanes,
                batch_size=batch,
                log_level="warning",
                embedding_cache_mb=0,
            ) as crew,
        ):
            return await drained(crew, tasks, own, size, count)


async def drained(crew: Fleet, tasks: Tasks, own: Database, size: int, count: int) -> tuple[float, float, float]:
    """Have the tasks done by so many replicas that already run."""
    await crew.start(size)
    await settled_in(own, size)
    await tasks.post([f"{number} of the texts that a benchmark embeds" for number in range(count)])
    before, began, used = number_of(own), time.perf_counter(), crew_cpu(crew)
    await tasks.until("succeeded", count, within=600)
    seconds = time.perf_counter() - began
    transactions, cores = number_of(own) - before, crew_cpu(crew) - used
    await crew.stop()
    return count / seconds, transactions / seconds, cores / seconds


async def settled_in(own: Database, size: int) -> None:
    """Wait until all replicas have joined, and a little longer."""
    joined = "SELECT CASE WHEN to_regclass('replicas') IS NULL THEN 0 ELSE 1 END"
    while own.value(joined) == 0 or own.value("SELECT count(*) FROM replicas") != size:  # noqa: ASYNC110  # processes
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)


def number_of(own: Database) -> int:
    """Transactions so far."""
    return int(str(own.value(TRANSACTIONS)))


def crew_cpu(crew: Fleet) -> float:
    """Seconds of CPU that the replicas have used."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = [Path(f"/proc/{life.process.process.pid}/stat").read_text(encoding="ascii") for life in crew.running]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return sum(int(each[11]) + int(each[12]) for each in fields) / ticks


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000))
