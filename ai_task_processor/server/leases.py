"""Claims of workers: a task is a worker's own until its lease runs out."""

import math
from typing import Any

from sqlalchemy import Connection, bindparam, text

from ai_task_processor.server.tasks import Claim

_FREE = text("""
    UPDATE ai_tasks SET state = 'pending', worker = NULL, leased_until = NULL, updated_at = :now
    WHERE leased_until IS NOT NULL AND leased_until <= :now
""")
_FIRST_END = text("SELECT min(leased_until) FROM ai_tasks WHERE leased_until IS NOT NULL")

_RENEW = text("UPDATE ai_tasks SET leased_until = :until WHERE id = :id AND worker = :worker")
_MOST_URGENT = text("SELECT id FROM ai_tasks WHERE state = 'pending' ORDER BY urgency, sequence LIMIT :limit")
_CLAIM = text("""
    UPDATE ai_tasks SET state = 'in_progress', worker = :worker, leased_until = :until, updated_at = :now
    WHERE id IN :ids
""").bindparams(bindparam("ids", expanding=True))


def free_expired(connection: Connection, now: int) -> float:
    """Make pending what was leased until ``now`` or earlier; answer when the next lease ends, in Unix milliseconds."""
    connection.execute(_FREE, {"now": now})
    ends: int | None = connection.execute(_FIRST_END).scalar()
    return math.inf if ends is None else ends


def claim_tasks(connection: Connection, claim: Claim, *, now: int, until: int) -> list[str]:
    """Give the most urgent tasks to a worker, and a new lease for those that it still holds; the ids of the former.

    Times are Unix milliseconds; leases that have run out must have been freed before.
    """
    facts: dict[str, Any] = {"worker": claim.worker, "until": until}
    if claim.renew:
        connection.execute(_RENEW, [{"id": task_id, **facts} for task_id in claim.renew])
    ids = list(connection.execute(_MOST_URGENT, {"limit": claim.limit}).scalars())
    connection.execute(_CLAIM, {"ids": ids, "now": now, **facts})
    return ids
