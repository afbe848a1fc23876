"""The database that simulated replicas share: PostgreSQL as far as the daemon can tell, in memory and in one thread.

The daemon's own PostgresStorage, journal, lease and limits run on it, with the statements that they have for replicas;
what is PostgreSQL's alone in those (locks, functions) is put into SQLite's words on the way. Transactions happen one
after the other, each at one moment; before and after it lies the way to the database, on which everything may be lost.
"""

import asyncio
import random
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

import asyncpg
from sqlalchemy import Connection, TextClause, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from ai_task_processor.domain.ports import Observer
from ai_task_processor.storage.migrations import migrate
from ai_task_processor.storage.postgres import CONNECT_SECONDS, CONNECTIONS, PostgresStorage
from tests.simulation import faults
from tests.simulation.life import Life
from tests.simulation.machine import Machine
from tests.simulation.scenario import Replicas

T = TypeVar("T")

NAME = "postgresql://simulated"

_TRANSLATED = (
    (re.compile(r"SELECT unnest\(ARRAY\((.*?)\)\)", re.DOTALL), r"\1"),
    (re.compile(r"FOR UPDATE( SKIP LOCKED)?"), ""),
    (re.compile(r"FROM pg_advisory_xact_lock\(\d+\)"), ""),
    (re.compile(r"EXTRACT\(EPOCH FROM clock_timestamp\(\)\)"), "clock_timestamp()"),
)

_TELLERS = (
    """
    CREATE TEMP TRIGGER tell_task AFTER UPDATE ON tasks
    WHEN old.state IS NOT new.state OR old.claimed_by IS NOT new.claimed_by BEGIN SELECT
    tell_task(new.id, old.state, new.state, old.claimed_by, new.claimed_by, new.outcome, new.result); END
    """,
    """
    CREATE TEMP TRIGGER tell_renewed AFTER UPDATE OF leased_until ON replicas BEGIN SELECT tell_renewed(new.id); END
    """,
    "CREATE TEMP TRIGGER tell_joined AFTER INSERT ON replicas BEGIN SELECT tell_renewed(new.id); END",
    "CREATE TEMP TRIGGER tell_gone AFTER DELETE ON replicas BEGIN SELECT tell_gone(old.id, old.leased_until); END",
    "CREATE TEMP TRIGGER tell_passed_on AFTER UPDATE OF joined_at ON replicas BEGIN SELECT tell_passed_on(old.id); END",
)


class Witness(Protocol):
    """Is told what each transaction has done, when it is committed; replicas go by their names."""

    def task_changed(
        self,
        by: str,
        task_id: str,
        states: tuple[str, str],
        holders: tuple[str | None, str | None],
        vector: bytes | None,
    ) -> None:
        """A row has another state or holder: the old and the new of both, and the vector that was written."""

    def lease_renewed(self, replica: str) -> None:
        """A replica has joined, or renewed its lease."""

    def lease_ended(self, by: str, replica: str, overdue: float) -> None:
        """A replica is no longer one of them; its lease had run out so many seconds ago."""

    def turn_passed_on(self, by: str) -> None:
        """A replica stands last in the line of those who poll."""


class SharedDatabase:
    """What all replicas see. On the way to it is the ``replicas``' weather, its clock is ``machine``'s."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        healed: float,
        machine: Machine,
        chance: random.Random,
        witness: Witness,
        tell: Callable[[str], None],
    ) -> None:
        self.machine = machine
        self._weather = replicas.database
        self._cut = replicas.cut
        self._healed = healed
        self._chance = chance
        self._witness = witness
        self._tell = tell
        self._told: list[Callable[[], None]] = []
        self._fates: dict[int, str] = {}
        self._changes_before = 0
        self._actor = ""
        self._driver = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        engine = create_engine("sqlite://", creator=lambda: self._driver, poolclass=StaticPool, hide_parameters=True)
        event.listen(engine, "before_cursor_execute", _in_other_words, retval=True)
        self.connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        migrate(self.connection, name=NAME)
        engine.dialect.name = "replicas"  # from here on statements take their form for several
        self._functions()

    def _functions(self) -> None:
        known: Sequence[tuple[str, int, Callable[..., object]]] = (
            ("clock_timestamp", 0, self.machine.wall),
            ("pg_current_xact_id_if_assigned", 0, self._transaction),
            ("pg_xact_status", 1, lambda number: self._fates[int(number)]),
            ("tell_task", 7, self._note_task),
            ("tell_renewed", 1, lambda replica: self._note(lambda: self._witness.lease_renewed(replica))),
            ("tell_gone", 2, self._note_gone),
            ("tell_passed_on", 1, lambda replica: self._note(lambda: self._witness.turn_passed_on(replica))),
        )
        for name, arguments, function in known:
            self._driver.create_function(name, arguments, function)
        for teller in _TELLERS:
            self._driver.execute(teller)

    def close(self) -> None:
        """Forget everything."""
        self.connection.close()
        self._driver.close()

    def storage(self, life: Life, name: str, observer: Observer) -> PostgresStorage:
        """The database as a new process reaches it."""
        return PostgresStorage(
            cast("AsyncEngine", Pool(self, life, name)),
            name=NAME,
            prepare=lambda connection: migrate(connection, name=NAME),
            patient=True,
            observer=observer,
        )

    def now(self, query: str) -> Sequence[Any]:
        """What a query finds, past all that may go wrong."""
        return self._driver.execute(query).fetchall()

    # --- On the way ---------------------------------------------------------------------------------------------------

    def delay(self) -> float:
        """Seconds for one way."""
        return self._weather.delay(asyncio.get_running_loop().time(), self._healed, self._chance)

    def fault(self, host: int) -> str:
        """What goes wrong with a transaction that a host begins now."""
        now = asyncio.get_running_loop().time()
        cut = next((cut for cut in self._cut[host] if cut.begin <= now < cut.end), None)
        fault = cut.fault if cut else self._weather.fault(now, self._healed, self._chance)
        if fault:
            self._tell(f"database: {fault}")
        return fault

    # --- Transactions -------------------------------------------------------------------------------------------------

    def begin(self, actor: str) -> None:
        """Begin a transaction; from here to its end nobody else may do anything."""
        assert not self._driver.in_transaction
        self._actor = actor
        self._changes_before = self._driver.total_changes
        self._driver.execute("BEGIN")

    def commit(self) -> None:
        """Make it durable."""
        self._end("COMMIT", "committed")
        told, self._told = self._told, []
        for each in told:
            each()

    def rollback(self) -> None:
        """Let it not have happened."""
        if self._driver.in_transaction:
            self._end("ROLLBACK", "aborted")
        self._told.clear()

    def _end(self, how: str, fate: str) -> None:
        number = self._transaction()
        self._driver.execute(how)
        if number is not None:
            self._fates[number] = fate

    def _transaction(self) -> int | None:
        """The number of the transaction; None while it has changed nothing."""
        return len(self._fates) + 1 if self._driver.total_changes > self._changes_before else None

    def _note(self, what: Callable[[], None]) -> None:
        self._told.append(what)

    def _note_task(
        self,
        task_id: str,
        old: str,
        new: str,
        held_by: str | None,
        holder: str | None,
        outcome: str | None,
        result: bytes | None,
    ) -> None:
        by, states, holders = self._actor, (old, new), (held_by, holder)
        vector = result if outcome == "vector" and new == "succeeded" and old == "claimed" else None
        self._note(lambda: self._witness.task_changed(by, task_id, states, holders, vector))

    def _note_gone(self, replica: str, leased_until: float) -> None:
        by, overdue = self._actor, self.machine.wall() - leased_until
        self._note(lambda: self._witness.lease_ended(by, replica, overdue))


class Pool:
    """As much of SQLAlchemy's AsyncEngine as PostgresStorage uses."""

    def __init__(self, database: SharedDatabase, life: Life, name: str) -> None:
        self._database = database
        self._life = life
        self._name = name
        self._room = asyncio.Semaphore(CONNECTIONS)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Session"]:
        """Take a connection, and give it back at the end, or when it is invalidated."""
        await self._room.acquire()
        session = Session(self._database, self._life, self._name, self._room)
        try:
            await session.open()
            yield session
        finally:
            self._database.rollback()
            if not session.invalidated:
                self._room.release()


class Session:
    """As much of SQLAlchemy's AsyncConnection as PostgresStorage uses: one transaction."""

    def __init__(self, database: SharedDatabase, life: Life, name: str, room: asyncio.Semaphore) -> None:
        self.invalidated = False
        self._database = database
        self._life = life
        self._name = name
        self._room = room
        self._fault = ""
        self._reads = False

    async def open(self) -> None:
        """Go to the database."""
        self._life.door()
        self._fault = self._database.fault(self._life.facts.host)
        if self._fault == faults.HANG_BEFORE:
            await asyncio.sleep(CONNECT_SECONDS)
            raise TimeoutError
        await asyncio.sleep(self._database.delay())
        self._life.door()
        if self._fault == faults.REFUSED:
            raise ConnectionRefusedError("connection refused")
        if self._fault == faults.BUSY:
            raise asyncpg.TooManyConnectionsError("sorry, too many clients already")

    async def execution_options(self, **options: object) -> None:
        """See whether this is for reading only."""
        self._reads = bool(options.get("postgresql_readonly"))

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction's work, up to its commit."""
        self._database.begin(self._name)
        if self._fault == faults.FORBIDDEN and not self._reads:
            raise asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction")
        result = work(self._database.connection)
        if self._fault == faults.CONFLICT:
            raise asyncpg.SerializationError("could not serialize access")
        return result

    async def execute(self, statement: TextClause, values: dict[str, object] | None = None) -> Any:
        """Run one statement."""
        return self._database.connection.execute(statement, values or {})

    async def commit(self) -> None:
        """End the transaction, and hear of it if nothing comes between."""
        if self._fault == faults.RESET_BEFORE:
            self._database.rollback()
            raise ConnectionResetError("connection reset by peer")
        self._database.commit()
        self._life.point("committed")
        if self._fault == faults.RESET_AFTER:
            raise ConnectionResetError("connection reset by peer")
        await asyncio.sleep(self._database.delay())
        self._life.door()

    async def invalidate(self) -> None:
        """Use this connection no more."""
        self._database.rollback()
        if not self.invalidated:
            self._room.release()
        self.invalidated = True


def _in_other_words(
    _connection: object, _cursor: object, statement: str, parameters: object, _context: object, _many: object
) -> tuple[str, object]:
    return _translated(statement), parameters


@lru_cache(maxsize=512)
def _translated(statement: str) -> str:
    for pattern, words in _TRANSLATED:
        statement = pattern.sub(words, statement)
    return statement
