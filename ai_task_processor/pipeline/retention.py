"""The stage that forgets what was reported long ago."""

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import Journal

ROUND = 600.0
SHORTEST_ROUND = 1.0
"""Bounds of the seconds between two rounds."""

SHARE = 0.1
"""The part of the time for which a task is to be remembered that it may be remembered longer."""


class Retention:
    """Drops reported tasks from the journal ``seconds`` after their report."""

    def __init__(self, seconds: float, *, journal: Journal, clock: Clock) -> None:
        self._seconds = seconds
        self._journal = journal
        self._clock = clock

    async def step(self) -> float:
        """Forget once; answer how long to rest."""
        await self._journal.forget(self._clock.now() - self._seconds)
        return max(SHORTEST_ROUND, min(ROUND, self._seconds * SHARE))
