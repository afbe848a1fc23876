"""The store of embedding spaces, in memory and in the state database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from ai_task_processor.providers.spaces import Sighting, Space
from ai_task_processor.storage.engine import Storage
from ai_task_processor.storage.statements import Statement


class MemorySpaceStore:
    """Keeps sightings for as long as the object lives."""

    def __init__(self) -> None:
        self._sightings: dict[tuple[str, int, Space], Sighting] = {}

    async def load(self) -> Sequence[Sighting]:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""
        return tuple(self._sightings.values())

    async def save(self, sighting: Sighting, forget: Collection[Sighting]) -> None:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""
        for one in forget:
            self._sightings.pop((one.name, one.asked, one.space), None)
        self._sightings[sighting.name, sighting.asked, sighting.space] = sighting

    async def forget(self, sightings: Collection[Sighting]) -> None:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""
        for one in sightings:
            self._sightings.pop((one.name, one.asked, one.space), None)


_LOAD = Statement("SELECT name, asked, provider, engine, model, dimensions, first_seen, last_seen, count FROM spaces")
_SAVE = Statement("""
    INSERT INTO spaces (name, asked, provider, engine, model, dimensions, first_seen, last_seen, count)
    VALUES (:name, :asked, :provider, :engine, :model, :dimensions, :first_seen, :last_seen, :count)
    ON CONFLICT (name, asked, provider, engine, model, dimensions)
    DO UPDATE SET last_seen = excluded.last_seen, count = excluded.count
""")
_FORGET = Statement("""
    DELETE FROM spaces WHERE name = :name AND asked = :asked AND provider = :provider AND engine = :engine
    AND model = :model AND dimensions = :dimensions
""")


class SqlSpaceStore:
    """Keeps sightings in the state database, one row for each."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def load(self) -> Sequence[Sighting]:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""
        return await self._storage.read(_load)

    async def save(self, sighting: Sighting, forget: Collection[Sighting]) -> None:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""

        def save(connection: Connection) -> None:
            _FORGET.change_each(connection, [_columns(one) for one in forget])
            _SAVE.change_each(connection, [_columns(sighting)])

        await self._storage.write(save)

    async def forget(self, sightings: Collection[Sighting]) -> None:
        """See :class:`~ai_task_processor.providers.spaces.SpaceStore`."""
        rows = [_columns(one) for one in sightings]
        await self._storage.write(lambda connection: _FORGET.change_each(connection, rows))


def _load(connection: Connection) -> Sequence[Sighting]:
    return tuple(sighting for row in _LOAD.rows(connection) if (sighting := _sighting(row)))


def _sighting(row: Sequence[Any]) -> Sighting | None:
    """None for a row that cannot be read: what it knew is learned again."""
    name, asked, provider, engine, model, dimensions, first_seen, last_seen, count = row
    try:
        space = Space(str(provider), str(engine), str(model), int(dimensions))
        return Sighting(str(name), int(asked), space, float(first_seen), float(last_seen), int(count))
    except (TypeError, ValueError):
        return None


def _columns(sighting: Sighting) -> Mapping[str, object]:
    space = sighting.space
    return {
        "name": sighting.name,
        "asked": sighting.asked,
        "provider": space.provider,
        "engine": space.engine,
        "model": space.model,
        "dimensions": space.dimensions,
        "first_seen": sighting.first_seen,
        "last_seen": sighting.last_seen,
        "count": sighting.count,
    }
