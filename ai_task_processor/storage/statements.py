"""The statements that every task meets: written once for both databases, and run at the price of the driver."""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import Connection, Dialect, LargeBinary, Text, bindparam, text

Values: TypeAlias = Mapping[str, Any]

TOGETHER: Final = 32
"""Rows that one statement inserts. Each statement lets other threads run, and waits until it may go on itself."""

AT_ONCE: Final = 500
"""Of what is listed, so much in one statement."""

NOTHING: Final[Values] = {}

_FOR_REPLICAS = re.compile(r"/\*(.*?)\*/", re.DOTALL)
_INSERTION = re.compile(r"\s*INSERT\s.*\bVALUES\s*(\([^()]*\))\s*", re.DOTALL)
_PARAMETER = re.compile(r":(\w+)")
_LISTS: Final[Mapping[str, Any]] = {"ids": Text(), "keys": LargeBinary(), "none_of": Text()}
_IN_PORTIONS: Final = frozenset(("ids", "keys"))


class Statement:
    """One statement, in the form for a database with one owner and in that for one that replicas share.

    What stands between ``/*`` and ``*/`` belongs to the form for replicas alone. A parameter named ``ids`` takes a list
    of texts, one named ``keys`` a list of bytes, of which either may be long: it is run for AT_ONCE of them at a time.
    A parameter named ``none_of`` takes a list of texts whole. There is one such parameter at most.

    SQLite's driver gets the first form as it is: what SQLAlchemy does for a statement takes longer than the database.
    """

    def __init__(self, sql: str) -> None:
        self.sole = _FOR_REPLICAS.sub("", sql)
        self.shared = _FOR_REPLICAS.sub(r"\1", sql)
        self.parameters = tuple(_PARAMETER.findall(self.sole))
        lists = [name for name in _PARAMETER.findall(self.shared) if name in _LISTS]
        if len(lists) > 1 or not {*lists} <= {*self.parameters}:
            raise ValueError("a statement takes one list at most, and takes it in both forms")
        self._list = lists[0] if lists else ""

    def rows(self, connection: Connection, values: Values = NOTHING) -> Sequence[Sequence[Any]]:
        """Every row that it finds, or returns of those that it changes."""
        driver = _driver(connection)
        found: list[Sequence[Any]] = []
        for some in self._portions(values):
            if driver is None:
                found += connection.execute(_clause(self.shared), some)
            else:
                found += driver.execute(*self._for_driver(some)).fetchall()
        return found

    def value(self, connection: Connection, values: Values = NOTHING) -> Any:  # noqa: ANN401  # as the column has it
        """The first column of the first row; None where there is none."""
        row = next(iter(self.rows(connection, values)), None)
        return None if row is None else row[0]

    def change(self, connection: Connection, values: Values = NOTHING) -> int:
        """Run it, and answer how many rows it changed."""
        driver = _driver(connection)
        if driver is None:
            return sum(connection.execute(_clause(self.shared), some).rowcount for some in self._portions(values))
        return sum(driver.execute(*self._for_driver(some)).rowcount for some in self._portions(values))

    def change_each(self, connection: Connection, each: Sequence[Values]) -> int:
        """Run it once for each of these values; answer how many rows it changed together, -1 where nobody knows."""
        if not each:
            return 0
        driver = _driver(connection)
        if driver is None:
            sql, names = _compiled(self.shared, connection.dialect)
            return connection.exec_driver_sql(sql, [_in_order(values, names) for values in each]).rowcount
        changed, rows = 0, [_in_order(values, self.parameters) for values in each]
        insertion = _INSERTION.fullmatch(self.sole)
        if insertion:
            row = _marked(insertion[1])
            changed, rows = _insert_together(driver, f"{_marked(self.sole)}{f', {row}' * (TOGETHER - 1)}", rows)
        if rows:
            changed += driver.executemany(_marked(self.sole), rows).rowcount
        return changed

    def _portions(self, values: Values) -> Iterable[Values]:
        if self._list not in _IN_PORTIONS:
            return (values,)
        listed = list(values[self._list])
        starts = range(0, len(listed), AT_ONCE)
        return ({**values, self._list: listed[start : start + AT_ONCE]} for start in starts)

    def _for_driver(self, values: Values) -> tuple[str, Sequence[Any]]:
        if not self._list:
            return _marked(self.sole), _in_order(values, self.parameters)
        listed = list(values[self._list])
        flat = chain.from_iterable(listed if name == self._list else (values[name],) for name in self.parameters)
        return _marked(self.sole, len(listed)), tuple(flat)


def _driver(connection: Connection) -> sqlite3.Connection | None:
    """SQLite's own connection; None for another database."""
    if connection.dialect.name != "sqlite":
        return None
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@lru_cache(maxsize=1_024)
def _marked(sql: str, listed: int = 0) -> str:
    """The statement with a mark where each value goes, and so many marks for the parameter that takes a list."""
    return _PARAMETER.sub(lambda name: f"({', '.join('?' * listed)})" if name[1] in _LISTS else "?", sql)


@lru_cache(maxsize=256)
def _clause(sql: str) -> Any:  # noqa: ANN401
    listed = _LISTS.keys() & _PARAMETER.findall(sql)
    return text(sql).bindparams(*(bindparam(name, type_=_LISTS[name], expanding=True) for name in listed))


def _in_order(values: Values, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple([values[name] for name in names])


@lru_cache(maxsize=256)
def _compiled(sql: str, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    """The statement as the driver wants it, and whose value goes where: SQLAlchemy's checks of each row cost more."""
    compiled = _clause(sql).compile(dialect=dialect)
    return str(compiled), tuple(compiled.positiontup or ())


def _insert_together(
    driver: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]
) -> tuple[int, list[tuple[Any, ...]]]:
    """Insert as many rows as can be done so many at a time; answers how many, and the others."""
    whole = len(rows) - len(rows) % TOGETHER
    for start in range(0, whole, TOGETHER):
        driver.execute(sql, _flat(rows[start : start + TOGETHER]))
    return whole, list(rows[whole:])


def _flat(rows: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(rows))
