"""A model of the user's own inside the process, whatever computes it."""

import asyncio
import importlib
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ai_task_processor.domain.errors import ProviderError, ProviderRejected
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.local.files import fault

Floats: TypeAlias = npt.NDArray[np.float32]
Embedded: TypeAlias = tuple[int, Floats, int]
"""The place of a text, its vector and how many tokens it has."""

MOST_TOKENS = 2048
"""Tokens of one text, at most: beyond, attention takes gigabytes. Many models read fewer."""

PROBE = "canary"


class Runtime(Protocol):
    """Computes a model that it has loaded; used by several threads at once."""

    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        """Each text's vector as soon as it is there, in any order; the caller may stop listening.

        Raises ProviderRejected and ProviderUnavailable; a text that is too long is found before time is spent.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


class LocalModel:
    """Answers for every model name with the one that ``runtime`` has, which is called ``model``.

    One batch at a time: several would only slow each other down, and all be late. Raises ConfigurationError where the
    model cannot embed a word.
    """

    def __init__(self, runtime: Runtime, *, model: str) -> None:
        self._runtime = runtime
        self._model = model
        self._turn = asyncio.Lock()
        self._dimensions = _dimensions(runtime, model)

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        return "local"

    def serves(self, model: str) -> bool:  # noqa: ARG002 - the port's signature
        """Every name, with the one model there is."""
        return True

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:  # noqa: ARG002
        """Embed in a thread, which ends after the text at hand when nobody waits for it any more.

        Fewer ``dimensions`` than the model has are the beginning of its vectors, made to length one. Raises
        ProviderRejected for more, for a text that is too long and for one without any token; ProviderUnavailable where
        the runtime fails.
        """
        self._expect_possible(dimensions)
        async with self._turn:
            given_up = threading.Event()
            try:
                return await asyncio.to_thread(self._embed, tuple(texts), dimensions or self._dimensions, given_up)
            finally:
                given_up.set()

    def _embed(self, texts: Sequence[str], length: int, given_up: threading.Event) -> Embeddings:
        vectors, tokens = [b""] * len(texts), 0
        for place, vector, count in self._runtime.embed(texts):
            vectors[place] = _packed(vector, length)
            tokens += count
            if given_up.is_set():
                break
        return Embeddings(vectors=tuple(vectors), model=self._model, provider=self.name, tokens=tokens)

    def _expect_possible(self, dimensions: int | None) -> None:
        if dimensions is not None and dimensions > self._dimensions:
            raise ProviderRejected(
                f"content.dimensions is {dimensions}; {self._model} gives at most {self._dimensions}.", every_input=True
            )


def required(package: str, *, extra: str) -> ModuleType:
    """The package that computes a kind of model, which comes with an extra of ours; raises ConfigurationError."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise fault(f"this model needs the package {package}: pip install 'ai-task-processor[{extra}]'") from error


def _dimensions(runtime: Runtime, model: str) -> int:
    try:
        return len(next(iter(runtime.embed((PROBE,))))[1])
    except ProviderError as error:
        raise fault(f"{model} cannot embed a word: {error}") from error


def _packed(vector: Floats, length: int) -> bytes:
    if length < len(vector):
        vector = vector[:length] / np.linalg.norm(vector[:length])
    return vector.astype("<f4").tobytes()
