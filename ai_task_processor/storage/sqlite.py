"""SQLite as the state database: how a connection is made, and what its errors mean."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ai_task_processor.domain.errors import JournalError

T = TypeVar("T")

BUSY_SECONDS = 10.0
"""How long a transaction waits for another process (an operator's command, a backup) to end its own."""

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # an outcome that was paid for survives a power failure, not only a crash
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)

_LEFT_ALONE = "it was left as it is"
_ADVICE = {
    "SQLITE_NOTADB": f"is not a database; {_LEFT_ALONE}: restore it from a copy, or give {{setting}} another file",
    "SQLITE_CORRUPT": f"is damaged; {_LEFT_ALONE}: restore it from a copy, or move it away to begin with an empty one",
    "SQLITE_FULL": "cannot grow, the disk is full: free some space and start again; what was stored is kept",
    "SQLITE_READONLY": "cannot be written: give this user the right to write the file and its folder",
    "SQLITE_CANTOPEN": "cannot be opened: it must be a file in a folder, and this user must be able to write both",
    "SQLITE_PERM": "cannot be opened: give this user the right to read and write it",
    "SQLITE_IOERR": "cannot be read or written: look at the disk, and at the space left on it",
    "SQLITE_BUSY": f"was kept locked by another process for more than {BUSY_SECONDS:.0f} s: end that one first",
}


def connect(database: str) -> Connection:
    """Open a database file, or ``:memory:``; the connection belongs to the thread that calls this."""

    def create() -> sqlite3.Connection:
        return sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256)

    engine = create_engine("sqlite://", creator=create, poolclass=NullPool, hide_parameters=True)
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        for pragma in _PRAGMAS:
            connection.exec_driver_sql(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def transact(connection: Connection, begin: str, work: Callable[[Connection], T]) -> T:
    """Run ``work`` inside one transaction: committed when it returns, rolled back when it raises anything."""
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    driver.execute(begin)
    try:
        result = work(connection)
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.rollback()
        raise
    return result


@contextmanager
def translated(name: str, setting: str = "STATE_URL") -> Iterator[None]:
    """Turn every error of the database or its file into a JournalError that names it and says what to do.

    ``setting`` is what an operator changes to have another file used.
    """
    try:
        yield
    except DBAPIError as error:
        raise JournalError(_explain(name, error.orig, setting)) from error
    except (sqlite3.Error, OSError) as error:
        raise JournalError(_explain(name, error, setting)) from error


def _explain(name: str, error: BaseException | None, setting: str) -> str:
    code = _code(error)
    for prefix, advice in _ADVICE.items():
        if code.startswith(prefix):
            return f"state file {name} {advice.format(setting=setting)} ({error})"
    return f"state file {name} cannot be used: {error}"


def _code(error: BaseException | None) -> str:
    match error:
        case PermissionError():
            return "SQLITE_READONLY"
        case FileExistsError() | NotADirectoryError():
            return "SQLITE_CANTOPEN"
        case OSError(errno=errno.ENOSPC):
            return "SQLITE_FULL"
        case _:
            return getattr(error, "sqlite_errorname", "")
