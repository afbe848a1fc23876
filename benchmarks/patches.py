"""Prints what a PATCH of a vector costs by each way to send it: `python benchmarks/patches.py`.

By aiohttp alone, by the connections that the daemon uses, and by its whole client with token, breaker, timeout and the
vector's JSON; 32 at a time, against the server of `make bench`. Figures are microseconds of CPU of this process.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import aiohttp
import numpy as np
import uvloop
from processes import stand_in
from yarl import URL

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.task_api.auth import Credentials, TokenAuth
from ai_task_processor.task_api.client import TaskApiClient, counts_for_breaker, open_pool
from ai_task_processor.task_api.requests import Request
from ai_task_processor.task_api.wire import outcome_body

PATCHES = 6_000
LANES = 32
ROUNDS = 3
DIMENSIONS = 1536

HEADERS = {
    "User-Agent": "measured",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Authorization": "Bearer measured",
}

Send = Callable[[str], Awaitable[object]]


async def main(base: str) -> None:
    """Measure each way in turn."""
    outcome = Succeeded(Vector(np.random.default_rng(1).standard_normal(DIMENSIONS, dtype=np.float32).tobytes()))
    body = outcome_body(outcome)
    pool = open_pool(connections=LANES)
    client = _client(base)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def by_aiohttp(task_id: str) -> None:
            url = URL(f"{base}/api/ai-tasks/{task_id}", encoded=True)
            async with session.patch(url, data=body, headers=HEADERS) as answer:
                await answer.read()

        async def by_connections(task_id: str) -> None:
            await pool.send(Request("PATCH", f"{base}/api/ai-tasks/{task_id}", HEADERS, body))

        async def by_client(task_id: str) -> None:
            await client.patch(task_id, outcome_body(outcome), correlation_id=task_id)

        for _ in range(ROUNDS):
            for name, send in (("aiohttp", by_aiohttp), ("connections", by_connections), ("client", by_client)):
                print(f"{name:12} {await _cost(send):6.1f} us", flush=True)
    await pool.aclose()
    await client.aclose()


def _client(base: str) -> TaskApiClient:
    clock = SystemClock()
    pool = open_pool(connections=LANES)
    credentials = Credentials(token_url=f"{base}/oauth2/token", client_id="bench", client_secret="bench")  # noqa: S106
    auth = TokenAuth(credentials, exchange=pool, timeout=30, clock=clock, observer=_ignore)
    breaker = Breaker(
        "task_api", threshold=5, recovery_seconds=30, clock=clock, observer=_ignore, counts=counts_for_breaker
    )
    return TaskApiClient(base, auth, exchange=pool, timeout=30, breaker=breaker, clock=clock, observer=_ignore)


def _ignore(event: Event) -> None:
    pass


async def _cost(send: Send) -> float:
    await _sent(send, LANES)
    began = time.process_time()
    await _sent(send, PATCHES)
    return 1e6 * (time.process_time() - began) / PATCHES


async def _sent(send: Send, count: int) -> None:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await send(f"68b89107{number:016x}")

    async with asyncio.TaskGroup() as group:
        for _ in range(LANES):
            group.create_task(lane())


if __name__ == "__main__":
    cores = sorted(os.sched_getaffinity(0))
    with stand_in(cores[0]) as address:
        os.sched_setaffinity(0, {cores[-1]})
        uvloop.run(main(address))
