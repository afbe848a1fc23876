"""Opens the state database and runs transactions on it."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.domain.ports import Observer
from ai_task_processor.storage.migrations import Prepare, expect_newest, migrate
from ai_task_processor.storage.ownership import owned
from ai_task_processor.storage.sqlite import connect, transact, translated

T = TypeVar("T")

MOST_TOGETHER: Final = 32
"""Transactions that become one, at most: all of them wait for the slowest."""

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


class _Asked(Struct, frozen=True, eq=False):
    """A transaction that a caller waits for."""

    work: Callable[[Connection], Any]
    writes: bool
    answer: asyncio.Future[Any]


class SqliteStorage:
    """The port :class:`Storage` over one connection, on which transactions run one after the other.

    All of a transaction runs in the database's own thread, so that a caller who is cancelled cannot leave one open.
    What is asked for while one runs becomes the next one, all together: one change of threads and one wait for the
    disk. If anything of such a group fails it is undone whole, and then each is run for itself.
    """

    def __init__(self, connection: Connection, *, name: str, executor: Executor) -> None:
        self._connection = connection
        self._name = name
        self._executor = executor
        self._waiting: deque[_Asked] = deque()
        self._busy = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See :class:`Storage`."""
        return await self._ask(work, writes=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See :class:`Storage`."""
        return await self._ask(work, writes=False)

    async def _ask(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        asked = _Asked(work, writes, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if not self._busy:
            self._begin_next()
        answer: T = await asked.answer
        return answer

    def _begin_next(self) -> None:
        group = self._next_group()
        self._busy = bool(group)
        if group:
            loop = group[0].answer.get_loop()
            running = self._executor.submit(self._run, group)
            running.add_done_callback(
                lambda ran: None if loop.is_closed() else loop.call_soon_threadsafe(self._end, ran)
            )

    def _next_group(self) -> list[_Asked]:
        """Those that wait longest; whose caller was cancelled meanwhile does not happen."""
        group: list[_Asked] = []
        while self._waiting and len(group) < MOST_TOGETHER:
            asked = self._waiting.popleft()
            if not asked.answer.done():
                group.append(asked)
        return group

    def _end(self, ran: Future[list["_Ran"]]) -> None:
        self._begin_next()  # first: the disk works while the callers go on
        self._tell(ran.result())

    def _tell(self, group: Sequence["_Ran"]) -> None:
        for asked, answer, error in group:
            if asked.answer.done():
                continue
            if error is None:
                asked.answer.set_result(answer)
            else:
                asked.answer.set_exception(error)

    def _run(self, group: Sequence[_Asked]) -> list["_Ran"]:
        """Who only looks is answered before the others write, and need not wait for the disk."""
        looks = [asked for asked in group if not asked.writes]
        writes = [asked for asked in group if asked.writes]
        if not looks or not writes:
            return self._done(group)
        looked = self._done(looks)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            group[0].answer.get_loop().call_soon_threadsafe(self._tell, looked)
        return self._done(writes)

    def _done(self, group: Sequence[_Asked]) -> list["_Ran"]:
        if len(group) > 1:
            with contextlib.suppress(Exception):  # whose it is shows when each is run for itself
                return self._together(group)
        return [self._alone(asked) for asked in group]

    def _together(self, group: Sequence[_Asked]) -> list["_Ran"]:
        begin = _begin(writes=any(asked.writes for asked in group))
        answers = transact(self._connection, begin, lambda connection: [asked.work(connection) for asked in group])
        return [(asked, answer, None) for asked, answer in zip(group, answers, strict=True)]

    def _alone(self, asked: _Asked) -> "_Ran":
        try:
            with translated(self._name):
                return asked, transact(self._connection, _begin(writes=asked.writes), asked.work), None
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it
            return asked, None, error


_Ran: TypeAlias = tuple[_Asked, Any, BaseException | None]


def _begin(*, writes: bool) -> str:
    return "BEGIN IMMEDIATE" if writes else "BEGIN"


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
