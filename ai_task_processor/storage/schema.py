"""Every table of the state database, as the newest version of the program has them."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    event,
    text,
)

metadata = MetaData()

_Id = Text().with_variant(Text(collation="C"), "postgresql")
"""Sorted by code points, as Python and SQLite do, whatever the language of the server."""

tasks = Table(
    "tasks",
    metadata,
    Column("id", _Id, primary_key=True),
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
    Column("claimed_by", Text),  # the replica that performs or delivers it, where there are several
    Column("result_key", LargeBinary),  # of the entry of the cache that ends with the result, where it is not here
)
"""The long columns are last, but for those that SQLite does not read beside them: what is behind is slow to reach."""

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
_REFERRING = _row.result_key.is_not(None)
Index("tasks_by_vector", _row.result_key, sqlite_where=_REFERRING, postgresql_where=_REFERRING)

limit_buckets = Table(
    "limit_buckets",
    metadata,
    Column("strategy", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("bucket", Double, primary_key=True),  # its beginning, in Unix seconds
    Column("used", BigInteger, nullable=False),
)

embedding_cache = Table(
    "embedding_cache",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("used", BigInteger, nullable=False),  # when, in bytes put into the cache so far
    Column("size", Integer, nullable=False),  # about what the row takes in the file
    Column("entry", LargeBinary, nullable=False),  # checksum, model, vector
)
Index("embedding_cache_by_use", embedding_cache.c.used, embedding_cache.c.size)

_RESULTS_OUTLIVE_CACHE = """
    CREATE TRIGGER results_outlive_cache BEFORE DELETE ON embedding_cache
    WHEN EXISTS (SELECT 1 FROM tasks WHERE result_key = OLD.key)
    BEGIN
        UPDATE tasks SET result = substr(OLD.entry, -4 * dimensions), result_key = NULL WHERE result_key = OLD.key;
    END
"""
"""Whoever drops an entry, for whatever reason: an outcome that was not delivered yet keeps its vector."""

event.listen(embedding_cache, "after_create", DDL(_RESULTS_OUTLIVE_CACHE).execute_if(dialect="sqlite"))  # type: ignore[no-untyped-call]  # not annotated there

spaces = Table(
    "spaces",
    metadata,
    Column("name", Text, primary_key=True),  # the model's, in tasks
    Column("asked", Integer, primary_key=True),  # dimensions that the tasks ask for; 0 where they ask for none
    Column("provider", Text, primary_key=True),
    Column("engine", Text, primary_key=True),  # what tells it from others of its name: a digest
    Column("model", Text, primary_key=True),  # that answered
    Column("dimensions", Integer, primary_key=True),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),  # to the hour
    Column("count", BigInteger, nullable=False),  # of vectors, until last_seen
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("joined_at", Double, nullable=False),
    Column("leased_until", Double, nullable=False),  # both by the database's clock
)
"""Who may hold rows; empty where there is one process only."""

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
