"""Vectors are written down once: a task's row may refer to the entry of the cache that holds its vector.

An entry begins with a checksum over it and its key, and ends with the vector. Where one that rows refer to is dropped,
the database gives them the vector first (see ``schema.py``).
"""

from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import Connection

from ai_task_processor.storage.statements import Statement

CHECKSUM_BYTES: Final = 4

_CHECKSUMS = Statement("SELECT key, substr(entry, 1, 4) FROM embedding_cache WHERE key IN :keys")


def name_of(key: bytes, entry: bytes) -> bytes:
    """What an entry is called as long as it is not replaced by another one of its key."""
    return key + entry[:CHECKSUM_BYTES]


def keys_kept(connection: Connection, names: Collection[bytes]) -> Mapping[bytes, bytes]:
    """The keys of those entries that are there, by their names; none where replicas share the database."""
    keys = [name[:-CHECKSUM_BYTES] for name in names]
    if not keys or connection.dialect.name != "sqlite":
        return {}
    found = ((key, key + checksum) for key, checksum in _CHECKSUMS.rows(connection, {"keys": keys}))
    return {name: key for key, name in found if name in names}
