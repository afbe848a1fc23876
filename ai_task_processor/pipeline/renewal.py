"""The stage that asks for more time for the tasks that the Task API has given to us for a while."""

from ai_task_processor.domain.errors import NotNow, TaskApiError
from ai_task_processor.domain.ports import Journal, Leases, Turn

RENEWALS = 3
"""How many times in its length a lease is renewed: all but one of them may fail."""

SOON = 15
"""The part of its length after which a renewal that failed is tried again."""


class Renewal:
    """Renews leases of ``seconds`` for everything that the journal holds, done or not, until it is reported.

    Where replicas share the journal, the one whose ``turn`` it is to poll renews for all.
    """

    def __init__(self, seconds: float, *, journal: Journal, leases: Leases, turn: Turn | None = None) -> None:
        self._seconds = seconds
        self._journal = journal
        self._leases = leases
        self._turn = turn

    async def step(self) -> float:
        """Renew, if tasks are leased at all; answer how long that is good for."""
        try:
            if await self._mine() and await self._leases.used():
                await self._leases.renew(await self._journal.held())
        except (TaskApiError, NotNow):
            return self._seconds / SOON
        return self._seconds / RENEWALS

    async def _mine(self) -> bool:
        return self._turn is None or await self._turn.mine()
