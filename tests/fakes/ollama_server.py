"""A local server that speaks Ollama's protocol: embed, tags and a streamed pull, with faults on demand."""

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from aiohttp import web

from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.models import known, same_model
from tests.fakes.provider_faults import Answer, Faults, as_response

PULL = (
    {"status": "pulling manifest"},
    {"status": "pulling 970aa74c0a90", "digest": "sha256:970aa", "total": 300},
    {"status": "pulling 970aa74c0a90", "digest": "sha256:970aa", "total": 300, "completed": 100},
    {"status": "pulling 970aa74c0a90", "digest": "sha256:970aa", "total": 300, "completed": 300},
    {"status": "pulling c71d239df917", "digest": "sha256:c71d2", "total": 20, "completed": 20},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
)
"""What a pull says when all goes well."""


def count_tokens(text: str) -> int:
    """Tokens as this server counts them: words."""
    return len(text.split())


class OllamaServer:
    """``async with OllamaServer(models=["nomic-embed-text"]) as server`` listens on ``server.url``.

    Vectors are ``mock_vector(text, model, dimensions)``. ``installed`` are the models there (with ``:latest``, as the
    real server lists them), ``registry`` those that can be pulled. ``faults`` strike /api/embed, ``tags_faults`` and
    ``pull_faults`` the other two; ``pull_lines`` are what a pull says. ``requests`` holds the bodies of /api/embed,
    ``pulls`` the models asked for.
    """

    def __init__(self, *, models: Sequence[str] = (), registry: Sequence[str] = ("nomic-embed-text",)) -> None:
        self.faults = Faults()
        self.tags_faults = Faults()
        self.pull_faults = Faults()
        self.installed = [_tagged(model) for model in models]
        self.registry = list(registry)
        self.pull_lines: Sequence[dict[str, Any]] = PULL
        self.requests: list[dict[str, Any]] = []
        self.pulls: list[str] = []
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0)
        self.port = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, self.port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for faults in (self.faults, self.tags_faults, self.pull_faults):
            faults.close()
        await self._runner.cleanup()

    def has(self, model: str) -> bool:
        return any(same_model(model, one) for one in self.installed)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/api/embed", self._embed)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_post("/api/pull", self._pull)
        return app

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        models = [{"name": model, "model": model, "size": 274_302_450} for model in self.installed]
        return await self.tags_faults.strike(request, {}) or web.json_response({"models": models})

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        struck = await self.faults.strike(request, body)
        return struck or as_response(self._refused(body) or _answer(body))

    def _refused(self, body: dict[str, Any]) -> Answer | None:
        model = body["model"]
        if not self.has(model):
            return Answer(404, {"error": f'model "{model}" not found, try pulling it first'})
        facts = known(model)
        limit = facts.max_tokens if facts and facts.max_tokens else 2048
        if not body.get("truncate", True) and any(count_tokens(text) > limit for text in body["input"]):
            return Answer(400, {"error": "the input length exceeds the context length"})
        return None

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        self.pulls.append(model)
        struck = await self.pull_faults.strike(request, body)
        if struck is not None:
            return struck
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for line in self._lines(model):
            await response.write(json.dumps(line).encode() + b"\n")
        return response

    def _lines(self, model: str) -> Sequence[dict[str, Any]]:
        if not any(same_model(model, one) for one in self.registry):
            return (PULL[0], {"error": "pull model manifest: file does not exist"})
        if self.pull_lines[-1] == {"status": "success"}:
            self.installed.append(_tagged(model))
        return self.pull_lines


def _answer(body: dict[str, Any]) -> Answer:
    texts, model, dimensions = body["input"], body["model"], body.get("dimensions")
    vectors = [np.frombuffer(mock_vector(text, model, dimensions), "<f4").tolist() for text in texts]
    tokens = sum(map(count_tokens, texts))
    return Answer(
        body={"model": model, "embeddings": vectors, "total_duration": 14_143_917, "prompt_eval_count": tokens}
    )


def _tagged(model: str) -> str:
    return model if ":" in model else f"{model}:latest"
