"""A PostgreSQL server for tests: one that is there, or one started from the installed programs."""

import asyncio
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest

T = TypeVar("T")

USUAL = "postgresql://postgres@127.0.0.1:5432/postgres"
HOW = (
    "no PostgreSQL to test with: set TEST_POSTGRES_URL=postgresql://user:password@host/database (its user must be "
    "allowed to create databases), run one on 127.0.0.1:5432 that trusts user postgres, or install its programs "
    "(Debian: apt-get install postgresql)"
)


@dataclass(frozen=True)
class Database:
    """A database for tests alone, empty when it is made."""

    url: str

    def execute(self, *statements: str) -> None:
        """Run statements beside whoever else uses the database."""

        async def run(connection: asyncpg.Connection) -> None:
            for statement in statements:
                await connection.execute(statement)

        _connected(self.url, run)

    def value(self, query: str) -> object:
        """The first value of a query's first row."""
        return _connected(self.url, lambda connection: connection.fetchval(query))

    def empty(self) -> None:
        """Drop everything that is in it."""
        self.execute("DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public")

    def clear(self) -> None:
        """Drop the rows of all tables but the schema's number."""
        tables = self.value(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename <> 'schema_version'"
        )
        if tables:
            self.execute(f"TRUNCATE {tables}")

    def cut_all(self) -> int:
        """End every connection to it from the server's side; answers how many."""
        count = self.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert isinstance(count, int)
        return count


@contextmanager
def database(server: str | None = None) -> Iterator[Database]:
    """Create a database on a server (found or started, where none is given), and drop it at the end."""
    with _server() if server is None else _given(server) as url:
        name = f"ai_task_processor_test_{os.getpid()}_{secrets.token_hex(3)}"
        Database(url).execute(f"CREATE DATABASE {name}")
        try:
            yield Database(urlsplit(url)._replace(path=f"/{name}").geturl())
        finally:
            Database(url).execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _server() -> Iterator[str]:
    url = os.environ.get("TEST_POSTGRES_URL")
    if url or _answers(USUAL):
        yield url or USUAL
    elif programs() is not None:
        with cluster() as own:
            yield own.url
    elif os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(HOW)
    else:
        pytest.skip(HOW)


@contextmanager
def _given(server: str) -> Iterator[str]:
    yield server


def _answers(url: str) -> bool:
    try:
        return Database(url).value("SELECT current_setting('server_version_num')::int >= 150000") is True
    except (OSError, asyncpg.PostgresError):
        return False


# --- A server of one's own --------------------------------------------------------------------------------------------


class Cluster:
    """A server that a test may stop, start and break."""

    def __init__(self, folder: Path, port: int, owner: str | None) -> None:
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._folder = folder
        self._port = port
        self._owner = owner

    def make(self) -> None:
        self._run("initdb", "--pgdata", str(self._folder), "--username=postgres", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self._folder / "server.log")
        self._run("pg_ctl", "--pgdata", str(self._folder), "--wait", f"--options={options}", f"--log={log}", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "--pgdata", str(self._folder), "--wait", f"--mode={mode}", "stop")

    def restart(self) -> None:
        """Stop without ado, as after a power failure, and start again."""
        self.stop("immediate")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        done = subprocess.run(  # noqa: S603
            [folder / program, *arguments],
            user=self._owner,
            cwd="/",
            check=False,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
        assert done.returncode == 0, (program, done.stdout)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a server on a free port, with its data in a temporary folder; skip the test where that cannot be done."""
    if programs() is None:
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") == "1" else pytest.skip)(HOW)
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        owner = _owner()
        if owner:
            shutil.chown(folder, owner)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = Cluster(Path(folder) / "data", port, owner)
        own.make()
        own.start()
        try:
            yield own
        finally:
            own.stop("immediate")


def programs() -> Path | None:
    """The folder with initdb and pg_ctl, of version 15 or later."""
    found = shutil.which("pg_ctl")
    folders = (
        [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True)
    )
    return next((folder for folder in folders if (folder / "initdb").exists() and _new_enough(folder)), None)


def _new_enough(folder: Path) -> bool:
    said = subprocess.run([folder / "pg_ctl", "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    version = re.search(r"\) (\d+)", said)
    return version is not None and int(version[1]) >= 15


def _owner() -> str | None:
    """A user that the server can run as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _connected(url: str, use: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Use a connection, whether or not the caller is inside an event loop."""

    async def run() -> T:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return await use(connection)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(run())).result()
