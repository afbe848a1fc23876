import pytest
from sqlalchemy import Connection, inspect, text

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.storage.migrations import expect_newest, migrate, newest_schema
from ai_task_processor.storage.schema import metadata


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
            await storage.write(lambda c: migrate(c, name="x", steps={3: fill_table, 2: add_table}))
        assert await storage.read(number) == 3
        assert await storage.read(lambda c: c.execute(text("SELECT number FROM added")).scalars().all()) == [1]


async def test_a_step_that_fails_undoes_those_before_it() -> None:
    async with open_storage("sqlite://") as storage:
        with pytest.raises(LookupError, match="a step fails"):
            await storage.write(lambda c: migrate(c, name="x", steps={2: add_table, 3: fail}))
        assert await storage.read(number) == 1
        assert not await storage.read(lambda c: inspect(c).has_table("added"))


async def test_nothing_goes_back() -> None:
    async with open_storage("sqlite://") as storage:
        await storage.write(lambda c: migrate(c, name="x", steps={2: add_table}))
        with pytest.raises(JournalError, match="state file x was written by a newer version"):
            await storage.write(lambda c: migrate(c, name="x"))


async def test_another_schema_may_be_prepared() -> None:
    def prepare(connection: Connection, *, name: str) -> None:
        connection.execute(text(f"CREATE TABLE own AS SELECT '{name}' AS name"))

    async with open_storage("sqlite://", prepare=prepare) as storage:
        assert await storage.read(lambda c: inspect(c).get_table_names()) == ["own"]
