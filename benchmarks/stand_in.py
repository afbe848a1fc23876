"""Plays everything that a worker talks to: token endpoint, task list, provider and PATCH, in one process on one core.

    python benchmarks/stand_in.py CORE

Prints its address when it listens. The vectors follow from the tasks' numbers, so that every PATCH can be verified.
"""

import asyncio
import base64
import itertools
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np
import orjson
import uvloop
from aiohttp import web

DIMENSIONS = 1536
MODEL = "text-embedding-3-small"
PROVIDER_SECONDS = 0.020
PROVIDER_SECONDS_PER_TEXT = 0.0002

_POOL = np.random.default_rng(1).standard_normal((509, DIMENSIONS), dtype=np.float32) / np.float32(DIMENSIONS**0.5)
_NUMBER = re.compile(r"Claim (\d+)")

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


def vector(number: int) -> Vector:
    """The vector of the task with this number."""
    numbers = _POOL[number % len(_POOL)].copy()
    numbers[0] = 1 + number / 2**20
    return numbers


class Lot:
    """The tasks of one measurement, and what became of them.

    With ``whole`` the list shows all of them, whatever limit is asked for. With ``lean`` what is written is verified
    at once and not kept, for of many tasks it would be gigabytes.
    """

    def __init__(self, first: int, count: int, *, letters: int = 0, whole: bool = False, lean: bool = False) -> None:
        self.count = count
        self.pending = {task_id(number): entry(number, letters) for number in range(first, first + count)}
        self.whole, self.lean = whole, lean
        self.wrong = self.longest_page = self.listed = 0
        self.created_at = time.monotonic()
        self.first_listed_at = 0.0
        self.patched_at: dict[str, float] = {}
        self.bodies: dict[str, bytes] = {}
        self.repeated = self.requests = self.fetches = 0
        self.done = asyncio.Event()

    def report(self) -> dict[str, object]:
        """What was measured; every body that came is compared with what it should be."""
        waits = sorted(at - self.created_at for at in self.patched_at.values()) or [0.0]
        last = max(self.patched_at.values(), default=0.0)
        return {
            "tasks": self.count,
            "seconds": last - self.first_listed_at,
            "requests": self.requests,
            "fetches": self.fetches,
            "p50": waits[len(waits) // 2],
            "p99": waits[len(waits) * 99 // 100],
            "repeated": self.repeated,
            "wrong": self.wrong + sum(not _right(task, body) for task, body in self.bodies.items()),
            "missing": len(self.pending),
            "longest_page": self.longest_page,
            "listed": self.listed,
        }

    def written(self, task: str, body: bytes) -> None:
        """A task that was pending has its result."""
        self.patched_at[task] = time.monotonic()
        if not self.lean:
            self.bodies[task] = body  # verified when nobody waits for it
        elif not _right(task, body):
            self.wrong += 1
        if not self.pending:
            self.done.set()


def task_id(number: int) -> str:
    """An id as MongoDB makes them."""
    return f"68b89107{number:016x}"


def entry(number: int, letters: int = 0) -> bytes:
    """A task as the list shows it, with a text of some 150 letters, or of so many more."""
    text = f"Claim {number}: " + "the quick brown fox jumps over the lazy dog, or so it was said and seen; " * 2
    text += "x" * letters
    task = {
        "_id": task_id(number),
        "type": "text_embedding",
        "state": "pending",
        "content": {"text": text, "model": MODEL},
        "callbackRoute": "verification_update_embedding",
        "callbackParams": {"documentId": task_id(number)},
        "createdAt": "2026-01-01T00:00:00.000Z",
    }
    return orjson.dumps(task)


def _right(task: str, body: bytes) -> bool:
    said = orjson.loads(body)
    expected = vector(int(task[8:], 16))
    return said.get("state") == "succeeded" and np.array_equal(np.array(said["result"], np.float32), expected)


class StandIn:
    """The routes; ``/lot`` and what is below it are for whoever measures."""

    def __init__(self) -> None:
        self._lot = Lot(0, 0)
        self._next = 1
        self._routes: dict[tuple[str, str], Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] = {
            ("GET", "/api/ai-tasks/pending"): self._list,
            ("POST", "/v1/embeddings"): self._embed,
            ("POST", "/oauth2/token"): self._token,
            ("POST", "/lot"): self._new_lot,
            ("GET", "/lot/done"): self._done,
            ("GET", "/lot/report"): self._report,
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method == "PATCH" and request.path != "/api/ai-tasks":  # which asks for an optional route
            return await self._patch(request)
        route = self._routes.get((request.method, request.path))
        return await route(request) if route else web.Response(status=404)

    async def _token(self, _request: web.BaseRequest) -> web.Response:
        return _json({"access_token": "measured", "token_type": "bearer", "expires_in": 3_600})

    async def _list(self, request: web.BaseRequest) -> web.Response:
        lot = self._lot
        lot.fetches += 1
        if lot.pending and not lot.first_listed_at:
            lot.first_listed_at = time.monotonic()
        limit = len(lot.pending) if lot.whole else int(request.query["limit"])
        body = b"[%b]" % b",".join(itertools.islice(lot.pending.values(), limit))
        lot.longest_page = max(lot.longest_page, len(body))
        lot.listed += len(body)
        return web.Response(body=body, content_type="application/json")

    async def _embed(self, request: web.BaseRequest) -> web.Response:
        asked = orjson.loads(await request.read())
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        self._lot.requests += 1
        await asyncio.sleep(PROVIDER_SECONDS + PROVIDER_SECONDS_PER_TEXT * len(texts))
        data = [
            {"object": "embedding", "index": place, "embedding": base64.b64encode(_vector_of(text)).decode()}
            for place, text in enumerate(texts)
        ]
        tokens = 40 * len(texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "model": MODEL, "data": data, "usage": usage})

    async def _patch(self, request: web.BaseRequest) -> web.Response:
        lot, task = self._lot, request.path.rpartition("/")[2]
        body = await request.read()
        if lot.pending.pop(task, None) is None:
            lot.repeated += 1
            return _json({"_id": task})
        lot.written(task, body)
        return _json({"_id": task, "state": "succeeded"})

    async def _new_lot(self, request: web.BaseRequest) -> web.Response:
        count = int(request.query["count"])
        wished = request.query
        self._lot = Lot(
            self._next,
            count,
            letters=int(wished.get("letters", 0)),
            whole="whole" in wished,
            lean="lean" in wished,
        )
        self._next += count
        return _json({"count": count})

    async def _done(self, _request: web.BaseRequest) -> web.Response:
        await self._lot.done.wait()
        return _json({})

    async def _report(self, _request: web.BaseRequest) -> web.Response:
        return _json(self._lot.report())


def _vector_of(text: str) -> bytes:
    found = _NUMBER.match(text)
    return vector(int(found[1]) if found else 0).tobytes()


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def main() -> None:
    """Listen until killed."""
    if hasattr(os, "sched_setaffinity") and int(sys.argv[1]) >= 0:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    runner = web.ServerRunner(web.Server(StandIn()), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
