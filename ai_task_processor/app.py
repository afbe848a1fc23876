"""The composition root: settings become wired objects that live as long as one context."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from zoneinfo import ZoneInfo

import httpx2

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock, SystemClock
from ai_task_processor.domain.events import Event, Reopened, Running, Started, Stopped, Stopping, Warned
from ai_task_processor.domain.ports import (
    EmbeddingProvider,
    Journal,
    Observer,
    Processor,
    RateLimiter,
    Reporter,
    TaskSource,
    Turn,
    WindowUsage,
)
from ai_task_processor.engines import (
    Bench,
    Job,
    MakeEngine,
    Memory,
    combined,
    engine_names,
    least,
    make_engine,
    measure,
    open_memory,
    short_memory,
)
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.limits.ledger import LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.store import SharedLimitStore, SqlLimitStore
from ai_task_processor.limits.timeline import boot_id
from ai_task_processor.ops.health import Health, HealthSettings
from ai_task_processor.ops.http import OnRequest, OpsServer
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.observers import Observers
from ai_task_processor.ops.watchdog import watch_loop
from ai_task_processor.pipeline.delivery import Delivery
from ai_task_processor.pipeline.dispatch import Dispatch, DispatchSettings
from ai_task_processor.pipeline.intake import Intake, IntakeSettings
from ai_task_processor.pipeline.retention import Retention
from ai_task_processor.pipeline.run import Bell, Lane, Pipeline
from ai_task_processor.processors import text_embedding
from ai_task_processor.providers.models import MAX_REQUEST_TOKENS
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.settings import Settings
from ai_task_processor.storage.engine import Storage, is_postgres, open_storage
from ai_task_processor.task_api.auth import Credentials, TokenAuth
from ai_task_processor.task_api.client import TaskApiClient, counts_for_breaker, open_transport
from ai_task_processor.task_api.reporter import ApiReporter
from ai_task_processor.task_api.source import ApiTaskSource

SERVICE = "ai-task-processor"
TASK_API = "task_api"

STARTUP_GRACE = 120.0
"""Seconds without a sign of progress in which a start still counts as alive."""

POLL_PATIENCE = 12
"""How many request timeouts a poll may take before it counts as hanging; a page may take ten of them."""

GLANCE = 10.0
"""Seconds after which an idle stage looks into the journal by itself: an operator may have sent rows again."""

SHARED_GLANCE = 1.0
"""The same for dispatch where replicas share the journal: another one polls."""

SPARE_CONNECTIONS = 4
"""Connections to the Task API beside those of delivery: for fetches, tokens and announcements."""


@dataclass(frozen=True, slots=True)
class State:
    """What outlives the process; without ``memory`` the providers' ends with it.

    Where replicas share it: ``remember`` opens the memory once the database answers, ``turn`` says who polls, ``keep``
    is to run as long as this process holds anything, others bring work every ``glance`` seconds, and ``events`` tells
    of a database that is away.
    """

    journal: Journal
    limits: LimitStore
    memory: Memory | None = None
    remember: Callable[[], Awaitable[Memory]] | None = None
    turn: Turn | None = None
    keep: Sequence[Job] = ()
    glance: float = math.inf
    events: "Relay | None" = None


class Relay:
    """An observer that passes events on as soon as there is somebody to tell."""

    def __init__(self) -> None:
        self.to: Observer | None = None

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on."""
        if self.to:
            self.to(event)


@asynccontextmanager
async def open_state(settings: Settings, clock: Clock) -> AsyncIterator[State]:
    """Open the database of ``STATE_URL``, as its owner or as one of its replicas; raises JournalError."""
    relay = Relay()
    async with open_storage(settings.state_location, observer=relay) as storage:
        if is_postgres(settings.state_location):
            async with _shared_state(storage, settings, clock, relay) as state:
                yield state
        else:
            yield await state_in(storage, settings, clock)


@asynccontextmanager
async def _shared_state(storage: Storage, settings: Settings, clock: Clock, relay: Relay) -> AsyncIterator[State]:
    from ai_task_processor.storage.postgres import database_time  # noqa: PLC0415  # costs a start that needs none

    lease = Lease(storage, seconds=settings.lease_seconds, time=database_time)
    try:
        yield State(
            journal=SqlJournal(storage, clock, lease),
            limits=SharedLimitStore(storage, time=database_time),
            remember=partial(open_memory, settings, storage),
            turn=lease,
            keep=(lease.keep,),
            glance=SHARED_GLANCE,
            events=relay,
        )
    finally:
        await lease.leave()


async def state_in(storage: Storage, settings: Settings, clock: Clock) -> State:
    """The state in a database that this process owns."""
    return State(
        journal=SqlJournal(storage, clock),
        limits=SqlLimitStore(storage),
        memory=await open_memory(settings, storage),
    )


def open_wire(connections: int) -> httpx2.AsyncBaseTransport:
    """Open a pool of connections to the Task API."""
    return open_transport(connections=connections)


MakeProcessor = Callable[[Bench, EmbeddingProvider], Processor]


@dataclass(frozen=True, slots=True)
class World:
    """What lies outside of the flow: time, chance, the wire, engines, task types, state. A simulation brings its own.

    ``boot`` names the machine's run, ``processors`` are made by task type. Somebody beside us may change the journal,
    so idle stages look into it every ``glance`` seconds. Without ``serves`` there are no routes for supervisors; with
    ``watches`` the event loop is watched, which is of no use where time is simulated.
    """

    clock: Clock = field(default_factory=SystemClock)
    boot: Callable[[], str] = boot_id
    randomness: random.Random = field(default_factory=random.Random)
    wire: Callable[[int], httpx2.AsyncBaseTransport] = open_wire
    engine: MakeEngine = make_engine
    processors: Mapping[str, MakeProcessor] = field(default_factory=lambda: PROCESSORS)
    state: Callable[[Settings, Clock], AbstractAsyncContextManager[State]] = open_state
    glance: float = GLANCE
    serves: bool = True
    watches: bool = False


class App:
    """The wired program: runs until it is stopped."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        poll_now: Callable[[], None],
        background: Sequence[Job],
        journal: Journal,
        observer: Observer,
        ops_url: str,
    ) -> None:
        self.ops_url = ops_url
        """Where /health, /ready and /metrics are answered; empty where they are not."""
        self.poll_now = poll_now
        """Poll the Task API at once, whatever the interval says."""
        self._pipeline = pipeline
        self._background = background
        self._journal = journal
        self._observer = observer

    async def run(self) -> None:
        """Run every stage until :meth:`stop`, then finish and deliver what is held."""
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(job()) for job in self._background]
            self._observer(Running(routes=self.ops_url))
            await self._pipeline.run()
            for task in background:
                task.cancel()
        backlog = await self._journal.backlog()
        self._observer(Stopped(unreported=backlog.unreported))

    def stop(self, reason: str, grace: float) -> None:
        """Take nothing new; ``grace`` is how many seconds the owner of the process will wait."""
        self._observer(Stopping(reason=reason, grace=grace))
        self._pipeline.stop()


@asynccontextmanager
async def open_app(
    settings: Settings, *, observers: Sequence[Observer] = (), world: World | None = None
) -> AsyncIterator[App]:
    """Wire the program, tell ``observers`` what happens, and close everything at the end.

    Raises ConfigurationError or JournalError.
    """
    world = world or World()
    clock = world.clock
    health, metrics = _health(settings, clock), _metrics(settings, world.processors, clock)
    observer = Observers(health, metrics, *observers)
    observer(Started(facts=_facts(settings)))
    for warning in _warnings(settings):
        observer(Warned(message=warning))
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(world.state(settings, clock))
        if state.events:
            state.events.to = observer
        limiter: Limiter | None = None
        app: App | None = None

        def usage() -> Mapping[str, WindowUsage]:
            return limiter.usage() if limiter else {}

        def poll() -> None:
            if app:  # which polls when it starts
                app.poll_now()

        url = ""
        if world.serves:  # already now: the database may be away for a while
            url = await _serve(stack, settings, health, metrics, state.journal, usage, poll, clock)
        limiter = await _limiter(settings, state.limits, clock, observer, world.boot())
        await _reopen(state.journal, observer)
        bench = Bench(settings, clock, observer, world.randomness, stack)
        engines = {name: world.engine(bench, name) for name in engine_names(settings)}
        provider = await combined(bench, engines, limiter, await _memory(state, settings))
        processors = {kind: make(bench, provider) for kind, make in world.processors.items()}
        source, reporter = _task_api(bench, world.wire)
        pipeline, poll_now = _pipeline(bench, state, limiter, processors, source, reporter, glance=world.glance)
        background = [*(engine.keep for engine in engines.values() if engine.keep), *state.keep, limiter.watch]
        if world.watches:
            background.append(partial(watch_loop, observer))
        app = App(
            pipeline, poll_now=poll_now, background=background, journal=state.journal, observer=observer, ops_url=url
        )
        yield app


# --- State ------------------------------------------------------------------------------------------------------------


async def _limiter(settings: Settings, store: LimitStore, clock: Clock, observer: Observer, boot: str) -> Limiter:
    return await Limiter.open(
        settings.limits,
        strategy=settings.rate_limit_strategy,
        zone=ZoneInfo(settings.rate_limit_timezone),
        store=store,
        clock=clock,
        observer=observer,
        boot=boot,
    )


async def _memory(state: State, settings: Settings) -> Memory:
    if state.remember:
        return await state.remember()
    return state.memory or short_memory(settings)


async def _reopen(journal: Journal, observer: Observer) -> None:
    await journal.reopen()
    backlog = await journal.backlog()
    due = backlog.ready + backlog.deferred
    observer(Reopened(due=due, unreported=backlog.unreported, parked=backlog.parked))


# --- Work -------------------------------------------------------------------------------------------------------------


def _text_embedding(bench: Bench, provider: EmbeddingProvider) -> Processor:
    settings = bench.settings
    return text_embedding.TextEmbedding(
        provider,
        default_model=settings.default_model,
        examples=settings.supported_models,
        truncate=settings.long_input == "truncate",
        measure=measure(settings),
    )


PROCESSORS: Mapping[str, MakeProcessor] = MappingProxyType({text_embedding.TYPE: _text_embedding})
"""How the processor of each task type is made; a new task type enters here."""


def _task_api(bench: Bench, wire: Callable[[int], httpx2.AsyncBaseTransport]) -> tuple[TaskSource, Reporter]:
    client = make_client(bench, wire)
    bench.stack.push_async_callback(client.aclose)
    detailed = bench.settings.result_format == "detailed"
    return ApiTaskSource(client, clock=bench.clock), ApiReporter(client, detailed=detailed)


def make_client(bench: Bench, wire: Callable[[int], httpx2.AsyncBaseTransport]) -> TaskApiClient:
    """Make the client of the Task API, which is its owner's to close."""
    settings = bench.settings
    transport = wire(settings.delivery_concurrency + SPARE_CONNECTIONS)
    auth = TokenAuth(
        credentials(settings),
        transport=transport,
        timeout=settings.request_timeout,
        clock=bench.clock,
        observer=bench.observer,
    )
    breaker = Breaker(
        TASK_API,
        threshold=settings.circuit_breaker_threshold,
        recovery_seconds=settings.circuit_breaker_recovery_seconds,
        clock=bench.clock,
        observer=bench.observer,
        counts=counts_for_breaker,
    )
    return TaskApiClient(
        settings.api_base_url,
        auth,
        transport=transport,
        timeout=settings.request_timeout,
        breaker=breaker,
        clock=bench.clock,
        observer=bench.observer,
    )


def credentials(settings: Settings) -> Credentials:
    """Who we are to the token endpoint."""
    return Credentials(
        token_url=settings.token_url,
        client_id=settings.oauth2_client_id,
        client_secret=settings.oauth2_client_secret.get_secret_value(),
        scope=settings.oauth2_scope,
        audience=settings.oauth2_audience,
        auth_method=settings.oauth2_auth_method,
    )


def _pipeline(
    bench: Bench,
    state: State,
    limiter: RateLimiter,
    processors: Mapping[str, Processor],
    source: TaskSource,
    reporter: Reporter,
    *,
    glance: float,
) -> tuple[Pipeline, Callable[[], None]]:
    """The flow as drawn: intake wakes dispatch, dispatch wakes delivery, and intake because there is room again.

    Beside it what has the Task API polled at once.
    """
    settings, clock, observer, randomness = bench.settings, bench.clock, bench.observer, bench.randomness
    intake = Intake(
        IntakeSettings(
            interval=settings.polling_interval_seconds,
            fetch_limit=settings.fetch_limit,
            hold_limit=settings.hold_limit,
            keep_unknown=settings.unknown_task_types == "fail",
            least=least(settings),
        ),
        source=source,
        journal=state.journal,
        processors=processors,
        limiter=limiter,
        clock=clock,
        observer=observer,
        randomness=randomness,
        turn=state.turn,
    )
    dispatch = Dispatch(
        DispatchSettings(
            batch_size=settings.batch_size,
            max_attempts=settings.max_attempts,
            announce=settings.claim_tasks,
            batch_tokens=MAX_REQUEST_TOKENS,
            least=least(settings),
        ),
        journal=state.journal,
        processors=processors,
        limiter=limiter,
        reporter=reporter,
        clock=clock,
        observer=observer,
        randomness=randomness,
    )
    delivery = Delivery(journal=state.journal, reporter=reporter, clock=clock, observer=observer, randomness=randomness)
    retention = Retention(settings.retention_seconds, journal=state.journal, clock=clock)
    fetched, settled, room = Bell(), Bell(), Bell()
    look_for_tasks = min(glance, state.glance)

    def poll_now() -> None:
        intake.poll_now()
        room.ring()

    pipeline = Pipeline(
        inner=[
            Lane("intake", intake, room, wakes=(fetched,), drops=True),
            Lane("retention", retention, Bell(), drops=True),
            *(
                Lane(f"dispatch {number}", dispatch, fetched, wakes=(settled, room), longest_rest=look_for_tasks)
                for number in range(settings.concurrency_limit)
            ),
        ],
        outer=[
            Lane(f"delivery {number}", delivery, settled, longest_rest=glance)
            for number in range(settings.delivery_concurrency)
        ],
    )
    return pipeline, poll_now


# --- Operation --------------------------------------------------------------------------------------------------------


def _health(settings: Settings, clock: Clock) -> Health:
    names = engine_names(settings)
    return Health(
        HealthSettings(
            service=SERVICE,
            version=__version__,
            poll_margin=POLL_PATIENCE * settings.request_timeout,
            startup_grace=STARTUP_GRACE,
            limits_enabled=settings.rate_limit_enabled,
            limits_strategy=settings.rate_limit_strategy,
            providers=names,
            preparing=[name for name in names if name == "ollama"],
        ),
        clock=clock,
        storage=lambda: None,  # a state that cannot be written ends the process
    )


def _metrics(settings: Settings, types: Collection[str], clock: Clock) -> Metrics:
    return Metrics(
        __version__,
        clock=clock,
        types=tuple(types),
        models=(settings.default_model, *settings.supported_models),
        breakers=(TASK_API, *engine_names(settings)),
        concurrency=dict.fromkeys(engine_names(settings), settings.concurrency_limit),
    )


async def _serve(
    stack: AsyncExitStack,
    settings: Settings,
    health: Health,
    metrics: Metrics,
    journal: Journal,
    usage: Callable[[], Mapping[str, WindowUsage]],
    poll: Callable[[], None],
    clock: Clock,
) -> str:
    server = OpsServer(
        settings.metrics_host,
        settings.metrics_port,
        health=health,
        metrics=metrics,
        backlog=journal.backlog,
        usage=usage,
        clock=clock,
        on_request=OnRequest(poll, settings.poll_token.get_secret_value()),
    )
    return (await stack.enter_async_context(server)).url


def _facts(settings: Settings) -> dict[str, object]:
    """What the first line of the log tells."""
    return {
        "version": __version__,
        "mode": settings.mode,
        "default_model": settings.default_model,
        "api_base_url": settings.api_base_url,
        "token_url": settings.token_url,
        "batch_size": settings.batch_size,
        "concurrency_limit": settings.concurrency_limit,
        "polling_interval_seconds": settings.polling_interval_seconds,
        "limits": dict(settings.limits_shown) or "none",
        "limits_strategy": settings.rate_limit_strategy,
        "state": settings.state_shown,
    }


def _warnings(settings: Settings) -> list[str]:
    """What an operator should know before it surprises."""
    warnings: list[str] = []
    if settings.mode == "mock":
        why = (
            "OPENAI_API_KEY is the placeholder of the example file" if settings.has_placeholder_key else "as configured"
        )
        warnings.append(f"MOCK PROCESSING ({why}): results are made from the text's hash and mean nothing")
    if settings.mode == "local":
        warnings.append("local mode answers every model name with the model in the process")
    if settings.mode == "hybrid" and settings.fallback_model:
        warnings.append(
            f"while Ollama is away OpenAI's {settings.fallback_model} answers for its models: vectors of the two are "
            "not comparable; HYBRID_FALLBACK_MODEL=none waits for Ollama instead"
        )
    if not settings.api_base_url.startswith("https://") and not settings.is_local_api:
        warnings.append("API_BASE_URL is not https: tokens and texts cross the network in the open")
    return warnings
