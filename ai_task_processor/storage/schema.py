"""Every table of the state database, as the newest version of the program has them."""

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),  # due, claimed, succeeded, failed, reported, parked
    Column("priority", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("batch_key", Text, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deliveries", Integer, nullable=False),  # that failed
    Column("not_before", Double, nullable=False),  # of performing, or of delivery; 0 once that time has come
    Column("accepted_at", Double, nullable=False),
    Column("settled_at", Double),
    Column("reported_at", Double),
    Column("reported_mark", BigInteger),
    Column("outcome", Text),  # vector, json, failed; damaged where the row cannot be used
    Column("model", Text),
    Column("provider", Text),
    Column("tokens", BigInteger),
    Column("dimensions", Integer),
    Column("error", Text),  # for the task's author
    Column("reason", Text),  # for the operator: why it waits
    Column("content", LargeBinary),  # JSON, deflated where that pays; forgotten when settled
    Column("result", LargeBinary),  # float32 numbers, or as the content; forgotten when reported
)
"""The long columns are last: what stands behind them is slow to reach."""

_UNFINISHED = text("state <> 'reported'")
_READY = text("state = 'due' AND not_before = 0")
_UNREPORTED = text("state IN ('succeeded', 'failed') AND not_before = 0")
_REPORTED = text("state = 'reported'")

_row = tasks.c
Index(
    "tasks_by_state",
    *(_row.state, _row.not_before, _row.priority, _row.created_at, _row.id, _row.settled_at),
    sqlite_where=_UNFINISHED,
    postgresql_where=_UNFINISHED,
)
Index(
    "tasks_ready",
    *(_row.batch_key, _row.priority, _row.created_at, _row.id),
    sqlite_where=_READY,
    postgresql_where=_READY,
)
Index("tasks_unreported", _row.settled_at, _row.id, sqlite_where=_UNREPORTED, postgresql_where=_UNREPORTED)
Index("tasks_reported", _row.reported_at, sqlite_where=_REPORTED, postgresql_where=_REPORTED)

limit_buckets = Table(
    "limit_buckets",
    metadata,
    Column("strategy", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("bucket", Double, primary_key=True),  # its beginning, in Unix seconds
    Column("used", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
