"""The unavoidable work and nothing else: what a careful programmer would write in an afternoon, and lose tasks with.

    python benchmarks/bare.py ADDRESS [--tuned]

One fetch per page, one provider request per batch of 64, one PATCH per task, 32 of them at a time; nothing is durable,
nothing checked, nothing tried again, nothing limited. Tuned, it runs on uvloop and hands numpy's arrays to orjson.
"""

import array
import asyncio
import base64
import sys
from collections.abc import Callable

import aiohttp
import numpy as np
import orjson
import uvloop

BATCH = 64
PATCHES = 32
REQUESTS = 5
PAGE = 1_000
INTERVAL = 1.0

JSON = {"Content-Type": "application/json"}


class Script:
    """One page after the other."""

    def __init__(self, base: str, session: aiohttp.ClientSession, decode: Callable[[bytes], object]) -> None:
        self._base = base
        self._decode = decode
        self._session = session
        self._patches = asyncio.Semaphore(PATCHES)
        self._requests = asyncio.Semaphore(REQUESTS)

    async def run(self) -> None:
        """Poll for ever."""
        async with self._session.post(
            f"{self._base}/oauth2/token", data={"grant_type": "client_credentials"}
        ) as answer:
            token = orjson.loads(await answer.read())["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"
        while True:
            async with self._session.get(f"{self._base}/api/ai-tasks/pending?limit={PAGE}") as answer:
                tasks = orjson.loads(await answer.read())
            batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
            await asyncio.gather(*(self._batch(batch) for batch in batches))
            if not tasks:
                await asyncio.sleep(INTERVAL)

    async def _batch(self, tasks: list[dict]) -> None:  # type: ignore[type-arg]  # JSON
        texts = [task["content"]["text"] for task in tasks]
        body = orjson.dumps({"input": texts, "model": tasks[0]["content"]["model"], "encoding_format": "base64"})
        async with self._requests, self._session.post(f"{self._base}/v1/embeddings", data=body, headers=JSON) as answer:
            data = orjson.loads(await answer.read())["data"]
        vectors = [self._decode(base64.b64decode(item["embedding"])) for item in data]
        await asyncio.gather(*(self._patch(task["_id"], one) for task, one in zip(tasks, vectors, strict=True)))

    async def _patch(self, task_id: str, vector: object) -> None:
        async with self._patches:
            body = orjson.dumps({"state": "succeeded", "result": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
            url = f"{self._base}/api/ai-tasks/{task_id}"
            async with self._session.patch(url, data=body, headers=JSON) as answer:
                await answer.read()


def as_list(data: bytes) -> list[float]:
    """Python numbers."""
    return array.array("f", data).tolist()


def as_array(data: bytes) -> object:
    """The bytes as they are, seen as numbers."""
    return np.frombuffer(data, "<f4")


async def main(decode: Callable[[bytes], object]) -> None:
    """Run until killed."""
    async with aiohttp.ClientSession() as session:
        await Script(sys.argv[1], session, decode).run()


if __name__ == "__main__":
    if "--tuned" in sys.argv:
        uvloop.run(main(as_array))
    else:
        asyncio.run(main(as_list))
