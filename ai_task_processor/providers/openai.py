"""OpenAI and servers that speak like it: one request, its answer or its refusal in our words.

Importing this module imports the SDK, which takes half a second: import it where the mode is chosen.
"""

from collections.abc import Mapping, Sequence

import httpx2
import openai
import orjson

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
from ai_task_processor.providers.connection import BROKEN, never_sent
from ai_task_processor.providers.decoding import vector
from ai_task_processor.providers.quota import quota
from ai_task_processor.providers.refusals import InputTooLong, says_too_long, told, too_long
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
_NO_SUCH_MODEL = frozenset({"model_not_found", "invalid_model"})
_REFUSED_INPUT = frozenset({400, 413, 422})
_REFUSED_ACCOUNT = frozenset({401, 402, 403})


class OpenAI:
    """Asks ``base_url`` with ``http`` (see ``connection.http_client``), which stays its owner's to close.

    With ``truncate`` a text that is too long is shortened until the server takes it; otherwise it is refused.
    """

    def __init__(
        self, http: httpx2.AsyncClient, *, api_key: str, base_url: str, clock: Clock, truncate: bool = False
    ) -> None:
        self._api_key = api_key
        self._clock = clock
        self._truncate = truncate
        self._client = openai.AsyncOpenAI(
            api_key=api_key, base_url=base_url, http_client=http, timeout=http.timeout, max_retries=0
        )

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
            return await self.embed([_shortened(texts[0], error)], model=model, dimensions=dimensions)

    async def _request(self, texts: Sequence[str], model: str, dimensions: int | None) -> Embeddings:
        try:
            response = await self._client.embeddings.with_raw_response.create(
                input=list(texts),
                model=model,
                dimensions=openai.omit if dimensions is None else dimensions,
                encoding_format="base64",
            )
        except openai.APIStatusError as error:
            raise self._refusal(error, texts, model) from error
        except (openai.OpenAIError, *BROKEN) as error:
            raise _no_answer(error) from error
        vectors, tokens = _read(response.content)
        if dimensions is not None:
            _expect_heeded(dimensions, vectors, texts, model)
        left = quota(response.headers)
        return Embeddings(vectors=vectors, model=model, provider=self.name, tokens=tokens, quota=left)

    def _refusal(self, error: openai.APIStatusError, texts: Sequence[str], model: str) -> ProviderError:
        status, code, message = error.status_code, _code(error), _message(error)
        if code in _NO_SUCH_MODEL or _names_model(error, message):
            return ProviderRejected(f"The provider does not have the model {model[:100]}.", every_input=True)
        words = told(message, (*texts, self._api_key))
        if code in _ACCOUNT or status in _REFUSED_ACCOUNT:
            return ProviderAccountRefused(f"{self.name} refuses the account ({status}): {words}")
        if status == httpx2.codes.TOO_MANY_REQUESTS:
            wait = retry_after(error.response.headers, now=self._clock.now())
            return ProviderThrottled(f"{self.name} wants fewer requests: {words}", retry_after=wait)
        if status in _REFUSED_INPUT or says_too_long(message):  # llama.cpp's answer to a long text is 500
            return _rejection(error, message, texts, model)
        wait = retry_after(error.response.headers, now=self._clock.now())
        return ProviderUnavailable(f"{self.name} answered {status}: {words}", retry_after=wait)


def _names_model(error: openai.APIStatusError, message: str) -> bool:
    """Tells a missing model from a wrong address, whose 404 is a page and not an answer."""
    return (
        error.status_code == httpx2.codes.NOT_FOUND and isinstance(error.body, Mapping) and "model" in message.lower()
    )


def _rejection(error: openai.APIStatusError, message: str, texts: Sequence[str], model: str) -> ProviderRejected:
    if says_too_long(message):
        return too_long(message, texts, model)
    every_input = error.param == "dimensions" or "specifying dimensions" in message  # asked for alike for every text
    return ProviderRejected(f"The provider refuses the input: {told(message, texts)}", every_input=every_input)


def _no_answer(error: BaseException) -> ProviderUnavailable:
    cause = error.__cause__ or error
    return ProviderUnavailable(f"openai gave no answer: {type(cause).__name__}", sent=not never_sent(error))


def _code(error: openai.APIStatusError) -> str:
    """The machine's word: some servers put it into ``type``, and a number into ``code``."""
    known_words = _ACCOUNT | _NO_SUCH_MODEL
    return next((word for word in (error.code, error.type) if word in known_words), "") or ""


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error") or ""
    return body if isinstance(body, str) else orjson.dumps(body, default=str).decode()


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


def _shortened(text: str, error: InputTooLong) -> str:
    """A little less than what should fit, for tokens are not spread evenly; less each time it is asked."""
    fits = (error.allowed or 0) / error.measured
    return text[: max(1, int(len(text) * min(0.9, 0.95 * fits if fits else 0.5)))]
