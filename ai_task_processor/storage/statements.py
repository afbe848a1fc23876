"""Statements that are a little longer where several replicas share the database."""

import re

from msgspec import Struct
from sqlalchemy import Connection, Text, TextClause, bindparam, text

_FOR_REPLICAS = re.compile(r"/\*(.*?)\*/", re.DOTALL)


class Statement(Struct, frozen=True):
    """One statement in both of its forms: for a database with one owner, and for one that replicas share."""

    sole: TextClause
    shared: TextClause

    def on(self, connection: Connection) -> TextClause:
        """The form for this database."""
        return self.sole if connection.dialect.name == "sqlite" else self.shared


_LISTS = ("ids", "keys")


def statement(sql: str) -> Statement:
    """Make a statement; what stands between ``/*`` and ``*/`` belongs to the form for replicas alone.

    Parameters named ``ids`` and ``keys`` take lists.
    """
    return Statement(sole=_text(_FOR_REPLICAS.sub("", sql)), shared=_text(_FOR_REPLICAS.sub(r"\1", sql)))


def _text(sql: str) -> TextClause:
    clause = text(sql)
    lists = [bindparam(name, type_=Text(), expanding=True) for name in _LISTS if f":{name}" in sql]
    return clause.bindparams(*lists)
