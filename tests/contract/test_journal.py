"""What every journal does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Succeeded, Vector
from ai_task_processor.domain.ports import Backlog, Entry, Journal
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import Storage, is_postgres, open_storage
from ai_task_processor.storage.postgres import database_time
from tests.fakes.time import BEGINNING, ManualClock

VECTOR = Succeeded(Vector(b"\x00\x00\x80\x3f" * 3), model="small", provider="mock", tokens=7)
FAILURE = Failed("the text is empty")


class Desk:
    """A journal with its clock, and a way to stop and start the process that uses it."""

    def __init__(self, clock: ManualClock, start: Callable[[], Awaitable[Journal]]) -> None:
        self.clock = clock
        self._start = start
        self.journal: Journal

    async def restart(self) -> None:
        self.journal = await self._start()
        await self.journal.reopen()

    async def accept(self, *tasks: Task) -> tuple[str, ...]:
        return await self.journal.accept(tasks, await self.journal.mark())

    async def claimed(self, *ids: str) -> None:
        await self.accept(*(task(task_id) for task_id in ids))
        assert {each.id for each in await self.journal.claim(100)} >= set(ids)

    async def settled(self, outcomes: dict[str, Outcome]) -> None:
        await self.claimed(*outcomes)
        await self.journal.settle(outcomes)

    async def handed_out(self, limit: int = 100) -> list[str]:
        return [entry.task_id for entry in await self.journal.unreported(limit)]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    match request.param:
        case "memory":
            return None
        case "sqlite":
            return f"sqlite:///{tmp_path}/state.db"
        case _:
            return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def desk(url: str | None) -> AsyncIterator[Desk]:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        if url is None:
            lasting = MemoryJournal(clock)

            async def start() -> Journal:
                return lasting
        else:

            async def start() -> Journal:
                await stack.aclose()
                storage = await stack.enter_async_context(open_storage(url))
                return SqlJournal(storage, clock, lease(storage, "one") if is_postgres(url) else None)

        made = Desk(clock, start)
        await made.restart()
        yield made


def lease(storage: Storage, replica: str) -> Lease:
    return Lease(storage, seconds=60, time=database_time, replica=replica)


def task(task_id: str = "a", **facts: Any) -> Task:
    text = {"text": f"text of {task_id}"}
    usual = {
        "type": "text_embedding",
        "content": text,
        "created_at": BEGINNING,
        "batch_key": "k",
        "correlation_id": "c",
    }
    return Task(task_id, **usual | facts)


class TestAccept:
    async def test_keeps_what_is_new(self, desk: Desk) -> None:
        assert await desk.accept(task("b"), task("a")) == ("b", "a")
        assert await desk.accept(task("a"), task("c"), task("b")) == ("c",)
        assert await desk.journal.backlog() == Backlog(ready=3)

    async def test_keeps_the_first_of_two_with_one_id(self, desk: Desk) -> None:
        assert await desk.accept(task("a", content="first"), task("a", content="second")) == ("a",)
        assert [each.content for each in await desk.journal.claim(9)] == ["first"]

    async def test_takes_an_empty_page(self, desk: Desk) -> None:
        assert await desk.accept() == ()

    async def test_takes_a_very_long_page(self, desk: Desk) -> None:
        page = [task(f"{number:05}") for number in range(3_000)]
        assert await desk.accept(*page) == tuple(each.id for each in page)
        assert await desk.accept(*page, task("new")) == ("new",)
        assert await desk.journal.backlog() == Backlog(ready=3_001)

    @pytest.mark.parametrize("outcome", [None, VECTOR, FAILURE, Deferred(BEGINNING + 60, "limit")])
    async def test_knows_what_is_not_finished(self, desk: Desk, outcome: Outcome | None) -> None:
        await desk.claimed("a")
        if outcome:
            await desk.journal.settle({"a": outcome})
        assert await desk.accept(task("a", content="other")) == ()

    async def test_knows_what_is_parked(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        await desk.journal.park("a", "refused")
        assert await desk.accept(task("a")) == ()

    async def test_begins_with_no_attempts(self, desk: Desk) -> None:
        await desk.accept(task("a", attempts=3))
        assert [each.attempts for each in await desk.journal.claim(1)] == [0]

    async def test_passes_over_a_page_older_than_the_report(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        before = await desk.journal.mark()
        await desk.journal.mark_reported(["a"])
        assert await desk.journal.accept([task("a")], before) == ()
        assert await desk.journal.backlog() == Backlog()

    async def test_believes_a_page_younger_than_the_report(self, desk: Desk) -> None:
        await desk.claimed("a")
        await desk.journal.settle({"a": Deferred(BEGINNING, "its own fault", counts=True)})
        await desk.journal.claim(1)
        await desk.journal.settle({"a": VECTOR})
        await desk.journal.postpone(["a"], BEGINNING)
        await desk.journal.mark_reported(["a"])
        again = task(
            "a", content="changed", correlation_id="other", batch_key="l", created_at=BEGINNING + 1, priority=0
        )

        assert await desk.accept(again) == ("a",)
        assert await desk.journal.claim(9) == (again,)
        await desk.journal.settle({"a": FAILURE})
        assert [(entry.outcome, entry.attempts) for entry in await desk.journal.unreported(9)] == [(FAILURE, 0)]

    async def test_believes_it_after_a_restart_too(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": VECTOR})
        await desk.journal.mark_reported(["a"])
        between = await desk.journal.mark()
        await desk.journal.mark_reported(["b"])
        await desk.restart()
        assert await desk.journal.accept([task("a"), task("b")], between) == ("a",)

    async def test_no_mark_is_ever_used_again(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        await desk.journal.mark_reported(["a"])
        before = await desk.journal.mark()
        await desk.journal.forget(BEGINNING + 1)
        await desk.restart()
        await desk.settled({"a": VECTOR})
        await desk.journal.mark_reported(["a"])
        assert await desk.journal.accept([task("a")], before) == ()


class TestClaim:
    async def test_passes_over_kinds_that_are_not_wanted(self, desk: Desk) -> None:
        await desk.accept(task("a", batch_key="x"), task("b", batch_key="y", priority=3), task("c", batch_key="z"))
        assert [each.id for each in await desk.journal.claim(9, without={"x", "z", "unheard of"})] == ["b"]
        assert await desk.journal.claim(9, without=["x", "z"]) == ()
        assert [each.id for each in await desk.journal.claim(9)] == ["a"]

    async def test_takes_the_most_urgent_first(self, desk: Desk) -> None:
        await desk.accept(
            task("a", created_at=BEGINNING + 1),
            task("c", created_at=BEGINNING),
            task("b", created_at=BEGINNING),
            task("d", created_at=BEGINNING + 2, priority=0),
        )
        assert [each.id for each in await desk.journal.claim(3)] == ["d", "b", "c"]
        assert [each.id for each in await desk.journal.claim(3)] == ["a"]
        assert await desk.journal.claim(3) == ()

    async def test_takes_one_batch_key_that_of_the_most_urgent(self, desk: Desk) -> None:
        await desk.accept(
            task("a", priority=1, batch_key="x"), task("b", priority=0, batch_key="y"), task("c", batch_key="y")
        )
        assert [each.id for each in await desk.journal.claim(9)] == ["b", "c"]
        assert [each.id for each in await desk.journal.claim(9)] == ["a"]

    async def test_gives_the_task_as_it_was_accepted(self, desk: Desk) -> None:
        content = {"text": "Ünïcode\n", "dimensions": 256, "nested": [1, 2.5, None, True, {"x": "y" * 3_000}]}
        whole = task(
            "a", content=content, priority=-7, created_at=BEGINNING + 0.125, correlation_id="cor", type="other"
        )
        await desk.accept(whole)
        assert await desk.journal.claim(1) == (whole,)

    @pytest.mark.parametrize("content", [None, "", "bare", [], 0, 10**30, {"text": "half \ud800 of a pair"}])
    async def test_gives_back_any_content(self, desk: Desk, content: Any) -> None:
        await desk.accept(task("a", content=content))
        assert [each.content for each in await desk.journal.claim(1)] == [content]

    async def test_takes_nothing_for_a_limit_of_none(self, desk: Desk) -> None:
        await desk.accept(task("a"))
        assert await desk.journal.claim(0) == ()

    async def test_two_callers_never_get_the_same(self, desk: Desk) -> None:
        await desk.accept(*(task(str(number)) for number in range(20)))
        claims = await asyncio.gather(*(desk.journal.claim(7) for _ in range(4)))
        assert sorted(each.id for claim in claims for each in claim) == sorted(str(number) for number in range(20))

    async def test_released_tasks_are_as_if_never_claimed(self, desk: Desk) -> None:
        await desk.accept(task("a"), task("b"))
        first = await desk.journal.claim(2)
        await desk.journal.release(["b", "a", "unknown"])
        assert await desk.journal.backlog() == Backlog(ready=2)
        assert await desk.journal.claim(2) == first


class TestSettle:
    @pytest.mark.parametrize(
        "outcome",
        [
            VECTOR,
            FAILURE,
            Succeeded(Vector(b"")),
            Succeeded({"label": "true", "score": 0.5, "long": "x" * 2_000}, "m", "p", 1),
            Succeeded(None),
        ],
    )
    async def test_the_outcome_waits_for_delivery(self, desk: Desk, outcome: Any) -> None:
        await desk.claimed("a")
        desk.clock.advance(5)
        await desk.journal.settle({"a": outcome})
        expected = Entry("a", "text_embedding", "c", outcome, settled_at=BEGINNING + 5)
        assert await desk.journal.unreported(9) == (expected,)

    async def test_a_late_outcome_changes_nothing(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        await desk.accept(task("due"))
        late = {"a": FAILURE, "due": FAILURE, "unknown": FAILURE}
        await desk.journal.settle(late)
        await desk.journal.settle(dict.fromkeys(late, Deferred(BEGINNING, "later", counts=True)))
        assert [(entry.task_id, entry.outcome) for entry in await desk.journal.unreported(9)] == [("a", VECTOR)]
        assert await desk.journal.claim(9) == (task("due"),)

    async def test_takes_all_kinds_at_once_or_none(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": FAILURE, "c": Deferred(BEGINNING + 9, "limit")})
        await desk.journal.settle({})
        assert await desk.journal.backlog() == Backlog(deferred=1, unreported=2, oldest_unreported=BEGINNING)

    @pytest.mark.parametrize("counts", [True, False])
    async def test_a_deferred_task_is_due_again_at_its_time(self, desk: Desk, *, counts: bool) -> None:
        await desk.settled({"a": Deferred(BEGINNING + 60, "limit", counts=counts)})
        assert await desk.journal.next_due() == BEGINNING + 60
        desk.clock.advance(59.9)
        assert await desk.journal.claim(9) == ()
        assert await desk.journal.backlog() == Backlog(deferred=1)
        desk.clock.advance(0.1)
        assert await desk.journal.backlog() == Backlog(ready=1)
        assert await desk.journal.claim(9) == (task("a", attempts=int(counts)),)

    async def test_a_task_due_again_takes_its_old_place(self, desk: Desk) -> None:
        await desk.settled({"b": Deferred(BEGINNING + 1, "limit")})
        await desk.accept(task("a"), task("c"))
        desk.clock.advance(2)
        assert [each.id for each in await desk.journal.claim(9)] == ["a", "b", "c"]

    async def test_next_due_is_never_in_the_past_of_a_claim(self, desk: Desk) -> None:
        await desk.settled({"a": Deferred(BEGINNING + 1, "limit"), "b": Deferred(BEGINNING + 9, "limit")})
        await desk.accept(task("other", batch_key="first", priority=0))
        desk.clock.advance(2)
        await desk.journal.claim(9)
        assert await desk.journal.next_due() == BEGINNING + 9


class TestDelivery:
    async def test_hands_out_the_oldest_first_and_each_once(self, desk: Desk) -> None:
        for task_id in ("b", "a", "c"):
            await desk.settled({task_id: VECTOR})
            desk.clock.advance(1)
        assert await desk.handed_out(2) == ["b", "a"]
        assert await desk.handed_out(2) == ["c"]
        assert await desk.handed_out(2) == []
        assert (await desk.journal.backlog()).unreported == 3

    async def test_two_callers_never_get_the_same(self, desk: Desk) -> None:
        await desk.settled({str(number): VECTOR for number in range(20)})
        handed = await asyncio.gather(*(desk.handed_out(7) for _ in range(4)))
        assert sorted(chain.from_iterable(handed)) == sorted(str(number) for number in range(20))

    @pytest.mark.parametrize("counts", [True, False])
    async def test_a_postponed_outcome_comes_back_at_its_time(self, desk: Desk, *, counts: bool) -> None:
        await desk.settled({"a": VECTOR, "b": FAILURE})
        assert await desk.journal.next_unreported() is None
        await desk.handed_out()
        await desk.journal.postpone(["a"], BEGINNING + 60, counts=counts)
        await desk.journal.postpone(["b"], BEGINNING + 30, counts=counts)
        assert await desk.journal.next_unreported() == BEGINNING + 30
        assert await desk.handed_out() == []
        assert await desk.journal.backlog() == Backlog(unreported=2, oldest_unreported=BEGINNING)
        desk.clock.advance(30)
        assert await desk.handed_out() == ["b"]
        assert await desk.journal.next_unreported() == BEGINNING + 60
        desk.clock.advance(30)
        assert [entry.attempts for entry in await desk.journal.unreported(9)] == [int(counts)]

    async def test_a_postponed_outcome_does_not_hide_others(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        await desk.handed_out()
        await desk.journal.postpone(["a"], BEGINNING + 60)
        desk.clock.advance(1)
        await desk.settled({"b": VECTOR})
        assert await desk.handed_out(1) == ["b"]

    async def test_postpones_only_what_waits_for_delivery(self, desk: Desk) -> None:
        await desk.claimed("a")
        await desk.journal.postpone(["a", "unknown"], BEGINNING + 60)
        await desk.journal.settle({"a": VECTOR})
        assert [entry.attempts for entry in await desk.journal.unreported(9)] == [0]

    @pytest.mark.parametrize("outcome", [None, VECTOR, FAILURE])
    async def test_what_is_reported_is_finished(self, desk: Desk, outcome: Outcome | None) -> None:
        await desk.claimed("a")
        if outcome:
            await desk.journal.settle({"a": outcome})
        await desk.journal.mark_reported(["a", "unknown"])
        await desk.journal.settle({"a": FAILURE})
        await desk.journal.postpone(["a"], BEGINNING)
        await desk.journal.park("a", "late")
        assert await desk.journal.backlog() == Backlog()
        assert await desk.handed_out() == []

    async def test_what_was_not_begun_cannot_be_reported(self, desk: Desk) -> None:
        await desk.accept(task("a"))
        await desk.journal.mark_reported(["a"])
        assert await desk.journal.claim(9) == (task("a"),)

    async def test_what_is_parked_waits_for_an_operator(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": VECTOR})
        await desk.handed_out(1)
        await desk.journal.park("a", "refused")
        await desk.restart()
        assert await desk.journal.backlog() == Backlog(unreported=1, parked=1, oldest_unreported=BEGINNING)
        assert await desk.handed_out() == ["b"]

    async def test_every_report_makes_a_later_mark(self, desk: Desk) -> None:
        first = await desk.journal.mark()
        assert await desk.journal.mark() == first
        await desk.settled({"a": VECTOR})
        await desk.journal.mark_reported([])
        assert await desk.journal.mark() == first
        await desk.journal.mark_reported(["a"])
        assert await desk.journal.mark() > first


class TestReopen:
    async def test_claimed_tasks_are_due_again(self, desk: Desk) -> None:
        await desk.accept(task("a", content="x" * 2_000), task("b", batch_key="l"))
        first = await desk.journal.claim(1)
        await desk.restart()
        assert await desk.journal.backlog() == Backlog(ready=2)
        assert await desk.journal.claim(1) == first

    async def test_outcomes_handed_out_are_handed_out_again(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": FAILURE})
        first = await desk.journal.unreported(9)
        await desk.restart()
        assert await desk.journal.unreported(9) == first

    async def test_the_same_journal_may_be_reopened(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        first = await desk.journal.unreported(9)
        await desk.journal.reopen()
        assert await desk.journal.unreported(9) == first

    async def test_everything_else_stays(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": FAILURE, "c": Deferred(BEGINNING + 60, "limit", counts=True)})
        await desk.journal.park("b", "refused")
        await desk.journal.postpone(["a"], BEGINNING + 30)
        before = await desk.journal.backlog()
        await desk.restart()
        assert await desk.journal.backlog() == before
        assert await desk.journal.next_due() == BEGINNING + 60
        assert await desk.journal.next_unreported() == BEGINNING + 30

    async def test_nothing_waits_for_more_than_an_hour(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR, "b": Deferred(BEGINNING + 1e9, "the clock was wrong")})
        await desk.journal.postpone(["a"], BEGINNING + 1e9)
        await desk.restart()
        assert await desk.journal.next_due() == BEGINNING + 3_600
        assert await desk.journal.next_unreported() == BEGINNING + 3_600
        desk.clock.advance(3_600)
        assert await desk.handed_out() == ["a"]
        assert [each.id for each in await desk.journal.claim(9)] == ["b"]


class TestBooks:
    async def test_an_empty_journal_holds_nothing(self, desk: Desk) -> None:
        assert await desk.journal.backlog() == Backlog()
        assert await desk.journal.next_due() is None
        assert await desk.journal.next_unreported() is None
        assert await desk.journal.unreported(9) == ()

    async def test_counts_every_state(self, desk: Desk) -> None:
        await desk.settled({"parked": VECTOR, "failed": FAILURE})
        await desk.journal.park("parked", "refused")
        desk.clock.advance(10)
        await desk.settled({"succeeded": VECTOR, "deferred": Deferred(BEGINNING + 99, "limit")})
        await desk.claimed("claimed", "released")
        await desk.journal.release(["released"])
        backlog = Backlog(ready=1, deferred=1, claimed=1, unreported=2, parked=1, oldest_unreported=BEGINNING)
        assert await desk.journal.backlog() == backlog
        assert backlog.listed_again == 6

    async def test_names_what_is_not_reported(self, desk: Desk) -> None:
        assert await desk.journal.held() == ()
        await desk.settled({"reported": VECTOR, "parked": VECTOR, "succeeded": VECTOR, "failed": FAILURE})
        await desk.journal.mark_reported(["reported"])
        await desk.journal.park("parked", "no")
        await desk.settled({"deferred": Deferred(BEGINNING + 99, "limit")})
        await desk.claimed("claimed")
        await desk.accept(task("due"))
        assert {*await desk.journal.held()} == {"parked", "succeeded", "failed", "deferred", "claimed", "due"}

    async def test_lets_go_of_what_was_not_renewed(self, desk: Desk) -> None:
        await desk.claimed("old", "claimed", "deferred", "succeeded")
        await desk.journal.release(["old"])
        await desk.journal.settle({"deferred": Deferred(BEGINNING + 999, "limit"), "succeeded": VECTOR})
        await desk.journal.renewed(BEGINNING)
        desk.clock.advance(60)
        await desk.accept(task("fresh"))
        assert await desk.journal.let_go(BEGINNING) == 0
        assert await desk.journal.let_go(BEGINNING + 0.5) == 2
        assert {*await desk.journal.held()} == {"claimed", "succeeded", "fresh"}
        assert await desk.accept(task("old")) == ("old",)

    async def test_lets_go_once_until_something_is_renewed_again(self, desk: Desk) -> None:
        await desk.accept(task("a"))
        assert await desk.journal.let_go(BEGINNING + 99) == 0, "it was listed, and nobody else cares"
        await desk.journal.renewed(BEGINNING + 10.25)
        await desk.restart()
        assert await desk.journal.let_go(BEGINNING + 10.25) == 0
        assert await desk.journal.let_go(BEGINNING + 10.5) == 1
        await desk.accept(task("a"))
        desk.clock.advance(600)
        assert await desk.journal.let_go(BEGINNING + 300) == 0
        await desk.journal.renewed(BEGINNING + 600)
        assert await desk.journal.let_go(BEGINNING + 600) == 0
        assert await desk.journal.let_go(BEGINNING + 601) == 1

    async def test_forgets_what_was_reported_long_ago(self, desk: Desk) -> None:
        await desk.settled({"a": VECTOR})
        await desk.journal.mark_reported(["a"])
        desk.clock.advance(10)
        await desk.settled({"b": VECTOR, "waiting": VECTOR})
        await desk.journal.mark_reported(["b"])
        assert await desk.journal.forget(BEGINNING) == 0
        assert await desk.journal.forget(BEGINNING + 10) == 1
        stale = 0
        assert await desk.journal.accept([task("a"), task("b"), task("waiting")], stale) == ("a",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(JSON, min_size=1, max_size=5))
async def test_contents_come_back_as_they_were(desk: Desk, contents: list[Any]) -> None:
    tasks = [task(f"{number}", content=content) for number, content in enumerate(contents)]
    await desk.accept(*tasks)
    claimed = await desk.journal.claim(9)
    await desk.journal.settle({each.id: Succeeded(each.content) for each in claimed})
    entries = await desk.journal.unreported(9)
    await desk.journal.mark_reported([each.id for each in tasks])
    assert claimed == tuple(replace(each, attempts=0) for each in tasks)
    assert [entry.outcome for entry in entries] == [Succeeded(content) for content in contents]
