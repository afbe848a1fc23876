"""The demonstration: both ends of the flow in one process, watched by a progress bar."""

import asyncio
import json
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ai_task_processor.app import App, World, open_app
from ai_task_processor.demo.texts import nearest, read_texts, shipped_claims
from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.events import Event, ProviderCalled, Reported, TaskSettled
from ai_task_processor.ops.lines import LogObserver
from ai_task_processor.ops.logs import configure_logging
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.run import run_task_server
from ai_task_processor.settings import Settings, load_settings
from ai_task_processor.task_api.auth import TokenAuth
from ai_task_processor.wiring.task_api import credentials, open_wire

POSTED_AT_ONCE = 1_000
"""Tasks in one request to the task server."""

LOOKED_AT = 5_000
"""Texts among which neighbours are searched, at most."""

EXAMPLES = 2
NEIGHBOURS = 3

TASKS = "/api/ai-tasks"


@dataclass(slots=True)
class Tally:
    """An observer that adds up what the summary shows; ``changed`` is called after each report."""

    changed: Callable[[], None]
    succeeded: int = 0
    failed: int = 0
    calls: int = 0
    tokens: int = 0
    reported: int = 0

    def __call__(self, event: Event) -> None:
        """Add ``event`` to the figures."""
        match event:
            case TaskSettled(status="succeeded"):
                self.succeeded += 1
            case TaskSettled(status="failed"):
                self.failed += 1
            case ProviderCalled(tokens=tokens):
                self.calls += 1
                self.tokens += tokens
            case Reported():
                self.reported += 1
                self.changed()


def demonstrate(file: Path | None, *, mode: str, keep: bool) -> int:
    """Run the demonstration; answers 0 when every text got its vector.

    Raises ConfigurationError for a file or a configuration that cannot be used.
    """
    texts = shipped_claims() if file is None else read_texts(file)
    with tempfile.TemporaryDirectory(prefix="ai-task-processor-demo-") as folder:
        return asyncio.run(_Demonstration(texts, mode=mode, keep=keep, folder=Path(folder)).run())


class _Demonstration:
    def __init__(self, texts: Sequence[str], *, mode: str, keep: bool, folder: Path) -> None:
        self._texts = texts
        self._mode = mode
        self._keep = keep
        self._folder = folder
        self._console = Console()
        self._stop = asyncio.Event()
        self._done = asyncio.Event()

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        self._console.print(
            f"[bold]AI Task Processor[/]: {len(self._texts)} texts through the whole flow, mode {self._mode}"
        )
        async with self._task_server() as (url, pair):
            settings = self._settings(url, pair)
            async with _client(url, settings) as client:
                return await self._watch(client, settings)

    @asynccontextmanager
    async def _task_server(self) -> AsyncIterator[tuple[str, Credentials]]:
        pair = Credentials("demo", secrets.token_urlsafe(24))
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        shutdown = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                run_task_server(
                    database=str(self._folder / "tasks.db"),
                    host="127.0.0.1",
                    port=0,
                    credentials=pair,
                    token_seconds=900,
                    shutdown=shutdown,
                    on_ready=ready.set_result,
                ),
                name="task server",
            )
            try:
                yield await ready, pair
            finally:
                shutdown.set()

    def _settings(self, url: str, pair: Credentials) -> Settings:
        """The user's settings for engines and limits, with both ends of the flow inside the demonstration."""
        return load_settings(
            Path(".env"),
            api_base_url=url,
            oauth2_token_url=f"{url}/oauth2/token",
            oauth2_client_id=pair.client_id,
            oauth2_client_secret=pair.client_secret,
            oauth2_client_secret_file="",
            processing_mode=self._mode,
            state_url=f"sqlite:///{self._folder / 'state.db'}",
            state_url_file="",
            rate_limit_storage_path="",
            result_format="vector",
            polling_interval_seconds=1,
            metrics_host="127.0.0.1",
            metrics_port=0,
        )

    async def _watch(self, client: httpx2.AsyncClient, settings: Settings) -> int:
        with self._progress() as progress:
            bar = progress.add_task("embedding", total=len(self._texts))
            tally = Tally(changed=lambda: self._advance(progress, bar, tally))
            async with self._daemon(settings, tally) as app:
                ids = await _post(client, self._texts)
                began = time.monotonic()
                finished = await self._finished()
                seconds = time.monotonic() - began
                progress.stop()
                if finished:
                    await self._tell(client, tally, ids, seconds)
                    await self._wait_if_kept(app, settings)
        return 0 if finished and not tally.failed else 1

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )

    def _advance(self, progress: Progress, bar: object, tally: Tally) -> None:
        progress.update(bar, completed=tally.reported)  # type: ignore[arg-type]  # rich's TaskID
        if tally.reported == len(self._texts):
            self._done.set()

    @asynccontextmanager
    async def _daemon(self, settings: Settings, tally: Tally) -> AsyncIterator[App]:
        world = World()
        log = LogObserver(configure_logging("WARNING", "console"), clock=world.clock)
        async with open_app(settings, observers=[tally, log], world=world) as app, asyncio.TaskGroup() as group:
            group.create_task(app.run(), name="daemon")
            try:
                yield app
            finally:
                app.stop("demonstration over", settings.shutdown_grace_seconds)

    async def _finished(self) -> bool:
        """Wait until everything is reported, or a signal comes; answer whether it was the former."""
        waits = [asyncio.create_task(event.wait()) for event in (self._done, self._stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._done.is_set()

    async def _tell(self, client: httpx2.AsyncClient, tally: Tally, ids: Sequence[str], seconds: float) -> None:
        table = Table(title="Summary", show_header=False)
        for name, value in _figures(tally, len(ids), seconds).items():
            table.add_row(name, value)
        self._console.print(table)
        vectors = await _vectors(client)
        texts = {task_id: text for task_id, text in zip(ids, self._texts, strict=True) if task_id in vectors}
        for line in _neighbours(texts, vectors):
            self._console.print(line, highlight=False)

    async def _wait_if_kept(self, app: App, settings: Settings) -> None:
        if not self._keep:
            return
        self._console.print(
            f"\nIt goes on running; Ctrl-C ends it.\n"
            f"  Task API   {settings.api_base_url}{TASKS}\n"
            f"  Token      {settings.token_url}\n"
            f"  Client     {settings.oauth2_client_id} : {settings.oauth2_client_secret.get_secret_value()}\n"
            f"  Status     {app.ops_url}/\n"
            f"  Daemon     {app.ops_url}/health  /ready  /metrics",
            highlight=False,
            markup=False,
        )
        await self._stop.wait()


def _figures(tally: Tally, count: int, seconds: float) -> Mapping[str, str]:
    return {
        "tasks": f"{count:,}",
        "succeeded": f"{tally.succeeded:,}",
        "failed": f"{tally.failed:,}",
        "tasks per second": f"{count / seconds:,.0f}",
        "provider calls": f"{tally.calls:,}",
        "tokens": f"{tally.tokens:,}",
    }


@asynccontextmanager
async def _client(url: str, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    auth = TokenAuth(
        credentials(settings), exchange=open_wire(1), timeout=30, clock=SystemClock(), observer=lambda _: None
    )
    async with (
        aclosing(auth),
        httpx2.AsyncClient(base_url=url, auth=_Signed(auth), timeout=60, trust_env=False) as client,
    ):
        yield client


class _Signed(httpx2.Auth):
    """Signs the requests of the one who creates the tasks."""

    def __init__(self, auth: TokenAuth) -> None:
        self._auth = auth

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send it with the current token."""
        request.headers["Authorization"] = f"Bearer {await self._auth.token()}"
        yield request


async def _post(client: httpx2.AsyncClient, texts: Sequence[str]) -> list[str]:
    """Create one task per text; answer their ids in the order of the texts."""
    ids: list[str] = []
    for start in range(0, len(texts), POSTED_AT_ONCE):
        tasks = [
            {"type": "text_embedding", "content": {"text": text}} for text in texts[start : start + POSTED_AT_ONCE]
        ]
        response = await client.post(TASKS, json=tasks)
        response.raise_for_status()
        ids += response.json()["ids"]
    return ids


async def _vectors(client: httpx2.AsyncClient) -> Mapping[str, Sequence[float]]:
    """What the Task API holds now: the results as they were reported, by task id."""
    vectors: dict[str, Sequence[float]] = {}
    after: str | None = ""
    while after is not None and len(vectors) < LOOKED_AT:
        query = {"state": "succeeded", "results": "true", "limit": "1000"} | ({"after": after} if after else {})
        page = json.loads((await client.get(TASKS, params=query)).raise_for_status().content)
        vectors |= {task["_id"]: task["result"] for task in page["tasks"]}
        after = page["next"]
    return vectors


def _neighbours(texts: Mapping[str, str], vectors: Mapping[str, Sequence[float]]) -> list[str]:
    """For some of the texts, the texts whose vectors are nearest to theirs."""
    ids = list(texts)
    if len(ids) <= NEIGHBOURS:
        return []
    table = np.array([vectors[task_id] for task_id in ids], dtype=np.float32)
    lines = []
    for index in range(0, len(ids), max(1, len(ids) // EXAMPLES))[:EXAMPLES]:
        lines.append(f"\nNearest to «{texts[ids[index]]}»")
        lines += [f"  {score:.2f}  {texts[ids[other]]}" for other, score in nearest(table, index, NEIGHBOURS)]
    return lines
