"""Brings a database to the schema that this program knows, forward only."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect, select, update

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.schema import metadata

Step = Callable[[Connection], None]


class Prepare(Protocol):
    """Makes a database that was just opened usable, inside one transaction; raises JournalError where it cannot."""

    def __call__(self, connection: Connection, *, name: str) -> None:
        """Look at the database behind ``connection``, which messages call ``name``."""
        ...


def _add_cache_and_spaces(connection: Connection) -> None:
    connection.exec_driver_sql("""
        CREATE TABLE embedding_cache (
            key BLOB NOT NULL, used BIGINT NOT NULL, size INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (key))
    """)
    connection.exec_driver_sql("CREATE INDEX embedding_cache_by_use ON embedding_cache (used, size)")
    connection.exec_driver_sql("""
        CREATE TABLE spaces (
            name TEXT NOT NULL, asked INTEGER NOT NULL, provider TEXT NOT NULL, engine TEXT NOT NULL,
            model TEXT NOT NULL, dimensions INTEGER NOT NULL, first_seen DOUBLE NOT NULL, last_seen DOUBLE NOT NULL,
            count BIGINT NOT NULL, PRIMARY KEY (name, asked, provider, engine, model, dimensions))
    """)


def _add_replicas(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE tasks ADD COLUMN claimed_by TEXT")
    connection.exec_driver_sql("""
        CREATE TABLE replicas (
            id TEXT NOT NULL, joined_at DOUBLE NOT NULL, leased_until DOUBLE NOT NULL, PRIMARY KEY (id))
    """)


def _add_references(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql(f"ALTER TABLE tasks ADD COLUMN result_key {'BLOB' if sqlite else 'BYTEA'}")
    connection.exec_driver_sql("CREATE INDEX tasks_by_vector ON tasks (result_key) WHERE result_key IS NOT NULL")
    if sqlite:
        connection.exec_driver_sql("""
            CREATE TRIGGER results_outlive_cache BEFORE DELETE ON embedding_cache
            WHEN EXISTS (SELECT 1 FROM tasks WHERE result_key = OLD.key)
            BEGIN
                UPDATE tasks SET result = substr(OLD.entry, -4 * dimensions), result_key = NULL
                WHERE result_key = OLD.key;
            END
        """)


STEPS: Mapping[int, Step] = MappingProxyType({2: _add_cache_and_spaces, 3: _add_replicas, 4: _add_references})
"""For each schema number above 1, what makes it out of the one before.

There is no PostgreSQL database of a schema below 3: steps up to that one are for SQLite.

A new database is created whole from ``schema.py`` and takes no step, so a step must come to what is declared there
(a test compares the two). Once released a step never changes: write it in SQL, not with the tables of ``schema.py``.
"""

schema_version = Table("schema_version", MetaData(), Column("number", Integer, nullable=False))


def migrate(connection: Connection, *, name: str, steps: Mapping[int, Step] = STEPS) -> None:
    """Create the schema in an empty database, or take the steps that are missing; all inside one transaction.

    ``name`` is how messages call the database. Raises JournalError for one that a later version has written.
    """
    newest = newest_schema(steps)
    found = schema_number(connection)
    if found is None:
        _create(connection, newest)
        return
    _refuse_newer(connection, found, newest, name)
    for number in range(found + 1, newest + 1):
        steps[number](connection)
    if found < newest:
        connection.execute(update(schema_version).values(number=newest))


def expect_newest(connection: Connection, *, name: str) -> None:
    """Raise JournalError for a database whose schema is not the one that this program works with."""
    newest = newest_schema()
    found = schema_number(connection)
    if found is None and connection.dialect.name != "sqlite":
        raise JournalError(f"state database {name} holds nothing of ours yet; the daemon makes its tables at its start")
    if found is None or found < newest:
        raise JournalError(
            f"{_kind(connection)} {name} is of an older version; start the daemon once to bring it up to date"
        )
    _refuse_newer(connection, found, newest, name)


def newest_schema(steps: Mapping[int, Step] = STEPS) -> int:
    """The number of the schema that this program works with."""
    return max(steps, default=1)


def schema_number(connection: Connection) -> int | None:
    """The number of the schema that a database has; None where there is none of ours."""
    if not inspect(connection).has_table(schema_version.name):
        return None
    return int(connection.execute(select(schema_version.c.number)).scalar_one())


def _refuse_newer(connection: Connection, found: int, newest: int, name: str) -> None:
    if found > newest:
        raise JournalError(
            f"{_kind(connection)} {name} was written by a newer version of this program (schema {found}, this version "
            f"knows up to {newest}); install that version again, or give STATE_URL another one"
        )


def _kind(connection: Connection) -> str:
    return "state file" if connection.dialect.name == "sqlite" else "state database"


def _create(connection: Connection, newest: int) -> None:
    metadata.create_all(connection, checkfirst=False)
    schema_version.create(connection)
    connection.execute(insert(schema_version).values(number=newest))
