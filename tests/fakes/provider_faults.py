"""What can go wrong with one request to a fake provider's server, and a queue of such faults."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """Answer with this instead: a status, a body (JSON unless it is text or bytes), headers."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """Close the connection; ``sent`` is how many bytes of a body of 1,000 are sent before (0: not even a status)."""

    sent: int = 0


@dataclass(frozen=True)
class Hang:
    """Never answer, until the client goes away or the server is closed."""


@dataclass(frozen=True)
class Slow:
    """Answer as usual, after ``seconds``."""

    seconds: float


Fault: TypeAlias = Answer | Drop | Hang | Slow
Rule: TypeAlias = Callable[[dict[str, Any]], Fault | None]


class Faults:
    """``queue`` faults for the next requests, or set ``rule`` to decide by a request's JSON body."""

    def __init__(self) -> None:
        self._queue: deque[Fault] = deque()
        self.rule: Rule = lambda _body: None
        self._closing = asyncio.Event()

    def queue(self, *faults: Fault) -> None:
        self._queue.extend(faults)

    def close(self) -> None:
        self._closing.set()

    async def strike(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        """The fault's answer, None where the server is to answer as usual."""
        match self._queue.popleft() if self._queue else self.rule(body):
            case Answer() as answer:
                return as_response(answer)
            case Drop(sent):
                return await _dropped(request, sent)
            case Hang():
                await self._closing.wait()
                return web.Response(status=503)
            case Slow(seconds):
                await asyncio.sleep(seconds)
        return None


def as_response(answer: Answer) -> web.Response:
    if isinstance(answer.body, bytes):
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    if isinstance(answer.body, str):
        return web.Response(status=answer.status, text=answer.body, headers=dict(answer.headers))
    text = json.dumps(answer.body)
    return web.Response(status=answer.status, text=text, content_type="application/json", headers=dict(answer.headers))


async def _dropped(request: web.Request, sent: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    if sent:
        await response.prepare(request)
        await response.write(b" " * sent)
    assert request.transport is not None
    request.transport.close()
    return response
