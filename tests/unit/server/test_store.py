import asyncio
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.server.problems import Problem
from ai_task_processor.server.store import TaskIds, open_task_store
from ai_task_processor.server.tasks import Answer, Change, Claim, NewTask, State
from tests.fakes.time import BEGINNING, ManualClock

MEMORY = ":memory:"
VECTOR = Answer(vector=np.arange(4, dtype="<f4").tobytes())


def tasks(number: int) -> list[NewTask]:
    return [NewTask("text_embedding", f'{{"text":"{index}"}}') for index in range(number)]


async def test_what_is_added_is_pending_in_the_order_in_which_it_came() -> None:
    clock = ManualClock()
    async with open_task_store(MEMORY, clock=clock) as store:
        first = await store.add(tasks(3))
        clock.advance(1.5)
        second = await store.add([NewTask("t", "1", "route", '{"a":1}', '"high"')])

        pending = await store.pending(10)

        assert [task.id for task in pending] == first + second
        assert [task.id for task in await store.pending(2)] == first[:2]
        assert (pending[0].created_at, pending[3].created_at) == (BEGINNING * 1000, BEGINNING * 1000 + 1500)
        assert (pending[3].callback_route, pending[3].callback_params, pending[3].priority) == (
            "route",
            '{"a":1}',
            '"high"',
        )
        assert pending[3].answer is None


async def test_a_change_moves_a_task_from_state_to_state() -> None:
    clock = ManualClock()
    async with open_task_store(MEMORY, clock=clock) as store:
        (task_id,) = await store.add(tasks(1))
        clock.advance(2)
        await store.change(task_id, Change(State.IN_PROGRESS))
        assert await store.pending(10) == []
        changed = await store.change(task_id, Change(State.SUCCEEDED, VECTOR))

        task = await store.get(task_id)

        assert (task.state, task.answer, task.error) == (State.SUCCEEDED, VECTOR, None)
        assert task.updated_at == changed.updated_at == task.created_at + 2000


async def test_a_repeated_result_leaves_even_the_time_of_the_change_alone() -> None:
    clock = ManualClock()
    async with open_task_store(MEMORY, clock=clock) as store:
        (task_id,) = await store.add(tasks(1))
        first = await store.change(task_id, Change(State.SUCCEEDED, VECTOR))
        clock.advance(60)

        assert await store.change(task_id, Change(State.SUCCEEDED, VECTOR)) == first
        with pytest.raises(Problem, match="already"):
            await store.change(task_id, Change(State.SUCCEEDED, Answer(json="[7]")))
        assert (await store.get(task_id)).answer == VECTOR


async def test_changes_at_once_are_judged_one_after_the_other() -> None:
    async with open_task_store(MEMORY, clock=ManualClock()) as store:
        ids = await store.add(tasks(400))
        changes = [
            store.change(task_id, Change(State.SUCCEEDED, Answer(json=str(number))))
            for task_id in [*ids, "unknown"]
            for number in range(3)
        ]

        outcomes = await asyncio.gather(*changes, return_exceptions=True)

        statuses = [outcome.status if isinstance(outcome, Problem) else 200 for outcome in outcomes]
        assert statuses == [200, 409, 409] * 400 + [404] * 3
        assert (await store.counts())[State.SUCCEEDED] == 400
        assert (await store.get(ids[7])).answer == Answer(json="0")


async def test_pages_follow_each_other_without_gaps() -> None:
    async with open_task_store(MEMORY, clock=ManualClock()) as store:
        ids = await store.add(tasks(25))
        await asyncio.gather(*(store.change(task_id, Change(State.FAILED, error="no")) for task_id in ids[::2]))
        seen: list[str] = []
        while page := await store.page(
            state=State.FAILED, after=seen[-1] if seen else None, limit=5, results=len(seen) > 5
        ):
            assert [task.error for task in page] == [None if len(seen) <= 5 else "no"] * len(page)
            seen += [task.id for task in page]

        assert seen == ids[::2]
        everything = await store.page(state=None, after=None, limit=100, results=False)
        assert [task.id for task in everything] == ids


async def test_unknown_ids_are_a_problem() -> None:
    async with open_task_store(MEMORY, clock=ManualClock()) as store:
        with pytest.raises(Problem, match="no task x"):
            await store.get("x")
        with pytest.raises(Problem, match="after: there is no task x"):
            await store.page(state=None, after="x", limit=1, results=False)


async def test_counts_name_every_state() -> None:
    async with open_task_store(MEMORY, clock=ManualClock()) as store:
        assert dict(await store.counts()) == dict.fromkeys(State, 0)


async def test_tasks_and_key_outlive_the_process(tmp_path: Path) -> None:
    database = str(tmp_path / "new" / "tasks.db")
    async with open_task_store(database, clock=ManualClock()) as store:
        key, (task_id,) = store.key, await store.add(tasks(1))
        await store.change(task_id, Change(State.SUCCEEDED, VECTOR))

    async with open_task_store(database, clock=ManualClock()) as store:
        assert store.key == key
        assert len(key) == 32
        assert (await store.get(task_id)).answer == VECTOR


async def test_a_database_in_use_is_refused(tmp_path: Path) -> None:
    database = str(tmp_path / "tasks.db")
    async with open_task_store(database, clock=ManualClock()):
        with pytest.raises(JournalError, match="in use"):
            async with open_task_store(database, clock=ManualClock()):
                pass


async def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE tasks (id TEXT)")
    other.close()

    with pytest.raises(JournalError, match=r"other\.db is not the database of a task server"):
        async with open_task_store(str(path), clock=ManualClock()):
            pass


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_task_store(str(path), clock=ManualClock()):
        pass
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE ai_task_server SET schema = 99")
    newer.close()

    with pytest.raises(JournalError, match="newer version"):
        async with open_task_store(str(path), clock=ManualClock()):
            pass


FIRST_SCHEMA = """
    CREATE TABLE ai_tasks (sequence INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, state TEXT NOT NULL,
        content TEXT NOT NULL, callback_route TEXT, callback_params TEXT, priority TEXT, created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL, error TEXT, json TEXT, vector BLOB, PRIMARY KEY (sequence), UNIQUE (id));
    CREATE INDEX ai_tasks_by_state ON ai_tasks (state, sequence);
    CREATE TABLE ai_task_server (schema INTEGER NOT NULL, signing_key BLOB NOT NULL);
    INSERT INTO ai_task_server VALUES (1, zeroblob(32));
"""


async def test_a_database_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    priorities = [None, '"low"', '"critical"', "2.5", '"high"', '"normal"', "-1"]
    with sqlite3.connect(old) as first:
        first.executescript(FIRST_SCHEMA)
        rows = [(str(number), priority) for number, priority in enumerate(priorities)]
        first.executemany("INSERT INTO ai_tasks VALUES (NULL,?,'t','pending','1',NULL,NULL,?,0,0,NULL,NULL,NULL)", rows)
    first.close()

    for path in (old, old, new):
        async with open_task_store(str(path), clock=ManualClock()) as store:
            claimed = await store.claim(Claim("one", 10, 60))
            assert [task.id for task in claimed] in ([], ["6", "2", "4", "0", "5", "3", "1"])
            assert [task.id for task in await store.pending(10)] == []

    assert shape(old) == shape(new)


def shape(path: Path) -> object:
    with sqlite3.connect(path) as database:
        columns = database.execute("SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('ai_tasks')")
        indexes = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        version = database.execute("SELECT schema FROM ai_task_server")
        found = [sorted(rows.fetchall()) for rows in (columns, indexes, version)]
    database.close()
    return found


async def test_a_lease_outlives_the_process_and_ends_at_its_time(tmp_path: Path) -> None:
    database = str(tmp_path / "tasks.db")
    clock = ManualClock()
    async with open_task_store(database, clock=clock) as store:
        (task_id,) = await store.add(tasks(1))
        (claimed,) = await store.claim(Claim("one", 1, 60))
        assert claimed.leased_until == BEGINNING * 1000 + 60_000

    async with open_task_store(database, clock=clock) as store:
        clock.advance(59)
        assert (await store.counts())[State.IN_PROGRESS] == 1
        clock.advance(1)
        assert (await store.counts())[State.PENDING] == 1
        assert (await store.get(task_id)).leased_until is None


async def test_a_change_ends_a_lease_and_work_that_begins_does_not() -> None:
    clock = ManualClock()
    async with open_task_store(MEMORY, clock=clock) as store:
        begun, done, back = await store.add(tasks(3))
        await store.claim(Claim("one", 3, 60))
        await store.change(begun, Change(State.IN_PROGRESS))
        await store.change(done, Change(State.SUCCEEDED, VECTOR))
        await store.change(back, Change(State.PENDING))

        leases = [(await store.get(task_id)).leased_until for task_id in (begun, done, back)]
        clock.advance(60)

        assert leases == [BEGINNING * 1000 + 60_000, None, None]
        assert [task.id for task in await store.pending(10)] == [begun, back]


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.write_text("hello" * 1000)

    with pytest.raises(JournalError, match=r"is not a database.* or give --database another file"):
        async with open_task_store(str(path), clock=ManualClock()):
            pass
    assert path.read_text() == "hello" * 1000


async def test_a_file_that_another_server_has_open_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "tasks.db")
    async with open_task_store(path, clock=ManualClock()):
        with pytest.raises(JournalError, match=r"in use by process .* or give --database another file"):
            async with open_task_store(path, clock=ManualClock()):
                pass


def test_ids_look_like_those_of_mongodb_and_differ() -> None:
    first, second = TaskIds(), TaskIds()
    made = [*first.make(1_700_000_000, 1000), *first.make(1_700_000_000, 1000), *second.make(1_700_000_000, 1000)]

    assert len(set(made)) == 3000
    assert all(len(task_id) == 24 and int(task_id, 16) >> 64 == 1_700_000_000 for task_id in made)
