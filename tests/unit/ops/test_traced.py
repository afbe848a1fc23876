import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from ai_task_processor.domain.errors import ProviderRejected, ProviderUnavailable, TaskApiUnavailable
from ai_task_processor.domain.events import BatchSettled, BatchSplit, Reported, TaskAccepted
from ai_task_processor.domain.outcome import Failed
from ai_task_processor.domain.ports import Entry, Fact, Link, Receipt, SpanRef, Verdict, Wish
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.domain.work import Batch, Work
from ai_task_processor.ops.traced import MOST_REMEMBERED, Traces, http_span
from tests.fakes.flow import Echo, page, task


@dataclass
class Recorded:
    """A span; ``ended`` is when it ended among all others, 0 while it lasts."""

    name: str
    facts: dict[str, Fact]
    inside: "Recorded | None"
    links: Sequence[Link]
    to_server: bool
    failure: str = ""
    ended: int = 0
    headers: Mapping[str, str] = field(default_factory=lambda: {"traceparent": "00-1-2-01"})

    @property
    def ref(self) -> SpanRef:
        return self

    def note(self, facts: Mapping[str, Fact]) -> None:
        self.facts.update(facts)

    def fail(self, kind: str) -> None:
        self.failure = kind


class Recorder:
    """A tracer that remembers."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []
        self._entered: list[Recorded] = []
        self._ended = 0

    @contextmanager
    def span(
        self,
        name: str,
        facts: Mapping[str, Fact],
        *,
        to_server: bool = False,
        parent: SpanRef | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Recorded]:
        inside = parent if isinstance(parent, Recorded) else next(reversed(self._entered), None)
        span = Recorded(name, dict(facts), inside, links, to_server)
        self.spans.append(span)
        self._entered.append(span)
        try:
            yield span
        finally:
            self._entered.remove(span)
            self._ended += 1
            span.ended = self._ended

    def named(self, name: str) -> list[Recorded]:
        return [span for span in self.spans if span.name == name]


class Pages:
    """A source of one page."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def fetch(self, wish: Wish) -> Page:
        del wish
        return self._page


class Post:
    """Answers deliveries with these, one after the other."""

    def __init__(self, *verdicts: Verdict) -> None:
        self._verdicts = list(verdicts)

    async def at_once(self) -> int:
        return 10

    async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        return [self._verdicts.pop(0) for _ in entries]

    async def announce(self, task: Task) -> Receipt:
        del task
        return Receipt.TAKEN


def batch(*tasks: Task) -> Batch:
    return Batch("echo", "key", tuple(Work(one, "key", None) for one in tasks))


def settled(size: int) -> BatchSettled:
    return BatchSettled("echo", "key", size, succeeded=size, failed=0, deferred=0, seconds=0.1)


def entry(task_id: str) -> Entry:
    return Entry(task_id, "echo", f"c-{task_id}", Failed("no"), 0.0)


async def test_a_batch_lasts_until_it_is_settled_and_links_to_where_its_tasks_come_from() -> None:
    tracer = Recorder()
    traces = Traces(tracer)
    tasks = [task("a"), task("b")]
    await traces.source(Pages(page(*tasks))).fetch(Wish(10))
    traces(TaskAccepted("a", "c-a", "echo"))
    await traces.processor(Echo()).perform(batch(*tasks))
    (fetch,), (process,), (settle,) = (tracer.named(name) for name in ("fetch", "process echo", "settle"))
    assert (process.ended, settle.ended) == (0, 0)
    traces(settled(2))
    assert fetch.ended < settle.ended < process.ended
    assert settle.inside is process
    assert [(link.to, link.facts["ai_task_processor.task.id"]) for link in process.links] == [(fetch, "a"), (None, "b")]
    assert process.facts["ai_task_processor.batch.succeeded"] == 2
    traces(settled(1))
    assert process.facts["ai_task_processor.batch.succeeded"] == 2, "what was settled without a batch is none of it"


@pytest.mark.parametrize(
    ("error", "end"),
    [(ProviderUnavailable("down"), settled(1)), (ProviderRejected("no"), BatchSplit("echo", "k", 1, ""))],
)
async def test_a_batch_that_fails_ends_when_it_is_settled_or_split(error: Exception, end: BatchSettled) -> None:
    tracer = Recorder()
    traces = Traces(tracer)

    def fault(_ids: Sequence[str]) -> None:
        raise error

    with pytest.raises(type(error)):
        await traces.processor(Echo(fault)).perform(batch(task("a")))
    (process,) = tracer.named("process echo")
    assert (process.failure, process.ended) == (type(error).__name__, 0)
    traces(end)
    assert process.ended


async def test_a_batch_that_is_cancelled_ends_at_once() -> None:
    tracer = Recorder()
    traces = Traces(tracer)

    def fault(_ids: Sequence[str]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await traces.processor(Echo(fault)).perform(batch(task("a")))
    assert tracer.named("process echo")[0].ended
    assert not tracer.named("settle")


async def test_lanes_side_by_side_do_not_mix_their_batches() -> None:
    tracer = Recorder()
    traces = Traces(tracer)
    processor = traces.processor(Echo())
    both_performed = asyncio.Barrier(2)

    async def lane(name: str) -> None:
        await processor.perform(batch(task(name)))
        await both_performed.wait()
        traces(settled(1))

    async with asyncio.TaskGroup() as group:
        group.create_task(lane("a"))
        group.create_task(lane("b"))
    assert [span.facts["ai_task_processor.batch.succeeded"] for span in tracer.named("process echo")] == [1, 1]


async def test_a_delivery_is_part_of_the_trace_of_its_batch() -> None:
    tracer = Recorder()
    traces = Traces(tracer)
    processor = traces.processor(Echo())
    for names in (("a", "b"), ("c",)):
        await processor.perform(batch(*map(task, names)))
        traces(settled(len(names)))
    first, second = tracer.named("process echo")
    reporter = traces.reporter(Post(*[Receipt.TAKEN] * 5, TaskApiUnavailable("later")))
    for names in (("a",), ("a", "b"), ("b", "c"), ("unknown",)):
        await reporter.report([entry(name) for name in names][-2:])
    alone, together, of_two, unknown = tracer.named("report")
    assert (alone.inside, together.inside, of_two.inside, unknown.inside) == (first, first, None, None)
    assert [link.to for link in of_two.links] == [first, second]
    assert together.facts["ai_task_processor.report.taken"] == 2
    assert unknown.failure == "TaskApiUnavailable"
    traces(Reported("a", "c-a", "echo", "failed", "taken", 0.0))
    assert traces.parents([entry("a")]) == []


async def test_what_is_remembered_is_bounded() -> None:
    tracer = Recorder()
    traces = Traces(tracer)
    await traces.source(Pages(page())).fetch(Wish(1))
    for number in range(MOST_REMEMBERED + 10):
        traces(TaskAccepted(str(number), "c", "echo"))
    await traces.processor(Echo()).perform(batch(task("0"), task("9"), task("10")))
    assert [link.to is None for link in tracer.named("process echo")[0].links] == [True, True, False]


@pytest.mark.parametrize(("status", "failure"), [(200, ""), (404, "404"), (503, "503")])
def test_a_request_says_what_the_conventions_want(status: int, failure: str) -> None:
    tracer = Recorder()
    with http_span(tracer, "GET", "https://api.example.com/api/ai-tasks/7?limit=3", "/api/ai-tasks/{id}") as request:
        assert request.headers == {"traceparent": "00-1-2-01"}
        request.answered(status)
    (span,) = tracer.spans
    assert (span.name, span.to_server, span.failure) == ("GET /api/ai-tasks/{id}", True, failure)
    assert span.facts == {
        "http.request.method": "GET",
        "url.full": "https://api.example.com/api/ai-tasks/7?limit=3",
        "url.template": "/api/ai-tasks/{id}",
        "server.address": "api.example.com",
        "server.port": 443,
        "http.response.status_code": status,
    }
