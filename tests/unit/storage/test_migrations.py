import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.storage.migrations import expect_newest, migrate, newest_schema
from ai_task_processor.storage.schema import metadata

NEXT = newest_schema() + 1


def add_table(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE added (number INTEGER)"))


def fill_table(connection: Connection) -> None:
    connection.execute(text("INSERT INTO added SELECT number FROM schema_version"))


def fail(connection: Connection) -> None:
    connection.execute(text("INSERT INTO added VALUES (7)"))
    raise LookupError("a step fails")


def number(connection: Connection) -> int:
    return int(connection.execute(text("SELECT number FROM schema_version")).scalar_one())


async def test_a_new_database_has_every_table_of_the_newest_schema() -> None:
    async with open_storage("sqlite://") as storage:
        names = await storage.read(lambda connection: set(inspect(connection).get_table_names()))
        assert names == {*metadata.tables, "schema_version"}
        assert await storage.read(number) == newest_schema()
        await storage.read(lambda connection: expect_newest(connection, name="x"))


async def test_missing_steps_are_taken_in_order_and_once() -> None:
    async with open_storage("sqlite://") as storage:
        for _ in range(2):
            await storage.write(lambda c: migrate(c, name="x", steps={NEXT + 1: fill_table, NEXT: add_table}))
        assert await storage.read(number) == NEXT + 1
        added = await storage.read(lambda c: c.execute(text("SELECT number FROM added")).scalars().all())
        assert added == [newest_schema()]


async def test_a_step_that_fails_undoes_those_before_it() -> None:
    async with open_storage("sqlite://") as storage:
        with pytest.raises(LookupError, match="a step fails"):
            await storage.write(lambda c: migrate(c, name="x", steps={NEXT: add_table, NEXT + 1: fail}))
        assert await storage.read(number) == newest_schema()
        assert not await storage.read(lambda c: inspect(c).has_table("added"))


async def test_nothing_goes_back() -> None:
    async with open_storage("sqlite://") as storage:
        await storage.write(lambda c: migrate(c, name="x", steps={NEXT: add_table}))
        with pytest.raises(JournalError, match="state file x was written by a newer version"):
            await storage.write(lambda c: migrate(c, name="x"))


async def test_another_schema_may_be_prepared() -> None:
    def prepare(connection: Connection, *, name: str) -> None:
        connection.execute(text(f"CREATE TABLE own AS SELECT '{name}' AS name"))

    async with open_storage("sqlite://", prepare=prepare) as storage:
        assert await storage.read(lambda c: inspect(c).get_table_names()) == ["own"]


def shape(connection: Connection) -> dict[str, object]:
    """Everything that a schema is, without the words in which it was declared."""
    found = inspect(connection)
    triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    return {f"trigger {name}": " ".join(sql.split()) for name, sql in triggers} | {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)],
            found.get_pk_constraint(name)["constrained_columns"],
            sorted((index["name"], index["column_names"]) for index in found.get_indexes(name)),
        )
        for name in found.get_table_names()
    }


async def test_a_database_of_the_first_schema_becomes_what_a_new_one_is_and_keeps_what_it_held(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as old:
        old.executescript(Path(__file__).with_name("schema_1.sql").read_text(encoding="utf-8"))
    async with open_storage(f"sqlite:///{tmp_path / 'state.db'}") as migrated, open_storage("sqlite://") as new:
        assert await migrated.read(shape) == await new.read(shape)
        assert await migrated.read(number) == newest_schema()
        held = await migrated.read(lambda c: c.execute(text("SELECT id, content FROM tasks")).all())
        assert [tuple(row) for row in held] == [("a", b'"hello"')]
