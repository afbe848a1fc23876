"""Executes one statement for many rows at the price of the driver."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, TextClause

from ai_task_processor.storage.statements import Statement


def execute_each(connection: Connection, each: TextClause | Statement, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute ``each`` (a constant of the program) once for each row.

    The same as ``connection.execute(statement, rows)`` without its checks of every row, which cost more than the
    database takes for a small one.
    """
    if not rows:
        return
    clause = each.on(connection) if isinstance(each, Statement) else each
    sql, names = _compiled(clause, connection.dialect)
    pick = itemgetter(*names)
    values = [pick(row) for row in rows] if len(names) > 1 else [(pick(row),) for row in rows]
    connection.exec_driver_sql(sql, values)


@lru_cache(maxsize=256)
def _compiled(statement: TextClause, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    compiled = statement.compile(dialect=dialect)
    return str(compiled), tuple(compiled.positiontup or ())
