"""What every store of the cache promises: in memory, in SQLite and in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ai_task_processor.providers.cache import KEY_BYTES, CacheStore, Filling
from ai_task_processor.providers.cache_store import GRAIN, MemoryCacheStore, SqlCacheStore, stored_size
from ai_task_processor.storage.engine import open_storage


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


ENTRY = b"e" * 3_000
ROOM = 32
SIZE = stored_size(key(0), ENTRY)


def some(*numbers: int) -> dict[bytes, bytes]:
    return {key(number): ENTRY + str(number).encode() for number in numbers}


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    match request.param:
        case "memory":
            return None
        case "sqlite":
            return "sqlite://"
        case _:
            return str(request.getfixturevalue("postgres_url"))


@asynccontextmanager
async def opened(url: str | None, limit: int) -> AsyncIterator[CacheStore]:
    if url is None:
        yield MemoryCacheStore(limit)
        return
    async with open_storage(url) as storage:
        yield await SqlCacheStore.open(storage, limit=limit)


@pytest.fixture
async def store(url: str | None) -> AsyncIterator[CacheStore]:
    async with opened(url, ROOM * stored_size(key(0), ENTRY + b"00")) as made:
        yield made


async def kept(store: CacheStore, *numbers: int) -> set[int]:
    return {int.from_bytes(found, "big") for found in await store.get_many([key(number) for number in numbers])}


async def test_an_empty_one_has_nothing(store: CacheStore) -> None:
    assert await store.get_many([key(1), key(2)]) == {}
    assert await store.get_many([]) == {}
    assert store.filling() == Filling(entries=0, size=0)


async def test_what_was_put_is_there_to_the_last_byte_and_nothing_else(store: CacheStore) -> None:
    assert await store.put_many(some(1, 2)) == 0
    assert await store.get_many([key(2), key(3), key(1)]) == some(1, 2)


async def test_more_may_be_asked_for_than_one_statement_takes(store: CacheStore) -> None:
    await store.put_many(some(7, 1_999))
    assert await kept(store, *range(2_048)) == {7, 1_999}


async def test_putting_nothing_is_nothing(store: CacheStore) -> None:
    assert await store.put_many({}) == 0
    assert store.filling() == Filling(entries=0, size=0)


async def test_an_entry_put_again_takes_the_place_of_the_older(store: CacheStore) -> None:
    await store.put_many(some(1, 2))
    await store.put_many({key(1): b"newer"})
    assert await store.get_many([key(1)]) == {key(1): b"newer"}
    assert store.filling().entries == 2
    assert store.filling().size == stored_size(key(1), b"newer") + stored_size(key(2), ENTRY + b"2")


async def test_what_is_dropped_is_gone_and_its_room_is_free(store: CacheStore) -> None:
    await store.put_many(some(1, 2))
    await store.drop([key(1), key(9)])
    await store.drop([])
    assert await kept(store, 1, 2) == {2}
    assert store.filling().entries == 1


async def test_the_oldest_make_room(store: CacheStore) -> None:
    assert await store.put_many(some(*range(ROOM))) == 0
    assert await store.put_many(some(100, 101)) == 2
    assert await kept(store, *range(ROOM), 100, 101) == {*range(2, ROOM), 100, 101}


async def test_what_was_used_since_outlives_what_was_not(store: CacheStore) -> None:
    await store.put_many(some(*range(ROOM)))
    assert await kept(store, 0, 3) == {0, 3}
    assert await store.put_many(some(*range(100, 100 + ROOM - 2))) == ROOM - 2
    assert await kept(store, *range(ROOM)) == {0, 3}


async def test_what_is_used_all_the_time_is_never_dropped(store: CacheStore) -> None:
    await store.put_many(some(0))
    for number in range(1, 10 * ROOM):
        await store.put_many(some(number))
        assert await kept(store, 0) == {0}


async def test_more_than_there_is_room_for_leaves_the_last_of_it(store: CacheStore) -> None:
    await store.put_many(some(1))
    assert await store.put_many(some(*range(10, 10 + ROOM + 5))) == 6
    assert await kept(store, 1, *range(10, 10 + ROOM + 5)) == set(range(15, 15 + ROOM))
    assert store.filling().entries == ROOM


async def test_an_entry_larger_than_all_room_is_not_kept(store: CacheStore) -> None:
    await store.put_many({key(1): b"x" * (ROOM + 1) * SIZE})
    assert store.filling() == Filling(entries=0, size=0)


async def test_without_room_nothing_is_kept(url: str | None) -> None:
    async with opened(url, 0) as store:
        assert await store.put_many(some(1)) == 0
        assert await store.get_many([key(1)]) == {}
        assert store.filling() == Filling(entries=0, size=0)


def test_recency_is_finer_than_the_room() -> None:
    assert ROOM >= 2 * GRAIN


@pytest.mark.parametrize("at_once", [2, 8])
async def test_replicas_that_put_the_same_at_the_same_time_lose_nothing(postgres_url: str, at_once: int) -> None:
    async with AsyncExitStack() as stack:
        limit = 10 * ROOM * SIZE
        stores = [await stack.enter_async_context(opened(postgres_url, limit)) for _ in range(at_once)]
        for round_ in range(5):
            wanted = some(*range(4 * round_, 4 * round_ + 16))
            await asyncio.gather(*(store.put_many(wanted) for store in stores))
            found = await asyncio.gather(*(store.get_many(list(wanted)) for store in stores))
            assert found == [wanted] * at_once
