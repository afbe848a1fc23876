from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, text

from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Succeeded, Vector
from ai_task_processor.domain.task import Task
from ai_task_processor.journal import operator as operator_module
from ai_task_processor.journal.operator import OperatorJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.journal.state import State
from ai_task_processor.storage.engine import Storage, open_storage
from tests.fakes.time import BEGINNING, ManualClock

VECTOR = Succeeded(Vector(b"\x00\x00\x80\x3f\x00\x00\x00\xc0"), model="small", provider="mock", tokens=7)


@pytest.fixture
def operator(storage: Storage) -> OperatorJournal:
    return OperatorJournal(storage)


def task(task_id: str) -> Task:
    return Task(task_id, "t", {"text": "private"}, BEGINNING - 60, correlation_id="cor", batch_key="k")


async def settled(journal: SqlJournal, outcomes: dict[str, Outcome]) -> None:
    await journal.accept([task(task_id) for task_id in outcomes], 0)
    await journal.claim(len(outcomes))
    await journal.settle(outcomes)


async def delivered(journal: SqlJournal) -> list[str]:
    return [entry.task_id for entry in await journal.unreported(99)]


class TestLooking:
    async def test_a_row_has_every_fact(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(journal, {"a": VECTOR})
        await journal.postpone(["a"], BEGINNING + 60)
        row = await operator.show("a")
        assert row is not None
        assert (row.id, row.type, row.state, row.correlation_id, row.batch_key) == ("a", "t", "succeeded", "cor", "k")
        assert (row.created_at, row.accepted_at, row.settled_at) == (BEGINNING - 60, BEGINNING, BEGINNING)
        assert (row.not_before, row.deliveries, row.attempts, row.reported_at) == (BEGINNING + 60, 1, 0, None)
        assert (row.outcome, row.model, row.provider, row.tokens, row.dimensions) == ("vector", "small", "mock", 7, 2)

    async def test_a_row_says_why_it_waits(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(
            journal, {"a": VECTOR, "b": Failed("no text"), "c": Deferred(BEGINNING + 9, "limit", counts=True)}
        )
        await journal.park("b", "refused")
        rows = {row.id: row for row in await operator.list_rows()}
        assert (rows["a"].reason, rows["a"].not_before) == (None, None)
        assert (rows["b"].state, rows["b"].reason, rows["b"].error) == (State.PARKED, "refused", "no text")
        assert (rows["c"].state, rows["c"].reason, rows["c"].attempts) == (State.DUE, "limit", 1)

    async def test_lists_by_state_longest_held_first(
        self, journal: SqlJournal, operator: OperatorJournal, clock: ManualClock
    ) -> None:
        for task_id in ("c", "b", "a"):
            await settled(journal, {task_id: VECTOR})
            clock.advance(1)
        await journal.mark_reported(["b"])
        assert [row.id for row in await operator.list_rows()] == ["c", "a"]
        assert [row.id for row in await operator.list_rows(limit=1)] == ["c"]
        assert [row.id for row in await operator.list_rows({State.REPORTED})] == ["b"]

    async def test_there_is_no_row_of_an_unknown_task(self, operator: OperatorJournal) -> None:
        assert await operator.show("unknown") is None


class TestParked:
    async def test_only_parked_rows_longest_held_first(self, state_url: str, clock: ManualClock) -> None:
        async with open_storage(state_url) as storage:
            journal, operator = SqlJournal(storage, clock), OperatorJournal(storage)
            for task_id in ("c", "a", "b", "waits"):
                await settled(journal, {task_id: VECTOR})
                clock.advance(1)
            for task_id in "abc":
                await journal.park(task_id, f"refused {task_id}")
            two = await operator.parked(2)
            assert [(row.id, row.reason) for row in two] == [("c", "refused c"), ("a", "refused a")]
            assert len(await operator.parked(99)) == 3

    async def test_they_are_found_by_an_index(self, storage: Storage) -> None:
        def plan(connection: Connection) -> str:
            asked = operator_module._PARKED_ROWS.limit(5).compile(connection, compile_kwargs={"literal_binds": True})
            found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}")
            return " / ".join(step.detail for step in found)

        assert "SEARCH tasks USING INDEX tasks_by_state" in await storage.read(plan)


class TestRetry:
    async def test_sends_parked_outcomes_again(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(journal, {"a": VECTOR, "b": Failed("no text"), "c": Succeeded("json"), "d": VECTOR})
        await journal.postpone(["a"], BEGINNING)
        await journal.unreported(99)
        for task_id in "abc":
            await journal.park(task_id, "refused")
        assert await operator.retry() == 3
        entries = {entry.task_id: entry for entry in await journal.unreported(99)}
        assert entries["a"].outcome == VECTOR
        assert entries["b"].outcome == Failed("no text")
        assert entries["c"].outcome == Succeeded("json")
        assert entries["a"].attempts == 0
        assert await operator.retry() == 0

    async def test_sends_only_those_named(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(journal, {"a": VECTOR, "b": VECTOR})
        await journal.park("a", "refused")
        await journal.park("b", "refused")
        assert await operator.retry(["b", "b", "unknown"]) == 1
        assert await delivered(journal) == ["b"]

    async def test_ends_the_waiting_of_those_named(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(journal, {"a": VECTOR, "b": Deferred(BEGINNING + 60, "limit")})
        await journal.postpone(["a"], BEGINNING + 60)
        assert await operator.retry() == 0
        assert await operator.retry(["a", "b"]) == 2
        assert await delivered(journal) == ["a"]
        assert [each.id for each in await journal.claim(9)] == ["b"]

    async def test_changes_nothing_that_is_under_way_or_finished(
        self, journal: SqlJournal, operator: OperatorJournal
    ) -> None:
        await settled(journal, {"a": VECTOR, "b": VECTOR})
        await journal.unreported(1)
        await journal.mark_reported(["b"])
        assert await operator.retry(["a", "b"]) == 0
        assert await delivered(journal) == []

    async def test_what_was_parked_before_it_was_performed_is_due_again(
        self, journal: SqlJournal, operator: OperatorJournal
    ) -> None:
        await journal.accept([task("a")], 0)
        await journal.claim(1)
        await journal.park("a", "the API refuses to let us begin")
        assert await operator.retry() == 1
        assert await journal.claim(1) == (task("a"),)

    async def test_a_damaged_row_makes_room_for_the_task_to_come_anew(
        self, journal: SqlJournal, operator: OperatorJournal, storage: Storage
    ) -> None:
        await settled(journal, {"a": VECTOR})
        await storage.write(lambda connection: connection.execute(text("UPDATE tasks SET result = x'00'")))
        journal = SqlJournal(storage, ManualClock())  # another process: this one still knows what it has settled
        assert await delivered(journal) == []
        assert await journal.accept([task("a")], 0) == ()
        assert await operator.retry() == 1
        assert await journal.accept([task("a")], 0) == ("a",)


class TestExport:
    @staticmethod
    async def exported(operator: OperatorJournal, *, texts: bool = False) -> list[dict[str, Any]]:
        return [row async for row in operator.export(texts=texts)]

    async def test_gives_every_row_without_its_texts(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await journal.accept([task(f"{number:04}") for number in range(1_100)], 0)
        rows = await self.exported(operator)
        assert [row["id"] for row in rows] == [f"{number:04}" for number in range(1_100)]
        assert b"private" not in orjson.dumps(rows)

    async def test_gives_texts_and_results_when_asked(self, journal: SqlJournal, operator: OperatorJournal) -> None:
        await settled(journal, {"a": VECTOR, "b": Succeeded({"label": "x"}), "c": Deferred(BEGINNING, "limit")})
        rows = await self.exported(operator, texts=True)
        assert [row["result"] for row in rows] == [[1.0, -2.0], {"label": "x"}, None]
        assert [row["content"] for row in rows] == [None, None, {"text": "private"}]

    async def test_is_not_stopped_by_damage(
        self, journal: SqlJournal, operator: OperatorJournal, storage: Storage
    ) -> None:
        await settled(journal, {"a": VECTOR})
        await storage.write(lambda connection: connection.execute(text("UPDATE tasks SET result = x'00'")))
        assert [row["result"] for row in await self.exported(operator, texts=True)] == [None]


async def test_works_beside_the_daemon(journal: SqlJournal, tmp_path: Path) -> None:
    await settled(journal, {"a": VECTOR})
    await journal.park("a", "refused")
    async with open_storage(f"sqlite:///{tmp_path}/state.db", exclusive=False) as storage:
        assert await OperatorJournal(storage).retry() == 1
    assert await delivered(journal) == ["a"]
