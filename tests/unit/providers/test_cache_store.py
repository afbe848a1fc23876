import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection

from ai_task_processor.providers.cache import KEY_BYTES
from ai_task_processor.providers.cache_store import RECOUNTED, SqlCacheStore, stored_size
from ai_task_processor.storage.engine import Storage, open_storage

MEGABYTE = 1_048_576


def entries(count: int, length: int, *, beginning: int = 0) -> dict[bytes, bytes]:
    """Random enough keys: they are digests."""
    numbers = range(beginning, beginning + count)
    return {
        (number * 2_654_435_761 % 2**64).to_bytes(8, "little") * (KEY_BYTES // 8): bytes(length) for number in numbers
    }


def changes(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())


@pytest.mark.parametrize("length", [20, 1_030, 1_566, 3_102, 4_126, 6_174, 12_318])
async def test_the_file_stays_within_the_bound_and_the_room_is_used(tmp_path: Path, length: int) -> None:
    limit, path = MEGABYTE, tmp_path / "state.db"
    async with open_storage(f"sqlite:///{path}") as storage:
        store = await SqlCacheStore.open(storage, limit=limit)
        for beginning in range(0, 3 * limit // (length + 150), 64):
            await store.put_many(entries(64, length, beginning=beginning))
        assert store.filling().size <= limit
    assert 0.8 * limit < path.stat().st_size < 1.15 * limit + 100_000


async def test_a_smaller_bound_holds_from_the_next_start_and_the_newest_are_kept(tmp_path: Path) -> None:
    url, kept = f"sqlite:///{tmp_path / 'state.db'}", entries(600, 100)
    async with open_storage(url) as storage:
        await (await SqlCacheStore.open(storage, limit=MEGABYTE)).put_many(kept)
    limit = 10 * stored_size(bytes(KEY_BYTES), bytes(100))
    async with open_storage(url) as storage:
        store = await SqlCacheStore.open(storage, limit=limit)
        assert store.filling().entries == 10
        assert set(await store.get_many(list(kept))) == set(list(kept)[-10:])


async def write_count(storage: Storage) -> int:
    return await storage.read(changes)


async def test_hits_write_nothing_and_the_next_put_writes_few_of_their_uses() -> None:
    old, newer = entries(2_000, 10), entries(2_000, 10, beginning=2_000)
    async with open_storage("sqlite://") as storage:
        store = await SqlCacheStore.open(storage, limit=MEGABYTE)
        await store.put_many(old)
        await store.put_many(newer)
        before = await write_count(storage)
        for _ in range(20):
            assert len(await store.get_many(list(old))) == 2_000
        assert await write_count(storage) == before
        await store.put_many(entries(1, 10, beginning=9_000))
        assert 0 < await write_count(storage) - before < 300


async def test_what_was_used_lately_is_not_written_as_used_again() -> None:
    async with open_storage("sqlite://") as storage:
        store = await SqlCacheStore.open(storage, limit=MEGABYTE)
        await store.put_many(entries(64, 10))
        for number in range(10):
            await store.get_many(list(entries(64, 10)))
            before = await write_count(storage)
            await store.put_many(entries(1, 10, beginning=100 + number))
            assert await write_count(storage) - before == 1


def totals(connection: Connection) -> tuple[int, int]:
    count, size = connection.exec_driver_sql("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM embedding_cache").one()
    return int(count), int(size)


async def test_the_books_are_right_again_after_calls_that_were_cut_off(tmp_path: Path) -> None:
    async with open_storage(f"sqlite:///{tmp_path / 'state.db'}") as storage:
        store = await SqlCacheStore.open(storage, limit=MEGABYTE)
        for number in range(40):
            call = asyncio.create_task(store.put_many(entries(8, 6_000, beginning=8 * number)))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        await store.put_many(entries(1, 10, beginning=9_000))
        assert (store.filling().entries, store.filling().size) == await storage.read(totals)
        assert store.filling().size <= MEGABYTE


async def test_replicas_that_share_a_database_find_each_other_s_entries_and_keep_the_bound() -> None:
    async with open_storage("sqlite://") as storage:
        one, other = [await SqlCacheStore.open(storage, limit=MEGABYTE) for _ in range(2)]
        await one.put_many(entries(1, 10))
        assert await other.get_many(list(entries(1, 10))) == entries(1, 10)
        for number in range(5 * RECOUNTED):
            await one.put_many(entries(4, 6_000, beginning=8 * number))
            await other.put_many(entries(8, 6_000, beginning=8 * number))
        a_round_of_puts = RECOUNTED * 8 * stored_size(bytes(KEY_BYTES), bytes(6_000))
        assert (await storage.read(totals))[1] <= MEGABYTE + a_round_of_puts
        latest = entries(8, 6_000, beginning=8 * (5 * RECOUNTED - 1))
        assert await one.get_many(list(latest)) == latest


async def test_calls_at_once_keep_the_bound(tmp_path: Path) -> None:
    async with open_storage(f"sqlite:///{tmp_path / 'state.db'}") as storage:
        store = await SqlCacheStore.open(storage, limit=MEGABYTE)
        puts = [store.put_many(entries(32, 6_000, beginning=32 * number)) for number in range(20)]
        gets = [store.get_many(list(entries(64, 6_000))) for _ in range(20)]
        drops = [store.drop(list(entries(16, 6_000, beginning=32 * number))) for number in range(20)]
        await asyncio.gather(*(call for calls in zip(puts, gets, drops, strict=True) for call in calls))
        assert (store.filling().entries, store.filling().size) == await storage.read(totals)
        assert store.filling().size <= MEGABYTE
