"""The limiter's ledger, in memory and in the state database."""

import json
from collections.abc import Callable

from sqlalchemy import Connection, delete, insert, select

from ai_task_processor.limits.ledger import Bucket, Change, Decide, Ledger
from ai_task_processor.limits.timeline import Reading
from ai_task_processor.limits.windows import Strategy
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.schema import limit_buckets, meta
from ai_task_processor.storage.statements import Statement

READING_KEY = "limits.reading"
LINE_KEY = "limits.line"

SHARED = "shared"
"""Stands for the strategy where replicas share the ledger: its line is Unix time, whatever the windows."""

_STRATEGIES: dict[str, Strategy] = {"rolling": "rolling", "fixed": "fixed"}


class MemoryLimitStore:
    """Keeps the ledger for as long as the object lives."""

    def __init__(self) -> None:
        self._reading: Reading | None = None
        self._counts: dict[tuple[str, float], int] = {}

    async def load(self) -> Ledger:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        buckets = (Bucket(window, end, count) for (window, end), count in self._counts.items())
        return Ledger(self._reading, tuple(buckets))

    async def change(self, decide: Decide) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        change = decide(None)
        if change is None:
            return
        self._reading = change.reading
        for window, horizon in change.forget.items():
            for key in [key for key in self._counts if key[0] == window and key[1] <= horizon]:
                del self._counts[key]
        self._counts.update({(bucket.window, bucket.end): bucket.count for bucket in change.buckets})

    async def replace(self, ledger: Ledger) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        self._reading = ledger.reading
        self._counts = {(bucket.window, bucket.end): bucket.count for bucket in ledger.buckets}


_KEEP_BUCKET = Statement(
    'INSERT INTO limit_buckets (strategy, "window", bucket, used) VALUES (:strategy, :window, :bucket, :used)'
    ' ON CONFLICT (strategy, "window", bucket) DO UPDATE SET used = excluded.used'
)
_BUCKETS = select(limit_buckets.c.window, limit_buckets.c.bucket, limit_buckets.c.used)
_WAIT_FOR_OTHERS = Statement("SELECT 1 /*FROM pg_advisory_xact_lock(1095324755)*/")
_KEEP_READING = Statement(
    "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_FORGET = Statement(
    'DELETE FROM limit_buckets WHERE strategy = :strategy AND "window" = :window AND bucket <= :horizon'
)


class SqlLimitStore:
    """Keeps the ledger in the state database: a row for each bucket, and the reading beside them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def load(self) -> Ledger:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        return await self._storage.read(_load)

    async def change(self, decide: Decide) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        change = decide(None)
        if change is not None:
            await self._storage.write(lambda connection: _save(connection, change))

    async def replace(self, ledger: Ledger) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        await self._storage.write(lambda connection: _replace(connection, ledger))


class SharedLimitStore:
    """Keeps the ledger where replicas share the state database: who changes it has read it while all others wait.

    ``time`` reads the clock by which all replicas go, in Unix seconds. Where that is set back the line stands still
    until the clock has caught up.
    """

    def __init__(self, storage: Storage, *, time: Callable[[Connection], float]) -> None:
        self._storage = storage
        self._time = time

    async def load(self) -> Ledger:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""
        return await self._storage.read(self._ledger)

    async def change(self, decide: Decide) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""

        def decided(connection: Connection) -> None:
            _WAIT_FOR_OTHERS.rows(connection)
            ledger = self._ledger(connection)
            change = decide(ledger)
            if change is not None:
                _write(connection, SHARED, change)
                _KEEP_READING.change(connection, {"key": LINE_KEY, "value": repr(ledger.line)})

        await self._storage.write(decided)

    async def replace(self, ledger: Ledger) -> None:
        """See :class:`~ai_task_processor.limits.ledger.LimitStore`."""

        def replace(connection: Connection) -> None:
            _WAIT_FOR_OTHERS.rows(connection)
            connection.execute(delete(limit_buckets))
            _KEEP_BUCKET.change_each(connection, [_row(SHARED, bucket) for bucket in ledger.buckets])

        await self._storage.write(replace)

    def _ledger(self, connection: Connection) -> Ledger:
        latest = connection.execute(select(meta.c.value).where(meta.c.key == LINE_KEY)).scalar()
        line = max(self._time(connection), float(latest or 0))
        return Ledger(buckets=_buckets(connection), line=line)


def _load(connection: Connection) -> Ledger:
    value = connection.execute(select(meta.c.value).where(meta.c.key == READING_KEY)).scalar()
    return Ledger(_understood(value), _buckets(connection))


def _buckets(connection: Connection) -> tuple[Bucket, ...]:
    rows = connection.execute(_BUCKETS)
    return tuple(Bucket(window, end, used) for window, end, used in rows if used > 0)


def _understood(value: str | None) -> Reading | None:
    """The reading as it was written; None where it is damaged, so that the wall clock is believed instead."""
    try:
        kept = json.loads(value or "")
        line, wall, monotonic = (float(kept[name]) for name in ("line", "wall", "monotonic"))
        return Reading(_STRATEGIES[kept["strategy"]], line, wall, monotonic, str(kept["boot"]))
    except (ValueError, TypeError, LookupError):
        return None


def _save(connection: Connection, change: Change) -> None:
    _write(connection, change.reading.strategy, change)
    _keep_reading(connection, change.reading)


def _write(connection: Connection, strategy: str, change: Change) -> None:
    _FORGET.change_each(
        connection,
        [{"strategy": strategy, "window": name, "horizon": horizon} for name, horizon in change.forget.items()],
    )
    _KEEP_BUCKET.change_each(connection, [_row(strategy, bucket) for bucket in change.buckets])


def _replace(connection: Connection, ledger: Ledger) -> None:
    connection.execute(delete(limit_buckets))
    connection.execute(delete(meta).where(meta.c.key == READING_KEY))
    if ledger.reading is not None:
        strategy = ledger.reading.strategy
        rows = [_row(strategy, bucket) for bucket in ledger.buckets]
        if rows:
            connection.execute(insert(limit_buckets), rows)
        _keep_reading(connection, ledger.reading)


def _keep_reading(connection: Connection, reading: Reading) -> None:
    value = json.dumps({name: getattr(reading, name) for name in Reading.__struct_fields__})
    _KEEP_READING.change(connection, {"key": READING_KEY, "value": value})


def _row(strategy: str, bucket: Bucket) -> dict[str, object]:
    return {"strategy": strategy, "window": bucket.window, "bucket": bucket.end, "used": bucket.count}
