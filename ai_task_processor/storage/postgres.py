"""PostgreSQL as the state database, which any number of replicas may share."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ai_task_processor.domain.errors import ConfigurationError, JournalError
from ai_task_processor.domain.events import StateLost, StateRegained
from ai_task_processor.domain.ports import Observer
from ai_task_processor.storage.migrations import Prepare

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

CONNECTIONS: Final = 5
"""Connections of one replica, at most; a transaction takes one for some milliseconds."""

CONNECT_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 60.0
"""After these a connection counts as lost; the server's own limits (below) are shorter."""

FIRST_REST: Final = 0.1
LONGEST_REST: Final = 2.0
"""Seconds until a database that was lost is tried again."""

CONFLICTS: Final = 50
"""How often a transaction that met another one begins anew before that counts as a fault."""

LONGEST_PAUSE: Final = 0.05
"""Seconds, at most, between two attempts after a conflict."""

_SERVER_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "application_name": "ai-task-processor",
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "30s",  # who dies in mid-transaction shall not keep its locks for long
        "tcp_keepalives_idle": "15",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
)
_ONE_AT_A_TIME: Final = 0x41495450
"""The advisory lock of those who bring the schema up to date: several replicas may start at once."""

_TRANSACTION: Final = text("SELECT CAST(pg_current_xact_id_if_assigned() AS TEXT)")
_FATE: Final = text("SELECT pg_xact_status(CAST(CAST(:transaction AS TEXT) AS xid8))")


class Verdict(Enum):
    """What to do after an error."""

    CONFLICT = "another transaction was in the way: begin anew"
    AWAY = "the database cannot do it now: begin anew later"
    FAULT = "it would fail again"


_CONFLICTS: Final = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that somebody else has inserted since it was looked for."""

_AWAY: Final = ("08", "28", "53", "57", "58", "25006", "25P03", "42501", "3D000", "55P03")
"""Lost, not let in, overloaded, stopped, broken, read-only, without rights, not there yet, or waiting too long."""

_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "28": "does not let us in: check user, password and certificates in STATE_URL",
        "3D000": "is not there: create it, or correct STATE_URL",
        "42501": "gives us no right to do this: let the user of STATE_URL create, read and write tables in it",
        "25006": "is read-only: let STATE_URL name the primary server",
        "53": "is at its limits (disk, memory or connections): make room",
        "": "cannot be used",
    }
)
_UNREACHABLE: Final = "cannot be reached: check that it runs, and STATE_URL"


class PostgresStorage:
    """A database on which transactions of several replicas run beside each other.

    A transaction is a plain function of a SQLAlchemy connection, and may be run again: after a conflict with another
    one, and after the database was lost. Whether a transaction whose end was not heard of has happened is asked of
    the database, so that none happens twice. While the database is away callers wait, for as long as it takes, unless
    ``patient`` is False. What the function itself raises arrives as it is, and nothing of that transaction has
    happened.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        name: str,
        prepare: Callable[[Connection], None],
        patient: bool,
        observer: Observer | None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._prepare = prepare
        self._patient = patient
        self._observer = observer
        self._lost = False
        self._prepared = False
        self._preparing = asyncio.Lock()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction that is durable when this returns.

        Where the caller is cancelled meanwhile, the transaction has happened whole or not at all.
        """
        await self._make_ready()
        return await self._patiently(lambda: self._committed(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which changes nothing, on one consistent state of the database."""
        await self._make_ready()
        return await self._patiently(lambda: self._seen(work))

    async def _make_ready(self) -> None:
        if not self._prepared:
            async with self._preparing:
                if not self._prepared:
                    await self._patiently(lambda: self._committed(self._prepare))
                    self._prepared = True

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        conflicts, rest = 0, FIRST_REST
        while True:
            try:
                result = await attempt()
            except _errors() as error:
                verdict = verdict_on(error)
                if verdict is Verdict.CONFLICT and conflicts < CONFLICTS:
                    conflicts += 1
                    await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))  # noqa: S311  # so that two do not meet again
                elif verdict is Verdict.AWAY and self._patient:
                    self._tell_lost(explained(self._name, error), rest)
                    await asyncio.sleep(rest)
                    rest = min(2 * rest, LONGEST_REST)
                else:
                    raise JournalError(explained(self._name, error)) from _harmless(error)
            else:
                self._tell_regained()
                return result

    async def _committed(self, work: Callable[[Connection], T]) -> T:
        async with self._connection() as connection:
            result = await connection.run_sync(work)
            transaction = (await connection.execute(_TRANSACTION)).scalar()
            try:
                await connection.commit()
            except _errors() as error:
                if transaction is None or verdict_on(error) is not Verdict.AWAY:
                    raise
                await connection.invalidate()
                if not await self._patiently(lambda: self._has_happened(transaction)):
                    raise
            return result

    async def _has_happened(self, transaction: str) -> bool:
        """Whether a transaction was committed; waits for one that is still about to end."""
        while True:
            async with self._connection() as connection:
                fate = (await connection.execute(_FATE, {"transaction": transaction})).scalar()
            if fate != "in progress":
                return bool(fate == "committed")
            await asyncio.sleep(FIRST_REST)

    async def _seen(self, work: Callable[[Connection], T]) -> T:
        async with self._connection() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await connection.run_sync(work)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            try:
                yield connection
            except _errors() as error:
                if verdict_on(error) is Verdict.AWAY and not connection.invalidated:
                    await connection.invalidate()
                raise

    def _tell_lost(self, reason: str, rest: float) -> None:
        self._lost = True
        if self._observer:
            self._observer(StateLost(reason=reason, rest=rest))

    def _tell_regained(self) -> None:
        if self._lost and self._observer:
            self._observer(StateRegained())
        self._lost = False


@asynccontextmanager
async def open_postgres(
    url: str, *, prepare: Prepare, shared: bool, observer: Observer | None = None
) -> AsyncIterator[PostgresStorage]:
    """Open the database of ``url``; the first transaction connects, and runs ``prepare`` before all others.

    With ``shared`` this process is one of its replicas: ``prepare`` may change it, a database that is away is waited
    for, and ``observer`` is told. Without, it looks in beside them. Raises ConfigurationError.
    """
    name = shown(url)
    ready = partial(prepare, name=name)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=_connect_to(url),
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=None,
        hide_parameters=True,
    )
    try:
        yield PostgresStorage(
            engine, name=name, prepare=_one_at_a_time(ready) if shared else ready, patient=shared, observer=observer
        )
    finally:
        await asyncio.shield(engine.dispose())


def database_time(connection: Connection) -> float:
    """Unix seconds by the database's clock, which is the same for all replicas."""
    return float(connection.execute(text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())


def shown(url: str) -> str:
    """A URL without user, password and options, for messages."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def verdict_on(error: BaseException) -> Verdict:
    """What to do after ``error`` of the driver, of SQLAlchemy or of the network."""
    state = _state(error)
    if state in _CONFLICTS:
        return Verdict.CONFLICT
    if state.startswith(_AWAY) or isinstance(error, OSError):
        return Verdict.AWAY
    return Verdict.AWAY if isinstance(error, DBAPIError) and error.connection_invalidated else Verdict.FAULT


def explained(name: str, error: BaseException) -> str:
    """Words for an operator: which database, what to do about it, and what it said; never a value or a secret."""
    state = _state(error)
    advice = next(words for prefix, words in _ADVICE.items() if state.startswith(prefix))
    if isinstance(error, OSError) or state.startswith("08") or getattr(error, "connection_invalidated", False):
        advice = _UNREACHABLE
    return f"state database {name} {advice} ({_said(error)})"


def _one_at_a_time(prepare: Callable[[Connection], None]) -> Callable[[Connection], None]:
    """Have several processes that start at once run ``prepare`` one after the other, however long it takes."""

    def run(connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
        prepare(connection)

    return run


def _connect_to(url: str) -> Callable[[], Awaitable["asyncpg.Connection"]]:
    try:
        import asyncpg  # noqa: PLC0415  # an extra that only some need
    except ImportError as error:
        raise ConfigurationError(
            ["STATE_URL: a PostgreSQL database needs the extra: pip install 'ai-task-processor[postgres]'"]
        ) from error
    dsn = "postgresql://" + url.partition("://")[2]

    async def connect() -> "asyncpg.Connection":
        try:
            return await asyncpg.connect(
                dsn, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings=dict(_SERVER_SETTINGS)
            )
        except (asyncpg.InterfaceError, ValueError):
            raise JournalError(
                "STATE_URL cannot be understood; give postgresql://user:password@host:5432/database"
            ) from None  # the driver's words may hold the password

    return connect


def _errors() -> tuple[type[BaseException], ...]:
    """Everything that a transaction may fail of on the way to the database and in it."""
    import asyncpg  # noqa: PLC0415  # see above

    return (DBAPIError, asyncpg.PostgresError, OSError)


def _state(error: BaseException) -> str:
    origin: Any = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", None) or "")


def _said(error: BaseException) -> str:
    """What the database said, without the details that may hold values."""
    origin = error.orig.__cause__ or error.orig if isinstance(error, DBAPIError) and error.orig else error
    said = str(origin.args[0]) if origin.args and isinstance(origin.args[0], str) else str(origin)
    return said.partition("\n")[0] or type(origin).__name__


def _harmless(error: BaseException) -> BaseException | None:
    """The cause as it may be shown in a traceback: the driver's details may hold values."""
    return error if isinstance(error, OSError) else None
