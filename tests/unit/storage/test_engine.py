import asyncio
import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.engine import Storage, open_storage, sqlite_path
from ai_task_processor.storage.sqlite import translated

INSERT = text("INSERT INTO meta (key, value) VALUES (:key, :value)")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def url(file: Path) -> str:
    return f"sqlite:///{file}"


def storing(key: str, value: str = "x") -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(INSERT, {"key": key, "value": value})

    return work


def stored(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT key FROM meta ORDER BY key")).scalars())


def pragma(name: str) -> Callable[[Connection], object]:
    return lambda connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def written(file: Path, content: bytes) -> bytes:
    file.write_bytes(content)
    return content


def read(file: Path) -> bytes:
    return file.read_bytes()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def with_mode(file: Path, mode: int) -> None:
    file.touch()
    file.chmod(mode)


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


class TestOpening:
    async def test_creates_the_file_and_its_folders(self, tmp_path: Path) -> None:
        file = tmp_path / "some" / "where" / "state.db"
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a"))
        async with open_storage(url(file)) as storage:
            assert await storage.read(stored) == ["a"]

    async def test_only_the_owner_reads_what_it_creates(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a"))
            modes = {name: mode(file.parent / name) for name in names_in(file.parent)}
        assert {mode for name, mode in modes.items() if not name.endswith(".lock")} == {0o600}
        assert {"state.db", "state.db-wal"} <= set(modes)

    async def test_the_rights_that_an_operator_gave_stay(self, file: Path) -> None:
        with_mode(file, 0o640)
        async with open_storage(url(file)):
            assert mode(file) == 0o640

    async def test_a_relative_url_begins_at_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        async with open_storage("sqlite:///data/state.db"):
            assert (tmp_path / "data" / "state.db").is_file()

    @pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
    async def test_may_be_in_memory(self, address: str) -> None:
        assert sqlite_path(address) is None
        async with open_storage(address) as storage:
            await storage.write(storing("a"))
            assert await storage.read(stored) == ["a"]

    async def test_outcomes_survive_a_power_failure(self, file: Path) -> None:
        full = 2
        async with open_storage(url(file)) as storage:
            assert await storage.read(pragma("journal_mode")) == "wal"
            assert await storage.read(pragma("synchronous")) == full

    async def test_leaves_no_thread_behind(self, file: Path) -> None:
        before = threading.active_count()
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a"))
        assert threading.active_count() == before
        assert names_in(file.parent) == {"state.db", "state.db.lock"}

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("mysql://user:hidden@host/name", "kind 'mysql'"),
            ("state.db", "not a database address"),
        ],
    )
    async def test_refuses_other_databases(self, address: str, words: str) -> None:
        with pytest.raises(JournalError, match=words) as refusal:
            async with open_storage(address):
                pass
        assert "hidden" not in str(refusal.value)


class TestTransactions:
    async def test_happen_whole_or_not_at_all(self, file: Path) -> None:
        def fail(connection: Connection) -> None:
            storing("a")(connection)
            raise LookupError("in the middle")

        async with open_storage(url(file)) as storage:
            with pytest.raises(LookupError, match="in the middle"):
                await storage.write(fail)
            await storage.write(storing("b"))
            assert await storage.read(stored) == ["b"]

    async def test_run_one_at_a_time(self, file: Path) -> None:
        def add_one(connection: Connection) -> None:
            count = int(connection.execute(text("SELECT value FROM meta WHERE key = 'n'")).scalar_one())
            connection.execute(text("UPDATE meta SET value = :n WHERE key = 'n'"), {"n": str(count + 1)})

        async with open_storage(url(file)) as storage:
            await storage.write(storing("n", "0"))
            await asyncio.gather(*(storage.write(add_one) for _ in range(25)))
            assert await storage.read(lambda c: c.execute(text("SELECT value FROM meta")).scalar()) == "25"

    async def test_cancelled_while_it_runs_happens_whole(self, file: Path) -> None:
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slowly(connection: Connection) -> None:
            storing("a")(connection)
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            storing("b")(connection)

        async with open_storage(url(file)) as storage:
            caller = asyncio.create_task(storage.write(slowly))
            await begun.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            go_on.set()
            await storage.write(storing("c"))
            assert await storage.read(stored) == ["a", "b", "c"]

    async def test_cancelled_before_it_runs_does_not_happen(self, file: Path) -> None:
        go_on = threading.Event()
        async with open_storage(url(file)) as storage:
            first = asyncio.create_task(storage.read(lambda _: go_on.wait()))
            second = asyncio.create_task(storage.write(storing("a")))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go_on.set()
            await first
            assert await storage.read(stored) == []

    async def test_asked_for_while_another_runs_are_one_transaction(self, file: Path) -> None:
        def committed(connection: Connection) -> tuple[list[str], list[str]]:
            with contextlib.closing(sqlite3.connect(file)) as guest:
                return stored(connection), [key for (key,) in guest.execute("SELECT key FROM meta")]

        async with open_storage(url(file)) as storage:
            works = [lambda _: None, storing("a"), committed, storing("b")]
            answers = await asyncio.gather(*(storage.write(work) for work in works))
            assert answers == [None, None, (["a"], []), None]
            assert await storage.read(stored) == ["a", "b"]

    async def test_who_only_looks_does_not_wait_for_those_who_write(self, file: Path) -> None:
        begin, end = threading.Event(), threading.Event()
        async with open_storage(url(file)) as storage:
            first = asyncio.create_task(storage.read(lambda _: begin.wait()))
            writer = asyncio.create_task(storage.write(lambda _: end.wait()))
            look = asyncio.create_task(storage.read(stored))
            await asyncio.sleep(0)
            begin.set()
            assert await look == []
            assert not writer.done()
            end.set()
            await asyncio.gather(first, writer)

    async def test_one_of_several_that_fails_harms_no_other(self, file: Path) -> None:
        def fail(connection: Connection) -> None:
            storing("half")(connection)
            raise LookupError("ours")

        async with open_storage(url(file)) as storage:
            works = [lambda _: None, storing("a"), fail, storing("a"), storing("b")]
            ends = await asyncio.gather(*(storage.write(work) for work in works), return_exceptions=True)
            assert [type(end) for end in ends] == [type(None), type(None), LookupError, JournalError, type(None)]
            assert await storage.read(stored) == ["a", "b"]

    async def test_closing_waits_for_one_whose_caller_was_cancelled(self, file: Path) -> None:
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slowly(connection: Connection) -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            storing("a")(connection)

        async with open_storage(url(file)) as storage:
            caller = asyncio.create_task(storage.write(slowly))
            await begun.wait()
            caller.cancel()
            loop.call_later(0.01, go_on.set)
        async with open_storage(url(file)) as storage:
            assert await storage.read(stored) == ["a"]


class TestOwnership:
    async def test_a_second_process_is_refused_until_the_first_dies(self, file: Path) -> None:
        script = (
            "import asyncio, sys\n"
            "from ai_task_processor.storage.engine import open_storage\n"
            "async def main():\n"
            "    async with open_storage(sys.argv[1]):\n"
            "        print('open', flush=True)\n"
            "        sys.stdin.read()\n"
            "asyncio.run(main())\n"
        )
        arguments = [sys.executable, "-c", script, url(file)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:  # noqa: ASYNC220, S603
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"open\n"
            with pytest.raises(JournalError) as refusal:
                async with open_storage(url(file)):
                    pass
            owner.kill()
        assert str(file) in str(refusal.value)
        assert f"process {owner.pid}" in str(refusal.value)
        async with open_storage(url(file)):
            pass

    async def test_holds_within_one_process_and_by_any_name_of_the_file(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(file)
        async with open_storage(url(file)):
            with pytest.raises(JournalError, match=f"in use by process {os.getpid()}"):
                async with open_storage(url(tmp_path / "link.db")):
                    pass

    async def test_an_operator_opens_the_file_beside_its_owner(self, file: Path) -> None:
        async with open_storage(url(file)) as owner, open_storage(url(file), exclusive=False) as guest:
            await owner.write(storing("a"))
            await guest.write(storing("b"))
            await asyncio.gather(*(each.write(storing(f"{n}")) for n, each in enumerate([owner, guest] * 10)))
            assert await owner.read(stored) == sorted(["a", "b", *map(str, range(20))])

    async def test_an_operator_creates_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match=r"there is no state file .*nowhere/state\.db"):
            async with open_storage(url(tmp_path / "nowhere" / "state.db"), exclusive=False):
                pass
        assert names_in(tmp_path) == set()


class TestFaults:
    @staticmethod
    async def refusal(file: Path) -> str:
        with pytest.raises(JournalError) as refusal:
            async with open_storage(url(file)) as storage:
                await storage.read(stored)
        assert str(file) in str(refusal.value)
        return str(refusal.value)

    async def test_what_is_not_a_database_is_left_as_it_is(self, file: Path) -> None:
        diary = written(file, b"the diary of somebody else\n" * 100)
        assert "is not a database; it was left as it is" in await self.refusal(file)
        assert read(file) == diary

    async def test_a_damaged_database_is_left_as_it_is(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a"))
        whole = read(file)
        damaged = written(file, whole[:4096] + os.urandom(len(whole) - 4096))
        assert "is damaged; it was left as it is" in await self.refusal(file)
        assert read(file) == damaged

    async def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        assert "it must be a file in a folder" in await self.refusal(tmp_path)

    async def test_a_file_where_a_folder_should_be(self, tmp_path: Path) -> None:
        written(tmp_path / "data", b"")
        assert "it must be a file in a folder" in await self.refusal(tmp_path / "data" / "state.db")

    async def test_a_newer_schema(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.write(lambda c: c.execute(text("UPDATE schema_version SET number = 99")))
        assert "newer version of this program (schema 99" in await self.refusal(file)
        with pytest.raises(JournalError, match="schema 99"):
            async with open_storage(url(file), exclusive=False):
                pass

    async def test_a_database_of_another_program(self, file: Path) -> None:
        other = sqlite3.connect(file)
        other.execute("CREATE TABLE tasks (title TEXT)")
        other.close()
        assert "tasks already exists" in await self.refusal(file)
        with pytest.raises(JournalError, match="older version"):
            async with open_storage(url(file), exclusive=False):
                pass

    async def test_a_full_disk_loses_nothing(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a"))
            await self.limit_pages(storage, 1)
            with pytest.raises(JournalError, match="the disk is full"):
                await storage.write(storing("b", "x" * 1_000_000))
            await self.limit_pages(storage, 1_000_000)
            await storage.write(storing("c", "x" * 1_000_000))
            assert await storage.read(stored) == ["a", "c"]

    @staticmethod
    async def limit_pages(storage: Storage, count: int) -> None:
        await storage.read(pragma(f"max_page_count = {count}"))

    async def test_a_file_that_may_only_be_read(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.read(lambda c: c.exec_driver_sql("PRAGMA query_only = ON").close())
            with pytest.raises(JournalError, match="cannot be written: give this user the right"):
                await storage.write(storing("a"))

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (PermissionError(errno.EACCES, "denied"), "give this user the right to write the file and its folder"),
            (OSError(errno.ENOSPC, "no space"), "the disk is full"),
            (OSError(errno.EIO, "broken"), "state file x cannot be used: .*broken"),
        ],
    )
    def test_errors_of_the_file_system_say_what_to_do(self, error: OSError, words: str) -> None:
        with pytest.raises(JournalError, match=words), translated("x"):
            raise error

    async def test_messages_hold_no_values(self, file: Path) -> None:
        async with open_storage(url(file)) as storage:
            await storage.write(storing("a", "a text"))
            with pytest.raises(JournalError) as refusal:
                await storage.write(storing("a", "a text"))
        assert "a text" not in str(refusal.value.__cause__) + str(refusal.value)
