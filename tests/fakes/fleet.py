"""Several daemons as processes on one database, working for a task server that is a process too."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.fakes.daemon import Process, started

CLIENT_ID, CLIENT_SECRET = "fleet", "harbour"
PAGE = 1_000


class Tasks:
    """The task server as its owner uses it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self._session = session

    async def authenticate(self) -> None:
        form = {"grant_type": "client_credentials", "scope": "read write"}
        headers = {"Authorization": aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET)}
        async with self._session.post(f"{self.url}/oauth2/token", data=form, headers=headers) as response:
            self._session.headers["Authorization"] = f"Bearer {(await response.json())['access_token']}"

    async def post(self, texts: Sequence[str], *, model: str = "nomic-embed-text") -> list[str]:
        """Create a task for each text; answer their ids."""
        ids: list[str] = []
        for start in range(0, len(texts), PAGE):
            tasks = [
                {"type": "text_embedding", "content": {"text": text, "model": model}}
                for text in texts[start : start + PAGE]
            ]
            async with self._session.post(f"{self.url}/api/ai-tasks", json=tasks) as response:
                assert response.status == 201, await response.text()
                ids += (await response.json())["ids"]
        return ids

    async def counts(self) -> Counter[str]:
        """How many tasks there are in each state that any is in."""
        async with self._session.get(f"{self.url}/api/ai-tasks/stats") as response:
            return +Counter(await response.json())

    async def until(self, state: str, count: int, *, within: float) -> None:
        """Wait until so many tasks are in a state."""
        async with asyncio.timeout(within):
            while (await self.counts())[state] < count:  # noqa: ASYNC110  # the server is another process
                await asyncio.sleep(0.05)

    async def results(self) -> dict[str, Any]:
        """Every result by its task's id."""
        found: dict[str, Any] = {}
        after: dict[str, str] = {}
        while True:
            query = {"limit": str(PAGE), "results": "true", **after}
            async with self._session.get(f"{self.url}/api/ai-tasks", params=query) as response:
                page = orjson.loads(await response.read())
            found |= {task["_id"]: task["result"] for task in page["tasks"]}
            if not page.get("next"):
                return found
            after = {"after": page["next"]}


@asynccontextmanager
async def task_server(folder: Path) -> AsyncIterator[Tasks]:
    """Start a task server that keeps its tasks in ``folder``."""
    credentials = {"TASK_SERVER_CLIENT_ID": CLIENT_ID, "TASK_SERVER_CLIENT_SECRET": CLIENT_SECRET}
    arguments = ("serve", "--port", "0", "--database", "tasks.db")
    async with (
        started(*arguments, folder=folder, env=credentials) as server,
        aiohttp.ClientSession() as session,
    ):
        await server.until(lambda: "answers at" in server.text)
        tasks = Tasks(session, server.text.split("answers at ")[1].split()[0])
        await tasks.authenticate()
        yield tasks
        server.send(signal.SIGTERM)
        assert await server.ended() == 0


@dataclass
class Life:
    """One process of a fleet, from its start to its end."""

    process: Process
    stack: AsyncExitStack
    killed: bool = False

    def tasks(self, words: str, **facts: object) -> Iterator[str]:
        """The tasks that it has told of in these words, and with these facts."""
        return (line["task_id"] for line in self.process.logged(words, **facts))


@dataclass
class Fleet:
    """Replicas that are started, killed and stopped."""

    folder: Path
    env: Mapping[str, str]
    lives: list[Life] = field(default_factory=list)
    running: list[Life] = field(default_factory=list)

    async def start(self, count: int = 1, **env: object) -> None:
        """Start replicas, with settings of their own where any are given."""
        settings = {**self.env, **{name.upper(): str(value) for name, value in env.items()}}
        for _ in range(count):
            stack = AsyncExitStack()
            process = await stack.enter_async_context(started("run", folder=self.folder, env=settings))
            life = Life(process, stack)
            self.lives.append(life)
            self.running.append(life)

    async def ready(self) -> None:
        """Wait until all stages of all of them run."""
        for life in self.running:
            await life.process.says("All services started")

    async def until(self, condition: Callable[[], bool], *, within: float = 60.0) -> None:
        """Wait until ``condition`` holds of what they have logged."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110  # any of them may be the one who logs it
                await asyncio.sleep(0.05)

    async def kill(self, position: int = 0) -> None:
        """Kill the replica that has been there longest, or another one."""
        life = self.running.pop(position)
        life.killed = True
        life.process.send(signal.SIGKILL)
        await life.process.ended()
        await life.stack.aclose()

    async def stop(self) -> None:
        """Ask all of them to stop, and see that they do."""
        for life in self.running:
            life.process.send(signal.SIGTERM)
        for life in self.running:
            code = await life.process.ended(within=60)
            assert code == 0, (code, life.process.text[-4_000:])
            await life.stack.aclose()
        self.running.clear()

    async def aclose(self) -> None:
        for life in self.running:
            await life.stack.aclose()

    def count(self, words: str, **facts: object) -> int:
        """How many lines with these words and facts all of them have logged."""
        return sum(len(life.process.logged(words, **facts)) for life in self.lives)


@asynccontextmanager
async def fleet(tasks: Tasks, state_url: str, folder: Path, **settings: object) -> AsyncIterator[Fleet]:
    """A fleet for a task server and a database, with nobody in it yet."""
    usual = {
        "api_base_url": tasks.url,
        "oauth2_token_url": f"{tasks.url}/oauth2/token",
        "oauth2_client_id": CLIENT_ID,
        "oauth2_client_secret": CLIENT_SECRET,
        "processing_mode": "mock",
        "state_url": state_url,
        "metrics_port": 0,
        "log_format": "json",
        "polling_interval_seconds": 1,
        "lease_seconds": 3,
    }
    made = Fleet(folder, {name.upper(): str(value) for name, value in (usual | settings).items()})
    try:
        yield made
    finally:
        await made.aclose()
