"""Any sequence of calls does to a journal what it does to a model of twenty lines a method."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Settled, Succeeded, Vector
from ai_task_processor.domain.ports import Backlog, Entry, Journal
from ai_task_processor.domain.task import Task, urgency
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.storage.postgres import database_time
from tests.fakes.postgres import Database
from tests.fakes.time import BEGINNING, ManualClock

IDS = st.sampled_from("abcdef")
SOME_IDS = st.lists(IDS, max_size=4, unique=True)
LIMITS = st.integers(0, 4)
SECONDS = st.sampled_from([0.0, 1.0, 30.0, 10_000.0])
TASKS = st.lists(
    st.builds(
        Task,
        IDS,
        type=st.just("text_embedding"),
        content=st.text(max_size=3),
        created_at=st.sampled_from([BEGINNING - 9, BEGINNING]),
        priority=st.integers(0, 1),
        batch_key=st.sampled_from(["k", "l"]),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)
OUTCOMES = st.one_of(
    st.binary(min_size=8, max_size=8).map(lambda data: Succeeded(Vector(data), "model", "mock", 3)),
    st.text(max_size=3).map(Succeeded),
    st.just(Failed("no text")),
    st.builds(Deferred, SECONDS.map(lambda delay: BEGINNING + delay), reason=st.just("limit"), counts=st.booleans()),
)


class Modelled(Struct, frozen=True):
    """One task as it must be."""

    task: Task
    state: str = "due"
    later: float = 0.0
    outcome: Settled | None = None
    settled_at: float = 0.0
    deliveries: int = 0
    handed_out: bool = False
    reported: tuple[float, int] = (0.0, 0)


class Model:
    """The whole state machine, without thought for cost."""

    def __init__(self) -> None:
        self.rows: dict[str, Modelled] = {}
        self.mark = 0

    def accept(self, tasks: list[Task], mark: int) -> tuple[str, ...]:
        new = [each for each in tasks if self._is_new(self.rows.get(each.id), mark)]
        self.rows.update((each.id, Modelled(each)) for each in new)
        return tuple(each.id for each in new)

    def claim(self, limit: int, now: float) -> tuple[Task, ...]:
        self._ripen(("due",), now)
        ready = sorted((row.task for row in self.of("due") if row.later == 0), key=urgency)
        claimed = tuple(each for each in ready if each.batch_key == ready[0].batch_key)[:limit]
        self.change([each.id for each in claimed], ("due",), state="claimed")
        return claimed

    def settle(self, outcomes: dict[str, Outcome], now: float) -> None:
        for task_id, outcome in outcomes.items():
            if isinstance(outcome, Deferred):
                row = self.rows.get(task_id)
                again = row and replace(row.task, attempts=row.task.attempts + outcome.counts)
                self.change([task_id], ("claimed",), state="due", task=again, later=outcome.until)
            else:
                state = "failed" if isinstance(outcome, Failed) else "succeeded"
                self.change([task_id], ("claimed",), state=state, outcome=outcome, settled_at=now)

    def unreported(self, limit: int, now: float) -> tuple[Entry, ...]:
        self._ripen(("succeeded", "failed"), now)
        free = (row for row in self.of("succeeded", "failed") if row.later == 0 and not row.handed_out)
        oldest = sorted(free, key=lambda row: (row.settled_at, row.task.id))[:limit]
        self.change([row.task.id for row in oldest], ("succeeded", "failed"), handed_out=True)
        return tuple(
            Entry(row.task.id, row.task.type, row.task.correlation_id, row.outcome, row.settled_at, row.deliveries)
            for row in oldest
            if row.outcome
        )

    def mark_reported(self, ids: list[str], now: float) -> None:
        if ids:
            self.mark += 1
            self.change(ids, ("claimed", "succeeded", "failed"), state="reported", reported=(now, self.mark))

    def postpone(self, ids: list[str], until: float, *, counts: bool) -> None:
        for task_id in ids:
            if task_id in self.rows:
                deliveries = self.rows[task_id].deliveries + counts
                change = {"later": until, "deliveries": deliveries, "handed_out": False}
                self.change([task_id], ("succeeded", "failed"), **change)

    def reopen(self, now: float) -> None:
        self.change(list(self.rows), ("claimed",), state="due")
        for task_id, row in self.rows.items():
            self.rows[task_id] = replace(row, handed_out=False, later=min(row.later, now + 3_600))

    def forget(self, before: float) -> int:
        old = [row.task.id for row in self.of("reported") if row.reported[0] < before]
        for task_id in old:
            del self.rows[task_id]
        return len(old)

    def backlog(self, now: float) -> Backlog:
        return Backlog(
            ready=sum(row.later <= now for row in self.of("due")),
            deferred=sum(row.later > now for row in self.of("due")),
            claimed=len(self.of("claimed")),
            unreported=len(self.of("succeeded", "failed")),
            parked=len(self.of("parked")),
            oldest_unreported=min((row.settled_at for row in self.of("succeeded", "failed")), default=None),
        )

    def next(self, *states: str) -> float | None:
        return min((row.later for row in self.of(*states) if row.later), default=None)

    def of(self, *states: str) -> list[Modelled]:
        return [row for row in self.rows.values() if row.state in states]

    def change(self, ids: list[str], states: tuple[str, ...], **changes: Any) -> None:
        for task_id in ids:
            if task_id in self.rows and self.rows[task_id].state in states:
                self.rows[task_id] = replace(self.rows[task_id], **changes)

    def _ripen(self, states: tuple[str, ...], now: float) -> None:
        self.change([row.task.id for row in self.of(*states) if row.later <= now], states, later=0.0)

    def _is_new(self, row: Modelled | None, mark: int) -> bool:
        return row is None or (row.state == "reported" and row.reported[1] <= mark)


class MemoryMachine(RuleBasedStateMachine):
    """Does the same to a journal and to the model, and compares every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model = Model()
        self.old_mark = 0
        self.runner = asyncio.Runner()
        self.journal = self.opened()

    def opened(self) -> Journal:
        return MemoryJournal(self.clock)

    def teardown(self) -> None:
        self.runner.close()

    @rule(tasks=TASKS, stale=st.booleans())
    def accept(self, tasks: list[Task], *, stale: bool) -> None:
        mark = self.old_mark if stale else self.model.mark
        assert self.runner.run(self.journal.accept(tasks, mark)) == self.model.accept(tasks, mark)

    @rule()
    def remember_mark(self) -> None:
        self.old_mark = self.runner.run(self.journal.mark())

    @rule(limit=LIMITS)
    def claim(self, limit: int) -> None:
        assert self.runner.run(self.journal.claim(limit)) == self.model.claim(limit, self.clock.now())

    @rule(outcomes=st.dictionaries(IDS, OUTCOMES, max_size=4))
    def settle(self, outcomes: dict[str, Outcome]) -> None:
        self.runner.run(self.journal.settle(outcomes))
        self.model.settle(outcomes, self.clock.now())

    @precondition(lambda self: self.model.of("claimed"))
    @rule(outcome=OUTCOMES)
    def settle_all(self, outcome: Outcome) -> None:
        self.settle({row.task.id: outcome for row in self.model.of("claimed")})

    @rule(ids=SOME_IDS)
    def release(self, ids: list[str]) -> None:
        self.runner.run(self.journal.release(ids))
        self.model.change(ids, ("claimed",), state="due")

    @rule(limit=LIMITS)
    def unreported(self, limit: int) -> None:
        assert self.runner.run(self.journal.unreported(limit)) == self.model.unreported(limit, self.clock.now())

    @rule(ids=SOME_IDS)
    def mark_reported(self, ids: list[str]) -> None:
        self.runner.run(self.journal.mark_reported(ids))
        self.model.mark_reported(ids, self.clock.now())

    @rule(ids=SOME_IDS, delay=SECONDS, counts=st.booleans())
    def postpone(self, ids: list[str], delay: float, *, counts: bool) -> None:
        until = self.clock.now() + delay
        self.runner.run(self.journal.postpone(ids, until, counts=counts))
        self.model.postpone(ids, until, counts=counts)

    @rule(task_id=IDS)
    def park(self, task_id: str) -> None:
        self.runner.run(self.journal.park(task_id, "refused"))
        self.model.change([task_id], ("claimed", "succeeded", "failed"), state="parked", later=0.0, handed_out=False)

    @rule(age=SECONDS)
    def forget(self, age: float) -> None:
        before = self.clock.now() - age
        assert self.runner.run(self.journal.forget(before)) == self.model.forget(before)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.journal = self.reopened()
        self.runner.run(self.journal.reopen())
        self.model.reopen(self.clock.now())

    def reopened(self) -> Journal:
        return self.journal

    @invariant()
    def books_agree(self) -> None:
        assert self.runner.run(self.journal.mark()) == self.model.mark
        assert self.runner.run(self.journal.backlog()) == self.model.backlog(self.clock.now())
        assert self.runner.run(self.journal.next_due()) == self.model.next("due")
        assert self.runner.run(self.journal.next_unreported()) == self.model.next("succeeded", "failed")


class SqliteMachine(MemoryMachine):
    """The same over a file, which every restart closes and opens."""

    def opened(self) -> Journal:
        self.folder = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        return self.reopened()

    def reopened(self) -> Journal:
        return self.runner.run(self._reopened())

    async def _reopened(self) -> Journal:
        await self.stack.aclose()
        storage = await self.stack.enter_async_context(open_storage(f"sqlite:///{self.folder.name}/state.db"))
        return SqlJournal(storage, self.clock)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.folder.cleanup()
        super().teardown()


class PostgresMachine(SqliteMachine):
    """The same over a PostgreSQL database, as one of its replicas."""

    url = ""

    async def _reopened(self) -> Journal:
        await self.stack.aclose()
        storage = await self.stack.enter_async_context(open_storage(self.url))
        return SqlJournal(storage, self.clock, Lease(storage, seconds=60, time=database_time, replica="one"))


def test_postgres_machine(postgres: Database) -> None:
    class Machine(PostgresMachine):
        url = postgres.url

        def opened(self) -> Journal:
            postgres.clear()
            return super().opened()

    few = settings(max_examples=6, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Machine, settings=few)  # type: ignore[no-untyped-call]  # hypothesis has no type for it


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
