"""What was acknowledged outlives a process that is killed at any moment."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage
from tests.fakes.time import BEGINNING, ManualClock

TASKS = 200


def task(number: int) -> Task:
    return Task(f"{number:04}", "t", f"text {number}", BEGINNING + number, batch_key="k")


def vector(task_id: str) -> Succeeded:
    return Succeeded(Vector(int(task_id).to_bytes(4, "little") * 500))


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def work(url: str) -> None:
    """Say what was done after each call has returned, round and round."""
    async with open_storage(url) as storage:
        journal = SqlJournal(storage, ManualClock())
        await journal.reopen()
        accepted = await journal.accept([task(number) for number in range(TASKS)], await journal.mark())
        say("accepted", *accepted)
        while claimed := await journal.claim(7):
            ids = [each.id for each in claimed]
            await journal.settle({task_id: vector(task_id) for task_id in ids})
            say("settled", *ids)
            reported = [entry.task_id for entry in await journal.unreported(3)]
            await journal.mark_reported(reported)
            say("reported", *reported)
        say("finished")


@pytest.mark.parametrize("lines", [1, 3, 15])
async def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, lines: int) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    said = await asyncio.to_thread(killed_after, lines, url)
    async with open_storage(url) as storage:
        journal = SqlJournal(storage, ManualClock())
        await journal.reopen()
        again = await journal.accept([task(number) for number in range(TASKS)], mark=0)
        waiting = {entry.task_id: entry.outcome for entry in await journal.unreported(TASKS)}
        backlog = await journal.backlog()
        fresh = [each async for each in claims(journal)]

    assert len(said["accepted"]) == TASKS
    assert len(said["settled"]) >= (lines - 1) // 2 * 7
    assert again == ()
    assert said["settled"] <= waiting.keys() | said["reported"] | not_said(said, waiting)
    assert said["reported"].isdisjoint(waiting)
    assert all(outcome == vector(task_id) for task_id, outcome in waiting.items())
    assert backlog.claimed == 0
    assert all(each == task(int(each.id)) for each in fresh)
    assert {each.id for each in fresh}.isdisjoint(said["settled"])


def not_said(said: dict[str, set[str]], waiting: Iterable[str]) -> set[str]:
    """Ids whose report was written but not printed any more: at most one round of three."""
    missing = said["settled"] - set(waiting) - said["reported"]
    return missing if len(missing) <= 3 else set()


async def claims(journal: SqlJournal) -> AsyncIterator[Task]:
    while claimed := await journal.claim(50):
        for each in claimed:
            yield each


def killed_after(lines: int, url: str) -> dict[str, set[str]]:
    said: dict[str, set[str]] = {"accepted": set(), "settled": set(), "reported": set(), "finished": set()}
    arguments = [sys.executable, __file__, url]
    root = Path(__file__).parents[3]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=root, env={"PYTHONPATH": str(root)}) as worker:  # noqa: S603
        assert worker.stdout is not None
        for _, line in zip(range(lines), worker.stdout, strict=False):
            kind, *ids = line.decode().split()
            said[kind].update(ids)
        worker.kill()
        for line in worker.stdout:
            if line.endswith(b"\n"):
                kind, *ids = line.decode().split()
                said[kind].update(ids)
    assert not said["finished"]
    return said


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
