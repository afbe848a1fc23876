from pathlib import Path

from ai_task_processor.journal.worker import new_worker, worker_of
from ai_task_processor.storage.engine import open_storage


async def test_a_journal_keeps_its_name(state_url: str) -> None:
    async with open_storage(state_url) as storage:
        name = await worker_of(storage)
    async with open_storage(state_url) as storage:
        assert await worker_of(storage) == name


async def test_no_two_journals_have_one_name(tmp_path: Path) -> None:
    names = []
    for file in ("one", "two"):
        async with open_storage(f"sqlite:///{tmp_path}/{file}.db") as storage:
            names.append(await worker_of(storage))
    assert len({*names, new_worker()}) == 3
    assert all(0 < len(name) <= 100 for name in names)
