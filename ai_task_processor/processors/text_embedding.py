"""Tasks of type ``text_embedding``: a text becomes a vector."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, cast

from msgspec import Struct

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.outcome import Outcome, Succeeded, Vector
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings
from ai_task_processor.domain.task import JsonValue, Task
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.domain.work import Batch, Rejection, Work

TYPE = "text_embedding"

MAX_DIMENSIONS = 8192

LONGEST_TEXT = 1_048_576
"""Characters. No tokenizer in use has tokens of more than 128 characters, so a longer text is longer than 8,192 tokens,
which is what the largest services read; whether a shorter one fits, the provider says."""

LATEST = ":latest"
_MODEL = re.compile(r"[^\s\x00-\x1f]{1,200}")
LONGEST_NAME = 200 + len(LATEST)

MOST_NAMES = 1_000
"""Names of models that are understood once for all; nearly all tasks name one of a few."""

Measure: TypeAlias = Callable[[str, str], Amount]


def measured(text: str, _model: str) -> Amount:
    """What a text may come to where nothing is known of models and prices."""
    return Amount(tasks=1, tokens=most_tokens(text))


class _Request(Struct, frozen=True):
    """What a task asks for."""

    text: str
    model: str
    dimensions: int | None


class _Unusable(Exception):
    """The content is not a request; the message tells the task's author what would be one."""


class TextEmbedding:
    """Content is a text, or an object with ``text`` and, if wanted, ``model`` and ``dimensions``.

    A task without a model gets ``default_model``. ``examples`` are model names for the author of a task whose model is
    not served. With ``truncate`` a text of more than LONGEST_TEXT characters is cut there, otherwise it is refused.
    ``measure`` says what a text may come to with a model, at most.
    """

    def __init__(
        self,
        provider: EmbeddingProvider,
        *,
        default_model: str,
        examples: Sequence[str] = (),
        truncate: bool = False,
        measure: Measure = measured,
    ) -> None:
        self._provider = provider
        self._default_model = default_model.removesuffix(LATEST)
        self._examples = tuple(examples)
        self._truncate = truncate
        self._measure = measure

    def adjust(self, *, default_model: str, examples: Sequence[str], measure: Measure) -> None:
        """Plan by these from now on."""
        self._default_model = default_model.removesuffix(LATEST)
        self._examples = tuple(examples)
        self._measure = measure

    @property
    def type(self) -> str:
        """The value of a task's ``type`` that it handles."""
        return TYPE

    def plan(self, task: Task) -> Work | Rejection:
        """Understand the content; works with equal keys ask for the same model and number of dimensions."""
        try:
            request = self._request(task.content)
        except _Unusable as error:
            return Rejection(str(error))
        most = self._measure(request.text, request.model)
        return Work(task=task, key=_key(request), payload=request, size=most.tokens, cost=most.cost)

    async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
        """Embed each text; those that the provider had to be asked for share the tokens by their size.

        Raises what the provider raises.
        """
        requests = [cast("_Request", work.payload) for work in batch.works]
        texts = [request.text for request in requests]
        answer = await self._provider.embed(texts, model=requests[0].model, dimensions=requests[0].dimensions)
        sizes = [0 if place in answer.known else work.size for place, work in enumerate(batch.works)]
        return {
            work.task.id: Succeeded(vector, answer.model, answer.provider, tokens)
            for work, vector, tokens in zip(batch.works, _vectors(answer), _shares(answer.tokens, sizes), strict=True)
        }

    def _request(self, content: JsonValue) -> _Request:
        if isinstance(content, str):
            content = {"text": content}
        if not isinstance(content, Mapping):
            raise _Unusable('content must be a text, or an object like {"text": "…", "model": "…"}.')
        return _Request(
            text=self._text(content.get("text")),
            model=self._model(content.get("model")),
            dimensions=_dimensions(content.get("dimensions")),
        )

    def _text(self, value: JsonValue) -> str:
        if not isinstance(value, str):
            raise _Unusable(f"content.text must be a string, not {_json_type(value)}.")
        if not value.strip():
            raise _Unusable("content.text is empty; it must have something to embed.")
        if not _encodable(value):
            raise _Unusable("content.text has half of a surrogate pair; it must be valid Unicode.")
        if len(value) > LONGEST_TEXT and not self._truncate:
            raise _Unusable(f"content.text has {len(value)} characters; at most {LONGEST_TEXT} can be embedded.")
        return value[:LONGEST_TEXT]

    def _model(self, value: JsonValue) -> str:
        if value is None:
            return self._default_model
        if not isinstance(value, str) or len(value) > LONGEST_NAME or (model := _named(value)) is None:
            raise _Unusable("content.model must be the name of a model, or left out.")
        if not self._provider.serves(value):
            examples = f"; use one of: {', '.join(self._examples)}" if self._examples else ""
            raise _Unusable(f"content.model {value} is not supported here{examples}.")
        return model


@lru_cache(MOST_NAMES)
def _named(name: str) -> str | None:
    """The model of this name, without ``:latest``; None where no model can be called so."""
    model = name.removesuffix(LATEST)
    return model if _MODEL.fullmatch(model) and _encodable(model) else None


def _dimensions(value: JsonValue) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DIMENSIONS:
        raise _Unusable(f"content.dimensions must be a whole number from 1 to {MAX_DIMENSIONS}, or left out.")
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_type(value: JsonValue) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case _:
            return "a list"


def _key(request: _Request) -> str:
    """The model, then the dimensions where they are asked for; no name of a model has a space."""
    return request.model if request.dimensions is None else f"{request.model} {request.dimensions}"


def model_of(key: str) -> str:
    """The model of all works with this key."""
    return key.partition(" ")[0]


def _vectors(answer: Embeddings) -> Iterator[Vector]:
    return map(Vector, answer.vectors, answer.kept_as) if answer.kept_as else map(Vector, answer.vectors)


def _shares(total: int, sizes: Sequence[int]) -> Iterator[int]:
    """Split ``total`` in proportion to ``sizes`` into whole numbers that add up to it."""
    whole, reached, given = sum(sizes) or 1, 0, 0
    for size in sizes:
        reached += size
        share = total * reached // whole - given
        given += share
        yield share
