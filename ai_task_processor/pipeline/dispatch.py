"""The stage that has due tasks performed and writes their outcomes into the journal."""

import math
import random
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.amount import ONE_TASK, Amount
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import (
    AuthenticationFailed,
    JournalError,
    NotNow,
    ProviderError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    RateLimited,
    TaskApiError,
    TaskApiUnavailable,
)
from ai_task_processor.domain.events import (
    BatchCrashed,
    BatchSettled,
    BatchSplit,
    BatchStarted,
    ClaimLost,
    TaskSettled,
    TaskStarted,
)
from ai_task_processor.domain.outcome import Deferred, Failed, Outcome, Succeeded, Vector
from ai_task_processor.domain.ports import Journal, Observer, Processor, RateLimiter, Receipt, Reporter
from ai_task_processor.domain.task import Task
from ai_task_processor.domain.work import Batch, Rejection, Work
from ai_task_processor.pipeline.batching import batches, halves, linger
from ai_task_processor.pipeline.planning import Defect, planned
from ai_task_processor.pipeline.rationing import Planned, Rations

FIRST_BACKOFF = 2.0
LONGEST_BACKOFF = 3_600.0
"""Seconds until a task that failed by itself is tried again: doubled with each attempt, between these bounds."""

DEFECT = "the daemon failed to process this task; its log has the details"
"""What a task's author is told of an error that is ours."""

OUTAGE_BACKOFF = 5.0
"""Seconds until a task is tried again whose provider is down for everybody; the breaker governs the rest."""

LONGEST_LIMITED = 60.0
"""Seconds until a task is due again that a limit has put off, at most."""

LONGEST_QUIET = 60.0
"""Seconds without announcements, at most, after several in a row have failed."""

AUTHENTICATION_REST = 30.0
"""Seconds without announcements when the Task API does not let us in."""

LONGEST_WISH = 3_600.0
"""Seconds for which a Retry-After of the Task API is obeyed, at most."""


class DispatchSettings(Struct, frozen=True):
    """``batch_size`` tasks in one provider request; ``max_attempts`` own failures before a task is failed.

    With ``announce`` tasks are set to in_progress before work on them begins. A request has at most ``batch_tokens``
    by the estimates of its tasks. While the limits have no room for ``least`` nothing is begun.
    """

    batch_size: int
    max_attempts: int
    announce: bool = False
    batch_tokens: int = sys.maxsize
    least: Amount = ONE_TASK


class Dispatch:
    """Claims due tasks of one kind, has their processor perform them, settles them."""

    def __init__(
        self,
        settings: DispatchSettings,
        *,
        journal: Journal,
        processors: Mapping[str, Processor],
        limiter: RateLimiter,
        reporter: Reporter,
        clock: Clock,
        observer: Observer,
        randomness: random.Random,
        most: Callable[[str], int] | None = None,
    ) -> None:
        self._settings = settings
        self._most = most or (lambda _key: settings.batch_size)  # how many of a batch key make a good request now
        self._journal = journal
        self._processors = processors
        self._limiter = limiter
        self._rations = Rations(limiter)
        self._reporter = reporter
        self._clock = clock
        self._observer = observer
        self._random = randomness
        self._in_doubt = False  # whether the last failure left open who is at fault
        self._company: dict[str, int] = {}  # by task id: how many may travel with it after its batch was refused
        self._closed: dict[str, float] = {}  # by batch key: until when there is no use in claiming more of the kind
        self._in_flight = 0
        self._few_since: dict[str, float] = {}  # by batch key: since when tasks wait for company
        self._quiet_until = -math.inf  # before that nothing is announced
        self._failed_announcements = 0  # in a row

    async def step(self) -> float:
        """Perform one claim; answer 0, or how long nothing will be due."""
        quiet = self._quiet_until - self._clock.now()
        if quiet > 0:
            return quiet
        opens_at = self._limiter.opens_at(self._worth_beginning())
        if opens_at is not None:
            return max(0.0, opens_at - self._clock.now())
        closed = self._closed_keys()
        size = self._worth_claiming()
        tasks = await self._journal.claim(size, without=closed)
        while self._wait_for_company(tasks, size):
            await self._journal.release([task.id for task in tasks])
            closed = self._closed_keys()
            tasks = await self._journal.claim(size, without=closed)
        if not tasks:
            return await self._until_next(closed)
        self._in_flight += 1
        try:
            await self._perform(await self._announced(await self._fitting(tasks)))
        finally:
            self._in_flight -= 1
        return 0.0

    def _worth_beginning(self) -> Amount:
        """The least that the limits must have room for: in doubt one place more, to find out who is at fault.

        Or a limit that has one place at a time would let one input that breaks the provider be tried for ever.
        """
        least = self._settings.least
        return replace(least, tasks=least.tasks + 1) if self._in_doubt else least

    def _worth_claiming(self) -> int:
        room = self._limiter.headroom().tasks - int(self._in_doubt)
        return max(1, min(self._settings.batch_size, room))

    def _wait_for_company(self, tasks: Sequence[Task], size: int) -> bool:
        """Whether these few are better given back for a moment, in which others of their kind may come."""
        if not tasks:
            return False
        now, key = self._clock.monotonic(), tasks[0].batch_key
        since = self._few_since.pop(key, now)
        if not linger(len(tasks), size, in_flight=self._in_flight, waited=now - since):
            return False
        self._few_since[key] = since
        return True

    def _in_company(self) -> Mapping[str, float]:
        """The batch keys of which a few tasks wait for others, and until when (Unix seconds)."""
        now, wall = self._clock.monotonic(), self._clock.now()
        waits = {
            key: linger(0, 1, in_flight=self._in_flight, waited=now - since) for key, since in self._few_since.items()
        }
        return {key: wall + wait for key, wait in waits.items() if wait > 0}

    async def _fitting(self, tasks: Sequence[Task]) -> Sequence[Planned]:
        """Plan as many tasks as the limits have room for; the others are given back."""
        plans = self._rations.affordable((task, planned(task, self._processors)) for task in tasks)
        fit = self._rations.fitting(plans)
        if len(fit) < len(tasks):
            await self._journal.release([task.id for task in tasks[len(fit) :]])
        return fit

    def _closed_keys(self) -> set[str]:
        now = self._clock.now()
        self._closed = {key: until for key, until in self._closed.items() if until > now}
        return self._closed.keys() | self._rations.waiting().keys() | self._in_company().keys()

    async def _until_next(self, passed_over: set[str]) -> float:
        """How long until a task becomes due, or its kind can be done again: at once, where it was passed over."""
        due = await self._journal.next_due()
        if not passed_over <= self._closed_keys():
            return 0.0
        waiting = (self._closed, self._rations.waiting(), self._in_company())
        moments = [moment for one in waiting for moment in one.values()] + ([] if due is None else [due])
        return max(0.0, min(moments, default=math.inf) - self._clock.now())

    # --- Claiming with the Task API -------------------------------------------------------------------------------

    async def _announced(self, plans: Sequence[Planned]) -> Sequence[Planned]:
        """Those of the tasks that are ours, after the Task API was told that work begins."""
        if not self._settings.announce:
            return plans
        ours: list[Planned] = []
        for position, (task, plan) in enumerate(plans):
            if self._clock.now() < self._quiet_until:  # this lane's announcement has failed, or another's
                await self._journal.release([task.id for task, _ in plans[position:]])
                break
            if await self._announce(task):
                ours.append((task, plan))
        return ours

    async def _announce(self, task: Task) -> bool:
        try:
            receipt = await self._reporter.announce(task)
        except (TaskApiError, NotNow) as error:
            self._be_quiet(error)
            until = max(self._clock.now() + OUTAGE_BACKOFF, self._quiet_until)
            await self._settle_one(task, Deferred(until=until, reason=str(error)), cause=type(error).__name__)
            return False
        self._failed_announcements = 0
        if receipt is Receipt.TAKEN:
            return True
        await self._journal.mark_reported([task.id])
        self._company.pop(task.id, None)
        self._observer(ClaimLost(task_id=task.id, correlation_id=task.correlation_id, receipt=receipt.value))
        return False

    def _be_quiet(self, error: TaskApiError | NotNow) -> None:
        """Announce nothing for a while, where the error tells of the Task API as a whole."""
        now = self._clock.now()
        match error:
            case NotNow(until=until):
                pass
            case AuthenticationFailed():
                until = now + AUTHENTICATION_REST
            case TaskApiUnavailable(retry_after=wish):
                until = now + max(min(wish or 0.0, LONGEST_WISH), self._rest_after_failure())
            case _:
                until = now
        self._quiet_until = max(self._quiet_until, until)

    def _rest_after_failure(self) -> float:
        """Longer with each failure in a row; none after the first, which may be the fault of its task alone."""
        failures = self._failed_announcements
        self._failed_announcements += 1
        rest = min(LONGEST_QUIET, OUTAGE_BACKOFF * 2.0 ** min(failures - 1, 10)) if failures else 0.0
        return rest * self._random.uniform(0.5, 1.0)

    # --- Performing -----------------------------------------------------------------------------------------------

    async def _perform(self, plans: Sequence[Planned]) -> None:
        """Settle the tasks batch by batch; a refused batch comes back as its halves."""
        works: list[Work] = []
        for task, plan in plans:
            match plan:
                case Work() as work:
                    works.append(work)
                case Rejection(reason=reason):
                    await self._settle_one(task, Failed(reason), cause="Rejection")
                case Defect(traceback=trace):
                    self._observer(BatchCrashed(task.type, "", 1, trace))
                    await self._settle_one(task, self._again(task, DEFECT, 0.0, alone=True), cause="Defect")
        size = min([self._settings.batch_size, *(self._most(key) for key in {work.key for work in works})])
        todo = deque(batches(works, size, self._company, tokens=self._settings.batch_tokens))
        while todo:
            todo.extendleft(reversed(await self._settle_batch(todo.popleft())))

    async def _settle_batch(self, batch: Batch) -> tuple[Batch, ...]:
        """Perform and settle one batch; answer the parts to try instead, where it was refused as a whole."""
        began = self._clock.monotonic()
        self._tell_started(batch)
        try:
            outcomes, cause = await self._processors[batch.type].perform(batch), ""
            self._in_doubt = False
        except ProviderRejected as error:
            if len(batch.works) > 1 and not error.every_input:
                self._observer(BatchSplit(batch.type, batch.key, len(batch.works), str(error)))
                return self._split(batch)
            outcomes, cause = self._all(batch, Failed(str(error))), type(error).__name__
        except (NotNow, ProviderError) as error:
            self._in_doubt = not (isinstance(error, ProviderUnavailable) and error.own_fault)
            outcomes, cause = self._deferred(batch, error), type(error).__name__
        except JournalError:
            raise
        except Exception:  # noqa: BLE001  # a defect of a processor is contained here: only its batch waits
            self._observer(BatchCrashed(batch.type, batch.key, len(batch.works), traceback.format_exc()))
            outcomes, cause = self._after_defect(batch), "Defect"
        await self._settle(batch, outcomes, cause, self._clock.monotonic() - began)
        return ()

    def _split(self, batch: Batch) -> tuple[Batch, ...]:
        """The halves; where a limit makes them wait, they are not to be joined again and refused together for ever."""
        parts = halves(batch)
        self._company.update((work.task.id, len(part.works)) for part in parts for work in part.works)
        return parts

    def _all(self, batch: Batch, outcome: Outcome) -> dict[str, Outcome]:
        return {work.task.id: outcome for work in batch.works}

    def _deferred(self, batch: Batch, error: NotNow | ProviderError) -> dict[str, Outcome]:
        if isinstance(error, NotNow):
            self._close(batch, error)
            return self._all(batch, Deferred(until=self._look_again_at(error), reason=str(error)))
        wished = (error.retry_after if isinstance(error, ProviderUnavailable | ProviderThrottled) else None) or 0.0
        if isinstance(error, ProviderUnavailable) and error.own_fault:
            return self._after_own_failure(batch, str(error), wished)
        return self._all(batch, Deferred(until=self._clock.now() + max(wished, OUTAGE_BACKOFF), reason=str(error)))

    def _look_again_at(self, error: NotNow) -> float:
        """A limit may be raised before its window opens, and is asked before anything is claimed."""
        return min(error.until, self._clock.now() + LONGEST_LIMITED) if isinstance(error, RateLimited) else error.until

    def _close(self, batch: Batch, error: NotNow) -> None:
        """Claim no more of this kind for now: in a long outage not every task that waits is to be written down again.

        A limit is different: it may well let a smaller batch through.
        """
        if not isinstance(error, RateLimited):
            self._closed.update((work.task.batch_key, error.until) for work in batch.works)

    def _after_defect(self, batch: Batch) -> dict[str, Outcome]:
        return self._after_own_failure(batch, DEFECT)

    def _after_own_failure(self, batch: Batch, reason: str, wished: float = 0.0) -> dict[str, Outcome]:
        alone = len(batch.works) == 1
        return {work.task.id: self._again(work.task, reason, wished, alone=alone) for work in batch.works}

    def _again(self, task: Task, reason: str, wished: float, *, alone: bool) -> Outcome:
        """Defer a task that failed by itself, or fail it when it has done so too often.

        While it has company, one of its neighbours may be at fault: only a task that fails alone is failed.
        """
        attempts = task.attempts + 1
        if alone and attempts >= self._settings.max_attempts:
            return Failed(f"given up after {attempts} attempts: {reason}")
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0**task.attempts) * self._random.uniform(0.5, 1.0)
        return Deferred(until=self._clock.now() + max(wished, backoff), reason=reason, counts=True)

    # --- Settling -------------------------------------------------------------------------------------------------

    async def _settle_one(self, task: Task, outcome: Outcome, *, cause: str) -> None:
        await self._settle(Batch(task.type, "", (Work(task, "", None),)), {task.id: outcome}, cause, 0.0)

    async def _settle(self, batch: Batch, outcomes: Mapping[str, Outcome], cause: str, seconds: float) -> None:
        """Make the outcomes durable, then tell of them; a task that got none failed by a defect."""
        missing = [work for work in batch.works if work.task.id not in outcomes]
        if missing:
            outcomes = dict(outcomes) | self._after_defect(Batch(batch.type, batch.key, tuple(missing)))
        await self._journal.settle(outcomes)
        for task_id in self._company.keys() & outcomes.keys():
            if not isinstance(outcomes[task_id], Deferred):
                del self._company[task_id]
        self._tell_settled(batch, outcomes, cause, seconds)

    def _tell_started(self, batch: Batch) -> None:
        self._observer(BatchStarted(batch.type, batch.key, len(batch.works)))
        for work in batch.works:
            self._observer(TaskStarted(work.task.id, work.task.correlation_id, batch.type, batch.key))

    def _tell_settled(self, batch: Batch, outcomes: Mapping[str, Outcome], cause: str, seconds: float) -> None:
        settled = [_settled(work.task, outcomes[work.task.id], cause, seconds) for work in batch.works]
        for event in settled:
            self._observer(event)
        statuses = [event.status for event in settled]
        self._observer(
            BatchSettled(
                type=batch.type,
                key=batch.key,
                size=len(settled),
                succeeded=statuses.count("succeeded"),
                failed=statuses.count("failed"),
                deferred=statuses.count("deferred"),
                seconds=seconds,
                reason=next((event.reason for event in settled if event.reason), ""),
            )
        )


def _settled(task: Task, outcome: Outcome, cause: str, seconds: float) -> TaskSettled:
    named = (task.id, task.correlation_id, task.type)
    match outcome:
        case Succeeded(result=result, model=model, provider=provider, tokens=tokens):
            dimensions = result.dimensions if isinstance(result, Vector) else 0
            return TaskSettled(*named, "succeeded", seconds, model, provider, dimensions, tokens)
        case Failed(reason=reason):
            return TaskSettled(*named, "failed", seconds, reason=reason, cause=cause)
        case Deferred(reason=reason, counts=counts):
            return TaskSettled(*named, "deferred", seconds, reason=reason, cause=cause, counts=counts)
