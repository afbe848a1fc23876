import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from ai_task_processor.domain.errors import (
    AuthenticationFailed,
    BreakerOpen,
    TaskApiError,
    TaskApiRejected,
    TaskApiUnavailable,
)
from ai_task_processor.domain.events import ApiRequested
from ai_task_processor.domain.outcome import Failed, Succeeded
from ai_task_processor.domain.ports import Receipt, Wish
from ai_task_processor.domain.task import Task
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.task_api.auth import Credentials, TokenAuth
from ai_task_processor.task_api.client import TaskApiClient, counts_for_breaker
from ai_task_processor.task_api.portions import PORTION
from ai_task_processor.task_api.requests import Reply, Request
from ai_task_processor.task_api.source import ApiTaskSource
from tests.fakes.task_api_server import FakeTaskApi, answer, drop, hang, truncate
from tests.fakes.time import ManualClock

Connect = Callable[..., Any]
MakeEntry = Callable[..., Any]


# --- Fetch ------------------------------------------------------------------------------------------------------------


async def test_fetch(api: FakeTaskApi, side: Any) -> None:
    api.add({"_id": "b", "createdAt": 2000}, {"_id": "a", "createdAt": 1000}, {"_id": "c"})
    page = await side.fetch(2)
    assert [task.id for task in page.tasks] == ["a", "b"]
    (request,) = api.fetches
    assert request.path == "/api/ai-tasks/pending?limit=2"
    assert len(request.headers["X-Correlation-ID"]) == 16
    assert request.headers["User-Agent"].startswith("ai-task-processor/")
    told = [(event.route, event.method, event.status) for event in side.seen(ApiRequested)]
    assert told == [("/oauth2/token", "POST", 200), ("/api/ai-tasks/pending", "GET", 200)]


async def test_a_server_that_ignores_the_limit(api: FakeTaskApi, side: Any) -> None:
    api.ignore_limit = True
    api.add(*({"_id": str(number), "content": "x" * 1000} for number in range(3_000)))
    page = await side.fetch(5)
    assert (len(page.tasks), page.listed) == (3_000, 3_000)
    page = await side.source.fetch(Wish(5, most=100, types={"text_embedding"}))
    assert (len(page.tasks), page.listed, dict(page.foreign)) == (100, 3_000, {})


async def test_reading_a_long_page_lets_others_run(clock: ManualClock) -> None:
    class LongPage:
        async def pending(self, limit: int) -> bytes:
            return json.dumps([{"_id": str(number), "content": "x" * 1000} for number in range(limit)]).encode()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turns = 0
    other = asyncio.create_task(others())
    page = await ApiTaskSource(cast("Any", LongPage()), clock=clock).fetch(Wish(3_000))
    other.cancel()
    assert len(page.tasks) == 3_000
    assert turns > 3_000_000 / PORTION


async def test_malformed_entries_do_not_stop_the_good_ones(api: FakeTaskApi, side: Any) -> None:
    api.entries = [None, {"_id": ""}, {"type": "text_embedding"}, {"id": 5, "content": "bare", "createdAt": None}]
    api.add({"_id": "good"})
    page = await side.fetch(10)
    assert {task.id for task in page.tasks} == {"good", "5"}
    assert len(page.unusable) == 3


async def test_a_compressed_page(api: FakeTaskApi, side: Any) -> None:
    body = gzip.compress(json.dumps([{"_id": "a"}]).encode())
    api.script("fetch", answer(200, body, headers={"Content-Encoding": "gzip"}))
    assert len((await side.fetch()).tasks) == 1


@pytest.mark.parametrize("tail", ["", "/"])
async def test_a_base_url_with_a_path(clock: ManualClock, connect: Connect, tail: str) -> None:
    async with FakeTaskApi(clock=clock, prefix="/backend/v1") as other:
        other.add({"_id": "a"})
        side = connect(base_url=other.url + tail, token_url=other.token_url)
        async with side.client:
            assert len((await side.fetch()).tasks) == 1
            assert await side.client.patch("a", b"{}", correlation_id="") is Receipt.TAKEN


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (answer(404), TaskApiUnavailable, "check API_BASE_URL"),
        (answer(301, headers={"Location": "https://user:pw@other.example/x?token=1"}), TaskApiUnavailable, "other.ex"),
        (answer(302, headers={"Location": "http://[bad"}), TaskApiUnavailable, "check API_BASE_URL"),
        (answer(200, "<html>login</html>"), TaskApiUnavailable, "web page"),
        (answer(200, {"message": "hi"}), TaskApiUnavailable, "not a list of tasks"),
        (answer(200, "[{"), TaskApiUnavailable, "not a list of tasks"),
        (answer(200, b"x" * 50, headers={"Content-Encoding": "gzip"}), TaskApiUnavailable, "broke off"),
        (answer(400, {"message": ["limit must not be greater than 100"]}), TaskApiRejected, "greater than 100"),
        (answer(500), TaskApiUnavailable, "HTTP 500: as scripted"),
        (truncate(), TaskApiUnavailable, "broke off"),
    ],
)
async def test_fetches_that_go_wrong(
    api: FakeTaskApi, side: Any, wrong: Any, error: type[TaskApiError], words: str
) -> None:
    api.add({"_id": "a"})
    api.script("fetch", wrong)
    with pytest.raises(TaskApiError, match=words) as caught:
        await side.fetch()
    assert isinstance(caught.value, error)
    assert "pw" not in str(caught.value)
    assert "token=1" not in str(caught.value)
    assert len((await side.fetch()).tasks) == 1


async def test_a_dropped_fetch_is_unavailability(api: FakeTaskApi, side: Any) -> None:
    api.always("fetch", drop())
    with pytest.raises(TaskApiUnavailable, match="does not answer"):
        await side.fetch()


async def test_an_api_that_is_down(api: FakeTaskApi, side: Any) -> None:
    await side.fetch()
    await api.down()
    with pytest.raises(TaskApiUnavailable, match="does not answer"):
        await side.fetch()
    assert side.seen(ApiRequested)[-1].status == 0
    await api.up()
    await side.fetch()


async def test_a_page_without_end(api: FakeTaskApi, connect: Connect) -> None:
    side = connect(largest_page=2**20)
    api.script("fetch", answer(200, gzip.compress(b"[" + b" " * 2**24 + b"]"), headers={"Content-Encoding": "gzip"}))
    async with side.client:
        with pytest.raises(TaskApiUnavailable, match="is larger than 1 MB"):
            await side.fetch()
        await side.fetch()


# --- Report -----------------------------------------------------------------------------------------------------------


async def test_report(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.add({"_id": "a"})
    assert await side.report(make_entry()) is Receipt.TAKEN
    assert api.patches == {"a": [{"state": "succeeded", "result": [1.0, 0.125]}]}
    request = api.requests[-1]
    assert request.headers["X-Correlation-ID"] == "corr-1"
    assert request.headers["Content-Type"] == "application/json"
    told = side.seen(ApiRequested)[-1]
    assert (told.route, told.method, told.status) == ("/api/ai-tasks/{id}", "PATCH", 200)


async def test_a_detailed_report(api: FakeTaskApi, connect: Connect, make_entry: MakeEntry) -> None:
    api.add({"_id": "a"})
    side = connect(detailed=True)
    async with side.client:
        await side.report(make_entry())
    assert api.tasks["a"]["result"]["provider"] == "p"


async def test_announce(api: FakeTaskApi, side: Any) -> None:
    api.add({"_id": "a"})
    task = Task("a", "text_embedding", None, created_at=1.0, correlation_id="c-9")
    assert await side.reporter.announce(task) is Receipt.TAKEN
    assert api.tasks["a"]["state"] == "in_progress"
    assert api.requests[-1].headers["X-Correlation-ID"] == "c-9"
    assert (await side.fetch()).tasks == ()


@pytest.mark.parametrize(
    "task_id", ["a/b", "../pending", "a?b#c", "a b", "a%2Fb", "é😀", "...", "x" * 256, "a;b=c&d+e"]
)
async def test_every_usable_id_arrives_as_it_is(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, task_id: str
) -> None:
    api.add({"_id": task_id})
    assert await side.report(make_entry(task_id)) is Receipt.TAKEN
    assert api.tasks[task_id]["state"] == "succeeded"


async def test_a_correlation_id_that_is_no_header_is_left_out(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry
) -> None:
    api.add({"_id": "a"})
    await side.report(make_entry(correlation_id="a\r\nX-Evil: 1"))
    assert "X-Correlation-ID" not in api.requests[-1].headers


@pytest.mark.parametrize(
    ("wrong", "receipt"),
    [
        (answer(201, {}), Receipt.TAKEN),
        (answer(204, ""), Receipt.TAKEN),
        (truncate(), Receipt.TAKEN),
        (answer(200, b"x" * 50, headers={"Content-Encoding": "gzip"}), Receipt.TAKEN),
        (answer(404), Receipt.GONE),
        (answer(410), Receipt.GONE),
        (answer(409), Receipt.CONFLICT),
    ],
)
async def test_answers_that_end_the_matter(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, wrong: Any, receipt: Receipt
) -> None:
    api.add({"_id": "a"})
    api.script("patch", wrong)
    assert await side.report(make_entry()) is receipt


async def test_a_task_that_the_api_does_not_have(side: Any, make_entry: MakeEntry) -> None:
    assert await side.report(make_entry("nobody")) is Receipt.GONE


async def test_a_base_url_that_is_wrong_loses_no_result(api: FakeTaskApi, connect: Connect, make_entry: Any) -> None:
    side = connect(base_url=api.url + "/wrong")
    api.add({"_id": "a"})
    async with side.client:
        api.script("patch", answer(404, {"statusCode": 404, "message": "Cannot PATCH /wrong/api/ai-tasks/a"}))
        side.client._base_url = api.url
        with pytest.raises(TaskApiUnavailable, match="check API_BASE_URL"):
            await side.report(make_entry())


@pytest.mark.parametrize("status", [400, 405, 413, 415, 422])
async def test_refused_results_name_the_servers_reason(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, status: int
) -> None:
    api.script("patch", answer(status, {"message": ["result must be a string"]}))
    with pytest.raises(TaskApiRejected, match=f"HTTP {status}: result must be a string"):
        await side.report(make_entry())
    assert len(api.patches["a"]) == 1


async def test_a_result_above_nests_body_limit_is_refused(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.add({"_id": "a"})
    with pytest.raises(TaskApiRejected, match="HTTP 413"):
        await side.report(make_entry(outcome=Succeeded("x" * 200_000)))


@pytest.mark.parametrize("status", [401, 403])
async def test_not_let_in(api: FakeTaskApi, side: Any, make_entry: MakeEntry, status: int) -> None:
    api.always("patch", answer(status))
    with pytest.raises(AuthenticationFailed, match=f"HTTP {status}"):
        await side.report(make_entry())
    assert len(api.patches["a"]) == 2
    assert [event.status for event in side.seen(ApiRequested) if event.method == "PATCH"] == [status, status]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_not_now(api: FakeTaskApi, side: Any, make_entry: MakeEntry, status: int) -> None:
    api.add({"_id": "a"})
    api.script("patch", answer(status), answer(status, headers={"Retry-After": "17"}))
    with pytest.raises(TaskApiUnavailable) as plain:
        await side.report(make_entry())
    with pytest.raises(TaskApiUnavailable) as wishing:
        await side.report(make_entry())
    assert (plain.value.retry_after, wishing.value.retry_after) == (None, 17.0)
    assert await side.report(make_entry()) is Receipt.TAKEN


async def test_retry_after_as_a_date(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.script("patch", answer(503, headers={"Retry-After": "Tue, 14 Nov 2023 22:15:20 GMT"}))
    with pytest.raises(TaskApiUnavailable) as caught:
        await side.report(make_entry())
    assert caught.value.retry_after == 120.0


@pytest.mark.parametrize("effect", [False, True])
async def test_no_answer_may_mean_that_it_was_taken(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, *, effect: bool
) -> None:
    api.add({"_id": "a"})
    api.script("patch", drop(effect=effect))
    with pytest.raises(TaskApiUnavailable, match="does not answer"):
        await side.report(make_entry())
    assert await side.report(make_entry()) is Receipt.TAKEN
    assert len(api.patches["a"]) == 2
    assert len(api.applied["a"]) == 1 + effect


async def test_a_patch_that_hangs(api: FakeTaskApi, connect: Connect, make_entry: MakeEntry) -> None:
    api.script("patch", hang())
    side = connect(timeout=0.02)
    async with side.client:
        with pytest.raises(TaskApiUnavailable, match=r"does not answer: .*Timeout"):
            await side.report(make_entry())


async def test_a_callback_that_throws_after_the_state_was_set(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry
) -> None:
    api.add({"_id": "a"})
    api.script("patch", answer(500, effect=True))
    with pytest.raises(TaskApiUnavailable):
        await side.report(make_entry())
    assert (await side.fetch()).tasks == ()
    assert await side.report(make_entry()) is Receipt.TAKEN
    assert api.applied["a"][0] == api.applied["a"][1]


async def test_somebody_else_finished_it(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.conflict_when_finished = True
    api.add({"_id": "a", "state": "succeeded"})
    assert await side.report(make_entry()) is Receipt.CONFLICT


async def test_a_failure_says_why(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.add({"_id": "a"})
    await side.report(make_entry(outcome=Failed("content.text is missing")))
    assert api.patches["a"] == [{"state": "failed", "result": None, "error": "content.text is missing"}]


async def test_a_refused_error_field_is_dropped(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.forbid_error_field = True
    api.add({"_id": "a"})
    assert await side.report(make_entry(outcome=Failed("why"))) is Receipt.TAKEN
    assert [set(body) for body in api.patches["a"]] == [{"state", "result", "error"}, {"state", "result"}]
    assert api.tasks["a"]["state"] == "failed"


async def test_a_failure_that_is_refused_in_both_forms(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.always("patch", answer(422, {"message": "no"}))
    with pytest.raises(TaskApiRejected, match="HTTP 422: no"):
        await side.report(make_entry(outcome=Failed("why")))
    assert len(api.patches["a"]) == 2


# --- Breaker and pool -------------------------------------------------------------------------------------------------


async def test_an_api_that_is_down_is_left_alone_for_fetch_and_patch(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, clock: ManualClock
) -> None:
    api.add({"_id": "a"})
    api.always("patch", answer(502))
    api.always("fetch", answer(500))
    for _ in range(3):
        with pytest.raises(TaskApiUnavailable):
            await side.fetch()
    for _ in range(2):
        with pytest.raises(TaskApiUnavailable):
            await side.report(make_entry())
    requests = len(api.requests)
    with pytest.raises(BreakerOpen):
        await side.fetch()
    with pytest.raises(BreakerOpen):
        await side.report(make_entry())
    assert len(api.requests) == requests
    api.heal()
    clock.advance(30)
    assert await side.report(make_entry()) is Receipt.TAKEN
    assert side.breaker.state == "closed"


async def test_one_task_that_always_fails_keeps_nobody_else_away(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry
) -> None:
    api.add({"_id": "a"}, {"_id": "b"})
    api.always("patch", answer(500, effect=True), task_id="a")
    for _ in range(20):
        with pytest.raises(TaskApiUnavailable):
            await side.report(make_entry("a"))
    assert await side.report(make_entry("b")) is Receipt.TAKEN


@pytest.mark.parametrize("wrong", [answer(429), answer(503, headers={"Retry-After": "1"}), answer(400)])
async def test_a_busy_or_refusing_api_is_not_down(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry, wrong: Any
) -> None:
    api.always("patch", wrong)
    for _ in range(20):
        with pytest.raises((TaskApiUnavailable, TaskApiRejected)):
            await side.report(make_entry())
    assert side.breaker.state == "closed"


async def test_many_patches_at_once_each_get_their_own_answer(
    api: FakeTaskApi, side: Any, make_entry: MakeEntry
) -> None:
    api.add(*({"_id": str(number)} for number in range(100)))
    receipts = await asyncio.gather(*(side.report(make_entry(str(number))) for number in range(200)))
    assert receipts == [Receipt.TAKEN] * 100 + [Receipt.GONE] * 100


async def test_a_cancelled_request_leaves_a_usable_client(api: FakeTaskApi, side: Any, make_entry: MakeEntry) -> None:
    api.add({"_id": "a"})
    api.script("patch", hang())
    report = asyncio.create_task(side.report(make_entry()))
    await api.until(lambda: bool(api.patches))
    report.cancel()
    with pytest.raises(asyncio.CancelledError):
        await report
    assert side.seen(ApiRequested)[-1].status == 0
    assert await side.report(make_entry()) is Receipt.TAKEN


class Canned:
    """An exchange that answers by itself: an empty list to whatever it has no answer for."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self._answers = answers

    async def send(self, request: Request) -> Reply:
        return Reply(200, body=self._answers.get(request.url, b"[]"))

    async def aclose(self) -> None:
        return


async def test_another_exchange_serves_both_endpoints(clock: ManualClock) -> None:
    exchange = Canned({"http://sim/oauth2/token": b'{"access_token": "t"}'})
    auth = TokenAuth(
        Credentials("http://sim/oauth2/token", "id", "secret"),
        exchange=exchange,
        timeout=1,
        clock=clock,
        observer=lambda _: None,
    )
    breaker = Breaker(
        "task_api",
        threshold=1,
        recovery_seconds=1,
        clock=clock,
        observer=lambda _: None,
        counts=counts_for_breaker,
    )
    client = TaskApiClient(
        "http://sim", auth, exchange=exchange, timeout=1, breaker=breaker, clock=clock, observer=lambda _: None
    )
    async with client:
        assert await client.pending(1) == b"[]"
