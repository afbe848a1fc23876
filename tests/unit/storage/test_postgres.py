"""PostgreSQL as the state database: conflicts, lost connections, outages, and what an operator is told of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import Connection, inspect, text

from ai_task_processor.domain.errors import ConfigurationError, JournalError
from ai_task_processor.domain.events import Event, StateLost, StateRegained
from ai_task_processor.storage.engine import Storage, open_storage
from ai_task_processor.storage.migrations import newest_schema
from ai_task_processor.storage.postgres import shown
from ai_task_processor.storage.schema import metadata
from tests.fakes.postgres import Cluster, Database, cluster, database

INSERT = text("INSERT INTO meta (key, value) VALUES (:key, :value)")
NUMBER = text("SELECT number FROM schema_version")
READ_ONLY = "ALTER DATABASE few SET default_transaction_read_only ="


def storing(key: str, value: str = "x") -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(INSERT, {"key": key, "value": value})

    return work


def stored(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT key FROM meta ORDER BY key")).scalars())


def add_one(connection: Connection) -> None:
    count = int(connection.execute(text("SELECT value FROM meta WHERE key = 'n'")).scalar_one())
    connection.execute(text("UPDATE meta SET value = :n WHERE key = 'n'"), {"n": str(count + 1)})


WAITING = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
async def storage(postgres_url: str) -> AsyncIterator[Storage]:
    async with open_storage(postgres_url) as storage:
        yield storage


class TestOpening:
    async def test_several_that_start_at_once_make_one_schema(self) -> None:
        with database() as fresh:

            async def start() -> int:
                async with open_storage(fresh.url) as storage:
                    await storage.write(lambda c: c.execute(text("SELECT 1")).scalar_one())
                    return int(
                        await storage.read(lambda c: c.execute(text("SELECT number FROM schema_version")).scalar_one())
                    )

            assert await asyncio.gather(*(start() for _ in range(6))) == [newest_schema()] * 6
            async with open_storage(fresh.url) as storage:
                names = await storage.read(lambda connection: set(inspect(connection).get_table_names()))
            assert names == {*metadata.tables, "schema_version"}

    async def test_a_newer_schema_is_refused(self, postgres: Database, postgres_url: str) -> None:
        async with open_storage(postgres_url) as storage:
            await storage.read(stored)
        postgres.execute("UPDATE schema_version SET number = 99")
        try:
            for exclusive in (True, False):
                with pytest.raises(JournalError, match=r"state database postgresql://.*newer version .*schema 99"):
                    async with open_storage(postgres_url, exclusive=exclusive) as storage:
                        await storage.read(stored)
        finally:
            postgres.execute("UPDATE schema_version SET number = %d" % newest_schema())  # noqa: S608, UP031

    async def test_an_operator_creates_nothing(self) -> None:
        with database() as fresh:
            with pytest.raises(JournalError, match="the daemon makes its tables"):
                async with open_storage(fresh.url, exclusive=False) as storage:
                    await storage.read(stored)
            assert fresh.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0

    async def test_what_cannot_be_understood_is_refused_without_its_password(self) -> None:
        with pytest.raises((JournalError, ConfigurationError), match="cannot be understood") as refusal:
            async with open_storage("postgresql://user:hidden@host:port/name") as storage:
                await storage.read(stored)
        assert "hidden" not in f"{refusal.value} {refusal.value.__cause__}"

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("postgresql://user:p@ss@host:5432/name?password=secret", "postgresql://host:5432/name"),
            ("postgres://host/name", "postgres://host/name"),
            ("postgresql:///name", "postgresql:///name"),
        ],
    )
    def test_is_shown_without_secrets(self, url: str, words: str) -> None:
        assert shown(url) == words


class TestTransactions:
    async def test_happen_whole_or_not_at_all(self, storage: Storage) -> None:
        def fail(connection: Connection) -> None:
            storing("a")(connection)
            raise LookupError("in the middle")

        with pytest.raises(LookupError, match="in the middle"):
            await storage.write(fail)
        await storage.write(storing("b"))
        assert await storage.read(stored) == ["b"]

    async def test_run_beside_each_other(self, storage: Storage, postgres: Database) -> None:
        def wait(connection: Connection) -> None:
            connection.execute(text("SELECT pg_advisory_xact_lock_shared(7)"))

        holder = await asyncpg.connect(postgres.url)
        await holder.execute("SELECT pg_advisory_lock(7)")
        reads = [asyncio.create_task(storage.read(wait)) for _ in range(5)]
        async with asyncio.timeout(20):
            while await holder.fetchval(WAITING) < 5:  # noqa: ASYNC110  # the server is another process
                await asyncio.sleep(0.01)
        await holder.close()
        await asyncio.gather(*reads)

    async def test_a_read_sees_one_state(self, storage: Storage) -> None:
        def look_twice(connection: Connection) -> tuple[list[str], list[str]]:
            return stored(connection), stored(connection)

        writes = (storage.write(storing(f"{number}")) for number in range(20))
        looks = (storage.read(look_twice) for _ in range(20))
        seen = (await asyncio.gather(*looks, *writes))[:20]
        assert all(first == second for first, second in seen if first is not None)

    async def test_begin_anew_after_a_conflict(self, storage: Storage) -> None:
        def insert_or_count(connection: Connection) -> str:
            if not connection.execute(text("SELECT 1 FROM meta WHERE key = 'n'")).scalar():
                connection.execute(text("SELECT pg_sleep(0.02)"))
                storing("n")(connection)
                return "made"
            return "found"

        assert sorted(await asyncio.gather(*(storage.write(insert_or_count) for _ in range(5)))) == ["found"] * 4 + [
            "made"
        ]

    async def test_a_fault_that_stays_is_told_without_values(self, storage: Storage) -> None:
        await storage.write(storing("a private text"))
        with pytest.raises(JournalError, match="duplicate key") as refusal:
            await storage.write(storing("a private text"))
        assert "private" not in f"{refusal.value} {refusal.value.__cause__}"

    async def test_cancelled_in_the_middle_do_not_happen(self, storage: Storage) -> None:
        def slowly(connection: Connection) -> None:
            storing("a")(connection)
            connection.execute(text("SELECT pg_sleep(30)"))

        for _ in range(7):
            caller = asyncio.create_task(storage.write(slowly))
            await asyncio.sleep(0.02)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        await storage.write(storing("b"))
        assert await storage.read(stored) == ["b"]


class TestLostConnections:
    async def test_transactions_that_were_cut_off_happen_once(self, postgres: Database, storage: Storage) -> None:
        await storage.write(storing("n", "0"))

        def count(connection: Connection) -> None:
            connection.execute(text("SELECT value FROM meta WHERE key = 'n' FOR UPDATE"))
            add_one(connection)

        async def cut() -> None:
            for _ in range(6):
                await asyncio.to_thread(postgres.cut_all)

        async with asyncio.timeout(20):
            await asyncio.gather(cut(), *(storage.write(count) for _ in range(200)))
        assert postgres.value("SELECT value FROM meta WHERE key = 'n'") == "200"

    @pytest.mark.parametrize("happened", [True, False])
    async def test_a_commit_without_answer_is_looked_up(self, postgres: Database, *, happened: bool) -> None:
        runs = 0

        def work(connection: Connection) -> str:
            nonlocal runs
            runs += 1
            storing("a")(connection)
            return f"run {runs}"

        proxy = CuttingProxy(postgres.url, happened=happened)
        async with proxy.listening() as url:
            async with open_storage(url) as storage:
                await storage.write(storing("b"))
                proxy.armed = True
                assert await storage.write(work) == ("run 1" if happened else "run 2")
                assert not proxy.armed
                assert await storage.read(stored) == ["a", "b"]
            await asyncio.sleep(0.05)  # for the proxy to see the end of each connection

    @pytest.fixture(autouse=True)
    def _empty(self, postgres_url: str) -> None:
        """Begin with nothing stored."""


class CuttingProxy:
    """Passes bytes on; once ``armed``, it loses the next COMMIT, or the answer to it, and the connection with it."""

    def __init__(self, url: str, *, happened: bool) -> None:
        self.armed = False
        self._url = urlsplit(url)
        self._happened = happened

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            user = f"{self._url.username}:{self._url.password or 'any'}"
            yield f"postgresql://{user}@127.0.0.1:{server.sockets[0].getsockname()[1]}{self._url.path}?sslmode=disable"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._url.hostname, self._url.port or 5432)
        async with asyncio.TaskGroup() as group:
            answers = group.create_task(self._pass_on(there_reader, writer))
            while part := await reader.read(2**16):
                if self.armed and b"COMMIT" in part:
                    self.armed = False
                    answers.cancel()
                    await asyncio.wait({answers})
                    if self._happened:
                        there_writer.write(part)
                        await asyncio.wait_for(there_reader.readexactly(1), 5)
                    break
                there_writer.write(part)
            answers.cancel()
        for each in (writer, there_writer):
            each.close()
            await each.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(2**16):
            writer.write(part)
        writer.close()


# --- Outages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as own:
        yield own


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[tuple[Storage, list[Event]]]:
    seen: list[Event] = []
    async with open_storage(url, observer=seen.append) as storage:
        yield storage, seen


async def lost(seen: list[Event]) -> str:
    async with asyncio.timeout(10):
        while not seen:  # noqa: ASYNC110  # an observer has no bell
            await asyncio.sleep(0.01)
    first = seen[0]
    assert isinstance(first, StateLost)
    return first.reason


class TestOutages:
    async def test_a_restart_is_waited_for_and_told(self, server: Cluster) -> None:
        async with watched(server.url) as (storage, seen):
            await storage.write(storing("before"))
            await asyncio.to_thread(server.stop, "immediate")
            writing = asyncio.create_task(storage.write(storing("after")))
            assert "cannot be reached: check that it runs" in await lost(seen)
            await asyncio.to_thread(server.start)
            await writing
            assert isinstance(seen[-1], StateRegained)
            assert await storage.read(stored) == ["after", "before"]

    async def test_one_that_is_not_there_at_the_start_is_waited_for_too(self, server: Cluster) -> None:
        await asyncio.to_thread(server.stop)
        async with watched(server.url) as (storage, seen):
            reading = asyncio.create_task(storage.read(stored))
            await lost(seen)
            await asyncio.to_thread(server.start)
            await reading

    async def test_whoever_waits_can_be_cancelled(self) -> None:
        async with watched("postgresql://postgres:hidden@127.0.0.1:1/state") as (storage, seen):
            writing = asyncio.create_task(storage.write(storing("a")))
            assert "hidden" not in await lost(seen)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing

    async def test_an_operator_does_not_wait(self) -> None:
        with pytest.raises(JournalError, match=r"postgresql://127\.0\.0\.1:1/state cannot be reached"):
            async with open_storage("postgresql://postgres:hidden@127.0.0.1:1/state", exclusive=False) as storage:
                await storage.read(stored)

    @pytest.mark.parametrize(
        ("prepare", "mend", "words"),
        [
            (
                ["CREATE DATABASE few OWNER postgres", "CREATE ROLE few LOGIN"],
                ["GRANT CREATE ON DATABASE few TO few", "ALTER DATABASE few OWNER TO few"],
                "gives us no right",
            ),
            (
                ["CREATE ROLE few LOGIN", "CREATE DATABASE few OWNER few", f"{READ_ONLY} on"],
                [f"{READ_ONLY} off"],
                "is read-only",
            ),
            (["CREATE ROLE few LOGIN"], ["CREATE DATABASE few OWNER few"], "is not there"),
            (
                ["CREATE ROLE few NOLOGIN", "CREATE DATABASE few OWNER few"],
                ["ALTER ROLE few LOGIN"],
                "does not let us in",
            ),
        ],
        ids=["no rights", "read-only", "no database", "no login"],
    )
    async def test_what_an_operator_must_mend_is_said_and_waited_for(
        self, server: Cluster, prepare: list[str], mend: list[str], words: str
    ) -> None:
        owner = Database(server.url)
        owner.execute(*prepare)
        try:
            url = server.url.replace("postgres@", "few:hidden@").replace("/postgres", "/few")
            async with watched(url) as (storage, seen):
                writing = asyncio.create_task(storage.write(storing("a")))
                reason = await lost(seen)
                assert words in reason
                assert "hidden" not in reason
                await asyncio.to_thread(owner.execute, *mend)
                async with asyncio.timeout(10):
                    await writing
                assert await storage.read(stored) == ["a"]
        finally:
            owner.execute("DROP DATABASE IF EXISTS few WITH (FORCE)", "DROP ROLE few")
