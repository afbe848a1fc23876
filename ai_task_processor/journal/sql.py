"""The journal in a database."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import Connection

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.outcome import Deferred, Outcome, Settled, Succeeded, Vector
from ai_task_processor.domain.ports import Backlog, Entry
from ai_task_processor.domain.task import Task, urgency
from ai_task_processor.journal.encoding import DAMAGED, Damaged, decoded, encoded, outcome_columns, outcome_of, storable
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.state import LONGEST_WAIT
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.statements import Statement
from ai_task_processor.storage.vectors import keys_kept

Parameters: TypeAlias = dict[str, Any]

_Unreported: TypeAlias = tuple[str, str, str, float, int]
"""Id, type, correlation id, when it was settled, and deliveries that failed."""

_Fresh: TypeAlias = tuple[float, Settled]
"""When an outcome was settled, by which its row is known to be the same still, and the outcome."""

REMEMBERED: Final = 1_024
"""Outcomes that need not be read for their delivery, for they were settled a moment ago."""

_NO_ROWS: Final = (0, 0, None)

# What stands between /* and */ is for databases that replicas share. Each condition is written as in the index that
# serves it (storage/schema.py), or the index would not be used.

_MARK = Statement("SELECT value FROM meta WHERE key = 'reports'")
_NEXT_MARK = Statement("""
    INSERT INTO meta (key, value) VALUES ('reports', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT)
    RETURNING value
""")

_KNOWN = Statement("""
    SELECT id, CASE WHEN state = 'reported' THEN reported_mark END FROM tasks WHERE id IN :ids
""")
_DROP = Statement("DELETE FROM tasks WHERE id IN :ids")
_INSERT = Statement("""
    INSERT INTO tasks (id, type, state, priority, created_at, batch_key, correlation_id, attempts, deliveries,
                       not_before, accepted_at, content)
    VALUES (:id, :type, 'due', :priority, :created_at, :batch_key, :correlation_id, 0, 0, 0, :now, :content)
""")

_RIPEN_DUE = Statement("""
    UPDATE tasks SET not_before = 0
    WHERE state <> 'reported' AND state = 'due' AND not_before > 0 AND not_before <= :now
""")
_MOST_URGENT_KEY = Statement("""
    SELECT batch_key FROM tasks
    WHERE state <> 'reported' AND state = 'due' AND not_before = 0 AND batch_key NOT IN :none_of
    ORDER BY priority, created_at, id LIMIT 1 /*FOR UPDATE SKIP LOCKED*/
""")
_CLAIM = Statement("""
    UPDATE tasks SET state = 'claimed', reason = NULL /*, claimed_by = :me*/ WHERE id IN (/*SELECT unnest(ARRAY(*/
        SELECT id FROM tasks WHERE state = 'due' AND not_before = 0 AND batch_key = :key
        ORDER BY priority, created_at, id LIMIT :limit /*FOR UPDATE SKIP LOCKED))*/)
    RETURNING id, type, content, created_at, priority, correlation_id, batch_key, attempts
""")
_SET_ASIDE = Statement("""
    UPDATE tasks SET state = 'parked', outcome = :outcome, reason = :reason WHERE id = :id AND state <> 'reported'
""")

_HELD_HERE = Statement("""
    SELECT id FROM tasks WHERE id IN :ids AND state = 'claimed' /*AND claimed_by = :me FOR UPDATE*/
""")
_SETTLE = Statement("""
    UPDATE tasks SET state = :state, settled_at = :now, content = NULL, result = :result, result_key = :result_key,
                     outcome = :outcome, model = :model, provider = :provider, tokens = :tokens,
                     dimensions = :dimensions, error = :error
    WHERE id = :id AND state = 'claimed' /*AND claimed_by = :me*/
""")
_DEFER = Statement("""
    UPDATE tasks SET state = 'due', not_before = :until, attempts = attempts + :counted, reason = :reason
    WHERE id = :id AND state = 'claimed' /*AND claimed_by = :me*/
""")
_RELEASE = Statement("UPDATE tasks SET state = 'due' WHERE id IN :ids AND state = 'claimed' /*AND claimed_by = :me*/")

_RIPEN_UNREPORTED = Statement("""
    UPDATE tasks SET not_before = 0
    WHERE state <> 'reported' AND state IN ('succeeded', 'failed') AND not_before > 0 AND not_before <= :now
""")
_OLDEST_UNREPORTED = Statement("""
    SELECT id, type, correlation_id, settled_at, deliveries FROM tasks
    WHERE state IN ('succeeded', 'failed') AND not_before = 0 /*AND claimed_by = :me*/
    ORDER BY settled_at, id LIMIT :limit
""")
_OUTCOMES = Statement("""
    SELECT id, outcome, COALESCE(result, (
        SELECT substr(entry, -4 * dimensions) FROM embedding_cache WHERE key = result_key
    )), error, model, provider, tokens, dimensions
    FROM tasks WHERE id IN :ids AND state IN ('succeeded', 'failed') /*AND claimed_by = :me*/
""")

_REPORTED = Statement("""
    UPDATE tasks SET state = 'reported', reported_at = :now, reported_mark = :mark, content = NULL, result = NULL,
                     result_key = NULL, reason = NULL, not_before = 0
    WHERE id IN :ids AND state IN ('claimed', 'succeeded', 'failed') /*AND claimed_by = :me*/
""")
_POSTPONE = Statement("""
    UPDATE tasks SET not_before = :until, deliveries = deliveries + :counted
    WHERE id IN :ids AND state IN ('succeeded', 'failed') /*AND claimed_by = :me*/
""")
_PARK = Statement("""
    UPDATE tasks SET state = 'parked', reason = :reason, not_before = 0
    WHERE id = :id AND state IN ('claimed', 'succeeded', 'failed') /*AND claimed_by = :me*/
""")

_UNCLAIM = Statement("""
    UPDATE tasks SET state = 'due' WHERE state <> 'reported' AND state = 'claimed' /*AND claimed_by = :me*/
""")
_SHORTEN_WAITS = Statement("""
    UPDATE tasks SET not_before = :latest
    WHERE state <> 'reported' AND state IN ('due', 'succeeded', 'failed') AND not_before > :latest
""")

_NEXT_DUE = Statement("""
    SELECT min(not_before) FROM tasks WHERE state <> 'reported' AND state = 'due' AND not_before > 0
""")
_NEXT_UNREPORTED = Statement("""
    SELECT min(not_before) FROM tasks
    WHERE state <> 'reported' AND state = 'succeeded' AND not_before > 0 /*AND claimed_by = :me*/
    UNION ALL
    SELECT min(not_before) FROM tasks
    WHERE state <> 'reported' AND state = 'failed' AND not_before > 0 /*AND claimed_by = :me*/
""")
_COUNT = Statement("""
    SELECT state, count(*), sum(CASE WHEN not_before > :now THEN 1 ELSE 0 END), min(settled_at)
    FROM tasks WHERE state <> 'reported' GROUP BY state
""")
_HELD = Statement("SELECT id FROM tasks WHERE state <> 'reported'")
_RENEWED = Statement("""
    INSERT INTO meta (key, value) VALUES ('renewed_at', :at) ON CONFLICT (key) DO UPDATE SET value = excluded.value
""")
_RENEWED_AT = Statement("SELECT value FROM meta WHERE key = 'renewed_at'")
_NOT_RENEWED = Statement("DELETE FROM meta WHERE key = 'renewed_at'")
_LET_GO = Statement("DELETE FROM tasks WHERE state <> 'reported' AND state = 'due' AND accepted_at < :before")
_FORGET = Statement("DELETE FROM tasks WHERE state = 'reported' AND reported_at < :before")


class SqlJournal:
    """The port ``Journal`` over a :class:`Storage`, of which this process must be the owner, or hold a ``lease``.

    Which outcomes are handed out is known in memory alone: a restart is to forget it anyway, and another replica hands
    out only what it has settled or taken over itself. The last outcomes are in memory beside the database, which says
    whether they still stand.
    """

    def __init__(self, storage: Storage, clock: Clock, lease: Lease | None = None) -> None:
        self._storage = storage
        self._clock = clock
        self._lease = lease
        self._me = lease.replica if lease else ""
        self._handed_out: set[str] = set()
        self._fresh: dict[str, _Fresh] = {}
        self._handing_out = asyncio.Lock()

    async def mark(self) -> int:
        """The number of reporting transactions so far."""
        return await self._storage.read(lambda connection: int(_MARK.value(connection) or 0))

    async def accept(self, tasks: Sequence[Task], mark: int) -> tuple[str, ...]:
        """Keep the tasks not known yet, and those that somebody has set back to pending since their report."""
        now = self._clock.now()
        return await self._storage.write(lambda connection: _accept(connection, tasks, mark, now))

    async def claim(self, limit: int, without: Collection[str] = ()) -> tuple[Task, ...]:
        """Take due tasks of one batch key; rows that cannot be read are parked."""
        now = self._clock.now()
        return await self._storage.write(lambda connection: _claim(connection, self._me, limit, without, now))

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write the outcomes of claimed tasks."""
        if not outcomes:
            return
        now = self._clock.now()
        if await self._storage.write(lambda connection: _settle(connection, self._me, outcomes, now)):
            self._remember(outcomes, now)

    def _remember(self, outcomes: Mapping[str, Outcome], now: float) -> None:
        settled = ((task_id, outcome) for task_id, outcome in outcomes.items() if not isinstance(outcome, Deferred))
        self._fresh.update((task_id, (now, outcome)) for task_id, outcome in settled)
        while len(self._fresh) > REMEMBERED:
            del self._fresh[next(iter(self._fresh))]

    async def release(self, task_ids: Sequence[str]) -> None:
        """Give claimed tasks back as due."""
        given_back = {"ids": task_ids, "me": self._me}
        await self._storage.write(lambda connection: _RELEASE.change(connection, given_back))

    async def unreported(self, limit: int) -> tuple[Entry, ...]:
        """Hand out outcomes to deliver, oldest first; rows that cannot be read are parked."""
        now = self._clock.now()
        async with self._handing_out:
            entries = await self._storage.write(lambda connection: self._waiting(connection, limit, now))
            for entry in entries:  # not when cancelled: nobody would have them
                self._handed_out.add(entry.task_id)
                self._fresh.pop(entry.task_id, None)
            return entries

    async def mark_reported(self, task_ids: Sequence[str]) -> None:
        """These are finished."""
        if not task_ids:
            return

        def report(connection: Connection) -> None:
            mark = int(_NEXT_MARK.value(connection))
            _REPORTED.change(connection, {"ids": task_ids, "me": self._me, "now": now, "mark": mark})

        now = self._clock.now()
        await self._storage.write(report)
        self._handed_out.difference_update(task_ids)  # not before: who hands out meanwhile must not find them

    async def postpone(self, task_ids: Sequence[str], until: float, *, counts: bool = True) -> None:
        """Deliver these outcomes at ``until`` or later."""
        put_off = {"ids": task_ids, "me": self._me, "until": until, "counted": int(counts)}
        await self._storage.write(lambda connection: _POSTPONE.change(connection, put_off))
        self._handed_out.difference_update(task_ids)

    async def park(self, task_id: str, reason: str) -> None:
        """Keep this outcome for an operator."""
        row = {"id": task_id, "me": self._me, "reason": storable(reason)}
        await self._storage.write(lambda connection: _PARK.change(connection, row))
        self._handed_out.discard(task_id)

    async def reopen(self) -> None:
        """Take up what an earlier run left; nothing goes on waiting for more than an hour."""

        def reopen(connection: Connection) -> None:
            _UNCLAIM.change(connection, {"me": self._me})
            _SHORTEN_WAITS.change(connection, {"latest": latest})

        latest = self._clock.now() + LONGEST_WAIT
        if self._lease:
            await self._lease.renew()
        await self._storage.write(reopen)
        self._handed_out.clear()

    async def next_due(self) -> float | None:
        """When the earliest deferred task becomes due."""
        return await self._storage.read(_NEXT_DUE.value)

    async def next_unreported(self) -> float | None:
        """When the earliest postponed outcome is to be delivered."""
        return await self._storage.read(self._next_unreported)

    async def backlog(self) -> Backlog:
        """Count what is held."""
        now = self._clock.now()
        return await self._storage.read(lambda connection: _backlog(connection, now))

    async def held(self) -> tuple[str, ...]:
        """The ids of all that is not reported."""
        return await self._storage.read(lambda connection: tuple(task_id for (task_id,) in _HELD.rows(connection)))

    async def renewed(self, at: float) -> None:
        """Remember when what is due was last ours alone."""
        await self._storage.write(lambda connection: _RENEWED.change(connection, {"at": repr(at)}))

    async def let_go(self, before: float) -> int:
        """Drop the due tasks accepted before this time if they were not renewed since."""
        return await self._storage.write(lambda connection: _let_go(connection, before))

    async def forget(self, before: float) -> int:
        """Drop tasks reported before this time."""
        return await self._storage.write(lambda connection: _FORGET.change(connection, {"before": before}))

    def _next_unreported(self, connection: Connection) -> float | None:
        times = _NEXT_UNREPORTED.rows(connection, {"me": self._me})
        return min((time for (time,) in times if time is not None), default=None)

    def _waiting(self, connection: Connection, limit: int, now: float) -> tuple[Entry, ...]:
        _RIPEN_UNREPORTED.change(connection, {"now": now})
        while rows := self._oldest(connection, limit):
            outcomes = self._remembered(rows)
            outcomes |= _outcomes(connection, self._me, [task_id for task_id, *_ in rows if task_id not in outcomes])
            if outcomes:
                return tuple(_entry(row, outcomes[row[0]]) for row in rows if row[0] in outcomes)
        return ()

    def _oldest(self, connection: Connection, limit: int) -> Sequence[_Unreported]:
        rows = _OLDEST_UNREPORTED.rows(connection, {"limit": limit + len(self._handed_out), "me": self._me})
        found = (cast("_Unreported", row) for row in rows if row[0] not in self._handed_out)
        return list(islice(found, limit))

    def _remembered(self, rows: Iterable[_Unreported]) -> dict[str, Settled]:
        """The outcomes that are in memory, as far as they are those that the rows have."""
        known = ((task_id, settled_at, self._fresh.get(task_id)) for task_id, _, _, settled_at, _ in rows)
        return {task_id: fresh[1] for task_id, settled_at, fresh in known if fresh and fresh[0] == settled_at}


def _accept(connection: Connection, tasks: Sequence[Task], mark: int, now: float) -> tuple[str, ...]:
    known = _known(connection, [task.id for task in tasks])
    again = [task_id for task_id, reported in known.items() if reported is not None and reported <= mark]
    _DROP.change(connection, {"ids": again})
    standing = known.keys() - again
    new: dict[str, Task] = {}
    for task in tasks:
        if task.id not in standing:
            new.setdefault(task.id, task)
    _INSERT.change_each(connection, [_row(task, now) for task in new.values()])
    return tuple(new)


def _known(connection: Connection, ids: Sequence[str]) -> dict[str, int | None]:
    return dict(cast("Sequence[tuple[str, int | None]]", _KNOWN.rows(connection, {"ids": ids})))


def _let_go(connection: Connection, before: float) -> int:
    renewed_at = _RENEWED_AT.value(connection)
    if renewed_at is None or float(renewed_at) >= before:
        return 0
    _NOT_RENEWED.change(connection)
    return _LET_GO.change(connection, {"before": before})


def _row(task: Task, now: float) -> Parameters:
    return {
        "id": task.id,
        "type": storable(task.type),
        "priority": task.priority,
        "created_at": task.created_at,
        "batch_key": storable(task.batch_key),
        "correlation_id": storable(task.correlation_id),
        "now": now,
        "content": encoded(task.content),
    }


def _claim(connection: Connection, me: str, limit: int, without: Collection[str], now: float) -> tuple[Task, ...]:
    _RIPEN_DUE.change(connection, {"now": now})
    while rows := _most_urgent(connection, me, limit, without):
        tasks, damaged = _tasks(rows)
        _SET_ASIDE.change_each(connection, damaged)
        if tasks:
            return tuple(sorted(tasks, key=urgency))
    return ()


def _most_urgent(connection: Connection, me: str, limit: int, without: Collection[str]) -> Sequence[Any]:
    keys = [storable(key) for key in without]
    key = _MOST_URGENT_KEY.value(connection, {"none_of": keys})
    if key is None:
        return ()
    return _CLAIM.rows(connection, {"key": key, "limit": limit, "me": me})


def _tasks(rows: Iterable[Any]) -> tuple[list[Task], list[Parameters]]:
    tasks, damaged = [], []
    for task_id, type_, content, *facts in rows:
        try:
            tasks.append(Task(task_id, type_, decoded(content), *facts))
        except Damaged as error:
            damaged.append(_set_aside(task_id, f"its content cannot be read: {error}"))
    return tasks, damaged


def _settle(connection: Connection, me: str, outcomes: Mapping[str, Outcome], now: float) -> bool:
    """Answers whether all outcomes stand now: those of tasks that are not claimed do not."""
    settled: list[Parameters] = []
    deferred: list[Parameters] = []
    keys = keys_kept(connection, {name for outcome in outcomes.values() if (name := _kept_as(outcome))})
    for task_id, outcome in outcomes.items():
        if isinstance(outcome, Deferred):
            deferred.append({"me": me, **_deferral(task_id, outcome)})
            continue
        row = {
            "id": task_id,
            "me": me,
            "now": now,
            "result_key": keys.get(_kept_as(outcome)),
            **outcome_columns(outcome),
        }
        settled.append(row if row["result_key"] is None else row | {"result": None})
    held = _HELD_HERE.rows(connection, {"ids": [row["id"] for row in settled], "me": me})
    _SETTLE.change_each(connection, settled)
    _DEFER.change_each(connection, deferred)
    return len(held) == len(settled)


def _kept_as(outcome: Outcome) -> bytes:
    return outcome.result.kept_as if isinstance(outcome, Succeeded) and isinstance(outcome.result, Vector) else b""


def _deferral(task_id: str, outcome: Deferred) -> Parameters:
    reason = storable(outcome.reason)
    return {"id": task_id, "until": outcome.until, "counted": int(outcome.counts), "reason": reason}


def _outcomes(connection: Connection, me: str, ids: Sequence[str]) -> dict[str, Settled]:
    """What the rows hold; those that cannot be read are parked."""
    if not ids:
        return {}
    outcomes: dict[str, Settled] = {}
    damaged: list[Parameters] = []
    for task_id, *kept in _OUTCOMES.rows(connection, {"ids": ids, "me": me}):
        try:
            outcomes[task_id] = outcome_of(*kept)
        except Damaged as error:
            damaged.append(_set_aside(task_id, f"its outcome cannot be read: {error}"))
    _SET_ASIDE.change_each(connection, damaged)
    return outcomes


def _entry(row: _Unreported, outcome: Settled) -> Entry:
    task_id, kind, correlation_id, settled_at, deliveries = row
    return Entry(task_id, kind, correlation_id, outcome, settled_at, deliveries)


def _set_aside(task_id: str, reason: str) -> Parameters:
    return {"id": task_id, "outcome": DAMAGED, "reason": reason}


def _backlog(connection: Connection, now: float) -> Backlog:
    counts = {state: (count, later, oldest) for state, count, later, oldest in _COUNT.rows(connection, {"now": now})}
    due, deferred, _ = counts.get("due", _NO_ROWS)
    succeeded, _, oldest_succeeded = counts.get("succeeded", _NO_ROWS)
    failed, _, oldest_failed = counts.get("failed", _NO_ROWS)
    return Backlog(
        ready=due - deferred,
        deferred=deferred,
        claimed=counts.get("claimed", _NO_ROWS)[0],
        unreported=succeeded + failed,
        parked=counts.get("parked", _NO_ROWS)[0],
        oldest_unreported=min((time for time in (oldest_succeeded, oldest_failed) if time is not None), default=None),
    )
