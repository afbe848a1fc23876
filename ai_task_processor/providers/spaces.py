"""The guard of embedding spaces: notices when the vectors for one model's name stop being comparable."""

import math
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.events import SpaceChanged
from ai_task_processor.domain.outcome import FLOAT32_BYTES
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings, Observer
from ai_task_processor.providers.checks import Usual, usual_length
from ai_task_processor.providers.models import canonical

SAVED_EVERY = 3_600.0
"""Seconds after which it is written down that a space is still in use."""

MOST_SPACES = 1_000
"""Spaces remembered; beyond, those not seen for longest are forgotten. Tasks may name any model."""

_ENGINE_BYTES = 8


class Space(Struct, frozen=True):
    """Where vectors can be compared: one model of one provider at one length.

    ``engine`` is a digest of what tells the provider from others of its name: at another address, a model of the same
    name may have another length.
    """

    provider: str
    engine: str
    model: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.provider} {self.model} {self.dimensions}"


class Sighting(Struct, frozen=True):
    """Tasks that name the model ``name`` and ask for ``asked`` dimensions (0: for none) were given ``space``.

    Times are Unix seconds; ``count`` is the number of vectors.
    """

    name: str
    asked: int
    space: Space
    first_seen: float
    last_seen: float
    count: int


class SpaceStore(Protocol):
    """Keeps sightings; one for each name, dimensions asked for and space."""

    async def load(self) -> Sequence[Sighting]:
        """Everything kept, in any order."""
        ...

    async def save(self, sighting: Sighting, forget: Collection[Sighting]) -> None:
        """Keep a sighting in the place of an older one, and forget others; durable when this returns."""
        ...

    async def forget(self, sightings: Collection[Sighting]) -> None:
        """Drop these; durable when this returns."""
        ...


class Spaces:
    """What is known of spaces, by this and by earlier runs; :meth:`open` makes one.

    ``identities`` says for each provider what tells it from others of its name.
    """

    def __init__(
        self, kept: Sequence[Sighting], *, store: SpaceStore, identities: Mapping[str, str], clock: Clock
    ) -> None:
        self._store = store
        self._clock = clock
        self._engines = {provider: _digest(identity) for provider, identity in identities.items()}
        self._sightings: dict[tuple[str, int, Space], Sighting] = {}
        self._saved_at: dict[tuple[str, int, Space], float] = {}
        self._current: dict[tuple[str, int], Space] = {}
        self._lengths: dict[tuple[str, str, str], int] = {}
        self._latest = 0.0
        for sighting in sorted(kept, key=lambda one: one.last_seen):
            self._remember(sighting)

    @classmethod
    async def open(cls, store: SpaceStore, *, identities: Mapping[str, str], clock: Clock) -> "Spaces":
        """Take up what is kept."""
        return cls(await store.load(), store=store, identities=identities, clock=clock)

    def usual(self, provider: str) -> Usual:
        """The lengths of this provider's models: of those well known, and of those that have answered before."""
        engine = self._engine(provider)

        def length(model: str) -> int | None:
            return usual_length(model) or self._lengths.get((provider, engine, canonical(model)))

        return length

    async def meet(self, name: str, asked: int | None, answer: Embeddings) -> Space | None:
        """Note that ``answer`` is for tasks with this name that ask for so many dimensions.

        Answers the space that these tasks' vectors were in before, where it was another. Costs nothing for a space
        that is known, but once in SAVED_EVERY seconds.
        """
        space = self._space(answer)
        known = self._current.get((canonical(name), asked or 0))
        now = max(self._clock.now(), math.nextafter(self._latest, math.inf))  # later than all before: it is the current
        sighting = self._sighted(canonical(name), asked or 0, space, len(answer.vectors), now)
        if known != space or now - self._saved_at[_key(sighting)] >= SAVED_EVERY:
            self._saved_at[_key(sighting)] = now
            await self._store.save(sighting, self._superfluous(sighting))
        return known if known is not None and str(known) != str(space) else None

    def _space(self, answer: Embeddings) -> Space:
        engine = self._engine(answer.provider)
        dimensions = len(answer.vectors[0]) // FLOAT32_BYTES
        return Space(answer.provider, engine, canonical(answer.model), dimensions)

    def _sighted(self, name: str, asked: int, space: Space, count: int, now: float) -> Sighting:
        new = Sighting(name, asked, space, first_seen=now, last_seen=now, count=0)
        old = self._sightings.get(_key(new), new)
        sighting = replace(old, last_seen=now, count=old.count + count)
        self._remember(sighting)
        return sighting

    def _remember(self, sighting: Sighting) -> None:
        space = sighting.space
        self._sightings[_key(sighting)] = sighting
        self._saved_at.setdefault(_key(sighting), sighting.last_seen)
        self._current[sighting.name, sighting.asked] = space
        self._latest = max(self._latest, sighting.last_seen)
        if _tells_usual_length(sighting):
            self._lengths[space.provider, space.engine, space.model] = space.dimensions

    def _superfluous(self, newest: Sighting) -> Collection[Sighting]:
        """Those above the bound, which are forgotten."""
        excess = len(self._sightings) - MOST_SPACES
        if excess <= 0:
            return ()
        oldest = sorted(self._sightings.values(), key=lambda one: (one is newest, one.last_seen))[:excess]
        for sighting in oldest:
            self._forget(sighting)
        return oldest

    def _forget(self, sighting: Sighting) -> None:
        space, place = sighting.space, (sighting.name, sighting.asked)
        del self._sightings[_key(sighting)], self._saved_at[_key(sighting)]
        if self._current.get(place) == space:
            del self._current[place]
        if _tells_usual_length(sighting):
            self._lengths.pop((space.provider, space.engine, space.model), None)

    def _engine(self, provider: str) -> str:
        return self._engines.get(provider, "")


class Spaced:
    """A provider whose answers are told to ``spaces`` under the name that the tasks use.

    It must stand around every other wrapper: within, a fallback model's name may have taken the place of the task's.
    """

    def __init__(self, provider: EmbeddingProvider, spaces: Spaces, *, observer: Observer) -> None:
        self._provider = provider
        self._spaces = spaces
        self._observer = observer

    @property
    def name(self) -> str:
        """The name of the provider within."""
        return self._provider.name

    def serves(self, model: str) -> bool:
        """What the provider within serves."""
        return self._provider.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed as the provider within.

        Raises ProviderUnavailable for vectors of another length than the answering model is known for: two first
        answers can have come at once.
        """
        answer = await self._provider.embed(texts, model=model, dimensions=dimensions)
        self._expect_usual_length(answer, model, dimensions)
        before = await self._spaces.meet(model, dimensions, answer)
        if before is not None:
            after = f"{answer.provider} {canonical(answer.model)} {_length(answer)}"
            self._observer(SpaceChanged(canonical(model), dimensions, before=str(before), after=after))
        return answer

    def _expect_usual_length(self, answer: Embeddings, model: str, dimensions: int | None) -> None:
        if dimensions is not None or canonical(answer.model) != canonical(model):
            return
        usual = self._spaces.usual(answer.provider)(answer.model)
        if usual not in (_length(answer), None):
            raise ProviderUnavailable(f"{answer.model} gave {_length(answer)} dimensions instead of {usual}")


def _length(answer: Embeddings) -> int:
    return len(answer.vectors[0]) // FLOAT32_BYTES


def _key(sighting: Sighting) -> tuple[str, int, Space]:
    return sighting.name, sighting.asked, sighting.space


def _tells_usual_length(sighting: Sighting) -> bool:
    """Not under another's name: a model that stands in for another is asked for the other's length."""
    return sighting.asked == 0 and sighting.name == sighting.space.model


def _digest(identity: str) -> str:
    return blake2b(identity.encode(), digest_size=_ENGINE_BYTES).hexdigest() if identity else ""
