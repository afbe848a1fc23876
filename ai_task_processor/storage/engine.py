"""Opens the state database and runs transactions on it, one at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.migrations import expect_newest, migrate
from ai_task_processor.storage.ownership import owned
from ai_task_processor.storage.sqlite import connect, transact, translated

T = TypeVar("T")


class Prepare(Protocol):
    """Makes a database that was just opened usable, inside one transaction; raises JournalError where it cannot."""

    def __call__(self, connection: Connection, *, name: str) -> None:
        """Look at the database behind ``connection``, which messages call ``name``."""
        ...


class Storage:
    """A database on which transactions run one after the other.

    A transaction is a plain function of a SQLAlchemy connection. All of it runs in the database's own thread: one
    change of threads for each transaction, and a caller that is cancelled cannot leave one open. (PostgreSQL will run
    the same functions by ``AsyncConnection.run_sync``.) Errors of the database arrive as JournalError; what the
    function itself raises arrives as it is, and nothing of that transaction has happened.
    """

    def __init__(self, connection: Connection, *, name: str, executor: Executor) -> None:
        self._connection = connection
        self._name = name
        self._executor = executor

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that is durable when this returns.

        Where the caller is cancelled meanwhile, the transaction has happened whole or not at all.
        """
        return await self._transact("BEGIN IMMEDIATE", work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which changes nothing, on one consistent state of the database."""
        return await self._transact("BEGIN", work)

    async def _transact(self, begin: str, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with translated(self._name):
                return transact(self._connection, begin, work)

        return await _in(self._executor, run)


@asynccontextmanager
async def open_storage(
    url: str, *, exclusive: bool = True, prepare: Prepare | None = None, executor: Executor | None = None
) -> AsyncIterator[Storage]:
    """Open the database of ``url``: ``sqlite:///relative``, ``sqlite:////absolute``, or ``sqlite://`` in memory.

    With ``exclusive`` this process becomes the owner: the file and its folders are created where they are missing,
    the schema is brought up to date, and a second owner is refused. Without, an existing file is opened beside its
    owner. ``prepare`` replaces what creates, or expects, the schema of ``schema.py``. ``executor`` replaces the
    thread in which transactions run; it must run one at a time, all in one thread. Raises JournalError.
    """
    path = sqlite_path(url)
    name = str(path or "in memory")
    async with AsyncExitStack() as stack:
        if path is not None:
            stack.enter_context(_entered(path, exclusive=exclusive))
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="storage"))
        connection = await _in(executor, lambda: _connected(path, name))
        stack.push_async_callback(_close, connection, executor)
        storage = Storage(connection, name=name, executor=executor)
        if exclusive or path is None:
            await storage.write(partial(prepare or migrate, name=name))
        else:
            await storage.read(partial(prepare or expect_newest, name=name))
        yield storage


def sqlite_path(url: str) -> Path | None:
    """The file that a URL names, None for a database in memory; raises JournalError for any other database."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        raise JournalError(
            "STATE_URL names a PostgreSQL database, which is not supported yet; use sqlite:///data/state.db"
        )
    if parsed.get_backend_name() != "sqlite":
        raise JournalError(f"STATE_URL names a database of kind {parsed.drivername!r}; use sqlite:///data/state.db")
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
            elif not path.exists():
                raise JournalError(f"there is no state file {path}; the daemon creates it when it is started")
        yield


def _connected(path: Path | None, name: str) -> Connection:
    with translated(name):
        return connect(":memory:" if path is None else str(path))


async def _close(connection: Connection, executor: Executor) -> None:
    await asyncio.shield(_in(executor, connection.close))


async def _in(executor: Executor, work: Callable[[], T]) -> T:
    return await asyncio.wrap_future(executor.submit(work))
