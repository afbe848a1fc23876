"""Every port of the program on one page: what a room may ask of another, never how it is done."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Protocol, TypeAlias

from msgspec import Struct

from ai_task_processor.domain.amount import ONE_TASK, Amount, Unit
from ai_task_processor.domain.errors import NotNow, TaskApiError
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.outcome import Outcome, Settled
from ai_task_processor.domain.quota import Quota
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.domain.work import Batch, Rejection, Work

# --- Task API ---------------------------------------------------------------------------------------------------------


class Wish(Struct, frozen=True):
    """What is wanted of the Task API: at most ``limit`` pending tasks.

    An API that gives each task away once is asked for ``new`` of them instead: those that there is room for. Of what
    is listed only the ``most`` most urgent tasks of these ``types`` are kept; None is all.
    """

    limit: int
    new: int | None = None
    most: int | None = None
    types: Collection[str] | None = None

    def count(self, *, claims: bool) -> int:
        """How many tasks are asked for: of an API that gives them away, or of one that lists them."""
        return self.new if claims and self.new is not None else self.limit


class TaskSource(Protocol):
    """Where tasks come from."""

    async def fetch(self, wish: Wish) -> Page:
        """Ask for pending tasks; the answer may list more than wished for, for some servers ignore the limit.

        Raises TaskApiUnavailable, TaskApiRejected, AuthenticationFailed or BreakerOpen.
        """
        ...


class Leases(Protocol):
    """What the Task API has given to us alone, where it does that."""

    async def used(self) -> bool:
        """Whether tasks are ours only for a while, so that what is held must be renewed; raises as :meth:`renew`."""
        ...

    async def renew(self, task_ids: Sequence[str]) -> None:
        """Ask for more time for those of the tasks that are ours.

        Raises TaskApiUnavailable, TaskApiRejected, AuthenticationFailed or BreakerOpen.
        """
        ...


class Receipt(Enum):
    """What the Task API did with an outcome, where that ends the matter."""

    TAKEN = "taken"
    GONE = "gone"
    CONFLICT = "conflict"


Verdict: TypeAlias = Receipt | TaskApiError | NotNow
"""How a delivery ended: with a receipt, or with the reason why there is none."""


class Entry(Struct, frozen=True):
    """An outcome that waits for delivery: ``attempts`` counts the deliveries that failed so far.

    ``settled_at`` is in Unix seconds.
    """

    task_id: str
    type: str
    correlation_id: str
    outcome: Settled
    settled_at: float
    attempts: int = 0


class Reporter(Protocol):
    """Where outcomes go; every method is safe to repeat with the same values."""

    async def at_once(self) -> int:
        """How many outcomes are worth delivering together; 1 where each is a request of its own."""
        ...

    async def report(self, entries: Sequence[Entry]) -> Sequence[Verdict]:
        """Deliver outcomes; for each, in order, the receipt or why there is none.

        That is TaskApiRejected (park it), TaskApiUnavailable (keep it, its own backoff), AuthenticationFailed or
        BreakerOpen (keep everything).
        """
        ...

    async def announce(self, task: Task) -> Receipt:
        """Tell the Task API that work on ``task`` begins; anything but TAKEN means that it is not ours to do.

        Raises what :meth:`report` answers.
        """
        ...


# --- Journal ----------------------------------------------------------------------------------------------------------


class Backlog(Struct, frozen=True):
    """How many tasks the journal holds.

    ``ready`` are due now, ``deferred`` are due later, ``claimed`` are being performed, ``unreported`` wait for
    delivery, ``parked`` wait for an operator. ``oldest_unreported`` is when the oldest undelivered outcome was
    settled, in Unix seconds, None where there is none.
    """

    ready: int = 0
    deferred: int = 0
    claimed: int = 0
    unreported: int = 0
    parked: int = 0
    oldest_unreported: float | None = None

    @property
    def listed_again(self) -> int:
        """How many of them the Task API will list again: all, for none has been reported."""
        return self.ready + self.deferred + self.claimed + self.unreported + self.parked


class Journal(Protocol):
    """The durable state machine: due, claimed, succeeded or failed, reported or parked.

    What a method did is durable when it returns, and each is one transaction; a cancelled call has happened whole or
    not at all. Times are Unix seconds from the journal's clock. Every method raises JournalError when the storage
    fails; that error is meant to stop the process.
    """

    async def mark(self) -> int:
        """The journal's logical time, to be read before a fetch and given to :meth:`accept`.

        Every acknowledged report is later than each mark read before it, whatever the wall clock did.
        """
        ...

    async def accept(self, tasks: Sequence[Task], mark: int) -> tuple[str, ...]:
        """Keep the tasks not known yet, as due; answer the ids of those kept.

        A reported task is known to be finished if its report is later than ``mark`` (the page is stale); if the
        report is not later, somebody set the task back to pending, and it starts again with no attempts.
        """
        ...

    async def claim(self, limit: int, without: Collection[str] = ()) -> tuple[Task, ...]:
        """Take at most ``limit`` due tasks, all with the ``batch_key`` of the most urgent one, most urgent first.

        Tasks whose ``batch_key`` is in ``without`` are passed over.
        """
        ...

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write the outcomes of claimed tasks in one transaction; a deferred task is due again at its time.

        Ids that are not claimed are passed over: a late outcome never overwrites one that stands.
        """
        ...

    async def release(self, task_ids: Sequence[str]) -> None:
        """Give claimed tasks back as due, as if they had never been claimed."""
        ...

    async def unreported(self, limit: int) -> tuple[Entry, ...]:
        """Hand out outcomes to deliver, oldest first; none is handed out twice until it is postponed or reopened."""
        ...

    async def mark_reported(self, task_ids: Sequence[str]) -> None:
        """These are finished (delivered, gone, or somebody else's); results and contents are forgotten at once."""
        ...

    async def postpone(self, task_ids: Sequence[str], until: float, *, counts: bool = True) -> None:
        """Deliver these outcomes at ``until`` or later; ``counts`` adds a failed delivery to each."""
        ...

    async def park(self, task_id: str, reason: str) -> None:
        """The Task API refuses this outcome: keep it for an operator."""
        ...

    async def reopen(self) -> None:
        """At start: claimed tasks are due again, outcomes handed out are to be delivered again."""
        ...

    async def next_due(self) -> float | None:
        """When the earliest deferred task becomes due; None where there is none. Never in the past of a claim."""
        ...

    async def next_unreported(self) -> float | None:
        """When the earliest postponed outcome is to be delivered; None where there is none."""
        ...

    async def backlog(self) -> Backlog:
        """Count what is held."""
        ...

    async def held(self) -> tuple[str, ...]:
        """The ids of all tasks that are not reported, in no order."""
        ...

    async def renewed(self, at: float) -> None:
        """What is due was ours alone at this time, for a while."""
        ...

    async def let_go(self, before: float) -> int:
        """Drop the due tasks accepted before this time if they were not renewed since, for they may be others' now.

        Answers how many. Where nothing was ever renewed, or all was let go since, nothing is dropped.
        """
        ...

    async def forget(self, before: float) -> int:
        """Drop reported tasks whose report was acknowledged before this time; answer how many."""
        ...


class Turn(Protocol):
    """Whose turn it is to poll, where several replicas share a journal."""

    async def mine(self) -> bool:
        """Whether it is this process's; exactly one replica is told so, but for the moments in which it changes."""
        ...

    async def pass_on(self) -> None:
        """Let all others have their turn first; without others it stays this process's."""
        ...


# --- Performing -------------------------------------------------------------------------------------------------------


class Processor(Protocol):
    """Handles one task type."""

    @property
    def type(self) -> str:
        """The value of a task's ``type`` that it handles."""
        ...

    def plan(self, task: Task) -> Work | Rejection:
        """Understand a task: what it needs, or why its content cannot be used. Pure and fast."""
        ...

    async def perform(self, batch: Batch) -> Mapping[str, Outcome]:
        """Do the work; one outcome for each task id of the batch.

        May raise ProviderUnavailable, ProviderThrottled, ProviderRejected or NotNow when that holds for the batch as
        a whole; the caller then retries later, splits or defers.
        """
        ...


class Embeddings(Struct, frozen=True):
    """What a provider answered: ``vectors`` holds one float32 little-endian vector per text, in order.

    ``model`` and ``provider`` name who made them; ``tokens`` is what the provider counted for all of them together, 0
    where it does not count. ``known`` are the places of texts for which nothing was asked and nothing counted: their
    vectors were known from before, or came with another call's request. ``quota`` is what the provider says of its own
    limits. ``kept_as`` is empty, or has for each vector what :class:`~ai_task_processor.domain.outcome.Vector` says.
    """

    vectors: tuple[bytes, ...]
    model: str
    provider: str
    tokens: int = 0
    known: frozenset[int] = frozenset()
    quota: Quota | None = None
    kept_as: tuple[bytes, ...] = ()


class EmbeddingProvider(Protocol):
    """An engine that turns texts into vectors, or a wrapper around one."""

    @property
    def name(self) -> str:
        """One word for logs, metrics and detailed results."""
        ...

    def serves(self, model: str) -> bool:
        """Whether tasks that name this model can be done here."""
        ...

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed ``texts`` (at least one, none empty); ``dimensions`` None means the model's own length.

        Raises ProviderError or NotNow.
        """
        ...


# --- Limits -----------------------------------------------------------------------------------------------------------


class WindowUsage(Struct, frozen=True):
    """One window of the limiter.

    ``reset_at`` (Unix seconds) is when the next place becomes free, or when the window begins anew; None where nothing
    is used. ``current`` may be above ``limit``: estimates can be too low, and limits are lowered. Money is counted as
    :data:`~ai_task_processor.domain.amount.USD` says.
    """

    current: int
    limit: int
    remaining: int
    reset_at: float | None
    unit: Unit = "tasks"


class RateLimiter(Protocol):
    """Keeps what is sent to providers below every configured window: tasks, tokens and money."""

    async def take(self, amount: Amount) -> None:
        """Book ``amount`` in all windows, durably, or in none.

        Raises RateLimited with the time from which on ``amount`` will fit (or, where it is above a limit, from which
        on the window is as free as it gets).
        """
        ...

    async def refund(self, amount: Amount) -> None:
        """Give back so much of the last booking, which was never sent."""
        ...

    async def settle(self, actual: Amount) -> None:
        """The last booking has turned out to be ``actual``: what is above that is given back.

        What it is more than was booked counts from now on, whether it fits or not.
        """
        ...

    def headroom(self) -> Amount:
        """How much could be booked now; as :data:`~ai_task_processor.domain.amount.UNLIMITED` where nothing limits."""
        ...

    def opens_at(self, least: Amount = ONE_TASK) -> float | None:
        """While ``least`` cannot be booked: from when on it can (Unix seconds). None while there is room for it."""
        ...

    def usage(self) -> Mapping[str, WindowUsage]:
        """Every configured window by its :func:`~ai_task_processor.domain.amount.window_key`."""
        ...


# --- Observing --------------------------------------------------------------------------------------------------------


class Observer(Protocol):
    """Is told what happens; never raises, never waits."""

    def __call__(self, event: Event) -> None:
        """Take note of ``event``."""
        ...


Fact: TypeAlias = str | int | float | bool | Sequence[str]
"""What a span may say of itself: never a text of a task, never a secret."""

SpanRef: TypeAlias = object
"""A span as others refer to it, also when it has ended; only who gave it knows what is in it."""


class Link(Struct, frozen=True):
    """A span has to do with another one, where that is known; ``facts`` say what."""

    to: SpanRef | None
    facts: Mapping[str, Fact]


class Span(Protocol):
    """A stretch of work that is on its way."""

    @property
    def ref(self) -> SpanRef:
        """How others refer to it."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What tells a server, in a request, that its work is part of this."""
        ...

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Say more of it."""
        ...

    def fail(self, kind: str) -> None:
        """It does not succeed; ``kind`` is a class of reasons, one of few."""
        ...


class Tracer(Protocol):
    """Records spans for somebody who looks at them elsewhere; never raises, never waits."""

    def span(
        self,
        name: str,
        facts: Mapping[str, Fact],
        *,
        to_server: bool = False,
        parent: SpanRef | None = None,
        links: Sequence[Link] = (),
    ) -> AbstractContextManager[Span]:
        """A span that lasts as long as it is entered; an exception that leaves it makes it fail.

        What is begun inside of it, in this asyncio task or in those that it makes, is a part of it. Without ``parent``
        it is part of what is entered already, and where nothing is, the first of a new trace.
        """
        ...


class Stage(Protocol):
    """One stage of the flow; repeating, waiting and waking are not its business."""

    async def step(self) -> float:
        """Do one round.

        Answers how many seconds there will be nothing to do: 0 after a round that did something, infinity where only
        being woken can bring work.
        """
        ...
