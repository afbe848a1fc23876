import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.server.app import create_app
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.run import serve
from ai_task_processor.server.store import open_task_store

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (file|patch): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)

PAIR = Credentials("docs", "a secret of the tests")
PATIENCE = 30.0


def test_a_copy_of_the_source_with_both_examples_does_both(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ai_task_processor", tmp_path / "ai_task_processor", ignore=shutil.ignore_patterns("*.pyc"))
    for kind, path, code in blocks():
        if path.startswith("ai_task_processor/"):
            target = tmp_path / path
            target.write_text(code if kind == "file" else patched(target.read_text(encoding="utf-8"), code), "utf-8")

    async def main() -> None:
        async with tei_server() as tei, task_server() as (url, client):
            ids = await post(
                client, similarity("a", "b"), similarity("a", None), {"type": "text_embedding", "content": "c"}
            )
            settings = {"PROCESSING_MODE": "tei", "TEI_BASE_URL": tei, "DEFAULT_EMBEDDING_MODEL": "bge-small"}
            command = ("-c", "from ai_task_processor.cli import main; main()", "run")
            await run_daemon(*command, folder=tmp_path, settings=environment(url) | settings, reports=len(ids))
            alike, refused, embedded = [await get(client, task_id) for task_id in ids]
        assert alike["result"]["similarity"] == pytest.approx(cosine(tei_vector("a"), tei_vector("b")), abs=1e-6)
        assert refused["state"] == "failed"
        assert "content must be" in refused["error"]
        assert embedded["result"] == tei_vector("c")

    asyncio.run(main())


def test_a_program_of_ones_own_brings_a_task_type(tmp_path: Path) -> None:
    for _, path, code in blocks():
        if path.endswith(("text_similarity.py", "my_daemon.py")):
            (tmp_path / Path(path).name).write_text(code, "utf-8")

    async def main() -> None:
        async with task_server() as (url, client):
            ids = await post(client, similarity("a", "a"), {"type": "text_embedding", "content": "c"})
            settings = environment(url) | {"PROCESSING_MODE": "mock"}
            await run_daemon("my_daemon.py", folder=tmp_path, settings=settings, reports=len(ids))
            alike, embedded = [await get(client, task_id) for task_id in ids]
        assert alike["result"]["similarity"] == pytest.approx(1)
        assert len(embedded["result"]) == 768

    asyncio.run(main())


def blocks() -> Iterator[tuple[str, str, str]]:
    return ((kind, path, code) for kind, path, code in BLOCK.findall(PAGE))


def patched(source: str, patch: str) -> str:
    """Apply hunks that are divided by ``@@``; what they replace must be there, once."""
    for hunk in re.split(r"^@@.*\n", patch, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] or "\n" for line in lines if line[0] in " -")
        after = "".join(line[1:] or "\n" for line in lines if line[0] in " +")
        assert source.count(before) == 1, f"docs/extending.md patches what is not there:\n{before}"
        source = source.replace(before, after)
    return source


# --- Both ends --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def task_server() -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A task server, and a session that may use it."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    shutdown = asyncio.Event()
    async with open_task_store(":memory:", clock=SystemClock()) as store, asyncio.TaskGroup() as group:
        app = create_app(store, PAIR, clock=SystemClock())
        serving = serve(app, host="127.0.0.1", port=0, shutdown=shutdown, on_ready=ready.set_result)
        group.create_task(serving, name="task server")
        try:
            url = await ready
            async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {await token(url)}"}) as client:
                yield url, client
        finally:
            shutdown.set()


async def token(url: str) -> str:
    pair = {"client_id": PAIR.client_id, "client_secret": PAIR.client_secret}
    form = {"grant_type": "client_credentials", **pair}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/oauth2/token", data=form) as response:
        return str((await response.json())["access_token"])


async def post(client: aiohttp.ClientSession, *tasks: Mapping[str, object]) -> list[str]:
    async with client.post("/api/ai-tasks", json=list(tasks)) as response:
        return list((await response.json())["ids"])


async def get(client: aiohttp.ClientSession, task_id: str) -> dict[str, Any]:
    async with client.get(f"/api/ai-tasks/{task_id}") as response:
        return dict(await response.json())


def similarity(one: object, other: object) -> dict[str, object]:
    return {"type": "text_similarity", "content": {"one": one, "other": other}}


@asynccontextmanager
async def tei_server() -> AsyncIterator[str]:
    async def embed(request: web.Request) -> web.Response:
        return web.json_response([tei_vector(text) for text in (await request.json())["inputs"]])

    app = web.Application()
    app.add_routes([web.post("/embed", embed)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def tei_vector(text: str) -> list[float]:
    return [1.0, 0.5, float(ord(text[0]) - ord("a"))]


def cosine(one: list[float], other: list[float]) -> float:
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


# --- The daemon as a process ------------------------------------------------------------------------------------------


def environment(url: str) -> dict[str, str]:
    return {
        "API_BASE_URL": url,
        "OAUTH2_TOKEN_URL": f"{url}/oauth2/token",
        "OAUTH2_CLIENT_ID": PAIR.client_id,
        "OAUTH2_CLIENT_SECRET": PAIR.client_secret,
        "METRICS_PORT": "0",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
    }


async def run_daemon(*arguments: str, folder: Path, settings: Mapping[str, str], reports: int) -> None:
    """Run Python with these arguments until so many outcomes are reported; then stop it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**22,
    )
    said: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            assert process.stdout is not None
            async for line in process.stdout:
                said.append(line.decode())
                if sum(event(line) == "Outcome reported" for line in said) == reports:
                    break
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            said.append((await process.stdout.read()).decode())
            assert await process.wait() == 0, "".join(said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def event(line: str) -> str:
    return str(json.loads(line)["event"]) if line.startswith("{") else ""
