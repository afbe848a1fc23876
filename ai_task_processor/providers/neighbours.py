"""A check on servers: a text's vector must not depend on the texts that are embedded beside it."""

import asyncio
from collections.abc import Sequence

import numpy as np

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.events import TextsMixed
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings, Observer

PROBES = ("canary", "two words beside it")
"""What is embedded to see it: short, of different lengths, and nobody's. The last one is embedded alone, too: the first
of several has been seen to be right where the others were not."""

ALIKE = 0.99
"""Cosine from which two vectors are the same text's: rounding leaves 0.999 and more, mixing has been seen at 0.94."""

MOST_MODELS = 1_000
"""Models whose trial is remembered; tasks may name any."""


class Neighbours:
    """Sends several texts at once to ``provider`` only after it gave the same vector to a text alone and in company.

    Tried once for each model, with two small requests. There are servers that mix the texts of one request, and of
    requests at once, when they are started with certain options; their vectors look like any others. A server that
    was seen to do so gets no single texts either before a trial succeeds.
    """

    def __init__(self, provider: EmbeddingProvider, *, observer: Observer) -> None:
        self._provider = provider
        self._observer = observer
        self._mixing = False
        self._trusted: set[str] = set()
        self._answers: dict[tuple[str, Sequence[str]], Sequence[bytes]] = {}
        self._one_trial = asyncio.Lock()

    @property
    def name(self) -> str:
        """The name of the provider within."""
        return self._provider.name

    def serves(self, model: str) -> bool:
        """What the provider within serves."""
        return self._provider.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed as the provider within; raises ProviderUnavailable where it is seen to mix texts."""
        if model not in self._trusted and (len(texts) > 1 or self._mixing):
            async with self._one_trial:
                await self._try(model)
        return await self._provider.embed(texts, model=model, dimensions=dimensions)

    async def _try(self, model: str) -> None:
        if model in self._trusted:
            return
        in_company = await self._probed(PROBES, model)
        alone = await self._probed(PROBES[-1:], model)
        self._answers.clear()
        self._mixing = _cosine(alone[0], in_company[-1]) < ALIKE
        if self._mixing:
            self._observer(TextsMixed(provider=self.name, model=model))
            raise ProviderUnavailable(
                f"{self.name} gives a text other vectors beside others than alone, so none of them can be used. "
                "llama-server does so with -np above 1: start it with -np 1, or try -kvu."
            )
        if len(self._trusted) == MOST_MODELS:
            self._trusted.clear()
        self._trusted.add(model)

    async def _probed(self, texts: Sequence[str], model: str) -> Sequence[bytes]:
        """Asked once: where a limit breaks a trial off, the next one goes on instead of using it up again."""
        if (model, texts) not in self._answers:
            answer = await self._provider.embed(texts, model=model, dimensions=None)
            self._answers[model, texts] = answer.vectors
        return self._answers[model, texts]


def _cosine(one: bytes, other: bytes) -> float:
    if len(one) != len(other):
        return 0.0
    a, b = (np.frombuffer(vector, dtype="<f4").astype(np.float64) for vector in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
