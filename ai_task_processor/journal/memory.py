"""The journal in memory, for tests, simulations and runs that need not outlive their process."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import nsmallest

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Settled
from ai_task_processor.domain.ports import Backlog, Entry
from ai_task_processor.domain.task import Task, urgency
from ai_task_processor.journal.state import LONGEST_WAIT, UNREPORTED, State


class _Row(Struct, frozen=True):
    task: Task
    state: State = State.DUE
    not_before: float = 0.0
    outcome: Settled | None = None
    settled_at: float = 0.0
    deliveries: int = 0
    handed_out: bool = False
    reported_at: float = 0.0
    mark: int = 0
    reason: str = ""
    accepted_at: float = 0.0


class MemoryJournal:
    """The port ``Journal`` over a dictionary; what was written stays for as long as the object does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._open: dict[str, None] = {}  # the ids of rows not reported, so that finished ones cost nothing
        self._mark = 0
        self._renewed_at: float | None = None

    async def mark(self) -> int:
        """The number of reporting calls so far."""
        return self._mark

    async def accept(self, tasks: Sequence[Task], mark: int) -> tuple[str, ...]:
        """Keep the tasks not known yet, and those that somebody has set back to pending since their report."""
        accepted = []
        for task in tasks:
            if self._is_new(task.id, mark):
                self._put(_Row(replace(task, attempts=0), accepted_at=self._clock.now()))
                accepted.append(task.id)
        return tuple(accepted)

    async def claim(self, limit: int, without: Collection[str] = ()) -> tuple[Task, ...]:
        """Take due tasks of one batch key."""
        self._ripen(State.DUE)
        due = (row.task for row in self._in(State.DUE) if not row.not_before)
        ready = [task for task in due if task.batch_key not in without]
        if not ready:
            return ()
        key = min(ready, key=urgency).batch_key
        claimed = nsmallest(limit, (task for task in ready if task.batch_key == key), key=urgency)
        for task in claimed:
            self._change(task.id, state=State.CLAIMED)
        return tuple(claimed)

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write the outcomes of claimed tasks."""
        for row in self._those(outcomes, State.CLAIMED):
            self._put(self._settled(row, outcomes[row.task.id]))

    async def release(self, task_ids: Sequence[str]) -> None:
        """Give claimed tasks back as due."""
        for row in self._those(task_ids, State.CLAIMED):
            self._put(replace(row, state=State.DUE))

    async def unreported(self, limit: int) -> tuple[Entry, ...]:
        """Hand out outcomes to deliver, oldest first."""
        self._ripen(*UNREPORTED)
        waiting = (row for row in self._in(*UNREPORTED) if not row.not_before and not row.handed_out)
        oldest = nsmallest(limit, waiting, key=lambda row: (row.settled_at, row.task.id))
        for row in oldest:
            self._put(replace(row, handed_out=True))
        return tuple(_entry(row) for row in oldest)

    async def mark_reported(self, task_ids: Sequence[str]) -> None:
        """These are finished."""
        if not task_ids:
            return
        self._mark += 1
        now = self._clock.now()
        for row in self._those(task_ids, State.CLAIMED, *UNREPORTED):
            task = replace(row.task, content=None)
            self._put(_Row(task, State.REPORTED, reported_at=now, mark=self._mark))

    async def postpone(self, task_ids: Sequence[str], until: float, *, counts: bool = True) -> None:
        """Deliver these outcomes at ``until`` or later."""
        for row in self._those(task_ids, *UNREPORTED):
            deliveries = row.deliveries + int(counts)
            self._put(replace(row, not_before=until, deliveries=deliveries, handed_out=False))

    async def park(self, task_id: str, reason: str) -> None:
        """Keep this outcome for an operator."""
        for row in self._those([task_id], State.CLAIMED, *UNREPORTED):
            self._put(replace(row, state=State.PARKED, not_before=0.0, handed_out=False, reason=reason))

    async def reopen(self) -> None:
        """Take up what an earlier run left; nothing goes on waiting for more than an hour."""
        latest = self._clock.now() + LONGEST_WAIT
        for row in self._in(State.CLAIMED):
            self._put(replace(row, state=State.DUE))
        for row in self._in(State.DUE, *UNREPORTED):
            self._put(replace(row, handed_out=False, not_before=min(row.not_before, latest)))

    async def next_due(self) -> float | None:
        """When the earliest deferred task becomes due."""
        return self._next(State.DUE)

    async def next_unreported(self) -> float | None:
        """When the earliest postponed outcome is to be delivered."""
        return self._next(*UNREPORTED)

    async def backlog(self) -> Backlog:
        """Count what is held."""
        now = self._clock.now()
        due = self._in(State.DUE)
        deferred = sum(row.not_before > now for row in due)
        unreported = self._in(*UNREPORTED)
        return Backlog(
            ready=len(due) - deferred,
            deferred=deferred,
            claimed=len(self._in(State.CLAIMED)),
            unreported=len(unreported),
            parked=len(self._in(State.PARKED)),
            oldest_unreported=min((row.settled_at for row in unreported), default=None),
        )

    async def held(self) -> tuple[str, ...]:
        """The ids of all that is not reported."""
        return tuple(self._open)

    async def renewed(self, at: float) -> None:
        """Remember when what is due was last ours alone."""
        self._renewed_at = at

    async def let_go(self, before: float) -> int:
        """Drop the due tasks accepted before this time if they were not renewed since."""
        if self._renewed_at is None or self._renewed_at >= before:
            return 0
        self._renewed_at = None
        gone = [row.task.id for row in self._in(State.DUE) if row.accepted_at < before]
        for task_id in gone:
            del self._rows[task_id], self._open[task_id]
        return len(gone)

    async def forget(self, before: float) -> int:
        """Drop tasks reported before this time."""
        old = [row for row in self._rows.values() if row.state is State.REPORTED and row.reported_at < before]
        for row in old:
            del self._rows[row.task.id]
        return len(old)

    def _is_new(self, task_id: str, mark: int) -> bool:
        row = self._rows.get(task_id)
        return row is None or (row.state is State.REPORTED and row.mark <= mark)

    def _settled(self, row: _Row, outcome: Outcome) -> _Row:
        if isinstance(outcome, Deferred):
            task = replace(row.task, attempts=row.task.attempts + int(outcome.counts))
            return replace(row, task=task, state=State.DUE, not_before=outcome.until)
        state = State.FAILED if isinstance(outcome, Failed) else State.SUCCEEDED
        task = replace(row.task, content=None)
        return replace(row, task=task, state=state, outcome=outcome, settled_at=self._clock.now())

    def _ripen(self, *states: State) -> None:
        now = self._clock.now()
        for row in self._in(*states):
            if 0 < row.not_before <= now:
                self._put(replace(row, not_before=0.0))

    def _next(self, *states: State) -> float | None:
        return min((row.not_before for row in self._in(*states) if row.not_before > 0), default=None)

    def _in(self, *states: State) -> list[_Row]:
        return [row for task_id in self._open if (row := self._rows[task_id]).state in states]

    def _those(self, task_ids: Iterable[str], *states: State) -> list[_Row]:
        rows = (self._rows.get(task_id) for task_id in task_ids)
        return [row for row in rows if row is not None and row.state in states]

    def _change(self, task_id: str, *, state: State) -> None:
        self._put(replace(self._rows[task_id], state=state))

    def _put(self, row: _Row) -> None:
        self._rows[row.task.id] = row
        if row.state is State.REPORTED:
            self._open.pop(row.task.id, None)
        else:
            self._open[row.task.id] = None


def _entry(row: _Row) -> Entry:
    if row.outcome is None:
        raise AssertionError("a row without outcome was handed out")  # cannot be: only settle makes these states
    return Entry(
        task_id=row.task.id,
        type=row.task.type,
        correlation_id=row.task.correlation_id,
        outcome=row.outcome,
        settled_at=row.settled_at,
        attempts=row.deliveries,
    )
