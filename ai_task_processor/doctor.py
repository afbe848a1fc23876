"""Tries everything that the daemon needs, and says what to do about what does not work."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.errors import ConfigurationError, TaskProcessorError
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Wish
from ai_task_processor.domain.proxies import Proxy
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.settings import Settings
from ai_task_processor.storage.engine import is_postgres, open_storage, sqlite_path
from ai_task_processor.storage.migrations import schema_number
from ai_task_processor.task_api.answers import RouteMissing
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.features import Feature, Features
from ai_task_processor.task_api.source import ApiTaskSource
from ai_task_processor.task_api.wire import PENDING_PATH
from ai_task_processor.wiring.engines import Bench, address_of, engine_names, make_engine
from ai_task_processor.wiring.operation import warnings
from ai_task_processor.wiring.task_api import make_client, make_features, open_wire

STATE_ADVICE = "Check STATE_URL, and that its folder, or its database, can be written by this user."

WORD = "check"
"""What is embedded to see whether a provider works."""


class Finding(Struct, frozen=True):
    """How one thing is: ``advice`` says what to do about it, empty where nothing need be done."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


class Look(Struct, frozen=True):
    """One thing to try: ``run`` answers how it is or raises; ``needs`` names a finding without which it is futile."""

    name: str
    run: Callable[[], Coroutine[None, None, str]]
    advice: str
    needs: str = ""


def examine(settings: Settings, *, as_json: bool) -> int:
    """Print the findings; answer 0 if all is well, else 1."""
    findings = asyncio.run(_examined(settings, Console(stderr=True)))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))  # noqa: T201  # what was asked for
    else:
        _show(findings)
    return 0 if all(finding.ok for finding in findings) else 1


async def _examined(settings: Settings, console: Console) -> list[Finding]:
    facts = f"mode {settings.mode}, {len(settings.limits)} limits"
    findings = [Finding("configuration", ok=True, detail="; ".join([facts, *warnings(settings)]))]
    if settings.proxies_shown:
        findings.append(Finding("proxies", ok=True, detail=_ways(settings)))
    async with _bench(settings) as bench:
        client = make_client(bench, open_wire)
        bench.stack.push_async_callback(client.aclose)
        for look in _looks(bench, client):
            with console.status(f"checking {look.name} …"):
                findings.append(await _found(look, findings))
    return findings


@asynccontextmanager
async def _bench(settings: Settings) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(settings, SystemClock(), _unobserved, random.Random(), stack)  # noqa: S311  # jitter, no secret


def _ways(settings: Settings) -> str:
    """Which proxy is used for which address."""
    engines = (address_of(settings, name) for name in engine_names(settings))
    addresses = dict.fromkeys(filter(None, (settings.token_url, settings.api_base_url, *engines)))
    return "; ".join(f"{address} {_way(settings.proxies.for_url(address))}" for address in addresses)


def _way(proxy: Proxy | None) -> str:
    return f"through {proxy.url}" if proxy else "directly"


def _looks(bench: Bench, client: TaskApiClient) -> Iterable[Look]:
    settings = bench.settings
    yield Look("token", partial(_token, client), _token_advice(settings))
    yield Look("task api", partial(_task_api, bench, client), _task_api_advice(settings), needs="token")
    for name in engine_names(settings):
        yield Look(f"provider {name}", partial(_provider, bench, name), _provider_advice(name, settings))
    yield Look("state", partial(_state, bench), STATE_ADVICE)


def _token_advice(settings: Settings) -> str:
    return (
        "Check OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET and ORY_PROJECT_SLUG or OAUTH2_TOKEN_URL, and that "
        f"{settings.token_url} can be reached from here."
    )


def _task_api_advice(settings: Settings) -> str:
    return (
        f"Check API_BASE_URL ({settings.api_base_url}, to which {PENDING_PATH} is added), that the API runs, and that "
        "its guard lets this client read and write tasks."
    )


def _provider_advice(name: str, settings: Settings) -> str:
    match name:
        case "openai":
            return f"Check OPENAI_API_KEY, and that OPENAI_BASE_URL ({settings.openai_base_url}) is right and in reach."
        case "ollama":
            return f"Check SUPPORTED_MODELS, and that Ollama runs at OLLAMA_BASE_URL ({settings.ollama_base_url})."
        case _:
            return "Check the provider's settings: docs/providers.md names them."


async def _found(look: Look, earlier: Iterable[Finding]) -> Finding:
    if any(finding.name == look.needs and not finding.ok for finding in earlier):
        return Finding(look.name, ok=False, detail=f"not tried, for that needs the {look.needs}")
    try:
        return Finding(look.name, ok=True, detail=await look.run())
    except TaskProcessorError as error:
        return Finding(look.name, ok=False, detail=str(error), advice=look.advice)


async def _token(client: TaskApiClient) -> str:
    await client.authenticate()
    return "obtained"


async def _task_api(bench: Bench, client: TaskApiClient) -> str:
    page = await ApiTaskSource(client, clock=bench.clock).fetch(Wish(limit=1))
    listed = f"{page.listed} listed for limit=1" + (" (it ignores the limit)" if page.listed > 1 else "")
    return f"answers; {listed}; {await _features(bench, client)}"


async def _features(bench: Bench, client: TaskApiClient) -> str:
    """Which optional routes there are, asked without any effect."""
    features = make_features(bench, client)
    found = [name for name in bench.settings.wanted_features if await _has(features, Feature(name))]
    if not bench.settings.wanted_features:
        return "optional routes are not used"
    return f"optional routes: {', '.join(found) or 'none'}"


async def _has(features: Features, feature: Feature) -> bool:
    try:
        return await features.has(feature)
    except RouteMissing:
        return False


async def _provider(bench: Bench, name: str) -> str:
    engine = make_engine(bench, name)
    if engine.look is not None:
        await engine.look()
    model = bench.settings.supported_models[0] if name == "ollama" else bench.settings.default_model
    try:
        async with asyncio.timeout(engine.timeout):
            answer = await engine.provider.embed([WORD], model=model, dimensions=None)
    except TimeoutError as error:
        raise ConfigurationError([f"no answer within {engine.timeout:g} seconds"]) from error
    return f"{answer.model} gives vectors of {len(answer.vectors[0]) // 4} dimensions"


async def _state(bench: Bench) -> str:
    url = bench.settings.state_location
    if is_postgres(url):
        return await _database(bench, url)
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return _creatable(path)
    return await _held(bench, url, name=str(path))


async def _database(bench: Bench, url: str) -> str:
    async with open_storage(url, exclusive=False, prepare=_whatever_it_holds) as storage:
        number = await storage.read(schema_number)
    if number is None:
        return f"{bench.settings.state_shown} answers; its tables will be made at the first start"
    return await _held(bench, url, name=bench.settings.state_shown)


def _whatever_it_holds(connection: Connection, *, name: str) -> None:
    """Any schema is to be looked at, and none."""
    del connection, name


async def _held(bench: Bench, url: str, *, name: str) -> str:
    async with open_storage(url, exclusive=False) as storage:
        backlog = await SqlJournal(storage, bench.clock).backlog()
    held = backlog.ready + backlog.deferred + backlog.claimed
    return f"{name}: {held} tasks waiting, {backlog.unreported} unreported, {backlog.parked} parked"


def _creatable(path: Path) -> str:
    folder = next(parent for parent in path.parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise ConfigurationError([f"{path} cannot be made: {folder} is not writable"])
    return f"{path} will be made at the first start"


def _show(findings: list[Finding]) -> None:
    table = Table(title="AI Task Processor: what works", show_lines=False)
    for heading in ("", "what", "how it is", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        table.add_row(mark, finding.name, finding.detail, finding.advice)
    Console().print(table)


def _unobserved(event: Event) -> None:
    """Nobody watches: what is found is shown at the end."""
    del event
