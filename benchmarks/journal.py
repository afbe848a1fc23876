"""Prints what one task costs in the journal, beside the same writes in bare sqlite3.

    python benchmarks/journal.py [TASKS]

Each task is accepted, claimed, settled with a vector of 1,536 numbers, handed out and reported, in batches of 64, on
a file in the folder for temporary files. Figures are microseconds of CPU per task, all threads counted.
"""

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage

BATCH = 64
DIMENSIONS = 1536
KEY = "text-embedding-3-small|1536"
PHASES = ("accept", "claim", "settle", "unreported", "mark_reported")


class Cost:
    """CPU and wall time by phase."""

    def __init__(self) -> None:
        self.cpu = dict.fromkeys(PHASES, 0.0)
        self.wall = 0.0

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Book what happens inside under ``phase``."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[phase] += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def main() -> None:
    """Run both and compare."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        bare = bare_sqlite(Path(folder) / "bare.db", count)
        journal = asyncio.run(sql_journal(Path(folder) / "journal.db", count))
    print(f"{count} tasks, vectors of {DIMENSIONS}, batches of {BATCH}; microseconds of CPU per task")
    print(f"{'':14}{'bare sqlite3':>14}{'SqlJournal':>14}{'ratio':>8}")
    for phase in PHASES:
        print_line(phase, bare.cpu[phase], journal.cpu[phase], count)
    print_line("all", sum(bare.cpu.values()), sum(journal.cpu.values()), count)
    print_line("all, wall", bare.wall, journal.wall, count)


def print_line(name: str, bare: float, journal: float, count: int) -> None:
    """One row of the table."""
    print(f"{name:14}{bare / count * 1e6:14.1f}{journal / count * 1e6:14.1f}{journal / bare:8.2f}")


async def sql_journal(path: Path, count: int) -> Cost:
    """The journal's way, as the daemon uses it."""
    cost = Cost()
    page = [task(number) for number in range(count)]
    answers = [
        Succeeded(Vector(os.urandom(4 * DIMENSIONS)), "text-embedding-3-small", "openai", 30) for _ in range(BATCH)
    ]
    async with open_storage(f"sqlite:///{path}") as storage:
        journal = SqlJournal(storage, SystemClock())
        with cost.of("accept"):
            await journal.accept(page, await journal.mark())
        for _ in range(0, count, BATCH):
            with cost.of("claim"):
                claimed = await journal.claim(BATCH)
            with cost.of("settle"):
                await journal.settle({task.id: answer for task, answer in zip(claimed, answers, strict=False)})
            with cost.of("unreported"):
                entries = await journal.unreported(BATCH)
            with cost.of("mark_reported"):
                await journal.mark_reported([entry.task_id for entry in entries])
    return cost


def task(number: int) -> Task:
    """A task as a page brings it: a text of some 130 letters."""
    text = (
        f"Claim {number}: " + "the quick brown fox jumps over the lazy dog. " * 2 + "So it is said, and so it was seen."
    )
    content = {"text": text, "model": "text-embedding-3-small"}
    created_at = 1_700_000_000.0 + number
    return Task(task_id(number), "text_embedding", content, created_at, correlation_id=task_id(number), batch_key=KEY)


def task_id(number: int) -> str:
    """An id of 24 letters, as MongoDB makes them."""
    return f"68b89107{number:016x}"


def bare_sqlite(path: Path, count: int) -> Cost:
    """The same table and the same changes, by the shortest way there is."""
    asyncio.run(create_schema(path))
    cost = Cost()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000")
    vectors = [os.urandom(4 * DIMENSIONS) for _ in range(BATCH)]
    content = b'{"text": "' + b"x" * 134 + b'", "model": "text-embedding-3-small"}'
    page = [(task_id(number), 1.7e9 + number, KEY, task_id(number), content) for number in range(count)]
    with cost.of("accept"), transaction(connection):
        connection.executemany(
            "INSERT INTO tasks (id, type, state, priority, created_at, batch_key, correlation_id, attempts, deliveries,"
            " not_before, accepted_at, content) VALUES (?, 'text_embedding', 'due', 2, ?, ?, ?, 0, 0, 0, 1.7e9, ?)",
            page,
        )
    for _ in range(0, count, BATCH):
        with cost.of("claim"), transaction(connection):
            claimed = connection.execute(
                "UPDATE tasks SET state = 'claimed' WHERE id IN (SELECT id FROM tasks WHERE state = 'due' AND"
                " not_before = 0 AND batch_key = ? ORDER BY priority, created_at, id LIMIT ?) RETURNING id, content",
                (KEY, BATCH),
            ).fetchall()
        with cost.of("settle"), transaction(connection):
            connection.executemany(
                "UPDATE tasks SET state = 'succeeded', outcome = 'vector', content = NULL, result = ?, settled_at = ?,"
                " model = 'text-embedding-3-small', provider = 'openai', tokens = 30, dimensions = 1536"
                " WHERE id = ? AND state = 'claimed'",
                [(vector, time.time(), row[0]) for row, vector in zip(claimed, vectors, strict=False)],
            )
        with cost.of("unreported"):
            entries = connection.execute(
                "SELECT id, result FROM tasks WHERE state IN ('succeeded', 'failed') AND not_before = 0"
                " ORDER BY settled_at, id LIMIT ?",
                (BATCH,),
            ).fetchall()
        with cost.of("mark_reported"), transaction(connection):
            connection.executemany(
                "UPDATE tasks SET state = 'reported', content = NULL, result = NULL, reported_at = ?, reported_mark = 7"
                " WHERE id = ?",
                [(time.time(), row[0]) for row in entries],
            )
    connection.close()
    return cost


async def create_schema(path: Path) -> None:
    """Have the program itself create its tables."""
    async with open_storage(f"sqlite:///{path}"):
        pass


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Begin and commit."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


if __name__ == "__main__":
    main()
