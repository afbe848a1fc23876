"""The task server's own tables, in a SQLite file of their own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.engine import SqliteStorage, Storage
from ai_task_processor.storage.ownership import owned
from ai_task_processor.storage.sqlite import connect, translated

T = TypeVar("T")

IN_MEMORY = ":memory:"
SETTING = "--database"
"""Where an operator says which file is used."""

SCHEMA = 2
KEY_BYTES = 32

metadata = MetaData()

ai_tasks = Table(
    "ai_tasks",
    metadata,
    Column("sequence", Integer, primary_key=True),  # the order in which the tasks came
    Column("id", Text, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("content", Text, nullable=False),  # JSON
    Column("callback_route", Text),
    Column("callback_params", Text),  # JSON
    Column("priority", Text),  # JSON
    Column("created_at", BigInteger, nullable=False),  # Unix milliseconds
    Column("updated_at", BigInteger, nullable=False),
    Column("error", Text),
    Column("json", Text),  # a result that is not a vector of float32 numbers
    Column("vector", LargeBinary),  # a result that is one, little-endian
    Column("urgency", Double, nullable=False, server_default="2"),  # the priority as a number; smaller is sooner
    Column("worker", Text),  # who has claimed it
    Column("leased_until", BigInteger),  # Unix milliseconds; only while it is in progress, and only where claimed
)
Index("ai_tasks_by_state", ai_tasks.c.state, ai_tasks.c.sequence)
Index("ai_tasks_by_urgency", ai_tasks.c.urgency, ai_tasks.c.sequence, sqlite_where=text("state = 'pending'"))
Index("ai_tasks_by_lease", ai_tasks.c.leased_until, sqlite_where=text("leased_until IS NOT NULL"))

task_server = Table(
    "ai_task_server",
    metadata,
    Column("schema", Integer, nullable=False),
    Column("signing_key", LargeBinary, nullable=False),
)


@asynccontextmanager
async def open_server_storage(database: str) -> AsyncIterator[Storage]:
    """Open the file ``database`` (or ``:memory:``), created with its folders where it is missing.

    Raises JournalError where the file cannot be used, belongs to something else, or is open in another process.
    """
    async with AsyncExitStack() as stack:
        if database != IN_MEMORY:
            with translated(database, SETTING):
                Path(database).parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(owned(Path(database), SETTING))
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="task-server"))
        connection = await _in(executor, lambda: _connect(database))
        stack.push_async_callback(_in, executor, lambda: _close(connection))
        storage = SqliteStorage(connection, name=database, executor=executor)
        await storage.write(lambda connection: _prepare(connection, database))
        yield storage


def signing_key(connection: Connection) -> bytes:
    """The server's own secret, as old as the database."""
    return bytes(connection.execute(select(task_server.c.signing_key)).scalar_one())


async def _in(executor: Executor, work: Callable[[], T]) -> T:
    return await asyncio.wrap_future(executor.submit(work))


def _connect(database: str) -> Connection:
    with translated(database, SETTING):
        return connect(database)


def _close(connection: Connection) -> None:
    connection.close()
    connection.engine.dispose()


def _prepare(connection: Connection, name: str) -> None:
    tables = inspect(connection).get_table_names()
    if not tables:
        metadata.create_all(connection, checkfirst=False)
        connection.execute(insert(task_server).values(schema=SCHEMA, signing_key=secrets.token_bytes(KEY_BYTES)))
    elif task_server.name not in tables:
        raise JournalError(f"{name} is not the database of a task server; name a file of its own for it")
    found = connection.execute(select(task_server.c.schema)).scalar_one()
    if found > SCHEMA:
        raise JournalError(f"{name} was written by a newer version of this program; install that one again")
    if found < SCHEMA:
        _add_leases(connection)
        connection.execute(update(task_server).values(schema=SCHEMA))


def _add_leases(connection: Connection) -> None:
    """From schema 1 to 2. Once released a step never changes: it comes to what is declared above."""
    for column in ("urgency DOUBLE DEFAULT '2' NOT NULL", "worker TEXT", "leased_until BIGINT"):
        connection.exec_driver_sql(f"ALTER TABLE ai_tasks ADD COLUMN {column}")
    connection.exec_driver_sql("""
        UPDATE ai_tasks SET urgency = CASE priority WHEN '"critical"' THEN 0 WHEN '"high"' THEN 1 WHEN '"normal"' THEN 2
                                      WHEN '"low"' THEN 3 ELSE CAST(priority AS DOUBLE) END
        WHERE priority IS NOT NULL
    """)
    connection.exec_driver_sql(
        "CREATE INDEX ai_tasks_by_urgency ON ai_tasks (urgency, sequence) WHERE state = 'pending'"
    )
    connection.exec_driver_sql(
        "CREATE INDEX ai_tasks_by_lease ON ai_tasks (leased_until) WHERE leased_until IS NOT NULL"
    )
