"""What is known of replicas that share a database: whose lease ran out, who took what from whom, who may poll."""

import asyncio

from tests.simulation.invariants import Ledger, LifeFacts
from tests.simulation.server import TaskServer

HELD, GIVEN_BACK = "claimed", "due"
UNREPORTED = frozenset({"succeeded", "failed"})


class Crew:
    """The witness of every transaction; replicas go by the numbers of their lives."""

    def __init__(self, ledger: Ledger, server: TaskServer, parked: set[str], *, lease: float, steady: bool) -> None:
        self._ledger = ledger
        self._server = server
        self._parked = parked
        self._lease = lease
        self._steady = steady  # whether the database's clock is never set
        self._renewed_at: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()

    def task_changed(
        self,
        by: str,
        task_id: str,
        states: tuple[str, str],
        holders: tuple[str | None, str | None],
        vector: bytes | None,
    ) -> None:
        """See :class:`~tests.simulation.database.Witness`."""
        before, now = states
        if vector is not None:
            self._ledger.written(vector)
        if now == "parked" != before:
            self._parked.add(task_id)
        if now == "reported" != before:
            self._server.written_down(task_id)
        if holders[0] not in {None, by} and holders[0] != holders[1]:
            self._taken(str(holders[0]), task_id, before)

    def _taken(self, holder: str, task_id: str, state: str) -> None:
        """Somebody else has what this one held."""
        if state == HELD:
            self._ledger.counts["claims taken over"] += 1
            self._ledger.taken.add((int(holder), self._server.items[task_id].plan.text))
        elif state in UNREPORTED:
            self._ledger.counts["outcomes taken over"] += 1
            self._ledger.adopted.add((int(holder), task_id))

    def lease_renewed(self, replica: str) -> None:
        """See :class:`~tests.simulation.database.Witness`."""
        self._renewed_at[replica] = self._loop.time()

    def lease_ended(self, by: str, replica: str, overdue: float) -> None:
        """See :class:`~tests.simulation.database.Witness`."""
        self._ledger.turns += 1
        if by == replica:
            return
        self._ledger.counts["leases lost"] += 1
        if not self._facts(replica).has_ended:
            self._ledger.counts["leases lost by the living"] += 1
        silent = self._loop.time() - self._renewed_at[replica]
        if overdue < 0 or (self._steady and silent < self._lease - 0.01):
            self._ledger.violated(f"life {replica} lost its lease {silent:.2f} s after it renewed it")

    def turn_passed_on(self, by: str) -> None:
        """See :class:`~tests.simulation.database.Witness`."""
        self._ledger.turns += 1
        self._ledger.counts["turns passed on"] += 1
        self._ledger.tell(f"life {by} passes the turn on")

    def _facts(self, replica: str) -> LifeFacts:
        return self._ledger.lives[int(replica) - 1]
