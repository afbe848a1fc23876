"""What the cache costs a batch, and whether the state file stays within its bound: `python benchmarks/cache.py`."""

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.cache import CacheStore, Kept, cache_key, packed
from ai_task_processor.providers.cache_store import SqlCacheStore
from ai_task_processor.providers.cached import Cached
from ai_task_processor.storage.engine import open_storage

MEGABYTE = 1_048_576
BATCH = 64
ENTRIES = 40_000
ROUNDS = 300
MODEL = "text-embedding-3-small"


class Instant:
    """A provider whose vectors are ready."""

    name = "openai"

    def __init__(self, dimensions: int) -> None:
        self._vector = os.urandom(4 * dimensions)

    def serves(self, model: str) -> bool:
        """Everything."""
        return bool(model)

    async def embed(self, texts: object, *, model: str, dimensions: int | None) -> Embeddings:  # noqa: ARG002
        """The same vector for each text."""
        return Embeddings(vectors=(self._vector,) * len(list(texts)), model=model, provider=self.name)  # type: ignore[call-overload]


def _ignore(event: Event) -> None:
    pass


def entries(dimensions: int, *numbers: int) -> Mapping[bytes, bytes]:
    """Entries with vectors that cannot be compressed."""
    keys = [cache_key("openai ", MODEL, None, f"text {number}") for number in numbers]
    return {key: packed(key, Kept(os.urandom(4 * dimensions), MODEL)) for key in keys}


async def fill(store: CacheStore, dimensions: int, count: int, *, beginning: int = 0) -> None:
    """Put ``count`` entries in batches."""
    for start in range(beginning, beginning + count, BATCH):
        await store.put_many(entries(dimensions, *range(start, min(start + BATCH, beginning + count))))


async def timed(label: str, call: Callable[[int], object]) -> None:
    """Print what ``call`` takes, by the clock on the wall and in CPU of all threads."""
    walls, cpu = [], time.process_time()
    for number in range(ROUNDS):
        began = time.perf_counter()
        await call(number)  # type: ignore[misc]
        walls.append(1_000 * (time.perf_counter() - began))
    cpu = (time.process_time() - cpu) / ROUNDS * 1_000
    print(f"{label:58} {statistics.median(walls):7.2f} ms wall, {cpu:6.2f} ms CPU per batch of {BATCH}")


async def lookups(folder: Path) -> None:
    """A full cache of 1,536 dimensions."""
    chance = random.Random(1)  # noqa: S311  # the same entries in every run
    async with open_storage(f"sqlite:///{folder / 'state.db'}") as storage:
        store = await SqlCacheStore.open(storage, limit=1_024 * MEGABYTE)
        await fill(store, 1_536, ENTRIES)
        cached = Cached(Instant(1_536), store, observer=_ignore)

        def embed(texts: list[str]) -> object:
            return cached.embed(texts, model=MODEL, dimensions=None)

        def known() -> list[str]:
            return [f"text {number}" for number in chance.sample(range(ENTRIES), BATCH)]

        print(f"{ENTRIES} entries of 1,536 dimensions: {store.filling().size / MEGABYTE:.0f} MB by our account")
        await timed("all hits", lambda _: embed(known()))
        await timed("all misses (durable)", lambda n: embed([f"new {n} {place}" for place in range(BATCH)]))
        await timed(
            "half hits, half misses (durable)", lambda n: embed([*known()[:32], *(f"h {n} {i}" for i in range(32))])
        )
    began = time.perf_counter()
    async with open_storage(f"sqlite:///{folder / 'state.db'}") as storage:
        await SqlCacheStore.open(storage, limit=1_024 * MEGABYTE)
        print(f"opened again in {1_000 * (time.perf_counter() - began):.0f} ms")


async def eviction(folder: Path) -> None:
    """A cache that is full and stays so."""
    async with open_storage(f"sqlite:///{folder / 'full.db'}") as storage:
        store = await SqlCacheStore.open(storage, limit=64 * MEGABYTE)
        await fill(store, 1_536, 12_000)
        cached = Cached(Instant(1_536), store, observer=_ignore)

        def new(number: int) -> object:
            return cached.embed([f"e {number} {i}" for i in range(BATCH)], model=MODEL, dimensions=None)

        await timed("all misses in a full cache (durable, evicts as many)", new)


async def growth(folder: Path) -> None:
    """Four times what there is room for, at several lengths."""
    limit = 32 * MEGABYTE
    for dimensions in (256, 384, 768, 1_024, 1_536, 3_072):
        path = folder / f"{dimensions}.db"
        async with open_storage(f"sqlite:///{path}") as storage:
            empty = path.stat().st_size
            store = await SqlCacheStore.open(storage, limit=limit)
            await fill(store, dimensions, 4 * limit // (4 * dimensions + 300))
            filling = store.filling()
        size = path.stat().st_size - empty
        print(
            f"{dimensions:5} dimensions: {filling.entries:6} entries, {filling.size / MEGABYTE:5.1f} MB by our account,"
            f" {size / MEGABYTE:5.1f} MB in the file, bound {limit / MEGABYTE:.0f}"
        )


async def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        await lookups(Path(folder))
        await eviction(Path(folder))
        await growth(Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
