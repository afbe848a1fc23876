"""Ten thousand tasks from our own task server through the daemon: two processes, configured by environment alone."""

import asyncio
import importlib
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from ai_task_processor.providers.mock import mock_vector
from tests.fakes.daemon import Process, environment_for, right_vector, started
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET, FakeTaskApi

TASKS = 10_000
PAGE = 1_000
PATIENCE = 200.0
"""Seconds that a busy machine may take; on two idle cores it is about a tenth of that."""

Vectors = np.ndarray[Any, np.dtype[np.float32]]

WORDS = ("storm", "harbour", "glacier", "invoice", "violin", "enzyme", "parliament", "orchard", "bicycle", "tariff")


def texts(seed: int) -> list[str]:
    chance = random.Random(seed)
    return [f"{' '.join(chance.choices(WORDS, k=chance.randint(3, 20)))} number {number}" for number in range(TASKS)]


# --- The wire between the two processes -------------------------------------------------------------------------------


class CountingProxy:
    """Passes bytes on between the daemon and the task server, and counts the results that go by, by task."""

    _RESULT = re.compile(rb'PATCH /api/ai-tasks/(\w+) HTTP/1\.1\r\n|\{"id":"(\w+)","state"')
    _OVERLAP = 200

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").partition(":")
        self._port = int(port)
        self.patches = Counter[str]()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(
            self._pass(reader, there_writer, self._counted()), self._pass(there_reader, writer, lambda _: None)
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None]
    ) -> None:
        try:
            while part := await reader.read(2**18):
                look(part)
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _counted(self) -> Callable[[bytes], None]:
        """Looks at the parts of one connection; a request line may be spread over two of them."""
        kept = b""

        def look(part: bytes) -> None:
            nonlocal kept
            seen = kept + part
            end = 0
            for found in self._RESULT.finditer(seen):
                self.patches[(found[1] or found[2]).decode()] += 1
                end = found.end()
            kept = seen[max(end, len(seen) - self._OVERLAP) :]

        return look


# --- The task server --------------------------------------------------------------------------------------------------


class Client:
    """Whoever owns the tasks."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def authenticate(self) -> None:
        form = {"grant_type": "client_credentials", "scope": "read write"}
        headers = {"Authorization": aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET)}
        async with self._session.post(self._url + "/oauth2/token", data=form, headers=headers) as response:
            token = (await response.json())["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    async def post(self, contents: list[Any]) -> list[str]:
        """Create a task for each content; answer their ids."""
        ids: list[str] = []
        for start in range(0, len(contents), PAGE):
            tasks = [{"type": "text_embedding", "content": content} for content in contents[start : start + PAGE]]
            async with self._session.post(self._url + "/api/ai-tasks", json=tasks) as response:
                assert response.status == 201, await response.text()
                ids += (await response.json())["ids"]
        return ids

    async def finished(self) -> Counter[str]:
        """How many tasks are in each state, once none is left to be done."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self._session.get(self._url + "/api/ai-tasks/stats") as response:
                    counts: Counter[str] = Counter(await response.json())
                if counts["pending"] + counts["in_progress"] == 0:
                    return +counts
                await asyncio.sleep(0.05)

    async def results(self) -> dict[str, Any]:
        """Every result by its task's id."""
        found: dict[str, Any] = {}
        after: dict[str, str] = {}
        while True:
            query = {"limit": str(PAGE), "results": "true", **after}
            async with self._session.get(self._url + "/api/ai-tasks", params=query) as response:
                page = orjson.loads(await response.read())
            found |= {task["_id"]: task["result"] for task in page["tasks"]}
            if not page.get("next"):
                return found
            after = {"after": page["next"]}


@asynccontextmanager
async def task_server(folder: Path) -> AsyncIterator[str]:
    """Our own task server as a process; its address."""
    credentials = {"TASK_SERVER_CLIENT_ID": CLIENT_ID, "TASK_SERVER_CLIENT_SECRET": CLIENT_SECRET}
    arguments = ("serve", "--port", "0", "--database", "tasks.db")
    async with started(*arguments, folder=folder, env=credentials) as server:
        await server.until(lambda: "answers at" in server.text)
        yield server.text.split("answers at ")[1].split()[0]
        server.send(signal.SIGTERM)
        assert await server.ended() == 0


# --- Ten thousand -----------------------------------------------------------------------------------------------------


def expected_of_mock(contents: list[str]) -> Vectors:
    return np.stack([np.frombuffer(mock_vector(text, "nomic-embed-text"), "<f4") for text in contents])


def expected_of_local(contents: list[str]) -> Vectors:
    """By the package's own code, not by ours."""
    package = importlib.import_module("wordllama")
    folder = Path(str(package.__file__)).parent
    model = package.WordLlama.load(dim=256, cache_dir=folder, disable_download=True)
    return np.asarray(model.embed(contents, norm=True), dtype=np.float32)


MODES: Mapping[str, tuple[Callable[[list[str]], Vectors], float, str]] = {
    "mock": (expected_of_mock, 0.0, "auto"),
    "local": (expected_of_local, 1e-6, "none"),
}
"""What is to come out, how exactly, and which optional routes are used."""


@pytest.mark.parametrize("mode", MODES)
async def test_ten_thousand_tasks_are_drained_right_and_once(tmp_path: Path, mode: str) -> None:
    expect, tolerance, features = MODES[mode]
    contents = texts(seed=len(mode))
    async with task_server(tmp_path) as url, aiohttp.ClientSession() as session:
        client, proxy = Client(session, url), CountingProxy(url)
        await client.authenticate()
        ids = await client.post([{"text": text, "model": "nomic-embed-text"} for text in contents])
        async with proxy.listening() as api_url:
            env = {
                "API_BASE_URL": api_url,
                "OAUTH2_TOKEN_URL": f"{api_url}/oauth2/token",
                "OAUTH2_CLIENT_ID": CLIENT_ID,
                "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
                "PROCESSING_MODE": mode,
                "API_FEATURES": features,
                "STATE_URL": f"sqlite:///{tmp_path}/state.db",
                "METRICS_PORT": "0",
            }
            async with started("run", folder=tmp_path, env=env) as daemon:
                began = asyncio.get_running_loop().time()
                assert await client.finished() == {"succeeded": TASKS}
                seconds = asyncio.get_running_loop().time() - began
                await stop(daemon)
        print(f"{mode}: {TASKS / seconds:.0f} tasks/s")  # noqa: T201  # shown with pytest -s
        results = await client.results()
    assert proxy.patches == dict.fromkeys(ids, 1)
    got = np.array([results[task_id] for task_id in ids], dtype=np.float32)
    assert np.abs(got - expect(contents)).max() <= tolerance


async def stop(daemon: Process) -> None:
    daemon.send(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert daemon.logged("AI Task Processor stopped", unreported=0)
    assert not [line for line in daemon.lines if line["level"] in {"error", "critical"}]


# --- Power failures ---------------------------------------------------------------------------------------------------


async def test_killed_in_the_middle_everything_is_done_once_more_and_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with FakeTaskApi() as api:
        api.add(*({"_id": str(number)} for number in range(600)))
        env = environment_for(api, tmp_path, mock_latency_seconds=0.05, batch_size=8, concurrency_limit=4)
        for _ in range(4):
            async with started("run", folder=tmp_path, env=env) as daemon:
                until = len(api.patches) + chance.randint(10, 120)
                await api.until(lambda until=until: len(api.patches) >= until)  # type: ignore[misc]  # bound at once
                daemon.send(signal.SIGKILL)
                assert await daemon.ended() == -signal.SIGKILL
        async with started("run", folder=tmp_path, env=env) as daemon:
            await api.until(lambda: api.states() == {"succeeded": 600})
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0
    for task_id, bodies in api.patches.items():
        assert all(body == bodies[0] for body in bodies), task_id
        assert right_vector(api.tasks[task_id]["result"], f"text of {task_id}")
    repeated = sum(len(bodies) - 1 for bodies in api.patches.values())
    assert repeated <= 4 * 32, "only what was on its way when the power failed"
