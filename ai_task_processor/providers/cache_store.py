"""The store of the cache, in memory and in the state database."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from ai_task_processor.providers.cache import Filling
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.statements import Statement

GRAIN = 16
"""An entry counts as used anew when a sixteenth of the room has been filled since it last did: not every hit is to cost
a write."""

_BEGINNING = 2**40
"""Where positions begin, so that all of them have six bytes in SQLite: a row of the same size is changed in place."""

RECOUNTED = 64

_EVICTED_AT_ONCE = 256
_TOUCHED_AT_ONCE = 256


class MemoryCacheStore:
    """Keeps ``limit`` bytes of entries for as long as the object lives; 0 keeps none."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._grain = limit // GRAIN
        self._position = _BEGINNING
        self._size = 0
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        found = {key: self._rows[key] for key in keys if key in self._rows}
        for key, row in found.items():
            if self._position - row.used > self._grain:
                row.used = self._advanced(by=1)
                self._rows.move_to_end(key)
        return {key: row.entry for key, row in found.items()}

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        if not self._limit:
            return 0
        for key, entry in entries.items():
            self._remove(key)
            size = stored_size(key, entry)
            self._rows[key] = _Row(entry, size, self._advanced(by=size))
            self._size += size
        evicted = 0
        while self._size > self._limit:
            self._remove(next(iter(self._rows)))
            evicted += 1
        return evicted

    async def drop(self, keys: Collection[bytes]) -> None:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        for key in keys:
            self._remove(key)

    def filling(self) -> Filling:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        return Filling(entries=len(self._rows), size=self._size)

    def _advanced(self, *, by: int) -> int:
        self._position += by
        return self._position

    def _remove(self, key: bytes) -> None:
        row = self._rows.pop(key, None)
        if row:
            self._size -= row.size


@dataclass(slots=True)
class _Row:
    entry: bytes
    size: int
    used: int


_TOTALS = Statement("SELECT COUNT(*), COALESCE(SUM(size), 0), MAX(used) FROM embedding_cache")
_GET = Statement("SELECT key, entry, size, used FROM embedding_cache WHERE key IN :keys")
_PUT = Statement("INSERT INTO embedding_cache (key, used, size, entry) VALUES (:key, :used, :size, :entry)")
_TOUCH = Statement("UPDATE embedding_cache SET used = :used WHERE key = :key")
_DROP = Statement("DELETE FROM embedding_cache WHERE key IN :keys RETURNING size")
_OLDEST = Statement("SELECT key, size FROM embedding_cache ORDER BY used LIMIT :limit")


class SqlCacheStore:
    """Keeps the entries in the state database; :meth:`open` makes one.

    A position in the stream of all bytes ever put stands for time: no clock can set it back, and while nothing is put
    no recency need be written. What the database holds is kept count of here, and counted anew after every RECOUNTED
    puts (replicas may share it) and after a put that was cut off; by so much the bound may be passed for a while.
    """

    def __init__(self, storage: Storage, *, limit: int) -> None:
        self._storage = storage
        self._limit = limit
        self._grain = limit // GRAIN
        self._books = Filling(entries=0, size=0)
        self._puts_until_recount = 0
        self._position = _BEGINNING
        self._touched: dict[bytes, int] = {}
        self._changing = asyncio.Lock()

    @classmethod
    async def open(cls, storage: Storage, *, limit: int) -> "SqlCacheStore":
        """Take up what an earlier run kept, as much of it as ``limit`` bytes allow; 0 keeps none."""
        store = cls(storage, limit=limit)
        await store._recount()
        evicted = 1
        while store._books.size > limit and evicted:  # in small transactions: there may be gigabytes
            store._books, evicted = await storage.write(partial(_evict_some, books=store._books, limit=limit))
        return store

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        if not self._limit:
            return {}
        asked = list(keys)
        found = await self._storage.read(lambda connection: _get(connection, asked))
        self._touch({key: found[key].used for key in asked if key in found})
        return {key: row.entry for key, row in found.items()}

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        if not entries or not self._limit:
            return 0
        async with self._changing:
            if self._puts_until_recount == 0:
                await self._recount()
            return await self._put(entries)

    async def drop(self, keys: Collection[bytes]) -> None:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        async with self._changing:
            gone, books = list(keys), self._books
            with self._recounted_if_cut_off():
                self._books = await self._storage.write(lambda connection: _drop(connection, books, gone))
            self._forget_touches(gone)

    def filling(self) -> Filling:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        return self._books

    async def _recount(self) -> None:
        ((entries, size, latest),) = await self._storage.read(_TOTALS.rows)
        self._books = Filling(entries=int(entries), size=int(size))
        self._position = max(self._position, latest or 0)
        self._puts_until_recount = RECOUNTED

    async def _put(self, entries: Mapping[bytes, bytes]) -> int:
        touches = dict(islice(self._touched.items(), _TOUCHED_AT_ONCE))
        rows = [self._row(key, entry) for key, entry in entries.items()]
        books, limit = self._books, self._limit
        with self._recounted_if_cut_off():
            self._books, evicted = await self._storage.write(lambda c: _put(c, books, limit, rows, touches))
        self._forget_touches(key for key, used in touches.items() if self._touched.get(key) == used)
        self._forget_touches(entries)
        self._puts_until_recount -= 1
        return evicted

    def _row(self, key: bytes, entry: bytes) -> dict[str, Any]:
        size = stored_size(key, entry)
        return {"key": key, "entry": entry, "size": size, "used": self._advanced(by=size)}

    def _touch(self, used: Mapping[bytes, int]) -> None:
        """Note the use of entries, to be written with the next put, where they have not been used for a while."""
        for key, known in used.items():
            if self._position - self._touched.get(key, known) > self._grain:
                self._touched.pop(key, None)  # to the end
                self._touched[key] = self._advanced(by=1)

    def _forget_touches(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._touched.pop(key, None)

    def _advanced(self, *, by: int) -> int:
        self._position += by
        return self._position

    @contextmanager
    def _recounted_if_cut_off(self) -> Iterator[None]:
        """A transaction whose end was not waited for has happened or not: only the database knows."""
        try:
            yield
        except BaseException:
            self._puts_until_recount = 0
            raise


def _get(connection: Connection, keys: list[bytes]) -> Mapping[bytes, _Row]:
    found = _GET.rows(connection, {"keys": keys})
    return {key: _Row(entry if isinstance(entry, bytes) else b"", size, used) for key, entry, size, used in found}


def _put(
    connection: Connection, books: Filling, limit: int, rows: list[dict[str, Any]], touches: Mapping[bytes, int]
) -> tuple[Filling, int]:
    """Answers the books afterwards, and how many entries had to go."""
    books = _drop(connection, books, [row["key"] for row in rows])
    _TOUCH.change_each(connection, [{"key": key, "used": used} for key, used in touches.items()])
    books = Filling(books.entries, books.size + sum(row["size"] for row in rows))
    books, before = _evict(connection, books, limit)  # first: what is freed is filled again, the file need not grow
    _PUT.change_each(connection, rows)
    books, after = _evict(connection, Filling(books.entries + len(rows), books.size), limit)
    return books, before + after


def _evict(connection: Connection, books: Filling, limit: int) -> tuple[Filling, int]:
    evicted, some = 0, 1
    while books.size > limit and some:
        books, some = _evict_some(connection, books, limit)
        evicted += some
    return books, evicted


def _evict_some(connection: Connection, books: Filling, limit: int) -> tuple[Filling, int]:
    excess, oldest = books.size - limit, []
    for key, size in _OLDEST.rows(connection, {"limit": _EVICTED_AT_ONCE}):
        if excess <= 0:
            break
        excess -= size
        oldest.append(key)
    return _drop(connection, books, oldest), len(oldest)


def _drop(connection: Connection, books: Filling, keys: list[bytes]) -> Filling:
    sizes = [size for (size,) in _DROP.rows(connection, {"keys": keys})]
    return Filling(books.entries - len(sizes), books.size - sum(sizes))


# --- What a row takes -------------------------------------------------------------------------------------------------

_PAGE = 4096
_USABLE_PAGE = _PAGE - 12
_MOST_IN_LEAF = _PAGE - 35
_LEAST_IN_LEAF = (_PAGE - 12) * 32 // 255 - 23
_BESIDE_THE_ENTRY = 70
"""Key, use and size in the row, and its header."""
_IN_INDEXES = 80
"""The key once more, use and size once more, and the room that a B-tree leaves."""


def stored_size(key: bytes, entry: bytes) -> int:
    """About how many bytes an entry takes in a SQLite file: its pages, and a row's share of the indexes.

    By https://sqlite.org/fileformat2.html: what does not fit into a quarter or so of a page goes to pages of its own.
    """
    payload = len(key) + len(entry) + _BESIDE_THE_ENTRY - 32
    if payload <= _MOST_IN_LEAF:
        return _PAGE // (_USABLE_PAGE // payload or 1) + _IN_INDEXES
    local = _LEAST_IN_LEAF + (payload - _LEAST_IN_LEAF) % (_PAGE - 4)
    local = local if local <= _MOST_IN_LEAF else _LEAST_IN_LEAF
    overflow = -(-(payload - local) // (_PAGE - 4))
    return overflow * _PAGE + _PAGE // (_USABLE_PAGE // local or 1) + _IN_INDEXES
