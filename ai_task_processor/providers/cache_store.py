"""The store of the cache, in memory and in the state database."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, bindparam, text

from ai_task_processor.providers.cache import Filling
from ai_task_processor.storage.bulk import execute_each
from ai_task_processor.storage.engine import Storage

GRAIN = 16
"""An entry counts as used anew when a sixteenth of the room has been filled since it last did: not every hit is to cost
a write."""

_BEGINNING = 2**40
"""Where positions begin, so that all of them have six bytes in SQLite: a row of the same size is changed in place."""

_LOOKED_UP_AT_ONCE = 500
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


_TOTALS = text("SELECT COUNT(*), COALESCE(SUM(size), 0), MAX(used) FROM embedding_cache")
_GET = text("SELECT key, entry, used FROM embedding_cache WHERE key IN :keys").bindparams(
    bindparam("keys", expanding=True)
)
_PUT = text("INSERT INTO embedding_cache (key, used, size, entry) VALUES (:key, :used, :size, :entry)")
_TOUCH = text("UPDATE embedding_cache SET used = :used WHERE key = :key")
_DROP = text("DELETE FROM embedding_cache WHERE key IN :keys RETURNING size").bindparams(
    bindparam("keys", expanding=True)
)
_OLDEST = text("SELECT key, size FROM embedding_cache ORDER BY used LIMIT :limit")


class SqlCacheStore:
    """Keeps the entries in the state database, whose owner this process must be; :meth:`open` makes one.

    A position in the stream of all bytes ever put stands for time: no clock can set it back, and while nothing is put
    no recency need be written. What is in memory is touched in transactions alone, so by one at a time.
    """

    def __init__(self, storage: Storage, *, limit: int) -> None:
        self._storage = storage
        self._limit = limit
        self._grain = limit // GRAIN
        self._position = _BEGINNING
        self._entries = 0
        self._size = 0
        self._touched: dict[bytes, int] = {}

    @classmethod
    async def open(cls, storage: Storage, *, limit: int) -> "SqlCacheStore":
        """Take up what an earlier run kept, as much of it as ``limit`` bytes allow; 0 keeps none."""
        store = cls(storage, limit=limit)
        await storage.read(store._count)
        evicted = 1
        while store._size > limit and evicted:  # in small transactions: there may be gigabytes
            evicted = await storage.write(store._evict_some)
        return store

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        if not self._entries:
            return {}
        return await self._storage.read(lambda connection: self._get(connection, list(keys)))

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        if not entries or not self._limit:
            return 0
        return await self._storage.write(lambda connection: self._put(connection, entries))

    async def drop(self, keys: Collection[bytes]) -> None:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        await self._storage.write(lambda connection: self._drop(connection, list(keys)))

    def filling(self) -> Filling:
        """See :class:`~ai_task_processor.providers.cache.CacheStore`."""
        return Filling(entries=self._entries, size=self._size)

    def _count(self, connection: Connection) -> None:
        self._entries, self._size, latest = connection.execute(_TOTALS).one()
        self._position = latest or _BEGINNING

    def _get(self, connection: Connection, keys: list[bytes]) -> Mapping[bytes, bytes]:
        rows = {
            key: (entry if isinstance(entry, bytes) else b"", used)
            for some in _portions(keys, _LOOKED_UP_AT_ONCE)
            for key, entry, used in connection.execute(_GET, {"keys": some})
        }
        for key in keys:
            if key in rows and self._position - self._touched.get(key, rows[key][1]) > self._grain:
                self._touched.pop(key, None)  # to the end
                self._touched[key] = self._advanced(by=1)
        return {key: entry for key, (entry, _) in rows.items()}

    def _put(self, connection: Connection, entries: Mapping[bytes, bytes]) -> int:
        self._drop(connection, list(entries))
        self._write_touches(connection)
        sizes = {key: stored_size(key, entry) for key, entry in entries.items()}
        rows = [
            {"key": key, "entry": entry, "size": sizes[key], "used": self._advanced(by=sizes[key])}
            for key, entry in entries.items()
        ]
        execute_each(connection, _PUT, rows)
        self._entries += len(rows)
        self._size += sum(sizes.values())
        evicted = 0
        while self._size > self._limit and (some := self._evict_some(connection)):
            evicted += some
        return evicted

    def _write_touches(self, connection: Connection) -> None:
        touches = list(islice(self._touched.items(), _TOUCHED_AT_ONCE))
        execute_each(connection, _TOUCH, [{"key": key, "used": used} for key, used in touches])
        for key, _ in touches:
            del self._touched[key]

    def _evict_some(self, connection: Connection) -> int:
        excess, oldest = self._size - self._limit, []
        for key, size in connection.execute(_OLDEST, {"limit": _EVICTED_AT_ONCE}):
            if excess <= 0:
                break
            excess -= size
            oldest.append(key)
        self._drop(connection, oldest)
        return len(oldest)

    def _drop(self, connection: Connection, keys: list[bytes]) -> None:
        for some in _portions(keys, _LOOKED_UP_AT_ONCE):
            sizes = connection.execute(_DROP, {"keys": some}).scalars().all()
            self._entries -= len(sizes)
            self._size -= sum(sizes)
        for key in keys:
            self._touched.pop(key, None)

    def _advanced(self, *, by: int) -> int:
        self._position += by
        return self._position


def _portions(keys: list[bytes], size: int) -> Iterable[list[bytes]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


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
