"""Executes one statement for many rows at the price of the driver."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Dialect, TextClause

from ai_task_processor.storage.statements import Statement

TOGETHER: Final = 32
"""Rows that one statement inserts. Each statement lets other threads run, and waits until it may go on itself."""

_INSERTION = re.compile(r"\s*INSERT\s.*\bVALUES\s*(\([^()]*\))\s*", re.DOTALL)

_Values: TypeAlias = tuple[Any, ...]


def execute_each(connection: Connection, each: TextClause | Statement, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute ``each`` (a constant of the program) once for each row; answers how many rows of the table changed.

    The same as ``connection.execute(statement, rows)`` without its checks of every row, which cost more than the
    database takes for a small one.
    """
    if not rows:
        return 0
    clause = each.on(connection) if isinstance(each, Statement) else each
    sql, names = _compiled(clause, connection.dialect)
    values = list(map(_picker(names), rows))
    changed = 0
    insertion = _INSERTION.fullmatch(sql) if connection.dialect.name == "sqlite" else None
    if insertion:
        values = _insert_together(connection, f"{sql}{f', {insertion[1]}' * (TOGETHER - 1)}", values)
        changed = len(rows) - len(values)
    if values:
        changed += connection.exec_driver_sql(sql, values).rowcount
    return changed


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], _Values]:
    if len(names) == 1:
        (name,) = names
        return lambda row: (row[name],)
    return itemgetter(*names)


def _insert_together(connection: Connection, sql: str, rows: Sequence[_Values]) -> list[_Values]:
    """Insert as many rows as can be done so many at a time; the others are left."""
    whole = len(rows) - len(rows) % TOGETHER
    for start in range(0, whole, TOGETHER):
        connection.exec_driver_sql(sql, _flat(rows[start : start + TOGETHER]))
    return list(rows[whole:])


def _flat(rows: Iterable[_Values]) -> _Values:
    return tuple(chain.from_iterable(rows))


@lru_cache(maxsize=256)
def _compiled(statement: TextClause, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    compiled = statement.compile(dialect=dialect)
    return str(compiled), tuple(compiled.positiontup or ())
