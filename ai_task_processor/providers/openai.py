"""OpenAI and servers that speak like it: one request, its answer or its refusal in our words.

Without the vendor's SDK: that uses half as much CPU again for a request, and half a second of it to be imported.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from msgspec import Struct

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.outcome import FLOAT32_BYTES
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.connection import BROKEN, HttpClient, Reply, never_sent, told_of
from ai_task_processor.providers.decoding import vector
from ai_task_processor.providers.quota import quota
from ai_task_processor.providers.refusals import InputTooLong, says_too_long, shortened, told, too_long
from ai_task_processor.providers.retry_after import retry_after

MAX_INPUTS = 2048
"""Inputs that one request may have; one of more is refused here, unsent, for the caller to split."""

_ACCOUNT = frozenset(
    {
        "insufficient_quota",
        "quota_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "access_terminated",
        "account_deactivated",
        "invalid_api_key",
    }
)
_NO_SUCH_MODEL = frozenset({"model_not_found", "invalid_model", "DeploymentNotFound"})
_OF_DIMENSIONS = ("specifying dimensions", "output dimensions", "matryoshka")
"""Words of servers for a model that gives one length only: every text alike would be refused."""

_REFUSED_INPUT = frozenset({400, 413, 422})
_REFUSED_ACCOUNT = frozenset({401, 402, 403})


class OpenAI:
    """Asks the server behind ``http``, which stays its owner's to close.

    With ``truncate`` a text that is too long is shortened until the server takes it; otherwise it is refused.
    """

    def __init__(self, http: HttpClient, *, api_key: str, clock: Clock, truncate: bool = False) -> None:
        self._http = http
        self._api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._clock = clock
        self._truncate = truncate

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        return "openai"

    def serves(self, model: str) -> bool:  # noqa: ARG002 - the port's signature
        """Every name: the server knows which models it has."""
        return True

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """One request, or a few for a single text that must be shortened.

        Raises ProviderUnavailable, ProviderThrottled, ProviderRejected or ProviderAccountRefused.
        """
        if len(texts) > MAX_INPUTS:
            raise ProviderRejected(f"One request takes at most {MAX_INPUTS} texts.")
        try:
            return await self._request(texts, model, dimensions)
        except InputTooLong as error:
            if not self._truncate or len(texts) > 1:
                raise
            return await self.embed([shortened(texts[0], error)], model=model, dimensions=dimensions)

    async def _request(self, texts: Sequence[str], model: str, dimensions: int | None) -> Embeddings:
        try:
            reply = await self._http.post("/embeddings", _request(texts, model, dimensions), self._headers)
        except BROKEN as error:
            raise _no_answer(error) from error
        if not reply.is_success:
            raise self._refusal(_understood(reply), reply.headers, texts, model)
        vectors, tokens = _read(reply.body)
        if dimensions is not None:
            _expect_heeded(dimensions, vectors, texts, model)
        return Embeddings(vectors=vectors, model=model, provider=self.name, tokens=tokens, quota=quota(reply.headers))

    def _refusal(self, said: "_Said", headers: Mapping[str, str], texts: Sequence[str], model: str) -> ProviderError:
        status, code, message = said.status, said.code, said.message
        if code in _NO_SUCH_MODEL or _names_model(said):
            return ProviderRejected(f"The provider does not have the model {model[:100]}.", every_input=True)
        words = told(message, (*texts, self._api_key))
        if code in _ACCOUNT or status in _REFUSED_ACCOUNT:
            return ProviderAccountRefused(f"{self.name} refuses the account ({status}): {words}")
        if status in _REFUSED_INPUT or says_too_long(message):  # llama.cpp's answer to a long text is 500
            return _rejection(said, texts, model)
        wait = retry_after(headers, now=self._clock.now())
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ProviderThrottled(f"{self.name} wants fewer requests: {words}", retry_after=wait)
        return ProviderUnavailable(f"{self.name} answered {status}: {words}", retry_after=wait)


class _Said(Struct, frozen=True):
    """A refusal: ``body`` is the error in it, or what there is instead."""

    status: int
    body: object

    @property
    def facts(self) -> Mapping[str, object]:
        """The error's fields; none where it has no fields."""
        return self.body if isinstance(self.body, Mapping) else {}

    @property
    def code(self) -> str:
        """The machine's word: some servers put it into ``type``, and a number into ``code``."""
        words = (self.facts.get(name) for name in ("code", "type"))
        return next((word for word in words if isinstance(word, str) and word in _ACCOUNT | _NO_SUCH_MODEL), "")

    @property
    def message(self) -> str:
        """The words for people, as far as there are some."""
        words = self.body
        if self.facts:
            words = next((self.facts[name] for name in ("message", "detail", "error") if self.facts.get(name)), "")
        return words if isinstance(words, str) else orjson.dumps(words).decode()


def _request(texts: Sequence[str], model: str, dimensions: int | None) -> bytes:
    asked: dict[str, object] = {"input": list(texts), "model": model, "encoding_format": "base64"}
    if dimensions is not None:
        asked["dimensions"] = dimensions
    return orjson.dumps(asked)


def _understood(reply: Reply) -> _Said:
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return _Said(reply.status, reply.text)
    return _Said(reply.status, body.get("error", body) if isinstance(body, dict) else body)


def _names_model(said: _Said) -> bool:
    """Tells a missing model from a wrong address, whose 404 is a page and not an answer; LiteLLM answers 400."""
    message = said.message.lower()
    if said.status == HTTPStatus.BAD_REQUEST:
        return "invalid model name" in message
    return said.status == HTTPStatus.NOT_FOUND and bool(said.facts) and "model" in message


def _rejection(said: _Said, texts: Sequence[str], model: str) -> ProviderRejected:
    message = said.message
    if says_too_long(message):
        return too_long(message, texts, model)
    every_input = said.facts.get("param") == "dimensions" or any(words in message for words in _OF_DIMENSIONS)
    return ProviderRejected(f"The provider refuses the input: {told(message, texts)}", every_input=every_input)


def _no_answer(error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(f"openai gave no answer: {told_of(error)}", sent=not never_sent(error))


def _read(body: bytes) -> tuple[tuple[bytes, ...], int]:
    try:
        answer = orjson.loads(body)
        items = answer["data"]
        embeddings = {item.get("index", place): item["embedding"] for place, item in enumerate(items)}
        ordered = [embeddings[place] for place in range(len(items))]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProviderUnavailable(f"the answer of openai cannot be read: {type(error).__name__}") from error
    return tuple(map(vector, ordered)), _tokens(answer)


def _expect_heeded(dimensions: int, vectors: Sequence[bytes], texts: Sequence[str], model: str) -> None:
    """Some servers pass over the question for a length; asking them again would be of no use."""
    given = {len(one) // FLOAT32_BYTES for one in vectors}
    if len(vectors) == len(texts) and len(given) == 1 and given != {dimensions}:
        message = (
            f"content.dimensions is {dimensions}, but the provider gives {given.pop()} with the model {model[:100]}"
        )
        raise ProviderRejected(f"{message} whatever is asked for; leave it out.", every_input=True)


def _tokens(answer: Mapping[str, object]) -> int:
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return 0
    tokens = usage.get("total_tokens") or usage.get("prompt_tokens")
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
