"""Request bodies: their kind, their size, and where a large one is read."""

import asyncio
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request

from ai_task_processor.server.problems import Problem, too_large

T = TypeVar("T")

JSON = "application/json"
JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
LARGE = 64 * 1024
PATIENCE = 4  # times the allowed size that is still received, for only then does every client read the refusal


def media_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; JSON where the request does not say."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return given or JSON


def expect(request: Request, kinds: Collection[str]) -> str:
    """The body's media type, one of ``kinds``. Raises Problem for any other, and for a compressed body."""
    kind, coding = media_type(request), request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body is compressed; it must be sent as it is.")
    if kind not in kinds:
        wanted = " or ".join(sorted(kinds))
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The Content-Type is {kind}; it must be {wanted}.")
    return kind


async def received(request: Request, *, most: int) -> bytes:
    """The whole body. Raises Problem where it is longer than ``most`` bytes."""
    size, chunks = 0, []
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        elif size > most * PATIENCE:
            break
    if size > most:
        raise too_large(f"The body is larger than {most} bytes; send it in parts.")
    return b"".join(chunks)


async def parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """What ``parse`` makes of ``body``; a large one does not hold up the other requests."""
    return parse(body) if len(body) < LARGE else await asyncio.to_thread(parse, body)
