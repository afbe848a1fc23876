"""What every store of embedding spaces promises: in memory, in SQLite and in PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from ai_task_processor.providers.space_store import MemorySpaceStore, SqlSpaceStore
from ai_task_processor.providers.spaces import Sighting, Space, SpaceStore
from ai_task_processor.storage.engine import open_storage

SPACE = Space("ollama", "0011", "nomic-embed-text", 768)
ONE = Sighting("nomic-embed-text", 0, SPACE, first_seen=1.5, last_seen=2.5, count=3)
OTHERS = (
    replace(ONE, name="other"),
    replace(ONE, asked=768),
    *(
        replace(ONE, space=replace(SPACE, **change))
        for change in ({"provider": "openai"}, {"engine": ""}, {"model": "bge-m3"}, {"dimensions": 64})
    ),
)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SpaceStore]:
    if request.param == "memory":
        yield MemorySpaceStore()
        return
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with open_storage(url) as storage:
        yield SqlSpaceStore(storage)


async def test_an_empty_one_knows_nothing(store: SpaceStore) -> None:
    assert await store.load() == ()


async def test_every_name_question_and_space_is_kept_apart(store: SpaceStore) -> None:
    for sighting in (ONE, *OTHERS):
        await store.save(sighting, ())
    assert set(await store.load()) == {ONE, *OTHERS}


async def test_a_later_sighting_takes_the_place_of_the_earlier(store: SpaceStore) -> None:
    later = replace(ONE, last_seen=9.5, count=12)
    await store.save(ONE, ())
    await store.save(later, ())
    assert await store.load() == (later,)


async def test_what_is_to_be_forgotten_is_gone(store: SpaceStore) -> None:
    for sighting in OTHERS:
        await store.save(sighting, ())
    await store.save(ONE, OTHERS[1:])
    assert set(await store.load()) == {ONE, OTHERS[0]}


@pytest.mark.parametrize("column", ["dimensions", "first_seen", "last_seen", "count", "asked"])
async def test_a_row_that_cannot_be_read_is_passed_over(column: str) -> None:
    async with open_storage("sqlite://") as storage:
        store = SqlSpaceStore(storage)
        await store.save(ONE, ())
        await store.save(OTHERS[0], ())
        damage = text(f"UPDATE spaces SET {column} = 'garbage' WHERE name = 'other'")  # noqa: S608  # a constant
        await storage.write(lambda connection: connection.execute(damage))
        assert await store.load() == (ONE,)


async def test_what_is_forgotten_is_gone_and_the_rest_stays(store: SpaceStore) -> None:
    kept, gone = ONE, OTHERS[0]
    await store.save(kept, ())
    await store.save(gone, ())
    await store.forget([gone])
    assert tuple(await store.load()) == (kept,)
