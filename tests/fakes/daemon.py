"""The whole daemon: inside the test on simulated time, or as a process of its own; real sockets and files in both."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.app import App, World, open_app
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import Event, Reported
from ai_task_processor.domain.ports import Backlog, Journal
from ai_task_processor.journal.operator import OperatorJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.settings import Settings, load_settings
from ai_task_processor.storage.engine import Storage, open_storage
from ai_task_processor.wiring.engines import MakeEngine, make_engine
from ai_task_processor.wiring.state import State, state_in
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET, FakeTaskApi
from tests.fakes.time import LoopClock, on_simulated_time

E = TypeVar("E", bound=Event)
P = ParamSpec("P")
T = TypeVar("T")

MODEL = "nomic-embed-text"

GLANCE = 60.0
"""Simulated seconds between looks of idle stages, which cost the more the longer a test pretends to wait."""

PATIENCE = 0.002
"""Real seconds in which what was sent over loopback has come."""

# --- Simulated time with sockets --------------------------------------------------------------------------------------


def simulated_time(test: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Run an async test on a loop that waits for its own sockets, and skips every other wait.

    Client and server must both run on this loop: what one sends to the other over loopback has arrived at once, so
    that a loop with nothing to read has nothing to do before its next timer.
    """
    return on_simulated_time(test, patience=PATIENCE)


class Inline(Executor):
    """Runs what it is given at once: transactions on simulated time need no thread."""

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it, as from any executor
            future.set_exception(error)
        return future


# --- The daemon inside the test ---------------------------------------------------------------------------------------


class Watch:
    """An observer on which a test can wait."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()
        self._news = asyncio.Event()

    def of(self, kind: type[E], **facts: object) -> list[E]:
        """The events of a kind with these facts, so far."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in facts.items())
        ]

    async def until(self, condition: Callable[[], bool], *, within: float = 7_200) -> None:
        """Wait for the event after which ``condition`` holds, at most ``within`` simulated seconds."""
        async with asyncio.timeout(within):
            while not condition():
                await self._news.wait()

    async def seen(self, kind: type[E], count: int = 1, *, within: float = 7_200, **facts: object) -> E:
        """The ``count``-th event of a kind with these facts, waited for."""
        await self.until(lambda: len(self.of(kind, **facts)) >= count, within=within)
        return self.of(kind, **facts)[count - 1]


@dataclass
class Daemon:
    """The running daemon, with what a test may ask it."""

    app: App
    settings: Settings
    watch: Watch
    journal: Journal
    operator: OperatorJournal

    async def reported(self, count: int) -> None:
        """Wait until so many outcomes are with the Task API."""
        await self.watch.seen(Reported, count)

    async def backlog(self) -> Backlog:
        return await self.journal.backlog()

    async def get(self, route: str) -> tuple[int, Any]:
        """Status and JSON of /health or /ready."""
        async with aiohttp.ClientSession() as session, session.get(self.app.ops_url + route) as response:
            return response.status, await response.json()

    async def metric(self, name: str, /, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; ``name`` without the prefix."""
        async with aiohttp.ClientSession() as session, session.get(self.app.ops_url + "/metrics") as response:
            return metric_in(await response.text(), name, **labels)


def metric_in(exposition: str, name: str, /, **labels: str) -> float:
    """The sum of those samples of ``name``, without its prefix, that carry ``labels``."""
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    named = [sample for sample in samples if sample.name == f"ai_task_processor_{name}"]
    return sum(sample.value for sample in named if labels.items() <= sample.labels.items())


@asynccontextmanager
async def running(
    api: FakeTaskApi, folder: Path, *, engine: MakeEngine = make_engine, clock: Clock | None = None, **settings: object
) -> AsyncIterator[Daemon]:
    """Run the daemon against ``api`` with its state in ``folder`` until the block ends; then it stops as on SIGTERM."""
    configured = load_settings(None, **(settings_for(api, folder) | settings))
    clock = clock or LoopClock()
    opened: list[Storage] = []

    @asynccontextmanager
    async def open_state(settings: Settings, clock: Clock) -> AsyncIterator[State]:
        async with open_storage(settings.state_location, executor=Inline()) as storage:
            opened.append(storage)
            yield await state_in(storage, settings, clock)

    world = World(clock=clock, randomness=random.Random(1), engine=engine, state=open_state, glance=GLANCE)
    watch = Watch()
    async with open_app(configured, observers=[watch], world=world) as app, asyncio.TaskGroup() as group:
        run = group.create_task(app.run(), name="daemon")
        yield Daemon(app, configured, watch, SqlJournal(opened[0], clock), OperatorJournal(opened[0]))
        app.stop("the test ends", configured.shutdown_grace_seconds)
        await asyncio.wait_for(run, configured.shutdown_grace_seconds)


def settings_for(api: FakeTaskApi, folder: Path) -> dict[str, object]:
    """What a daemon must be told to work for ``api`` with mock vectors; everything else is as it is by default."""
    return {
        "api_base_url": api.url,
        "oauth2_token_url": api.token_url,
        "oauth2_client_id": CLIENT_ID,
        "oauth2_client_secret": CLIENT_SECRET,
        "processing_mode": "mock",
        "state_url": f"sqlite:///{folder / 'state.db'}",
        "metrics_port": 0,
    }


def right_vector(result: Any, text: str, *, model: str = MODEL, dimensions: int | None = None) -> bool:
    """Whether ``result``, as it came over the wire, is the mock provider's vector of ``text`` to the last bit."""
    return np.array(result, dtype="<f4").tobytes() == mock_vector(text, model, dimensions)


# --- The daemon as a process ------------------------------------------------------------------------------------------

PROGRAM = Path(sys.executable).with_name("ai-task-processor")

REAL_SECONDS = 60.0
"""How long a test waits for a process on a busy machine before it gives up."""


@dataclass
class Process:
    """A command of the program as a process.

    ``text`` is all that it wrote so far, ``lines`` its log; at its end it is ``silent``.
    """

    process: asyncio.subprocess.Process
    text: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    silent: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Read what the process writes until it ends."""
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            line = raw.decode()
            self.text += line
            if line.startswith('{"'):  # a log line; a command prints its JSON over several
                self.lines.append(json.loads(line))
            self._tell()
        self.silent = True
        self._tell()

    def logged(self, words: str, **facts: object) -> list[dict[str, Any]]:
        """The log lines that begin with these words and have these facts."""
        return [line for line in self.lines if line["event"].startswith(words) and facts.items() <= line.items()]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for the line after which ``condition`` holds; in vain where the process has ended before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAL_SECONDS):
                while not condition() and not self.silent:
                    await self._news.wait()
        assert condition(), f"what was waited for did not come:\n{self.text[-4_000:]}"

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def says(self, words: str, **facts: object) -> dict[str, Any]:
        """The first log line with these words and facts, waited for."""
        await self.until(lambda: self.logged(words, **facts))
        return self.logged(words, **facts)[0]

    async def url(self) -> str:
        """Where its routes are."""
        line = await self.says("All services started")
        return str(line["routes"])

    async def get(self, route: str) -> tuple[int, str]:
        """Status and body of one of its routes."""
        async with aiohttp.ClientSession() as session, session.get(await self.url() + route) as response:
            return response.status, await response.text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, *, within: float = REAL_SECONDS) -> int:
        """Its exit code, waited for."""
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def started(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Start a command of the program in ``folder``, with nothing in its environment but ``env``; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "NO_COLOR": "1", "COLUMNS": "200", **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**22,
    )
    watched = Process(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(watched.read(), name="output")
        try:
            yield watched
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def finished(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end: exit code and everything that it wrote."""
    async with started(*arguments, folder=folder, env=env) as process:
        code = await process.ended()
    return code, process.text


def environment_for(api: FakeTaskApi, folder: Path, **settings: object) -> dict[str, str]:
    """The environment of a daemon for ``api``, in a hurry: short rests and JSON lines."""
    hurry = {"polling_interval_seconds": 0.2, "request_timeout": 5, "log_format": "json"}
    values = settings_for(api, folder) | hurry | settings
    return {name.upper(): str(value) for name, value in values.items()}
