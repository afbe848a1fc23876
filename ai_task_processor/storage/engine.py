"""Opens the state database and runs transactions on it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.domain.ports import Observer
from ai_task_processor.storage.migrations import Prepare, expect_newest, migrate
from ai_task_processor.storage.ownership import owned
from ai_task_processor.storage.sqlite import connect, transact, translated

T = TypeVar("T")

OWNER_ONLY = 0o600


class Storage(Protocol):
    """A database, and transactions on it.

    A transaction is a plain function of a SQLAlchemy connection; it may be run again where the database wants that,
    so what it does outside of the database must be harmless when it is done twice. Errors of the database arrive as
    JournalError; what the function itself raises arrives as it is, and nothing of that transaction has happened.
    """

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that is durable when this returns.

        Where the caller is cancelled meanwhile, the transaction has happened whole or not at all.
        """
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which changes nothing, on one consistent state of the database."""
        ...


class SqliteStorage:
    """The port :class:`Storage` over one connection, on which transactions run one after the other.

    All of a transaction runs in the database's own thread: one change of threads for each, and a caller that is
    cancelled cannot leave one open. Each is run once.
    """

    def __init__(self, connection: Connection, *, name: str, executor: Executor) -> None:
        self._connection = connection
        self._name = name
        self._executor = executor

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See :class:`Storage`."""
        return await self._transact("BEGIN IMMEDIATE", work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See :class:`Storage`."""
        return await self._transact("BEGIN", work)

    async def _transact(self, begin: str, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with translated(self._name):
                return transact(self._connection, begin, work)

        return await _in(self._executor, run)


@asynccontextmanager
async def open_storage(
    url: str,
    *,
    exclusive: bool = True,
    prepare: Prepare | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Storage]:
    """Open the database of ``url``.

    That is ``sqlite:///relative``, ``sqlite:////absolute``, ``sqlite://`` in memory, or
    ``postgresql://user:password@host/database``.

    With ``exclusive`` this is for the daemon: the schema is brought up to date. A file and its folders are created
    where they are missing, this process becomes their owner, and a second owner is refused. A PostgreSQL database may
    be shared; while it is away callers wait, and ``observer`` is told. Without ``exclusive`` an existing database is
    opened beside its owners, and nobody waits. ``prepare`` replaces what creates, or expects, the schema of
    ``schema.py``. ``executor`` replaces the thread in which SQLite's transactions run; it must run one at a time, all
    in one thread. Raises JournalError or ConfigurationError.
    """
    if is_postgres(url):
        from ai_task_processor.storage.postgres import open_postgres  # noqa: PLC0415  # costs a start that needs none

        opening: AbstractAsyncContextManager[Storage] = open_postgres(
            url, prepare=prepare or (migrate if exclusive else expect_newest), shared=exclusive, observer=observer
        )
    else:
        opening = _open_sqlite(sqlite_path(url), exclusive=exclusive, prepare=prepare, executor=executor)
    async with opening as storage:
        yield storage


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database, which replicas may share."""
    return url.partition("://")[0] in {"postgresql", "postgres"}


@asynccontextmanager
async def _open_sqlite(
    path: Path | None, *, exclusive: bool, prepare: Prepare | None, executor: Executor | None
) -> AsyncIterator[SqliteStorage]:
    name = str(path or "in memory")
    async with AsyncExitStack() as stack:
        if path is not None:
            stack.enter_context(_entered(path, exclusive=exclusive))
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="storage"))
        connection = await _in(executor, lambda: _connected(path, name))
        stack.push_async_callback(_close, connection, executor)
        storage = SqliteStorage(connection, name=name, executor=executor)
        if exclusive or path is None:
            await storage.write(partial(prepare or migrate, name=name))
        else:
            await storage.read(partial(prepare or expect_newest, name=name))
        yield storage


def sqlite_path(url: str) -> Path | None:
    """The file that a URL names, None for a database in memory; raises JournalError for any other database."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        raise JournalError(
            f"STATE_URL names a database of kind {parsed.drivername!r}; use sqlite:///data/state.db, or postgresql://…"
        )
    if parsed.database in {None, "", ":memory:"}:
        return None
    return Path(str(parsed.database)).resolve()  # one file has one lock, by whatever name it is reached


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise JournalError("STATE_URL is not a database address; use sqlite:///data/state.db") from error


@contextmanager
def _entered(path: Path, *, exclusive: bool) -> Iterator[None]:
    with ExitStack() as stack:
        with translated(str(path)):
            if exclusive:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(owned(path))
                _create(path)
            elif not path.exists():
                raise JournalError(f"there is no state file {path}; the daemon creates it when it is started")
        yield


def _create(path: Path) -> None:
    """Make the file where there is none; only its owner reads the texts in it, and what SQLite puts beside it."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, OWNER_ONLY))


def _connected(path: Path | None, name: str) -> Connection:
    with translated(name):
        return connect(":memory:" if path is None else str(path))


async def _close(connection: Connection, executor: Executor) -> None:
    await asyncio.shield(_in(executor, connection.close))


async def _in(executor: Executor, work: Callable[[], T]) -> T:
    return await asyncio.wrap_future(executor.submit(work))
