"""Spans around the ports of the flow: which there are, what they say, and how they belong together.

A batch is one trace: what its provider is asked, its settlement, and the delivery of its results. It has a link for
each of its tasks to the fetch that brought it. Nothing here is in the way of a flow that nobody traces.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from msgspec import Struct

from ai_task_processor.domain.events import BatchSettled, BatchSplit, Event, Parked, Reported, TaskAccepted
from ai_task_processor.domain.outcome import Outcome
from ai_task_processor.domain.ports import (
    EmbeddingProvider,
    Embeddings,
    Entry,
    Fact,
    Link,
    Processor,
    Receipt,
    Reporter,
    Span,
    SpanRef,
    TaskSource,
    Tracer,
    Verdict,
    Wish,
)
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.domain.work import Batch, Rejection, Work

OURS = "ai_task_processor"
"""What the names of our own facts begin with; all others are OpenTelemetry's."""

MOST_REMEMBERED = 20_000
"""Tasks of which it is remembered where they came from; of older ones a trace does not tell."""

MOST_IDS = 128
"""Ids of tasks that one span names."""

FAILING = 400
"""The least status of HTTP that is a failure."""

_PORTS = {"http": 80, "https": 443}


class Traces:
    """Puts spans around ports, and observes events to learn where they begin and end."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.fetch: ContextVar[SpanRef | None] = ContextVar("fetch", default=None)
        self._batch: ContextVar[_OpenBatch | None] = ContextVar("batch", default=None)
        self._fetched = _Memory()
        self._performed = _Memory()

    def source(self, source: TaskSource) -> TaskSource:
        """The source, with a span around each fetch."""
        return _TracedSource(source, self)

    def processor(self, processor: Processor) -> Processor:
        """The processor, with a trace for each batch."""
        return _TracedProcessor(processor, self)

    def provider(self, provider: EmbeddingProvider, server: str = "") -> EmbeddingProvider:
        """The provider, which asks the server at this address, with a span around each call."""
        return _TracedProvider(provider, self.tracer, server)

    def reporter(self, reporter: Reporter) -> Reporter:
        """The reporter, with a span around each delivery, in the trace of the batch that it comes from."""
        return _TracedReporter(reporter, self)

    def __call__(self, event: Event) -> None:
        """Take note of ``event``."""
        match event:
            case TaskAccepted(task_id=task_id):
                self._fetched.keep(task_id, self.fetch.get())
            case BatchSettled(succeeded=succeeded, failed=failed, deferred=deferred):
                self._end({"succeeded": succeeded, "failed": failed, "deferred": deferred})
            case BatchSplit():
                self._end({"split": True})
            case Reported(task_id=task_id) | Parked(task_id=task_id):
                self._performed.drop(task_id)

    def begin(self, batch: Batch) -> Span:
        """Begin the trace of a batch, which lasts until it is settled."""
        tasks = [work.task for work in batch.works]
        facts: dict[str, Fact] = {
            f"{OURS}.task.type": batch.type,
            f"{OURS}.batch.size": len(tasks),
            f"{OURS}.task.ids": [task.id for task in tasks[:MOST_IDS]],
        }
        links = [Link(self._fetched.of(task.id), _facts_of(task)) for task in tasks]
        held = ExitStack()
        span = held.enter_context(self.tracer.span(f"process {batch.type}", facts, links=links))
        self._batch.set(_OpenBatch(held, span))
        for task in tasks:
            self._performed.keep(task.id, span.ref)
        return span

    def settle(self) -> None:
        """What was performed is written down now."""
        batch = self._batch.get()
        if batch:
            batch.held.enter_context(self.tracer.span("settle", {}))

    def give_up(self) -> None:
        """The batch is not settled: the program ends."""
        self._end({})

    def parents(self, entries: Sequence[Entry]) -> Collection[SpanRef]:
        """The traces of the batches that these outcomes come from, as far as they are known."""
        found = (self._performed.of(entry.task_id) for entry in entries)
        return list({id(ref): ref for ref in found if ref is not None}.values())

    def _end(self, facts: Mapping[str, Fact]) -> None:
        batch = self._batch.get()
        if batch:
            batch.span.note({f"{OURS}.batch.{name}": value for name, value in facts.items()})
            self._batch.set(None)
            batch.held.close()


class _OpenBatch(Struct, frozen=True):
    held: ExitStack
    span: Span


class _Memory:
    """Spans by the id of a task, the oldest forgotten first."""

    def __init__(self) -> None:
        self._refs: OrderedDict[str, SpanRef] = OrderedDict()

    def keep(self, task_id: str, ref: SpanRef | None) -> None:
        if ref is None:
            return
        self._refs[task_id] = ref
        self._refs.move_to_end(task_id)
        if len(self._refs) > MOST_REMEMBERED:
            self._refs.popitem(last=False)

    def of(self, task_id: str) -> SpanRef | None:
        return self._refs.get(task_id)

    def drop(self, task_id: str) -> None:
        self._refs.pop(task_id, None)


# --- Around the ports -------------------------------------------------------------------------------------------------


class _TracedSource:
    def __init__(self, source: TaskSource, traces: Traces) -> None:
        self._source = source
        self._traces = traces

    async def fetch(self, wish: Wish) -> Page:
        with self._traces.tracer.span("fetch", {f"{OURS}.fetch.limit": wish.limit}) as span:
            self._traces.fetch.set(span.ref)
            page = await self._source.fetch(wish)
            span.note({f"{OURS}.fetch.listed": page.listed, f"{OURS}.fetch.tasks": len(page.tasks)})
            return page


class _TracedProcessor:
    def __init__(self, processor: Processor, traces: Traces) -> None:
        self._processor = processor
        self._traces = traces

    @property
    def type(self) -> str:
        return self._processor.type

    def plan(self, task: Task) -> Work | Rejection:
        return self._processor.plan(task)

    async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
        span = self._traces.begin(batch)
        try:
            outcomes = await self._processor.perform(batch)
        except Exception as error:
            span.fail(type(error).__name__)
            self._traces.settle()  # as failed or deferred; or it is split
            raise
        except BaseException:
            self._traces.give_up()
            raise
        self._traces.settle()
        return outcomes


class _TracedProvider:
    """By OpenTelemetry's conventions for generative AI: one span for a call with all its repeats."""

    def __init__(self, provider: EmbeddingProvider, tracer: Tracer, server: str) -> None:
        self._provider = provider
        self._tracer = tracer
        self._facts = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": provider.name} | _server(server)

    @property
    def name(self) -> str:
        return self._provider.name

    def serves(self, model: str) -> bool:
        return self._provider.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        facts = self._facts | {"gen_ai.request.model": model, f"{OURS}.inputs": len(texts)}
        if dimensions is not None:
            facts |= {"gen_ai.embeddings.dimension.count": dimensions}
        with self._tracer.span(f"embeddings {model}", facts, to_server=True) as span:
            answer = await self._provider.embed(texts, model=model, dimensions=dimensions)
            span.note({"gen_ai.response.model": answer.model, "gen_ai.usage.input_tokens": answer.tokens})
            return answer


class _TracedReporter:
    def __init__(self, reporter: Reporter, traces: Traces) -> None:
        self._reporter = reporter
        self._traces = traces

    async def at_once(self) -> int:
        return await self._reporter.at_once()

    async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        parents = self._traces.parents(entries)
        facts: dict[str, Fact] = {f"{OURS}.task.ids": [entry.task_id for entry in entries[:MOST_IDS]]}
        one = next(iter(parents)) if len(parents) == 1 else None
        links = [Link(ref, {}) for ref in parents] if one is None else []
        with self._traces.tracer.span("report", facts, parent=one, links=links) as span:
            verdicts = await self._reporter.report(entries)
            counts = Counter(_word(verdict) for verdict in verdicts)
            span.note({f"{OURS}.report.{word}": count for word, count in counts.items()})
            if errors := [verdict for verdict in verdicts if not isinstance(verdict, Receipt)]:
                span.fail(type(errors[0]).__name__)
            return verdicts

    async def announce(self, task: Task) -> Receipt:
        with self._traces.tracer.span("announce", _facts_of(task)):
            return await self._reporter.announce(task)


def _facts_of(task: Task) -> dict[str, Fact]:
    return {f"{OURS}.task.id": task.id, f"{OURS}.correlation_id": task.correlation_id}


def _word(verdict: Verdict) -> str:
    return verdict.value if isinstance(verdict, Receipt) else type(verdict).__name__


# --- Requests ---------------------------------------------------------------------------------------------------------


class HttpSpan(Struct, frozen=True):
    """A request to a server; ``headers`` are to be sent with it."""

    headers: Mapping[str, str]
    _span: Span

    def answered(self, status: int) -> None:
        """An answer came."""
        self._span.note({"http.response.status_code": status})
        if status >= FAILING:
            self._span.fail(str(status))


@contextmanager
def http_span(tracer: Tracer, method: str, url: str, route: str) -> Iterator[HttpSpan]:
    """A span around a request, by OpenTelemetry's conventions for HTTP; ``route`` is a template without ids."""
    facts = {"http.request.method": method, "url.full": url, "url.template": route} | _server(url)
    with tracer.span(f"{method} {route}", facts, to_server=True) as span:
        yield HttpSpan(span.headers, span)


def _server(url: str) -> dict[str, Fact]:
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or _PORTS.get(parts.scheme, 0)}
