"""Models in GGUF, computed by llama.cpp inside the process."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ai_task_processor.domain.errors import ProviderError, ProviderRejected, ProviderUnavailable
from ai_task_processor.providers.decoding import vector
from ai_task_processor.providers.local.files import ModelFiles, fault
from ai_task_processor.providers.local.gguf_facts import NotGguf, gguf_facts
from ai_task_processor.providers.local.model import MOST_TOKENS, Embedded, Floats, required
from ai_task_processor.providers.refusals import InputTooLong, says_too_long, shortened, told, too_long

_NO_POOLING, _RANK = 0, 4
_BAD_REQUEST = 400


class GgufModel:
    """An embedding model, pooled as its file says; of a language model, whose file says nothing, the mean.

    One text at a time: with several slots llama.cpp can give a text another vector beside others than alone, and on a
    processor nothing is gained by them. With ``truncate`` a text that is too long is shortened until it fits,
    otherwise it is refused.
    """

    def __init__(self, files: ModelFiles, *, truncate: bool) -> None:
        self._name = files.name
        self._truncate = truncate
        self._server: _Server | None = _loaded(files.model)
        self._asked("a")  # a server that is let go before it has begun to work never ends

    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        """See :class:`~ai_task_processor.providers.local.model.Runtime`; the longest first, for one may be too long."""
        for place in sorted(range(len(texts)), key=lambda place: len(texts[place]), reverse=True):
            yield place, *self._embedded(texts[place])

    def close(self) -> None:
        """See :class:`~ai_task_processor.providers.local.model.Runtime`."""
        self._server = None

    def _embedded(self, text: str) -> tuple[Floats, int]:
        while True:
            try:
                return self._answered(text)
            except InputTooLong as error:
                if not self._truncate:
                    raise
                text = shortened(text, error)

    def _answered(self, text: str) -> tuple[Floats, int]:
        answer = self._asked(text)
        if "error" in answer:
            raise self._refusal(answer["error"], text)
        numbers = np.frombuffer(vector(answer["data"][0]["embedding"]), dtype="<f4")
        return numbers, int(answer["usage"]["prompt_tokens"])

    def _asked(self, text: str) -> Mapping[str, Any]:
        if self._server is None:
            raise ProviderUnavailable(f"{self._name} is closed")
        return self._server.handle_embeddings({"input": text, "encoding_format": "base64"})

    def _refusal(self, error: Mapping[str, Any], text: str) -> ProviderError:
        message = str(error.get("message"))
        if says_too_long(message):
            return too_long(message, (text,), self._name)
        words = told(message, (text,))
        if error.get("code") == _BAD_REQUEST:
            return ProviderRejected(f"The model refuses the input: {words}")
        return ProviderUnavailable(f"{self._name} cannot be computed: {words}")


class _Server(Protocol):
    """The part of the package's server that is used; it stops when it is let go."""

    def handle_embeddings(self, body: Mapping[str, str]) -> Mapping[str, Any]: ...


def _loaded(model: Path) -> _Server:
    """It cannot be kept from listening: on a free port of loopback, for nobody, with a key that is not kept."""
    runtime = required("xllamacpp", extra="gguf")
    pooling = _pooling(model)
    parameters = runtime.CommonParams()
    parameters.model.path = str(model)
    parameters.embedding = True
    parameters.pooling_type = runtime.llama_pooling_type[f"LLAMA_POOLING_TYPE_{pooling}"]
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = MOST_TOKENS
    parameters.n_parallel = 1
    parameters.cache_ram_mib = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = _threads()
    parameters.port = 0
    parameters.api_keys = [secrets.token_urlsafe(32)]
    parameters.ui = False
    parameters.warmup = False
    parameters.verbosity = -1
    try:
        server: _Server = runtime.Server(parameters)
    except RuntimeError as error:
        raise fault(f"{model} cannot be loaded by llama.cpp; was it downloaded whole?") from error
    return server


def _pooling(model: Path) -> str:
    """Which pooling to ask for, by the file; a language model names none, and then llama.cpp would not pool."""
    try:
        facts = gguf_facts(model)
    except (NotGguf, OSError) as error:
        raise fault(f"{model} is no GGUF file that can be read; was it downloaded whole? ({error})") from error
    pooling = next((value for key, value in facts.items() if key.endswith(".pooling_type")), _NO_POOLING)
    if pooling == _RANK:
        raise fault(f"{model} is a reranker, which gives no embeddings")
    return "MEAN" if pooling == _NO_POOLING else "UNSPECIFIED"


def _threads() -> int:
    """All processors but one: its threads wait for each other in busy loops, and everything else needs one, too."""
    return max(1, (os.cpu_count() or 1) - 1)
