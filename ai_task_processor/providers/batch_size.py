"""How many texts an engine of one's own is given in one request: as many as it does in a short time."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings

TARGET = 2.0
"""Seconds that a request should take at most: what is done is durable the sooner, and a timeout costs little."""

STEP = 8
"""More texts after a request that was full and took less than half of that."""


class BatchSize(Struct, frozen=True):
    """``now`` texts in a request, of ``most`` at most: a step more while it is fast, half as many when it is not."""

    most: int
    now: int

    def after(self, texts: int, seconds: float) -> "BatchSize":
        """What follows from a request with so many texts that took so long, however it ended."""
        if seconds > TARGET:
            return replace(self, now=max(1, min(self.now, texts) // 2))
        if texts >= self.now and seconds <= TARGET / 2:
            return replace(self, now=min(self.most, self.now + STEP))
        return self


class Sized:
    """A provider that notices how long its requests take; ``most`` texts are in one at most."""

    def __init__(self, inner: EmbeddingProvider, *, most: int, clock: Clock) -> None:
        self._inner = inner
        self._most = most
        self._clock = clock
        self._sizes: dict[str, BatchSize] = {}

    @property
    def name(self) -> str:
        """The name of the provider inside."""
        return self._inner.name

    def serves(self, model: str) -> bool:
        """As the provider inside."""
        return self._inner.serves(model)

    def batch_size(self, model: str) -> int:
        """How many texts for this model are to be in the next request."""
        return self._size(model).now

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """As the provider inside; a failure that took long says that it was too much, a quick one says nothing."""
        began = self._clock.monotonic()
        failed = True
        try:
            answer = await self._inner.embed(texts, model=model, dimensions=dimensions)
            failed = False
        finally:
            seconds = self._clock.monotonic() - began
            if not failed or seconds > TARGET:
                self._sizes[model] = self._size(model).after(len(texts), seconds)
        return answer

    def _size(self, model: str) -> BatchSize:
        return self._sizes.get(model) or BatchSize(self._most, self._most)
