"""What a cache of embeddings holds: the key of a request, the form of an entry, and the port of the store."""

import hashlib
import zlib
from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from ai_task_processor.providers.models import canonical
from ai_task_processor.storage.vectors import CHECKSUM_BYTES

KEY_BYTES = 32
"""Too many to be met twice, by chance or on purpose."""

_LENGTH_BYTES = 2
_PIECE = 4_096


class Kept(Struct, frozen=True):
    """A vector (float32, little-endian) that was answered and believed, with the model that answered."""

    vector: bytes
    model: str


class Filling(Struct, frozen=True):
    """How many entries a store holds, and about how many bytes they take where they are kept."""

    entries: int
    size: int


class CacheStore(Protocol):
    """Keeps packed entries by their keys, as many as have room: the least recently used are dropped first.

    How recently an entry was used is known to a sixteenth of the whole room.
    """

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        """Give those entries that are there; being asked for is what using an entry means."""
        ...

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        """Keep the entries, durably when this returns; answer how many older ones were dropped for them."""
        ...

    async def drop(self, keys: Collection[bytes]) -> None:
        """Forget entries that cannot be used; keys that are not there are passed over."""
        ...

    def filling(self) -> Filling:
        """How full it is."""
        ...


def cache_key(engine: str, model: str, dimensions: int | None, text: str) -> bytes:
    """What one text is kept under: a digest of all that the answer depends on.

    ``engine`` names the provider and what tells it from others of its name. ``model`` and ``dimensions`` are those
    asked for; both spellings of one model are one.
    """
    asked = (engine, canonical(model), str(dimensions or ""), text)  # the text last: only it may hold a NUL
    return hashlib.blake2b("\0".join(asked).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def packed(key: bytes, kept: Kept) -> bytes:
    """The entry as bytes, with a checksum over it and its key."""
    model = kept.model.encode()
    body = len(model).to_bytes(_LENGTH_BYTES, "little") + model + kept.vector
    return _checksum(key, body) + body


def unpacked(key: bytes, data: bytes) -> Kept | None:
    """The entry as it was packed under ``key``; None where anything about it is not as it was."""
    body = data[CHECKSUM_BYTES:]
    if len(body) < _LENGTH_BYTES or data[:CHECKSUM_BYTES] != _checksum(key, body):
        return None
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    return Kept(vector=body[end:], model=body[_LENGTH_BYTES:end].decode(errors="replace"))


def _checksum(key: bytes, body: bytes) -> bytes:
    """In pieces: for one of more than 5 kB another thread would be let go first, for each vector."""
    checksum = zlib.crc32(key)
    for start in range(0, len(body), _PIECE):
        checksum = zlib.crc32(body[start : start + _PIECE], checksum)
    return checksum.to_bytes(CHECKSUM_BYTES, "little")
