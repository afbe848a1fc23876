"""A local server that speaks OpenAI's embeddings protocol, with its limits, its refusals and faults on demand."""

import base64
import ssl
from types import TracebackType
from typing import Any, Self

import numpy as np
from aiohttp import web

from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.models import gives, known
from tests.fakes.provider_faults import Answer, Faults, as_response

API_KEY = "sk-test-0123456789abcdef"


def count_tokens(text: str) -> int:
    """Tokens as this server counts them: words."""
    return len(text.split())


class OpenAIServer:
    """``async with OpenAIServer() as server`` listens on ``server.url`` (ends with ``/v1``).

    Vectors are ``mock_vector(text, model, dimensions)``. ``requests`` holds the body of each request in order.
    ``reverses`` answers in another order, with the right ``index``; ``ignores_base64`` sends lists of numbers. With
    ``tls`` it encrypts, and is to be asked by a name of its certificate at ``port``.
    """

    def __init__(
        self, *, reverses: bool = False, ignores_base64: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        self.faults = Faults()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._reverses = reverses
        self._ignores_base64 = ignores_base64
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0)
        self._tls = tls
        self.port = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        host, self.port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{self.port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.close()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/embeddings", self._embeddings)
        return app

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        struck = await self.faults.strike(request, body)
        if struck is not None:
            return struck
        refusal = _unauthorised(request) or _refused(body)
        return as_response(refusal or self._answer(body))

    def _answer(self, body: dict[str, Any]) -> Answer:
        texts, model = body["input"], body["model"]
        data = [self._item(place, text, body) for place, text in enumerate(texts)]
        tokens = sum(map(count_tokens, texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        ordered = data[::-1] if self._reverses else data
        return Answer(body={"object": "list", "data": ordered, "model": model, "usage": usage})

    def _item(self, place: int, text: str, body: dict[str, Any]) -> dict[str, Any]:
        vector = mock_vector(text, body["model"], body.get("dimensions"))
        wants_base64 = body.get("encoding_format") == "base64" and not self._ignores_base64
        embedding = base64.b64encode(vector).decode() if wants_base64 else np.frombuffer(vector, "<f4").tolist()
        return {"object": "embedding", "index": place, "embedding": embedding}


def refusal(status: int, message: str, *, code: str | None = None, kind: str = "invalid_request_error") -> Answer:
    """An error in OpenAI's shape."""
    return Answer(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def _unauthorised(request: web.Request) -> Answer | None:
    if request.headers.get("Authorization") == f"Bearer {API_KEY}":
        return None
    return refusal(401, "Incorrect API key provided: sk-wrong.", code="invalid_api_key")


def _refused(body: dict[str, Any]) -> Answer | None:
    model, texts, dimensions = body["model"], body["input"], body.get("dimensions")
    if known(model) is None:
        return refusal(
            404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found"
        )
    if not texts or len(texts) > 2048 or not all(texts):
        return refusal(400, "'$.input' is invalid. Please check the API reference.")
    if dimensions is not None and not gives(model, dimensions):
        return refusal(400, "This model does not support specifying dimensions.")
    tokens = [count_tokens(text) for text in texts]
    if max(tokens) > 8192:
        return refusal(
            400,
            f"This model's maximum context length is 8192 tokens, however you requested {max(tokens)} tokens "
            f"({max(tokens)} in your prompt; 0 for the completion). Please reduce your prompt.",
        )
    if sum(tokens) > 300_000:
        return refusal(
            400,
            f"Requested {sum(tokens)} tokens, max 300000 tokens per request",
            code="max_tokens_per_request",
            kind="max_tokens_per_request",
        )
    return None
