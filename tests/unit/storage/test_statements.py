from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from ai_task_processor.storage.sqlite import connect
from ai_task_processor.storage.statements import AT_ONCE, TOGETHER, Statement

INSERT = Statement("INSERT INTO things (id, size) VALUES (:id, :size)")
IDS = Statement("SELECT id FROM things ORDER BY id")
THESE = Statement("SELECT size FROM things WHERE id IN :ids AND size > :least")
GROW = Statement("UPDATE things SET size = size + :by WHERE id IN :ids")
OTHERS = Statement("SELECT count(*) FROM things WHERE id NOT IN :none_of")
DROP = Statement("DELETE FROM things WHERE id IN :ids RETURNING size")


@pytest.fixture(params=["by the driver", "by SQLAlchemy"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    if request.param == "by the driver":
        made = connect(":memory:")
    else:
        engine = create_engine("sqlite://")
        engine.dialect.name = "another"
        made = engine.connect()
    made.exec_driver_sql("CREATE TABLE things (id TEXT PRIMARY KEY, size INTEGER)")
    yield made
    made.close()


def filled(connection: Connection, count: int) -> list[str]:
    ids = [f"{number:05}" for number in range(count)]
    INSERT.change_each(connection, [{"size": number, "id": task_id} for number, task_id in enumerate(ids)])
    return ids


@pytest.mark.parametrize("count", [0, 1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 5 * TOGETHER])
def test_rows_are_inserted_whatever_their_number(connection: Connection, count: int) -> None:
    rows = [{"id": f"{number:05}", "size": number} for number in range(count)]
    assert INSERT.change_each(connection, rows) == count
    assert [task_id for (task_id,) in IDS.rows(connection)] == [row["id"] for row in rows]


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_a_list_may_be_of_any_length(connection: Connection, count: int) -> None:
    ids = filled(connection, count)
    assert GROW.change(connection, {"ids": ids, "by": 10}) == count
    assert len(THESE.rows(connection, {"ids": ids, "least": 9})) == count
    assert len(DROP.rows(connection, {"ids": ids})) == count
    assert IDS.rows(connection) == []


def test_what_is_excluded_is_excluded_whole(connection: Connection) -> None:
    ids = filled(connection, 2 * AT_ONCE)
    assert OTHERS.value(connection, {"none_of": ids[1:]}) == 1
    assert OTHERS.value(connection, {"none_of": []}) == len(ids)


def test_nothing_found_is_no_value(connection: Connection) -> None:
    assert IDS.value(connection) is None


def test_what_replicas_need_is_for_them_alone() -> None:
    statement = Statement("UPDATE tasks SET state = 'due' WHERE id = :id /*AND claimed_by = :me*/")
    assert "claimed_by" not in statement.sole
    assert "claimed_by = :me" in statement.shared
    assert statement.parameters == ("id",)


@pytest.mark.parametrize(
    "sql", ["DELETE FROM things WHERE id IN :ids OR key IN :keys", "SELECT 1 /*WHERE id IN :ids*/"]
)
def test_a_list_too_many_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="one list at most"):
        Statement(sql)
