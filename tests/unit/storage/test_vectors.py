"""A vector that the cache has is not written down again for its task, and is never lost with the cache."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.operator import OperatorJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.journal.state import State
from ai_task_processor.providers.cache import Kept, cache_key, packed
from ai_task_processor.providers.cache_store import SqlCacheStore, stored_size
from ai_task_processor.storage.engine import Storage, open_storage
from ai_task_processor.storage.vectors import name_of
from tests.fakes.time import BEGINNING, ManualClock

KEYS = [cache_key("openai", "small", None, f"text {number}") for number in range(3)]
KEY = KEYS[0]
DATA = bytes(range(12))
LIMIT = 1_000_000


def entry(key: bytes, data: bytes) -> bytes:
    return packed(key, Kept(data, "small"))


def vector(key: bytes, data: bytes) -> Vector:
    return Vector(data, kept_as=name_of(key, entry(key, data)))


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with open_storage("sqlite://") as storage:
        yield storage


@pytest.fixture
async def store(storage: Storage) -> SqlCacheStore:
    return await SqlCacheStore.open(storage, limit=LIMIT)


@pytest.fixture
def journal(storage: Storage) -> SqlJournal:
    return SqlJournal(storage, ManualClock())


async def settled(journal: SqlJournal, task_id: str, result: Vector) -> None:
    await journal.accept([Task(task_id, "t", "private", BEGINNING, batch_key="k")], await journal.mark())
    await journal.claim(1)
    await journal.settle({task_id: Succeeded(result, "small", "openai", 1)})


async def row(storage: Storage, task_id: str) -> Any:
    wanted = text("SELECT result, result_key FROM tasks WHERE id = :id")
    return tuple(await storage.read(lambda connection: connection.execute(wanted, {"id": task_id}).one()))


async def delivered(storage: Storage) -> dict[str, bytes]:
    """What a process that starts now would deliver."""
    entries = await SqlJournal(storage, ManualClock()).unreported(100)
    return {each.task_id: each.outcome.result.data for each in entries}  # type: ignore[union-attr]


async def test_is_written_down_once(storage: Storage, store: SqlCacheStore, journal: SqlJournal) -> None:
    await store.put_many({KEY: entry(KEY, DATA)})
    await settled(journal, "a", vector(KEY, DATA))
    assert await row(storage, "a") == (None, KEY)
    assert await delivered(storage) == {"a": DATA}


async def test_stays_in_the_cache_when_its_task_is_reported(
    storage: Storage, store: SqlCacheStore, journal: SqlJournal
) -> None:
    await store.put_many({KEY: entry(KEY, DATA)})
    await settled(journal, "a", vector(KEY, DATA))
    await journal.mark_reported(["a"])
    assert await row(storage, "a") == (None, None)
    assert await store.get_many([KEY]) == {KEY: entry(KEY, DATA)}


@pytest.mark.parametrize("other", [None, bytes(12), bytes(8)])
async def test_is_kept_with_its_task_where_the_cache_has_it_not(
    storage: Storage, store: SqlCacheStore, journal: SqlJournal, other: bytes | None
) -> None:
    if other:
        await store.put_many({KEY: entry(KEY, other)})
    await settled(journal, "a", vector(KEY, DATA))
    assert await row(storage, "a") == (DATA, None)


Loss = Callable[[Storage, SqlCacheStore], Awaitable[object]]


async def dropped(_storage: Storage, store: SqlCacheStore) -> None:
    await store.drop([KEY])


async def replaced(_storage: Storage, store: SqlCacheStore) -> None:
    await store.put_many({KEY: entry(KEY, bytes(12))})


async def evicted(storage: Storage, _store: SqlCacheStore) -> None:
    other = entry(KEYS[1], DATA)
    small = await SqlCacheStore.open(storage, limit=stored_size(KEYS[1], other))
    assert await small.put_many({KEYS[1]: other}) == 1


async def turned_off(storage: Storage, _store: SqlCacheStore) -> None:
    await SqlCacheStore.open(storage, limit=0)


async def deleted_by_hand(storage: Storage, _store: SqlCacheStore) -> None:
    await storage.write(lambda connection: connection.execute(text("DELETE FROM embedding_cache")))


@pytest.mark.parametrize("lose", [dropped, replaced, evicted, turned_off, deleted_by_hand])
async def test_outlives_the_entry(storage: Storage, store: SqlCacheStore, journal: SqlJournal, lose: Loss) -> None:
    await store.put_many({KEY: entry(KEY, DATA)})
    await settled(journal, "a", vector(KEY, DATA))
    await settled(journal, "parked", vector(KEY, DATA))
    await journal.park("parked", "refused")
    await lose(storage, store)
    assert await row(storage, "a") == await row(storage, "parked") == (DATA, None)
    assert await delivered(storage) == {"a": DATA}


async def test_is_exported_from_wherever_it_is(storage: Storage, store: SqlCacheStore, journal: SqlJournal) -> None:
    await store.put_many({KEY: entry(KEY, DATA)})
    await settled(journal, "a", vector(KEY, DATA))
    await settled(journal, "b", Vector(DATA))
    one, other = [row async for row in OperatorJournal(storage).export(texts=True)]
    assert one["result"] == other["result"] != None  # noqa: E711  # of both
    assert one["state"] is State.SUCCEEDED


places = st.integers(0, len(KEYS) - 1)
contents = st.sampled_from([DATA, bytes(12), bytes(8)])
Step = tuple[str, int, bytes, bool]
steps = st.lists(st.tuples(st.sampled_from(["put", "drop", "settle", "report"]), places, contents, st.booleans()))


@given(steps)
def test_whatever_becomes_of_the_cache_an_outcome_stays_what_it_was(order: list[Step]) -> None:
    asyncio.run(_lived_through(order))


async def _lived_through(order: list[Step]) -> None:
    expected: dict[str, bytes] = {}
    async with open_storage("sqlite://") as storage:
        store = await SqlCacheStore.open(storage, limit=2 * stored_size(KEY, entry(KEY, DATA)))
        journal = SqlJournal(storage, ManualClock())
        for number, (what, place, data, named) in enumerate(order):
            key = KEYS[place]
            if what == "put":
                await store.put_many({key: entry(key, data)})
            elif what == "drop":
                await store.drop([key])
            elif what == "settle":
                expected[str(number)] = data
                await settled(journal, str(number), vector(key, data) if named else Vector(data))
            elif expected:
                task_id, _ = expected.popitem()
                await journal.mark_reported([task_id])
        assert await delivered(storage) == expected
