"""Ollama: one request, its answer or its refusal in our words.

Without the vendor's SDK: that decodes five times slower and brings a second HTTP client with errors of its own.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderError,
    ProviderPaused,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.connection import BROKEN, HttpClient, Reply, never_sent, told_of
from ai_task_processor.providers.decoding import vector
from ai_task_processor.providers.models import gives, known
from ai_task_processor.providers.ollama_models import PROVIDER, OllamaModels
from ai_task_processor.providers.refusals import says_too_long, told, too_long
from ai_task_processor.providers.retry_after import retry_after

MOMENT = 1.0
"""Seconds to wait for a model while nobody has looked yet what the server has."""

WHILE_PULLED = 10.0
"""Seconds to wait for a model that is being pulled, before asking again."""

_REFUSED_INPUT = frozenset({400, 413, 422})
_REFUSED_ACCOUNT = frozenset({401, 402, 403})


class Ollama:
    """Asks the server behind ``http``, which stays its owner's to close.

    Serves the models that ``models`` keeps there. With ``truncate`` the server cuts a text that is too long; otherwise
    it refuses it.
    """

    def __init__(self, http: HttpClient, models: OllamaModels, *, clock: Clock, truncate: bool = False) -> None:
        self._http = http
        self._models = models
        self._clock = clock
        self._truncate = truncate

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        return PROVIDER

    def serves(self, model: str) -> bool:
        """The supported models only."""
        return self._models.supports(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """One request.

        Raises ProviderPaused while the model is not there, ProviderUnavailable, ProviderThrottled, ProviderRejected or
        ProviderAccountRefused.
        """
        self._refuse_impossible(model, dimensions)
        reply = await self._post(_request(texts, model, dimensions, truncate=self._truncate))
        if not reply.is_success:
            raise self._refusal(reply, texts, model)
        vectors, tokens = _read(reply.body)
        return Embeddings(vectors=vectors, model=model, provider=self.name, tokens=tokens)

    def _refuse_impossible(self, model: str, dimensions: int | None) -> None:
        facts = known(model)
        if dimensions is not None and facts is not None and not gives(model, dimensions):
            raise ProviderRejected(
                f"content.dimensions is {dimensions}; {model} gives at most {facts.dimensions}.", every_input=True
            )
        if not self._models.has(model):
            raise self._not_prepared(model)

    def _not_prepared(self, model: str) -> ProviderPaused:
        rest = WHILE_PULLED if self._models.looked else MOMENT
        return ProviderPaused(f"ollama does not have the model {model} yet", until=self._clock.now() + rest)

    async def _post(self, body: bytes) -> Reply:
        try:
            return await self._http.post("/api/embed", body)
        except BROKEN as error:
            raise ProviderUnavailable(f"ollama gave no answer: {told_of(error)}", sent=not never_sent(error)) from error

    def _refusal(self, reply: Reply, texts: Sequence[str], model: str) -> ProviderError | ProviderPaused:
        status, message = reply.status, _message(reply)
        if status == HTTPStatus.NOT_FOUND and "model" in message:
            self._models.lost(model)
            return self._not_prepared(model)
        if says_too_long(message):
            return too_long(message, texts, model)
        words = told(message, texts) or "no reason given"
        if "does not support" in message:
            return ProviderRejected(f"{model} cannot do this: {words}", every_input=True)
        if status in _REFUSED_INPUT:
            return ProviderRejected(f"The provider refuses the input: {words}")
        if status in _REFUSED_ACCOUNT:
            return ProviderAccountRefused(f"ollama refuses the account ({status}): {words}")
        return self._not_now(reply, words)

    def _not_now(self, reply: Reply, words: str) -> ProviderError:
        status, wait = reply.status, retry_after(reply.headers, now=self._clock.now())
        if status == HTTPStatus.TOO_MANY_REQUESTS or "server busy" in words:
            return ProviderThrottled(f"ollama wants fewer requests: {words}", retry_after=wait)
        return ProviderUnavailable(f"ollama answered {status}: {words}", retry_after=wait)


def _request(texts: Sequence[str], model: str, dimensions: int | None, *, truncate: bool) -> bytes:
    body: dict[str, object] = {"model": model, "input": list(texts), "truncate": truncate}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return orjson.dumps(body)


def _message(reply: Reply) -> str:
    """The server's ``error``; nothing where the answer is not from Ollama."""
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return ""
    return str(body.get("error", "")) if isinstance(body, dict) else ""


def _read(body: bytes) -> tuple[tuple[bytes, ...], int]:
    try:
        answer = orjson.loads(body)
        embeddings = answer["embeddings"]
        vectors = tuple(map(vector, embeddings))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ProviderUnavailable(f"the answer of ollama cannot be read: {type(error).__name__}") from error
    return vectors, _tokens(answer)


def _tokens(answer: Mapping[str, object]) -> int:
    tokens = answer.get("prompt_eval_count")
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
