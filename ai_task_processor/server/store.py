"""The tasks that the server keeps, and every question that it asks about them."""

import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import count
from typing import Any, TypeAlias, TypeVar

from msgspec.structs import replace
from sqlalchemy import Connection, Row, Text, bindparam, case, func, insert, select, update

from ai_task_processor.domain.clock import Clock
from ai_task_processor.server.grouping import Grouped
from ai_task_processor.server.leases import claim_tasks, free_expired
from ai_task_processor.server.problems import Problem, invalid
from ai_task_processor.server.schema import ai_tasks, open_server_storage, signing_key
from ai_task_processor.server.tasks import (
    Answer,
    Change,
    Changed,
    Claim,
    NewTask,
    Standing,
    State,
    StoredTask,
    changed,
)
from ai_task_processor.storage.engine import Storage

T = TypeVar("T")

MOST_CHANGES_AT_ONCE = 256

_task = ai_tasks.c
_FACTS = (
    *(_task.id, _task.type, _task.state, _task.content, _task.callback_route, _task.callback_params),
    *(_task.priority, _task.created_at, _task.updated_at, _task.leased_until),
)
_ANSWER = (_task.vector, _task.json, _task.error)


Asked: TypeAlias = tuple[str, Change | Problem]
"""The id of a task, and how it is to change, or why that is known to be impossible already."""

Outcome: TypeAlias = Changed | Problem
"""A task after its change, or why it was not changed."""


class TaskStore:
    """Keeps tasks in a database; what a method did is durable when it returns.

    A task whose lease has run out is pending again for whoever looks.

    ``key`` is the server's own secret, made with the database. Every method raises JournalError when the database
    fails.
    """

    def __init__(self, storage: Storage, *, key: bytes, clock: Clock) -> None:
        self.key = key
        self._storage = storage
        self._clock = clock
        self._ids = TaskIds()
        self._first_lease_ends: float = -math.inf  # in Unix milliseconds; not before that is there any to take away
        self._change_grouped = Grouped(self._change_all, most=MOST_CHANGES_AT_ONCE)

    async def add(self, tasks: Sequence[NewTask]) -> list[str]:
        """Keep all of ``tasks`` as pending, or none; answers their ids in order."""
        now = self._now()
        ids = self._ids.make(now // 1000, len(tasks))

        def write(connection: Connection) -> None:
            rows = [_new_row(task_id, task, now) for task_id, task in zip(ids, tasks, strict=True)]
            connection.execute(insert(ai_tasks), rows)

        await self._storage.write(write)
        return ids

    async def pending(self, limit: int) -> list[StoredTask]:
        """At most ``limit`` pending tasks, oldest first."""
        query = select(*_FACTS).where(_task.state == State.PENDING).order_by(_task.sequence).limit(limit)
        return await self._read(lambda connection: _stored(connection.execute(query)))

    async def claim(self, claim: Claim) -> list[StoredTask]:
        """Give pending tasks to a worker for a while: by priority, then in the order in which they came."""
        await self._free_expired()
        now = self._now()
        until = now + int(claim.lease_seconds * 1000)

        def write(connection: Connection) -> list[StoredTask]:
            ids = claim_tasks(connection, claim, now=now, until=until)
            found = {task.id: task for task in _stored(connection.execute(select(*_FACTS).where(_task.id.in_(ids))))}
            return [found[task_id] for task_id in ids]

        claimed = await self._storage.write(write)
        self._first_lease_ends = min(self._first_lease_ends, until)
        return claimed

    async def get(self, task_id: str) -> StoredTask:
        """One task with its answer. Raises Problem where there is none of this id."""
        query = select(*_FACTS, *_ANSWER).where(_task.id == task_id)
        found = await self._read(lambda connection: _stored(connection.execute(query)))
        if not found:
            raise _unknown(task_id)
        return found[0]

    async def page(self, *, state: State | None, after: str | None, limit: int, results: bool) -> list[StoredTask]:
        """At most ``limit`` tasks in the order in which they came, beginning behind the task ``after``.

        Raises Problem where ``after`` is no task.
        """
        query = select(*_FACTS, *(_ANSWER if results else ())).order_by(_task.sequence).limit(limit)
        if state is not None:
            query = query.where(_task.state == state)

        def read(connection: Connection) -> list[StoredTask]:
            behind = query if after is None else query.where(_task.sequence > _sequence(connection, after))
            return _stored(connection.execute(behind))

        return await self._read(read)

    async def counts(self) -> Mapping[State, int]:
        """How many tasks there are in each state."""
        query = select(_task.state, func.count()).group_by(_task.state)

        def read(connection: Connection) -> dict[State, int]:
            return {State(state): number for state, number in connection.execute(query)}

        return dict.fromkeys(State, 0) | await self._read(read)

    async def change(self, task_id: str, change: Change) -> Changed:
        """Change one task. Raises Problem where it is unknown, or where the change is not possible."""
        outcome = await self._change_grouped((task_id, change))
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def change_each(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        """Change each of these tasks, in order; where that is not possible, the answer says why."""
        return await self._change_all(asked) if asked else ()

    async def _change_all(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        now = self._now()
        return await self._storage.write(lambda connection: _change_all(connection, asked, now))

    async def _read(self, work: Callable[[Connection], T]) -> T:
        await self._free_expired()
        return await self._storage.read(work)

    async def _free_expired(self) -> None:
        now = self._now()
        if now >= self._first_lease_ends:
            self._first_lease_ends = math.inf  # for whoever claims while this is being written
            ends = await self._storage.write(lambda connection: free_expired(connection, now))
            self._first_lease_ends = min(self._first_lease_ends, ends)

    def _now(self) -> int:
        return int(self._clock.now() * 1000)


@asynccontextmanager
async def open_task_store(database: str, *, clock: Clock) -> AsyncIterator[TaskStore]:
    """Open the tasks kept in the file ``database`` (or ``:memory:``), created with its folders where it is missing.

    Raises JournalError where the file cannot be used, belongs to something else, or is open in another process.
    """
    async with open_server_storage(database) as storage:
        yield TaskStore(storage, key=await storage.read(signing_key), clock=clock)


class TaskIds:
    """Makes ids like those of MongoDB: 24 hexadecimal digits of time, process and counter."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(5)
        self._counter = count(secrets.randbelow(1 << 24))

    def make(self, now: int, number: int) -> list[str]:
        """As many ids as asked for; ``now`` in Unix seconds."""
        return [f"{now:08x}{self._process}{next(self._counter) % (1 << 24):06x}" for _ in range(number)]


def _new_row(task_id: str, task: NewTask, now: int) -> dict[str, object]:
    return {
        "id": task_id,
        "type": task.type,
        "state": State.PENDING,
        "content": task.content,
        "callback_route": task.callback_route,
        "callback_params": task.callback_params,
        "priority": task.priority,
        "urgency": task.urgency,
        "created_at": now,
        "updated_at": now,
    }


def _stored(rows: Iterable[Row[Any]]) -> list[StoredTask]:
    return [_stored_task(row) for row in rows]


def _stored_task(row: Row[Any]) -> StoredTask:
    task_id, kind, state, content, route, params, priority, created_at, updated_at, leased_until, *answer = tuple(row)
    task = StoredTask(
        task_id, kind, State(state), content, route, params, priority, created_at, updated_at, leased_until
    )
    if not answer:
        return task
    vector, text, error = answer
    return replace(task, answer=Answer(vector, text), error=error)


def _sequence(connection: Connection, task_id: str) -> int:
    found = connection.execute(select(_task.sequence).where(_task.id == task_id)).scalar()
    if found is None:
        raise invalid(f"after: there is no task {task_id}")
    return int(found)


def _change_all(connection: Connection, asked: Sequence[Asked], now: int) -> list[Outcome]:
    before = _known(connection, {task_id for task_id, _ in asked})
    known = dict(before)
    outcomes = [_change_one(known, task_id, change, now) for task_id, change in asked]
    rows = [_changed_row(after) for task_id, after in known.items() if after is not before[task_id]]
    if rows:
        connection.execute(_UPDATE, rows)
    return outcomes


def _known(connection: Connection, ids: set[str]) -> dict[str, Changed]:
    query = select(_task.id, _task.type, _task.state, _task.updated_at, *_ANSWER).where(_task.id.in_(ids))
    return {
        task_id: Changed(task_id, Standing(kind, State(state), Answer(vector, text), error), updated_at)
        for task_id, kind, state, updated_at, vector, text, error in connection.execute(query)
    }


def _change_one(known: dict[str, Changed], task_id: str, change: Change | Problem, now: int) -> Outcome:
    if isinstance(change, Problem):
        return change
    before = known.get(task_id)
    if before is None:
        return _unknown(task_id)
    try:
        after = changed(before.standing, change)
    except Problem as problem:
        return problem
    if after is not before.standing:
        known[task_id] = Changed(task_id, after, now)
    return known[task_id]


_STAYS_IN_PROGRESS = bindparam("new_state", type_=Text) == State.IN_PROGRESS
_UPDATE = (
    update(ai_tasks)
    .where(_task.id == bindparam("changed_id"))
    .values({name: bindparam(f"new_{name}") for name in ("state", "updated_at", "vector", "json", "error")})
    .values({name: case((_STAYS_IN_PROGRESS, _task[name]), else_=None) for name in ("worker", "leased_until")})
)


def _changed_row(task: Changed) -> dict[str, object]:
    return {
        "changed_id": task.id,
        "new_state": task.standing.state,
        "new_updated_at": task.updated_at,
        "new_vector": task.standing.answer.vector,
        "new_json": task.standing.answer.json,
        "new_error": task.standing.error,
    }


def _unknown(task_id: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"There is no task {task_id}.")
