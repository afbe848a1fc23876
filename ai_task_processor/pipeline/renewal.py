"""The stage that asks for more time for the tasks that the Task API has given to us for a while."""

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import NotNow, TaskApiError
from ai_task_processor.domain.events import TasksLetGo
from ai_task_processor.domain.ports import Journal, Leases, Observer, Turn

RENEWALS = 3
"""How many times in its length a lease is renewed: all but one of them may fail."""

SOON = 15
"""The part of its length after which a renewal that failed is tried again."""


class Renewal:
    """Renews leases of ``seconds`` for everything that the journal holds, done or not, until it is reported.

    What could not be renewed in time and was not begun is let go, for others may be paying for it by now; unless
    ``lets_go`` is off, for who announces tasks may have some that the Task API gives to nobody else. Where replicas
    share the journal, the one whose ``turn`` it is to poll renews for all.
    """

    def __init__(
        self,
        seconds: float,
        *,
        journal: Journal,
        leases: Leases,
        clock: Clock,
        observer: Observer,
        turn: Turn | None = None,
        lets_go: bool = True,
    ) -> None:
        self._seconds = seconds
        self._journal = journal
        self._leases = leases
        self._clock = clock
        self._observer = observer
        self._turn = turn
        self._lets_go = lets_go

    async def step(self) -> float:
        """Renew, if tasks are leased at all; answer how long that is good for."""
        if self._turn and not await self._turn.mine():
            return self._seconds / RENEWALS
        await self.let_go()
        began = self._clock.now()
        try:
            if await self._leases.used():
                await self._leases.renew(await self._journal.held())
                if self._lets_go:
                    await self._journal.renewed(began)
        except (TaskApiError, NotNow):
            return self._seconds / SOON
        return self._seconds / RENEWALS

    async def let_go(self) -> None:
        """Drop what was ours and may not be any more; the Task API gives it again if it is still to be done."""
        count = await self._journal.let_go(self._clock.now() - self._seconds)
        if count:
            self._observer(TasksLetGo(count))
