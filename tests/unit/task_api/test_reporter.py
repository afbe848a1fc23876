"""Many outcomes at once: each ends as it would have ended alone."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ai_task_processor.domain.errors import (
    AuthenticationFailed,
    BreakerOpen,
    TaskApiRejected,
    TaskApiUnavailable,
)
from ai_task_processor.domain.events import ApiRequested, FeatureLost
from ai_task_processor.domain.outcome import Failed, Succeeded, Vector
from ai_task_processor.domain.ports import Entry, Receipt
from ai_task_processor.task_api.features import FIRST_WAIT
from ai_task_processor.task_api.parcels import LARGEST, SMALLEST
from ai_task_processor.task_api.reporter import MOST_AT_ONCE, UNANSWERED
from tests.fakes.task_api_server import FakeTaskApi, Fault, answer, drop, hang, truncate

MakeEntry = Callable[..., Entry]
IDS = ("a", "b", "c", "d")
TAKEN = Receipt.TAKEN


@pytest.fixture
async def bulk(api: FakeTaskApi, side: Any) -> Any:
    """Our side, which knows that there is a route for many results."""
    api.features = {"bulk"}
    api.add(*({"_id": task_id} for task_id in IDS))
    assert await side.reporter.at_once() == MOST_AT_ONCE
    api.requests.clear()
    return side


async def report(side: Any, entries: Sequence[Entry]) -> Sequence[Any]:
    verdicts: Sequence[Any] = await side.reporter.report(entries)
    return [verdict if isinstance(verdict, Receipt) else (type(verdict), str(verdict)) for verdict in verdicts]


def sent(api: FakeTaskApi) -> list[Any]:
    """The ids of each request: a list for many, a text for one."""
    many = iter(api.bulks)
    routes = [request for request in api.requests if request.route in {"patch", "bulk"}]
    return [request.task_id if request.route == "patch" else next(many) for request in routes]


async def test_many_outcomes_are_one_request(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry) -> None:
    failed = make_entry("b", Failed("too long"))
    assert await report(bulk, [make_entry("a"), failed, make_entry("c")]) == [TAKEN] * 3
    assert sent(api) == [["a", "b", "c"]]
    assert api.patches["a"] == [{"state": "succeeded", "result": [1.0, 0.125]}]
    assert api.patches["b"] == [{"state": "failed", "result": None, "error": "too long"}]


async def test_one_outcome_is_a_request_of_its_own(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry) -> None:
    assert await report(bulk, [make_entry("a")]) == [TAKEN]
    assert sent(api) == ["a"]


async def test_without_the_route_nobody_is_asked_for_more_than_one(api: FakeTaskApi, side: Any) -> None:
    assert [await side.reporter.at_once() for _ in range(3)] == [1, 1, 1]
    assert side.seen(FeatureLost) == []
    api.features = {"bulk"}
    side.clock.advance(FIRST_WAIT)
    assert await side.reporter.at_once() == MOST_AT_ONCE


@pytest.mark.parametrize("fault", [drop(), answer(503), answer(200, []), answer(200, "<html>"), answer(403)])
async def test_where_it_cannot_be_learned_each_goes_alone_for_a_while(
    api: FakeTaskApi, side: Any, fault: Fault
) -> None:
    api.features = {"bulk"}
    api.script("bulk", fault, fault)
    assert await side.reporter.at_once() == 1
    api.heal()
    assert await side.reporter.at_once() == 1
    side.clock.advance(FIRST_WAIT)
    assert await side.reporter.at_once() == MOST_AT_ONCE


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (201, TAKEN),
        (404, Receipt.GONE),
        (410, Receipt.GONE),
        (409, Receipt.CONFLICT),
        (400, TaskApiRejected),
        (413, TaskApiRejected),
        (422, TaskApiRejected),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (408, TaskApiUnavailable),
        (429, TaskApiUnavailable),
        (500, TaskApiUnavailable),
        (503, TaskApiUnavailable),
        (302, TaskApiUnavailable),
        (0, TaskApiUnavailable),
    ],
)
async def test_each_result_has_the_reaction_of_its_own_status(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry, status: int, verdict: Any
) -> None:
    api.script("patch", answer(status), task_id="b")
    first, second, third = await bulk.reporter.report([make_entry(task_id) for task_id in "abc"])
    assert (first, third) == (TAKEN, TAKEN)
    assert second is verdict if isinstance(verdict, Receipt) else isinstance(second, verdict)
    assert sent(api) == [["a", "b", "c"]]
    assert api.token_requests == [], "no new token because of what is said of one result"


async def test_what_is_said_of_a_result_is_told_without_secrets(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry
) -> None:
    said = "token token-1-of-the-tests is nice"
    verdicts = [{"id": "a", "status": 422, "error": said}, {"id": "b", "status": 200}]
    api.script("bulk", answer(200, {"results": verdicts}))
    rejected, taken = await report(bulk, [make_entry("a"), make_entry("b")])
    assert taken is TAKEN
    assert rejected == (TaskApiRejected, "the Task API refuses it (HTTP 422: token *** is nice)")


@pytest.mark.parametrize(
    "verdicts",
    [
        [{"id": "a", "status": 200}],
        [{"id": "a", "status": 200}, {"id": "x", "status": 200}],
        [{"id": "a", "status": 200}, {"id": "b"}],
        [{"id": "a", "status": 200}, {"id": "b", "status": "200"}],
        [{"id": "a", "status": 200}, {"id": "b", "status": True}],
        [{"id": "a", "status": 200}, {"id": None, "status": 200}],
        [{"id": "a", "status": 200}, None, 7, []],
    ],
)
async def test_a_result_of_which_nothing_is_said_got_no_answer(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry, verdicts: Any
) -> None:
    api.script("bulk", answer(200, {"results": verdicts}))
    taken, unanswered = await report(bulk, [make_entry("a"), make_entry("b")])
    assert (taken, unanswered) == (TAKEN, (TaskApiUnavailable, UNANSWERED))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (drop(), TaskApiUnavailable),
        (drop(effect=True), TaskApiUnavailable),
        (truncate(), TaskApiUnavailable),
        (answer(500), TaskApiUnavailable),
        (answer(503, headers={"Retry-After": "7"}), TaskApiUnavailable),
        (answer(200, {"ok": True}), TaskApiUnavailable),
        (answer(200, "<html>maintenance"), TaskApiUnavailable),
        (answer(401), AuthenticationFailed),
    ],
)
async def test_what_befalls_the_request_befalls_all(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry, fault: Fault, error: type[Exception]
) -> None:
    api.script("bulk", fault, fault)
    verdicts = await bulk.reporter.report([make_entry("a"), make_entry("b")])
    assert {type(verdict) for verdict in verdicts} <= {error, *error.__subclasses__()}
    assert bulk.features.known("bulk")


async def test_an_open_breaker_lets_none_through(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry) -> None:
    api.always("bulk", drop())
    entries = [make_entry("a"), make_entry("b")]
    for _ in range(5):
        await bulk.reporter.report(entries)
    arrived = len(api.requests)
    assert [type(verdict) for verdict in await bulk.reporter.report(entries)] == [BreakerOpen] * 2
    assert len(api.requests) == arrived


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_lost_route_loses_no_outcome(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry, status: int) -> None:
    api.always("bulk", answer(status))
    assert await report(bulk, [make_entry(task_id) for task_id in IDS]) == [TAKEN] * 4
    assert sent(api)[0] == [*IDS]
    assert sorted(sent(api)[1:]) == [*IDS]
    assert await bulk.reporter.at_once() == 1
    assert len(bulk.seen(FeatureLost)) == 1


@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_that_is_refused_because_of_one_is_sent_as_many(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry, status: int
) -> None:
    api.always("bulk", answer(status))
    api.script("patch", answer(422), task_id="b")
    verdicts = await bulk.reporter.report([make_entry(task_id) for task_id in "abc"])
    assert [verdict is TAKEN for verdict in verdicts] == [True, False, True]
    assert isinstance(verdicts[1], TaskApiRejected)
    assert bulk.features.known("bulk")


async def test_a_failure_whose_reason_is_refused_goes_without_it(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry
) -> None:
    api.forbid_error_field = True
    entries = [make_entry("a"), make_entry("b", Failed("too long"))]
    assert await report(bulk, entries) == [TAKEN, TAKEN]
    assert sent(api) == [["a", "b"], "b"]
    assert api.patches["b"][-1] == {"state": "failed", "result": None}


async def test_a_damaged_outcome_spoils_no_other(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry) -> None:
    entries = [make_entry("a"), make_entry("b", Succeeded(Vector(b"\0"))), make_entry("c")]
    first, damaged, third = await report(bulk, entries)
    assert (first, third) == (TAKEN, TAKEN)
    assert damaged[0] is TaskApiRejected
    assert sent(api) == [["a", "c"]]


async def test_no_more_than_two_requests_with_many_results_are_made_at_a_time(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry
) -> None:
    api.script("bulk", hang(), hang())
    pairs = [[make_entry(task_id), make_entry("d")] for task_id in "abc"]
    async with asyncio.TaskGroup() as group:
        reports = [group.create_task(bulk.reporter.report(pair)) for pair in pairs]
        await api.until(lambda: len(api.bulks) == 2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(api.bulks) == 2
        api.release()
    assert [type(task.result()[0]) for task in reports] != [Receipt] * 3
    assert len(api.bulks) == 3
    assert api.peak["bulk"] == 2


# --- Sizes ------------------------------------------------------------------------------------------------------------


def large(make_entry: MakeEntry, count: int, *, size: int = 20_000) -> list[Entry]:
    return [make_entry(str(number), Succeeded("x" * size)) for number in range(count)]


async def test_what_is_too_large_is_halved_and_the_size_is_remembered(
    api: FakeTaskApi, bulk: Any, make_entry: MakeEntry
) -> None:
    api.add(*({"_id": str(number)} for number in range(64)))
    for refused in (True, False):
        bulk.events.clear()
        assert await report(bulk, large(make_entry, 32)) == [TAKEN] * 32
        assert any(event.status == 413 for event in bulk.seen(ApiRequested)) is refused
        assert {len(ids) for ids in api.bulks} == {4}, "100 kB"


async def test_what_is_too_large_alone_is_refused_alone(bulk: Any, make_entry: MakeEntry) -> None:
    entries = [make_entry("a"), make_entry("b", Succeeded("x" * 150_000)), make_entry("c")]
    first, refused, third = await report(bulk, entries)
    assert (first, third) == (TAKEN, TAKEN)
    assert refused[0] is TaskApiRejected


async def test_what_got_no_answer_may_have_been_too_much(api: FakeTaskApi, bulk: Any, make_entry: MakeEntry) -> None:
    """As where a proxy cuts the connection instead of answering 413, or callbacks take too long together."""
    api.add(*({"_id": str(number)} for number in range(64)))
    api.always("bulk", drop())
    sizes = [LARGEST]
    while sizes[-1] > SMALLEST:
        bulk.clock.advance(60)
        api.requests.clear()
        await report(bulk, large(make_entry, 60, size=1_000))
        sizes.append(min(sizes[-1], *(1_000 * len(ids) for ids in api.bulks)))
    api.heal()
    bulk.clock.advance(60)
    for _ in range(8):
        api.requests.clear()
        assert await report(bulk, large(make_entry, 60, size=1_000)) == [TAKEN] * 60
    assert [len(ids) for ids in api.bulks] == [60]
