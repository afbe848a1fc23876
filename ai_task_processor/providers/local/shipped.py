"""A real embedding model inside the process, without a server and without a key: the package ``wordllama``."""

import asyncio
import importlib
import importlib.util
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from ai_task_processor.domain.errors import ConfigurationError, ProviderRejected
from ai_task_processor.domain.ports import Embeddings

Floats = npt.NDArray[np.float32]

MODEL = "wordllama-l2-supercat"
PACKAGE = "wordllama"
DIMENSIONS = 256
LENGTHS = (64, 128, DIMENSIONS)
"""The model was trained so that the beginning of a vector is a vector: these beginnings are good ones."""

TOKENS_AT_ONCE = 4096
"""Rows of the table looked up at a time: 4 MB, however long a text is."""


class Local:
    """Averages the vectors of a text's tokens: thousands of short texts a second, without regard to their order.

    Answers for every model name, for it has one model only: the vectors of different names are comparable here.
    The model is loaded with the first texts. Raises ConfigurationError where the package is not installed.
    """

    def __init__(self) -> None:
        _require(PACKAGE)
        self._loaded: _Loaded | None = None
        self._loading = threading.Lock()

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        return "local"

    def serves(self, model: str) -> bool:  # noqa: ARG002 - the port's signature
        """Every name, with the one model there is."""
        return True

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:  # noqa: ARG002
        """Embed in a thread; a text's vector does not depend on its neighbours, to the last bit.

        Raises ProviderRejected for a length that the model cannot give and for a text without any token.
        """
        length = _length(dimensions)
        return await asyncio.to_thread(self._embed, texts, length)

    def _embed(self, texts: Sequence[str], length: int) -> Embeddings:
        loaded = self._load()
        encodings = loaded.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [encoding.ids for encoding in encodings]
        if not all(tokens):
            raise ProviderRejected("The text has nothing in it that the model can read.")
        means = np.stack([_mean(loaded.table, ids) for ids in tokens])
        return Embeddings(
            vectors=tuple(bytes(row.astype("<f4").tobytes()) for row in _unit(means[:, :length])),
            model=MODEL,
            provider=self.name,
            tokens=sum(map(len, tokens)),
        )

    def _load(self) -> "_Loaded":
        with self._loading:
            if self._loaded is None:
                self._loaded = _load()
            return self._loaded


class _Loaded(Struct, frozen=True):
    table: Floats
    tokenizer: Any


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigurationError(
            [f"the local mode needs the package {package}: pip install 'ai-task-processor[local]'"]
        )


def _length(dimensions: int | None) -> int:
    if dimensions is None:
        return DIMENSIONS
    if dimensions not in LENGTHS:
        lengths = ", ".join(map(str, LENGTHS))
        raise ProviderRejected(
            f"content.dimensions is {dimensions}; the local model gives {lengths}.", every_input=True
        )
    return dimensions


def _load() -> _Loaded:
    with _root_logger_left_alone():
        package = importlib.import_module(PACKAGE)
    folder = Path(str(package.__file__)).parent
    model = package.WordLlama.load(dim=DIMENSIONS, cache_dir=folder, disable_download=True)
    model.tokenizer.no_padding()  # one long text would pad all others to its length: gigabytes
    return _Loaded(table=model.embedding, tokenizer=model.tokenizer)


@contextmanager
def _root_logger_left_alone() -> Iterator[None]:
    """The package calls ``logging.basicConfig`` when imported; with a handler in place that does nothing."""
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)


def _mean(table: Floats, ids: Sequence[int]) -> Floats:
    """Added row after row, so that the sum is the same in pieces as in one."""
    total: Floats = np.zeros(table.shape[1], dtype=np.float32)
    for piece in _pieces(ids, TOKENS_AT_ONCE):
        total = np.add.reduce(np.vstack((total, table[piece])), axis=0)
    return total / np.float32(len(ids))


def _pieces(ids: Iterable[int], size: int) -> Iterator[list[int]]:
    remaining = iter(ids)
    while piece := list(islice(remaining, size)):
        yield piece


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
