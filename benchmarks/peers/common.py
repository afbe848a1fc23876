"""What every peer needs: its bridge from the list to its queue, and the work of one task."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import orjson

BASE = os.environ["BENCH_BASE"]
INTERVAL = 1.0
PAGE = 1_000
AT_ONCE = 32
"""Tasks that a worker has in hand at once."""

JSON = {"Content-Type": "application/json"}

Task = dict[str, Any]


def session() -> aiohttp.ClientSession:
    """A pool of connections, signed in."""
    return aiohttp.ClientSession(headers={"Authorization": "Bearer measured"})


async def perform(http: aiohttp.ClientSession, task: Task) -> None:
    """One provider request and one PATCH: these workers know one task at a time."""
    content = task["content"]
    asked = orjson.dumps({"input": [content["text"]], "model": content["model"], "encoding_format": "base64"})
    async with http.post(f"{BASE}/v1/embeddings", data=asked, headers=JSON) as answer:
        item = orjson.loads(await answer.read())["data"][0]
    vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
    body = orjson.dumps({"state": "succeeded", "result": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
    async with http.patch(f"{BASE}/api/ai-tasks/{task['_id']}", data=body, headers=JSON) as answer:
        await answer.read()


async def bridge(enqueue: Callable[[list[Task]], Awaitable[None]]) -> None:
    """Poll the list, and enqueue what was not seen before; at once again while pages bring something new."""
    seen: set[str] = set()
    async with session() as http:
        while True:
            limit = PAGE
            new = [None]
            while new:
                async with http.get(f"{BASE}/api/ai-tasks/pending?limit={limit}") as answer:
                    listed = orjson.loads(await answer.read())
                new = [task for task in listed if task["_id"] not in seen]
                seen.update(task["_id"] for task in new)
                await enqueue(new)
                limit = len(listed) + PAGE
                if len(listed) < PAGE:
                    break
            await asyncio.sleep(INTERVAL)
