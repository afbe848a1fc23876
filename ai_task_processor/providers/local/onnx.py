"""Models in ONNX, computed by ONNX Runtime, with the tokenizer and the pooling that lie beside them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ai_task_processor.domain.errors import ProviderRejected, ProviderUnavailable
from ai_task_processor.providers.local.files import TOKENIZER, ModelFiles, fault
from ai_task_processor.providers.local.model import Embedded, Floats, required
from ai_task_processor.providers.local.use import Use
from ai_task_processor.providers.refusals import InputTooLong

TOKENS_AT_ONCE = 4096
"""Tokens of all texts that are computed together."""

_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class _Encoding(Protocol):
    ids: list[int]
    type_ids: list[int]


class _Tokenizer(Protocol):
    def encode_batch_fast(self, texts: list[str]) -> list[_Encoding]: ...


class _Session(Protocol):
    def run(self, outputs: list[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]: ...

    def get_inputs(self) -> list[Any]: ...

    def get_outputs(self) -> list[Any]: ...


class OnnxModel:
    """A sentence encoder as sentence-transformers, Optimum and others export it.

    Texts of equal length are computed together, others apart: so nothing is padded, and nothing is wasted on it. With
    ``truncate`` a text that is too long is cut at the last token that fits, otherwise it is refused.
    """

    def __init__(self, files: ModelFiles, *, truncate: bool) -> None:
        self._name = files.name
        self._use = Use(files.root)
        self._tokenizer = _tokenizer(files.root / TOKENIZER, self._use.most_tokens if truncate else None)
        self._session, self._errors = _session(files.model)
        self._types = {one.name: _type(one.type) for one in self._session.get_inputs()}
        self._output = _output([one.name for one in self._session.get_outputs()])
        unknown = self._types.keys() - _INPUTS
        if unknown:
            raise fault(f"{files.model} asks for {', '.join(sorted(unknown))}; a sentence encoder does not")

    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        """See :class:`~ai_task_processor.providers.local.model.Runtime`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        for places in _together([len(encoding.ids) for encoding in encodings], self._expect_readable):
            vectors = self._computed([encodings[place] for place in places])
            for place, vector in zip(places, vectors, strict=True):
                yield place, vector, len(encodings[place].ids)

    def close(self) -> None:
        """See :class:`~ai_task_processor.providers.local.model.Runtime`."""
        del self._session

    def _expect_readable(self, length: int) -> None:
        if length == 0:
            raise ProviderRejected("The text has nothing in it that the model can read.")
        most = self._use.most_tokens
        if length > most:
            sentence = f"The text is too long: it has {length} tokens; {self._name} takes at most {most}."
            raise InputTooLong(sentence, measured=length, allowed=most)

    def _computed(self, encodings: Sequence[_Encoding]) -> Floats:
        ids = [encoding.ids for encoding in encodings]
        known = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        feed = {name: np.array(known[name], dtype=type_) for name, type_ in self._types.items()}
        try:
            (output,) = self._session.run([self._output], feed)
        except self._errors as error:
            raise ProviderUnavailable(f"{self._name} cannot be computed: {type(error).__name__}") from error
        return self._use.vectors(np.asarray(output, dtype=np.float32))


def _tokenizer(path: Path, most_tokens: int | None) -> _Tokenizer:
    tokenizers = required("tokenizers", extra="onnx")
    try:
        loaded = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package has no error of its own
        raise fault(f"{path} cannot be used: {error}") from error
    loaded.no_padding()
    loaded.no_truncation()
    if most_tokens is not None:
        loaded.enable_truncation(most_tokens)
    tokenizer: _Tokenizer = loaded
    return tokenizer


def _session(model: Path) -> tuple[_Session, tuple[type[Exception], ...]]:
    """The loaded model, and the errors of its runtime, which have no common ancestor."""
    runtime = required("onnxruntime", extra="onnx")
    state = runtime.capi.onnxruntime_pybind11_state
    errors = tuple(one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception))
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is raised, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the processor
    try:
        return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]), errors
    except errors as error:
        raise fault(f"{model} cannot be loaded; was it downloaded whole? {error}") from error


def _type(name: str) -> npt.DTypeLike:
    return np.int32 if name == "tensor(int32)" else np.int64


def _output(names: Sequence[str]) -> str:
    usual = ("sentence_embedding", "last_hidden_state", "token_embeddings")
    return next((name for name in usual if name in names), names[0])


def _together(lengths: Sequence[int], expect_readable: Callable[[int], None]) -> Iterator[Sequence[int]]:
    """The places of texts of equal length, a bounded number of tokens at a time; the longest first."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        expect_readable(length)
        groups[length].append(place)
    for length in sorted(groups, reverse=True):
        size = max(1, TOKENS_AT_ONCE // length)
        yield from (groups[length][start : start + size] for start in range(0, len(groups[length]), size))
