"""Any sequence of calls does to a store of the cache what it does to a dict in the order of use."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ai_task_processor.providers.cache import CacheStore, Filling
from ai_task_processor.providers.cache_store import GRAIN, MemoryCacheStore, SqlCacheStore, stored_size
from ai_task_processor.storage.engine import open_storage

KEYS = st.integers(0, 30).map(lambda number: bytes([number]) * 32)
ENTRIES = st.dictionaries(KEYS, st.builds(bytes, st.sampled_from([0, 40, 1_000, 1_500, 3_000, 6_000])), max_size=6)


@dataclass(frozen=True)
class Modelled:
    entry: bytes
    used: int
    written: int
    """The use that a restart would find."""


class Model:
    """A dict of everything, and a counter of all bytes ever put."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.position = 0
        self.rows: dict[bytes, Modelled] = {}

    def get(self, keys: list[bytes]) -> dict[bytes, bytes]:
        for key in keys:
            row = self.rows.get(key)
            if row and self.position - row.used > self.limit // GRAIN:
                self.position += 1
                self.rows[key] = replace(row, used=self.position)
        return {key: self.rows[key].entry for key in keys if key in self.rows}

    def put(self, entries: dict[bytes, bytes]) -> int:
        if not self.limit:
            return 0
        if entries:
            self.rows = {key: replace(row, written=row.used) for key, row in self.rows.items()}
        for key, entry in entries.items():
            self.position += stored_size(key, entry)
            self.rows[key] = Modelled(entry, self.position, self.position)
        return self._evict()

    def shrink(self, limit: int) -> None:
        self.limit = limit
        self._evict()

    def restart(self) -> None:
        self.rows = {key: replace(row, used=row.written) for key, row in self.rows.items()}
        self.position = max((row.used for row in self.rows.values()), default=0)

    def _evict(self) -> int:
        before = len(self.rows)
        while self.size() > self.limit:
            del self.rows[min(self.rows, key=lambda key: self.rows[key].used)]
        return before - len(self.rows)

    def size(self) -> int:
        return sum(stored_size(key, row.entry) for key, row in self.rows.items())


class MemoryMachine(RuleBasedStateMachine):
    """Does the same to a store and to the model, and compares every answer."""

    LIMIT = 40_000

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(self.LIMIT)
        self.runner = asyncio.Runner()
        self.store = self.opened()

    def opened(self) -> CacheStore:
        return MemoryCacheStore(self.LIMIT)

    def teardown(self) -> None:
        self.runner.close()

    @rule(keys=st.lists(KEYS, max_size=6, unique=True))
    def get(self, keys: list[bytes]) -> None:
        assert self.runner.run(self.store.get_many(keys)) == self.model.get(keys)

    @rule(entries=ENTRIES)
    def put(self, entries: dict[bytes, bytes]) -> None:
        assert self.runner.run(self.store.put_many(entries)) == self.model.put(entries)

    @rule(keys=st.lists(KEYS, max_size=3))
    def drop(self, keys: list[bytes]) -> None:
        self.runner.run(self.store.drop(keys))
        for key in keys:
            self.model.rows.pop(key, None)

    @invariant()
    def books_agree(self) -> None:
        assert self.store.filling() == Filling(len(self.model.rows), self.model.size())
        assert self.model.size() <= self.model.limit


class SqliteMachine(MemoryMachine):
    """The same over a file, which a restart closes and opens, also with another limit."""

    def opened(self) -> CacheStore:
        self.folder = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        return self.runner.run(self._opened(self.LIMIT))

    async def _opened(self, limit: int) -> CacheStore:
        await self.stack.aclose()
        storage = await self.stack.enter_async_context(open_storage(f"sqlite:///{self.folder.name}/state.db"))
        return await SqlCacheStore.open(storage, limit=limit)

    @rule(limit=st.sampled_from([0, 9_000, MemoryMachine.LIMIT]))
    def restart(self, limit: int) -> None:
        self.store = self.runner.run(self._opened(limit))
        self.model.restart()
        self.model.shrink(limit)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.folder.cleanup()
        super().teardown()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
