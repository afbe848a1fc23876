"""Embeddings from the text's hash: for development and tests, the same numbers on every machine."""

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.models import canonical, estimated_tokens, known

DIMENSIONS_OF_STRANGERS = 768
"""The length of a vector whose model is not known and whose length was not asked for."""


def mock_vector(text: str, model: str, dimensions: int | None = None) -> bytes:
    """The vector that the mock provider gives for ``text``: float32, little-endian, of length one.

    Integers from SHAKE-256 of model, length and text, divided by the root of the exact sum of their squares, so that
    no library or processor can round it differently.
    """
    length = dimensions or _usual_dimensions(model)
    seed = "\0".join((canonical(model), str(length), text)).encode()
    numbers = np.frombuffer(hashlib.shake_256(seed).digest(2 * length), dtype="<i2").astype(np.int64)
    norm = np.sqrt(np.float64((numbers * numbers).sum()))
    return bytes((numbers / norm).astype("<f4").tobytes())


class Mock:
    """Serves any model, with figures of use and, if wanted, ``latency`` in seconds for each request."""

    def __init__(self, *, latency: float = 0.0) -> None:
        self._latency = latency

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        return "mock"

    def serves(self, model: str) -> bool:  # noqa: ARG002 - the port's signature
        """Every model."""
        return True

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Give each text its :func:`mock_vector`; never raises."""
        if self._latency:
            await asyncio.sleep(self._latency)
        return Embeddings(
            vectors=tuple(mock_vector(text, model, dimensions) for text in texts),
            model=model,
            provider=self.name,
            tokens=sum(map(estimated_tokens, texts)),
        )


def _usual_dimensions(model: str) -> int:
    facts = known(model)
    return facts.dimensions if facts else DIMENSIONS_OF_STRANGERS
