from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import Storage, open_storage
from tests.fakes.time import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(f"sqlite:///{tmp_path}/state.db") as storage:
        yield storage


@pytest.fixture
def journal(storage: Storage, clock: ManualClock) -> SqlJournal:
    return SqlJournal(storage, clock)
