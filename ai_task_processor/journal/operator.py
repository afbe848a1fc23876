"""What an operator asks of the journal, beside a running daemon or without one."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Column, Connection, Label, RowMapping, Select, func, select, text

from ai_task_processor.domain.task import JsonValue
from ai_task_processor.journal.encoding import VECTOR, Damaged, decoded, vector_numbers
from ai_task_processor.journal.state import State
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.schema import embedding_cache, tasks


class Row(Struct, frozen=True):
    """The facts of one task; times are Unix seconds.

    ``not_before`` is when it is performed or delivered again, None for at once. ``outcome`` is vector, json, failed,
    or damaged for a row that cannot be read. ``error`` is what the task's author is told, ``reason`` why the row
    waits. ``attempts`` counts its performances that failed, ``deliveries`` its deliveries that failed.
    """

    id: str
    type: str
    state: State
    priority: int
    created_at: float
    batch_key: str
    correlation_id: str
    attempts: int
    deliveries: int
    not_before: float | None
    accepted_at: float
    settled_at: float | None
    reported_at: float | None
    outcome: str | None
    model: str | None
    provider: str | None
    tokens: int | None
    dimensions: int | None
    error: str | None
    reason: str | None


UNFINISHED: Final = frozenset(State) - {State.REPORTED}

_PAGE: Final = 500
_FACTS: Final = [tasks.c[name] for name in Row.__struct_fields__]

_ENTRY_S_VECTOR = (
    select(func.substr(embedding_cache.c.entry, -4 * tasks.c.dimensions))
    .where(embedding_cache.c.key == tasks.c.result_key)
    .scalar_subquery()
)
_RESULT: Final = func.coalesce(tasks.c.result, _ENTRY_S_VECTOR).label("result")
"""See ``storage/vectors.py``."""

_IS_PARKED = text("state <> 'reported' AND state = 'parked'")
"""Without parameters and as in the index that serves it (storage/schema.py), or the index would not be used."""

_PARKED = select(tasks.c.id).where(_IS_PARKED)
_PARKED_ROWS = select(*_FACTS).where(_IS_PARKED).order_by(tasks.c.accepted_at, tasks.c.id)
_DROP_DAMAGED = text("DELETE FROM tasks WHERE id = :id AND state = 'parked' AND outcome = 'damaged'")
_UNPARK = text("""
    UPDATE tasks SET not_before = 0, deliveries = 0, reason = NULL,
                     state = CASE outcome WHEN 'vector' THEN 'succeeded' WHEN 'json' THEN 'succeeded'
                                          WHEN 'failed' THEN 'failed' ELSE 'due' END
    WHERE id = :id AND state = 'parked'
""")
_WAIT_NO_LONGER = text("""
    UPDATE tasks SET not_before = 0 WHERE id = :id AND state IN ('due', 'succeeded', 'failed') AND not_before > 0
""")


class OperatorJournal:
    """Looks at rows and sends them again; safe beside the daemon that owns the database."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def list_rows(self, states: Collection[State] = UNFINISHED, *, limit: int = 100) -> tuple[Row, ...]:
        """Rows in these states, longest held first."""
        wanted = select(*_FACTS).where(tasks.c.state.in_(states)).order_by(tasks.c.accepted_at, tasks.c.id).limit(limit)
        return await self._storage.read(lambda connection: _rows(connection, wanted))

    async def parked(self, limit: int) -> tuple[Row, ...]:
        """Parked rows, longest held first; costs next to nothing, however many rows of other states there are."""
        return await self._storage.read(lambda connection: _rows(connection, _PARKED_ROWS.limit(limit)))

    async def show(self, task_id: str) -> Row | None:
        """One row, if there is one."""
        wanted = select(*_FACTS).where(tasks.c.id == task_id)
        return next(iter(await self._storage.read(lambda connection: _rows(connection, wanted))), None)

    async def retry(self, task_ids: Sequence[str] | None = None) -> int:
        """Send parked outcomes again, those named or all; answer how many rows that changed.

        A named row that waits for its time waits no longer. A parked row without outcome is due again. A damaged row
        is dropped, so that the next poll brings the task anew.
        """
        return await self._storage.write(lambda connection: _retry(connection, task_ids))

    async def export(self, *, texts: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Every row by id as a plain dictionary; with ``texts`` also what it holds as ``content`` and ``result``."""
        after = ""
        while page := await self._page(after, (tasks.c.content, _RESULT) if texts else ()):
            for columns in page:
                yield asdict(_row(columns)) | (_texts(columns) if texts else {})
            after = page[-1]["id"]

    async def _page(self, after: str, more: Sequence[Column[Any] | Label[Any]]) -> Sequence[RowMapping]:
        wanted = select(*_FACTS, *more).where(tasks.c.id > after).order_by(tasks.c.id).limit(_PAGE)
        return await self._storage.read(lambda connection: connection.execute(wanted).mappings().all())


def _rows(connection: Connection, wanted: Select[Any]) -> tuple[Row, ...]:
    return tuple(_row(columns) for columns in connection.execute(wanted).mappings())


def _row(columns: RowMapping) -> Row:
    facts = {name: columns[name] for name in Row.__struct_fields__}
    return Row(**facts | {"state": State(columns["state"]), "not_before": columns["not_before"] or None})


def _retry(connection: Connection, task_ids: Sequence[str] | None) -> int:
    chosen = connection.execute(_PARKED).scalars().all() if task_ids is None else task_ids
    rows = [{"id": task_id} for task_id in dict.fromkeys(chosen)]
    changes = (_DROP_DAMAGED, _WAIT_NO_LONGER, _UNPARK)
    return sum(connection.execute(change, row).rowcount for change in changes for row in rows)


def _texts(columns: RowMapping) -> dict[str, JsonValue]:
    return {"content": _readable(columns["content"], None), "result": _readable(columns["result"], columns["outcome"])}


def _readable(stored: bytes | None, outcome: str | None) -> JsonValue:
    if stored is None:
        return None
    try:
        return vector_numbers(stored) if outcome == VECTOR else decoded(stored)
    except Damaged:
        return None
