"""A replica's right to the rows that it holds: good for a while, renewed while the replica lives."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable

from sqlalchemy import Connection, text

from ai_task_processor.domain.errors import JournalError
from ai_task_processor.storage.engine import Storage

RENEWALS = 3
"""How many times in its length a lease is renewed: all but one of them may fail."""

FAREWELL_SECONDS = 2.0

NEXT = 0.001
"""Seconds between two that stand in line."""

_RENEW = text("UPDATE replicas SET leased_until = :until WHERE id = :me AND leased_until >= :now")
_JOIN = text("""
    INSERT INTO replicas (id, joined_at, leased_until) VALUES (:me, :now, :until)
    ON CONFLICT (id) DO UPDATE SET leased_until = excluded.leased_until
""")
_DROP_DEAD = text("DELETE FROM replicas WHERE leased_until < :now")
_LEAVE = text("DELETE FROM replicas WHERE id = :me")
_LATEST = text("SELECT max(joined_at) FROM replicas WHERE id <> :me")
_JOIN_LAST = text("UPDATE replicas SET joined_at = :last WHERE id = :me AND joined_at < :last")
_FIRST = text("SELECT id FROM replicas WHERE leased_until >= :now ORDER BY joined_at, id LIMIT 1")

_FREE_CLAIMS = text("""
    UPDATE tasks SET state = 'due', claimed_by = NULL
    WHERE state <> 'reported' AND state = 'claimed'
    AND (claimed_by IS NULL OR claimed_by NOT IN (SELECT id FROM replicas))
""")
_ADOPT_OUTCOMES = text("""
    UPDATE tasks SET claimed_by = :me
    WHERE state <> 'reported' AND state IN ('succeeded', 'failed')
    AND (claimed_by IS NULL OR claimed_by NOT IN (SELECT id FROM replicas))
""")


class Lease:
    """One replica among those that share a database.

    What it claims is its own until it is reported, as long as it renews its lease. When a lease has run out, another
    replica takes it away: what was claimed is due again, what waits for delivery is delivered by that one. Then the
    late replica's outcomes are passed over, for the rows are no longer its own.

    ``seconds`` is the length of a lease. ``time`` reads the clock by which all replicas go, in Unix seconds.
    """

    def __init__(
        self, storage: Storage, *, seconds: float, time: Callable[[Connection], float], replica: str | None = None
    ) -> None:
        self.replica = replica or f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._storage = storage
        self._seconds = seconds
        self._time = time
        self._joined = False
        self._judges_from = 0.0

    async def renew(self) -> None:
        """Join, or stay; take over what is nobody's. Raises JournalError."""
        await self._storage.write(self._renew)

    async def keep(self) -> None:
        """Renew for as long as this runs."""
        while True:
            await asyncio.sleep(self._seconds / RENEWALS)
            await self.renew()

    async def mine(self) -> bool:
        """Whether it is this replica's turn to poll: that of the one which stands in line longest."""
        return await self._storage.read(self._is_first)

    async def pass_on(self) -> None:
        """Stand at the end of the line of those who may poll. Raises JournalError."""
        await self._storage.write(self._stand_last)

    async def leave(self) -> None:
        """Give up all that is held, so that nobody has to wait for the lease to run out; as far as that is possible."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._storage.write(self._leave)
        except (JournalError, TimeoutError):
            return

    def _renew(self, connection: Connection) -> None:
        now = self._time(connection)
        values = {"me": self.replica, "now": now, "until": now + self._seconds}
        if not connection.execute(_RENEW, values).rowcount:
            connection.execute(_JOIN, values)
            # Who was late itself (the database was away, perhaps) gives all others the time to renew too.
            self._judges_from = now + self._seconds if self._joined else 0.0
        elif now >= self._judges_from:
            connection.execute(_DROP_DEAD, values)
        self._joined = True
        connection.execute(_FREE_CLAIMS)
        connection.execute(_ADOPT_OUTCOMES, values)

    def _is_first(self, connection: Connection) -> bool:
        first = connection.execute(_FIRST, {"now": self._time(connection)}).scalar()
        return bool(first == self.replica)

    def _stand_last(self, connection: Connection) -> None:
        latest = connection.execute(_LATEST, {"me": self.replica}).scalar()
        if latest is not None:  # by the others and not by the clock, which may have been set back since they joined
            connection.execute(_JOIN_LAST, {"me": self.replica, "last": latest + NEXT})

    def _leave(self, connection: Connection) -> None:
        connection.execute(_LEAVE, {"me": self.replica})
        connection.execute(_FREE_CLAIMS)
