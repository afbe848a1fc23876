"""A provider that is asked for nothing twice: equal texts in flight are one, and repeats come from a cache."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai_task_processor.domain.errors import NotNow, ProviderError, ProviderUnavailable
from ai_task_processor.domain.events import CacheAnswered, CacheDamaged, CacheFilled
from ai_task_processor.domain.outcome import FLOAT32_BYTES
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings, Observer
from ai_task_processor.providers.cache import CacheStore, Kept, cache_key, packed, unpacked
from ai_task_processor.providers.checks import Usual, usual_length
from ai_task_processor.storage.vectors import name_of


class Cached:
    """Stands around a provider whose answers are believed (see ``guarded``), and sends it only what nobody has asked.

    Texts are equal where provider, ``identity`` (what tells this engine from others of its name: its address, its
    version), model, dimensions and text are. An equal text that another call has sent is waited for; where that call
    fails or is cancelled, those who wait for it ask for themselves, as if it had not been there. All that is left goes
    to the provider in one request, and its vectors are in ``store``, durably, before they are handed out: a crash
    after that costs nothing.

    A call that fails although a part of its texts was answered keeps those answers for whoever asks next.

    An entry of the store that is damaged, or is not of the length asked for or ``usual``, is dropped and asked anew.
    Raised is what the provider raises.
    """

    def __init__(
        self,
        provider: EmbeddingProvider,
        store: CacheStore,
        *,
        observer: Observer,
        identity: str = "",
        usual: Usual = usual_length,
    ) -> None:
        self._provider = provider
        self._store = store
        self._observer = observer
        self._engine = f"{provider.name} {identity}"
        self._usual = usual
        self._flights: dict[bytes, _Flight] = {}
        self._left_over: dict[bytes, Kept] = {}  # answers of calls that failed for others of their texts

    @property
    def name(self) -> str:
        """The name of the provider within."""
        return self._provider.name

    def serves(self, model: str) -> bool:
        """What the provider within serves."""
        return self._provider.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed ``texts``, of which some may be equal; ``known`` of the answer are the places of those not asked."""
        keys = [cache_key(self._engine, model, dimensions, text) for text in texts]
        found = _Found(model, dimensions)
        try:
            await self._find(dict(zip(keys, texts, strict=True)), found)
        except (ProviderError, NotNow):
            if not found.mixed:
                self._left_over.update(found.paid)
            raise
        self._tell(found)
        return Embeddings(
            vectors=tuple(found.kept[key].vector for key in keys),
            model=found.kept[keys[0]].model,
            provider=self.name,
            tokens=found.tokens,
            known=frozenset(place for place, key in enumerate(keys) if key not in found.asked),
            kept_as=tuple(found.kept_as.get(key, b"") for key in keys),
        )

    async def _find(self, wanted: Mapping[bytes, str], found: "_Found") -> None:
        while missing := {key: text for key, text in wanted.items() if key not in found.kept}:
            await self._find_more(missing, found)
        if not found.mixed:
            return
        # The name has come to mean another model: what was known before is asked again.
        await self._ask({key: text for key, text in wanted.items() if key not in found.asked}, found)
        if found.mixed:
            raise ProviderUnavailable(f"{self.name} answered with vectors of several models")

    async def _find_more(self, missing: Mapping[bytes, str], found: "_Found") -> None:
        """Lead what nobody has in flight, then wait for the rest: who waits leads nothing, so no two wait in a ring."""
        own = {key: text for key, text in missing.items() if key not in self._flights}
        others = {id(flight): flight for key in missing if (flight := self._flights.get(key))}
        if own:
            await self._lead(own, found)
        for flight in others.values():
            await flight.landed.wait()
            found.share({key: flight.answers[key] for key in missing if key in flight.answers})

    async def _lead(self, own: Mapping[bytes, str], found: "_Found") -> None:
        flight = _Flight()
        self._flights.update(dict.fromkeys(own, flight))
        try:
            flight.answers.update(await self._remembered(own, found))
            unknown = {key: text for key, text in own.items() if key not in flight.answers}
            if unknown:
                await self._ask(unknown, found, flight)
        finally:
            for key in own:
                del self._flights[key]
            flight.landed.set()

    async def _remembered(self, own: Mapping[bytes, str], found: "_Found") -> Mapping[bytes, Kept]:
        left_over = {key: self._left_over.pop(key) for key in own if key in self._left_over}
        stored = await self._store.get_many(own)
        entries = {key: unpacked(key, data) for key, data in stored.items()}
        usable = left_over | {
            key: kept for key, kept in entries.items() if kept is not None and self._fits(kept, found)
        }
        damaged = entries.keys() - usable.keys()
        if damaged:
            await self._store.drop(damaged)
            self._observer(CacheDamaged(provider=self.name, model=found.model, count=len(damaged)))
        found.remember(usable)
        found.kept_as.update((key, name_of(key, stored[key])) for key in usable if key in stored)
        return usable

    def _fits(self, kept: Kept, found: "_Found") -> bool:
        dimensions, rest = divmod(len(kept.vector), FLOAT32_BYTES)
        wanted = found.dimensions or self._usual(kept.model)
        return dimensions > 0 and not rest and wanted in (dimensions, None)

    async def _ask(self, wanted: Mapping[bytes, str], found: "_Found", flight: "_Flight | None" = None) -> None:
        texts = tuple(wanted.values())
        found.asked.update(wanted)
        answer = await self._provider.embed(texts, model=found.model, dimensions=found.dimensions)
        fresh = {key: Kept(vector, answer.model) for key, vector in zip(wanted, answer.vectors, strict=True)}
        found.pay(fresh, answer.tokens)
        if flight:
            flight.answers.update(fresh)
            flight.landed.set()  # the others need not wait until it is stored, and lose nothing if this call dies now
        entries = {key: packed(key, kept) for key, kept in fresh.items()}
        evicted = await self._store.put_many(entries)
        found.kept_as.update((key, name_of(key, entry)) for key, entry in entries.items())
        filling = self._store.filling()
        self._observer(CacheFilled(entries=filling.entries, size=filling.size, evicted=evicted))

    def _tell(self, found: "_Found") -> None:
        misses = len(found.asked)
        self._observer(CacheAnswered(self.name, found.model, hits=found.hits, shared=found.shared, misses=misses))


class _Flight:
    """Texts that one call leads; ``answers`` lacks those for which it failed."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Kept] = {}
        self.landed = asyncio.Event()


@dataclass(slots=True)
class _Found:
    """What one call has so far, and where from."""

    model: str
    dimensions: int | None
    kept: dict[bytes, Kept] = field(default_factory=dict)
    kept_as: dict[bytes, bytes] = field(default_factory=dict)
    asked: set[bytes] = field(default_factory=set)
    tokens: int = 0
    hits: int = 0
    shared: int = 0

    @property
    def paid(self) -> Mapping[bytes, Kept]:
        """The answers that this call itself has asked for and got."""
        return {key: self.kept[key] for key in self.asked if key in self.kept}

    @property
    def mixed(self) -> bool:
        """Whether the vectors are of more than one space."""
        return len({(kept.model, len(kept.vector)) for kept in self.kept.values()}) > 1

    def remember(self, kept: Mapping[bytes, Kept]) -> None:
        self.kept |= kept
        self.hits += len(kept)

    def share(self, kept: Mapping[bytes, Kept]) -> None:
        self.kept |= kept
        self.shared += len(kept)

    def pay(self, kept: Mapping[bytes, Kept], tokens: int) -> None:
        self.kept |= kept
        self.tokens += tokens
