import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, text

from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Succeeded, Vector
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.domain.task import Task
from ai_task_processor.journal import sql
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.statements import Statement
from tests.fakes.time import BEGINNING, ManualClock

VECTOR = Succeeded(Vector(bytes(range(12))), model="small", provider="mock", tokens=7)


def task(task_id: str, **facts: Any) -> Task:
    usual = {"type": "t", "content": {"text": "private"}, "created_at": BEGINNING, "batch_key": "k"}
    return Task(task_id, **usual | facts)


async def settled(journal: SqlJournal, outcomes: dict[str, Outcome]) -> None:
    await journal.accept([task(task_id) for task_id in outcomes], 0)
    await journal.claim(len(outcomes))
    await journal.settle(outcomes)


async def row(storage: Storage, task_id: str) -> Any:
    wanted = text("SELECT * FROM tasks WHERE id = :id")
    return await storage.read(lambda connection: connection.execute(wanted, {"id": task_id}).one())


async def change(storage: Storage, statement: str, **values: Any) -> None:
    await storage.write(lambda connection: connection.execute(text(statement), values))


class TestWhatIsKept:
    async def test_a_content_is_forgotten_when_its_task_is_settled(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": VECTOR, "b": Failed("no text"), "c": Deferred(BEGINNING, "limit")})
        assert (await row(storage, "a")).content is None
        assert (await row(storage, "b")).content is None
        assert (await row(storage, "c")).content == b'{"text":"private"}'

    async def test_a_vector_is_kept_as_its_bytes_with_who_made_it(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": VECTOR})
        kept = await row(storage, "a")
        assert (kept.result, kept.dimensions) == (bytes(range(12)), 3)
        assert (kept.state, kept.model, kept.provider, kept.tokens) == ("succeeded", "small", "mock", 7)

    async def test_a_result_is_forgotten_when_it_is_reported(
        self, journal: SqlJournal, storage: Storage, clock: ManualClock
    ) -> None:
        await settled(journal, {"a": VECTOR})
        await journal.accept([task("claimed")], 0)
        await journal.claim(1)
        clock.advance(5)
        await journal.mark_reported(["a", "claimed"])
        for task_id in ("a", "claimed"):
            kept = await row(storage, task_id)
            assert (kept.state, kept.result, kept.content) == ("reported", None, None)
            assert kept.reported_at == BEGINNING + 5

    async def test_the_reason_for_waiting_is_kept_while_it_waits(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": Deferred(BEGINNING, "half \ud800 a limit")})
        assert (await row(storage, "a")).reason == "half ? a limit"
        await journal.claim(1)
        assert (await row(storage, "a")).reason is None


class TestMemory:
    async def test_what_was_settled_a_moment_ago_is_not_read_again(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": VECTOR})
        await change(storage, "UPDATE tasks SET result = NULL")
        (entry,) = await journal.unreported(1)
        assert entry.outcome == VECTOR
        assert (entry.task_id, entry.type, entry.settled_at, entry.attempts) == ("a", "t", BEGINNING, 0)

    async def test_what_was_settled_again_since_is_read(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": VECTOR})
        await change(storage, "UPDATE tasks SET result = x'00000000', dimensions = 1, settled_at = settled_at + 1")
        (entry,) = await journal.unreported(1)
        assert entry.outcome == Succeeded(Vector(bytes(4)), model="small", provider="mock", tokens=7)

    async def test_what_no_longer_stands_is_not_handed_out(self, journal: SqlJournal, storage: Storage) -> None:
        await settled(journal, {"a": VECTOR, "b": VECTOR})
        await change(storage, "DELETE FROM tasks WHERE id = 'a'")
        assert [entry.task_id for entry in await journal.unreported(10)] == ["b"]

    async def test_a_late_outcome_is_not_remembered(self, journal: SqlJournal) -> None:
        await settled(journal, {"a": VECTOR})
        await journal.settle({"a": Failed("too late")})
        assert [entry.outcome for entry in await journal.unreported(1)] == [VECTOR]

    async def test_more_than_can_be_remembered(self, journal: SqlJournal) -> None:
        outcomes: dict[str, Outcome] = {f"t{number}": Failed(str(number)) for number in range(sql.REMEMBERED + 10)}
        await settled(journal, outcomes)
        assert {entry.task_id: entry.outcome for entry in await journal.unreported(len(outcomes))} == outcomes


class TestDamage:
    @pytest.mark.parametrize("content", [b"{not json", b"\x78\x9cnot deflated", None])
    async def test_a_content_that_cannot_be_read_is_set_aside(
        self, journal: SqlJournal, storage: Storage, content: bytes | None
    ) -> None:
        await journal.accept([task("a"), task("b")], 0)
        await change(storage, "UPDATE tasks SET content = :content WHERE id = 'a'", content=content)
        assert [each.id for each in await journal.claim(1)] == ["b"]
        assert await journal.claim(1) == ()
        kept = await row(storage, "a")
        assert (kept.state, kept.outcome, kept.content) == ("parked", "damaged", content)
        assert kept.reason.startswith("its content cannot be read: ")
        assert await journal.backlog() == Backlog(claimed=1, parked=1)

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE tasks SET result = x'0000' WHERE id = 'a'",
            "UPDATE tasks SET result = NULL WHERE id = 'a'",
            "UPDATE tasks SET outcome = 'x' WHERE id = 'a'",
            "UPDATE tasks SET outcome = 'json' WHERE id = 'a'",
        ],
    )
    async def test_an_outcome_that_cannot_be_read_is_never_sent(
        self, journal: SqlJournal, storage: Storage, damage: str
    ) -> None:
        await settled(journal, {"a": VECTOR, "b": VECTOR})
        await change(storage, damage)
        journal = SqlJournal(storage, ManualClock())  # another process: this one still knows what it has settled
        assert [entry.task_id for entry in await journal.unreported(1)] == ["b"]
        assert await journal.unreported(1) == ()
        kept = await row(storage, "a")
        assert (kept.state, kept.outcome) == ("parked", "damaged")
        assert kept.reason.startswith("its outcome cannot be read: ")


class TestCancellation:
    async def test_outcomes_are_not_handed_out_to_a_caller_that_is_gone(
        self, journal: SqlJournal, storage: Storage
    ) -> None:
        await settled(journal, {"a": VECTOR})
        go_on = threading.Event()
        busy = asyncio.create_task(storage.read(lambda _: go_on.wait()))
        caller = asyncio.create_task(journal.unreported(1))
        await asyncio.sleep(0)
        caller.cancel()
        go_on.set()
        await busy
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert [entry.task_id for entry in await journal.unreported(1)] == ["a"]


class TestCost:
    """Every statement finds its rows by an index, so that what waits or is finished costs nothing."""

    async def test_no_statement_reads_the_whole_table(self, storage: Storage) -> None:
        def plan(connection: Connection, statement: Statement) -> str:
            values = {name: [1] if name in {"ids", "none_of"} else 1 for name in statement.parameters}
            steps = Statement(f"EXPLAIN QUERY PLAN {statement.sole}").rows(connection, values)
            return " / ".join(str(detail) for *_, detail in steps)

        statements = {name: value for name, value in vars(sql).items() if isinstance(value, Statement)}
        assert len(statements) > 20
        for name, statement in statements.items():
            found = await storage.read(lambda connection, each=statement: plan(connection, each))
            assert "SCAN tasks" not in found.replace("SCAN tasks USING", ""), f"{name}: {found}"
            assert "TEMP B-TREE" not in found or name == "_OUTCOMES", f"{name}: {found}"

    async def test_ten_thousand_tasks_leave_the_loop_free(self, journal: SqlJournal) -> None:
        page = [task(str(number)) for number in range(10_000)]
        turns = 0
        accepting = asyncio.create_task(journal.accept(page, 0))
        while not accepting.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert len(await accepting) == 10_000
        assert turns > 5
