"""The composition root: settings become wired objects that live as long as one context."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from zoneinfo import ZoneInfo

from msgspec import Struct, field

from ai_task_processor.domain.clock import Clock, SystemClock
from ai_task_processor.domain.events import Reopened, Running, Started, Stopped, Stopping, Warned
from ai_task_processor.domain.ports import EmbeddingProvider, Journal, Observer, Processor, Tracer, WindowUsage
from ai_task_processor.limits.ledger import LimitStore
from ai_task_processor.limits.limiter import Limiter
from ai_task_processor.limits.timeline import boot_id
from ai_task_processor.ops.observers import Observers
from ai_task_processor.ops.traced import Traces
from ai_task_processor.ops.watchdog import watch_loop
from ai_task_processor.pipeline.gate import Gate
from ai_task_processor.pipeline.run import Pipeline
from ai_task_processor.processors import text_embedding
from ai_task_processor.settings import Settings
from ai_task_processor.wiring.engines import (
    Bench,
    Engine,
    Job,
    MakeEngine,
    combined,
    engine_names,
    make_engine,
    measure,
)
from ai_task_processor.wiring.flow import Parts, make_flow
from ai_task_processor.wiring.operation import Watchers, facts, make_watchers, serve_operation, warnings
from ai_task_processor.wiring.state import State, memory_of, open_state, worker_name
from ai_task_processor.wiring.task_api import MakeWire, open_task_api, open_wire

GLANCE = 10.0
"""Seconds after which an idle stage looks into the journal by itself: an operator may have sent rows again."""

MakeProcessor = Callable[[Bench, EmbeddingProvider], Processor]


class World(Struct, frozen=True):
    """What lies outside of the flow: time, chance, the wire, engines, task types, state. A simulation brings its own.

    ``boot`` names the machine's run, ``processors`` are made by task type. Somebody beside us may change the journal,
    so idle stages look into it every ``glance`` seconds. Without ``serves`` there are no routes for supervisors; with
    ``watches`` the event loop is watched, which is of no use where time is simulated. ``tracer`` records what is done.
    """

    clock: Clock = field(default_factory=SystemClock)
    boot: Callable[[], str] = boot_id
    randomness: random.Random = field(default_factory=random.Random)
    wire: MakeWire = open_wire
    engine: MakeEngine = make_engine
    processors: Mapping[str, MakeProcessor] = field(default_factory=lambda: PROCESSORS)
    state: Callable[[Settings, Clock], AbstractAsyncContextManager[State]] = open_state
    glance: float = GLANCE
    serves: bool = True
    watches: bool = False
    tracer: Tracer | None = None


class App:
    """The wired program: runs until it is stopped."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        poll_now: Callable[[], None],
        adjust: Callable[[Settings], Awaitable[None]],
        background: Sequence[Job],
        journal: Journal,
        observer: Observer,
        ops_url: str,
    ) -> None:
        self.ops_url = ops_url
        """Where /health, /ready and /metrics are answered; empty where they are not."""
        self.poll_now = poll_now
        """Poll the Task API at once, whatever the interval says."""
        self.adjust = adjust
        """Go on with settings that differ in adjustable ones only. Raises JournalError."""
        self.observer = observer
        """Is told what happens."""
        self._pipeline = pipeline
        self._background = background
        self._journal = journal

    async def run(self) -> None:
        """Run every stage until :meth:`stop`, then finish and deliver what is held."""
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(job()) for job in self._background]
            self.observer(Running(routes=self.ops_url))
            await self._pipeline.run()
            for task in background:
                task.cancel()
        backlog = await self._journal.backlog()
        self.observer(Stopped(unreported=backlog.unreported))

    def stop(self, reason: str, grace: float) -> None:
        """Take nothing new; ``grace`` is how many seconds the owner of the process will wait."""
        self.observer(Stopping(reason=reason, grace=grace))
        self._pipeline.stop()


@asynccontextmanager
async def open_app(
    settings: Settings, *, observers: Sequence[Observer] = (), world: World | None = None
) -> AsyncIterator[App]:
    """Wire the program, tell ``observers`` what happens, and close everything at the end.

    Raises ConfigurationError or JournalError.
    """
    world = world or World()
    watchers = make_watchers(settings, world.processors, world.clock)
    traces = Traces(world.tracer) if world.tracer else None
    observer = Observers(watchers.health, watchers.metrics, watchers.recent, *observers, *([traces] if traces else []))
    observer(Started(facts=facts(settings)))
    for warning in warnings(settings):
        observer(Warned(message=warning))
    async with AsyncExitStack() as stack:
        yield await _opened(
            Bench(settings, world.clock, observer, world.randomness, stack, traces=traces), world, watchers
        )


class _Answers:
    """What the routes ask of parts that may not be there yet: the database may be away for a while at the start."""

    def __init__(self) -> None:
        self.limiter: Limiter | None = None
        self.app: App | None = None

    def usage(self) -> Mapping[str, WindowUsage]:
        return self.limiter.usage() if self.limiter else {}

    def poll(self) -> None:
        if self.app:  # which polls when it starts
            self.app.poll_now()


async def _opened(bench: Bench, world: World, watchers: Watchers) -> App:
    """The routes first, then what waits for the state, then the flow; all is closed with the bench."""
    settings, observer, clock = bench.settings, bench.observer, bench.clock
    state = await bench.stack.enter_async_context(world.state(settings, clock))
    if state.events:
        state.events.to = observer
    answers, gate, url = _Answers(), Gate(observer), ""
    if world.serves:
        url = await serve_operation(bench.stack, settings, watchers, state, answers.usage, answers.poll, gate, clock)
    answers.limiter = limiter = await _limiter(settings, state.limits, clock, observer, world.boot())
    await _reopen(state.journal, observer)
    engines = {name: world.engine(bench, name) for name in engine_names(settings)}
    flow = make_flow(bench, await _parts(bench, world, state, limiter, engines, gate), glance=world.glance)
    await flow.begin()
    bench.adjustments.append(lambda changed: watchers.health.adjust(limits_enabled=changed.rate_limit_enabled))
    answers.app = app = App(
        flow.pipeline,
        poll_now=flow.poll_now,
        adjust=partial(_adjust, limiter, bench.adjustments, flow.wake),
        background=_background(bench, world, state, limiter, engines),
        journal=state.journal,
        observer=observer,
        ops_url=url,
    )
    return app


async def _parts(
    bench: Bench, world: World, state: State, limiter: Limiter, engines: Mapping[str, Engine], gate: Gate
) -> Parts:
    provider = await combined(bench, engines, limiter, await memory_of(state, bench.settings))
    processors = {kind: make(bench, provider) for kind, make in world.processors.items()}
    if bench.traces:
        processors = {kind: bench.traces.processor(one) for kind, one in processors.items()}
    api = open_task_api(bench, world.wire, await worker_name(state))
    sizes = [engine.batch_size for engine in engines.values() if engine.batch_size]
    return Parts(state, limiter, processors, api.source, api.leases, api.reporter, gate, sizes)


def _background(
    bench: Bench, world: World, state: State, limiter: Limiter, engines: Mapping[str, Engine]
) -> Sequence[Job]:
    """What runs beside the flow as long as that does."""
    watch = [partial(watch_loop, bench.observer)] if world.watches else []
    return [*(engine.keep for engine in engines.values() if engine.keep), *state.keep, limiter.watch, *watch]


async def _adjust(
    limiter: Limiter, adjustments: Sequence[Callable[[Settings], None]], wake: Callable[[], None], settings: Settings
) -> None:
    """The limiter first, for it may have to wait for the store; all others at one moment."""
    await limiter.adjust(settings.limits)
    for adjust in adjustments:
        adjust(settings)
    wake()


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


async def _reopen(journal: Journal, observer: Observer) -> None:
    await journal.reopen()
    backlog = await journal.backlog()
    due = backlog.ready + backlog.deferred
    observer(Reopened(due=due, unreported=backlog.unreported, parked=backlog.parked))


def _text_embedding(bench: Bench, provider: EmbeddingProvider) -> Processor:
    settings = bench.settings
    processor = text_embedding.TextEmbedding(
        provider,
        default_model=settings.default_model,
        examples=settings.supported_models,
        truncate=settings.long_input == "truncate",
        measure=measure(settings),
    )

    def adjust(changed: Settings) -> None:
        processor.adjust(
            default_model=changed.default_model, examples=changed.supported_models, measure=measure(changed)
        )

    bench.adjustments.append(adjust)
    return processor


PROCESSORS: Mapping[str, MakeProcessor] = MappingProxyType({text_embedding.TYPE: _text_embedding})
"""How the processor of each task type is made; a new task type enters here."""
