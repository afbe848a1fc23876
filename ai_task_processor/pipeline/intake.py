"""The stage that fetches tasks and puts them into the journal."""

import math
import random
import sys
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from ai_task_processor.domain.amount import ONE_TASK, Amount
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import NotNow, TaskApiError, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.events import (
    EntryUnusable,
    Polled,
    PollFailed,
    PollPlanned,
    TaskAccepted,
    TurnElsewhere,
    TypeUnknown,
)
from ai_task_processor.domain.ports import Backlog, Journal, Observer, Processor, RateLimiter, TaskSource, Turn, Wish
from ai_task_processor.domain.task import Page, Task
from ai_task_processor.domain.work import Work
from ai_task_processor.pipeline.planning import planned

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
"""Seconds between polls while the Task API does not answer; never less than the interval would be in the end."""

LONGEST_REST = 60.0
"""Seconds without a sign of life, at most, where the interval is not longer."""

SMALLEST_CHUNK = 128
LARGEST_CHUNK = 256
"""Tasks offered to the journal in one statement: few statements for a page that we know already, and no step so long
that it would hold up the others."""

HELD_BOUND = 10
"""How many times ``hold_limit`` all rows together may be, deferred and undelivered ones included."""

EARLIEST, LATEST = 0.9, 1.1
"""Bounds of an idle rest, in intervals: processes that were started together shall not poll together for ever."""

TURN_GLANCE = 5.0
"""Seconds, at most, until a replica looks again whether it is its turn to poll."""

TRIES_IN_TURN = 2
"""Polls that fail one after the other until another replica may try: the first may have been a trifle."""

WISHED_PACE = 0.02
"""Seconds between polls, at least, while somebody asks for one after the other."""

REFILL = 2
"""More is fetched when what waits is down to this part of a fetch: what we hold is listed again with it."""

DELIVERY_GLANCE = 0.5
"""Seconds between looks at how much is undelivered, while that is most of what a list without a limit would show."""

FETCH_SHARE = 0.1
"""The part of the time, at most, that goes into fetching long pages while we hold most of what they list."""

LIMITED_PACE = 1.0
"""Seconds between polls, at least, while a rate limit and not our room says how much is asked for."""


class IntakeSettings(Struct, frozen=True):
    """``interval`` in seconds between polls while there is nothing to do.

    ``fetch_limit`` new tasks are asked for at once, ``hold_limit`` are kept waiting, at most. With ``keep_unknown``
    tasks of a type that no processor handles are accepted too, so that dispatch fails them. While the limits have no
    room for ``least`` nothing is fetched.
    """

    interval: float
    fetch_limit: int
    hold_limit: int
    keep_unknown: bool = False
    least: Amount = ONE_TASK


class Room(Struct, frozen=True):
    """``keep`` new tasks find a place; ``ask`` of them are worth asking for now."""

    keep: int
    ask: int
    limited: bool = False


class Intake:
    """Polls the Task API while there is room: at once while pages are full, else by the interval."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        source: TaskSource,
        journal: Journal,
        processors: Mapping[str, Processor],
        limiter: RateLimiter,
        clock: Clock,
        observer: Observer,
        randomness: random.Random,
        turn: Turn | None = None,
    ) -> None:
        self._turn = turn
        self._settings = settings
        self._source = source
        self._journal = journal
        self._processors = processors
        self._limiter = limiter
        self._clock = clock
        self._observer = observer
        self._random = randomness
        self._polled_at = -math.inf
        self._wanted = False
        self._rest = 0.0
        self._more = False
        self._limit_ignored = False
        self._claims = False  # whether the last page held tasks that are ours alone
        self._left_alone = 0
        self._keys: dict[str, str] = {}  # the batch keys of the last page, most of which comes again
        self._granted, self._refused = 0, sys.maxsize  # limits: the largest that was answered, the least that was not
        self._failures = 0

    def poll_now(self) -> None:
        """Let the next step poll, whatever the interval says and whose turn it is.

        A poll that is on its way may have been asked before there was what is to be found: another one follows it. The
        pauses of an API that fails, and of limits, hold all the same.
        """
        self._wanted = True

    def adjust(self, settings: IntakeSettings) -> None:
        """Poll by other settings; a rest that has begun is no longer than these would have it."""
        self._settings = settings
        self._keys = {}
        if not self._failures:
            self._rest = min(self._rest, settings.interval)

    async def step(self) -> float:
        """Poll if it is time and there is room; answer how long to rest, in seconds."""
        rest = await self._poll_in_turn()
        rest = max(0.0, min(rest, max(LONGEST_REST, self._settings.interval * LATEST)))
        self._observer(PollPlanned(by=self._clock.now() + rest))
        return rest

    async def _poll_in_turn(self) -> float:
        if self._turn and not self._wanted and not await self._turn.mine():
            self._observer(TurnElsewhere())
            return min(self._settings.interval, TURN_GLANCE)
        opens_at = self._limiter.opens_at(self._settings.least)
        return await self._poll_if_due() if opens_at is None else opens_at - self._clock.now()

    async def _poll_if_due(self) -> float:
        backlog = await self._journal.backlog()
        room = self._room(backlog)
        if room.ask <= 0:
            return self._settings.interval
        wait = self._wait(backlog, room)
        if wait > 0:
            return min(wait, DELIVERY_GLANCE) if self._waits_for_delivery(backlog) else wait
        return await self._poll(room, backlog)

    def _room(self, backlog: Backlog) -> Room:
        """Deferred and undelivered tasks take room within the outer bound only, so that they cannot starve the rest.

        Nobody else can do what we have claimed: then no more waits here than one fetch brings.
        """
        within_bound = HELD_BOUND * self._settings.hold_limit - backlog.listed_again
        keep = min(self._settings.hold_limit - backlog.ready - backlog.claimed, within_bound)
        ask = min(keep, self._settings.fetch_limit - (backlog.ready if self._claims else 0))
        could_be_sent = self._settings.least.fitting(self._limiter.headroom()) - backlog.ready
        return Room(keep, ask) if could_be_sent >= ask else Room(keep, could_be_sent, limited=True)

    def _wait(self, backlog: Backlog, room: Room) -> float:
        """Seconds until the next poll; none after a full page when we run dry."""
        return self._polled_at + self._pause(backlog, room) - self._clock.monotonic()

    def _pause(self, backlog: Backlog, room: Room) -> float:
        if self._limit_ignored and backlog.ready:
            return math.inf
        if self._wanted and not self._failures:
            return min(self._rest, WISHED_PACE)
        if self._waits_for_delivery(backlog):
            return max(self._rest, LONGEST_REST)  # and not for ever: perhaps nothing can be delivered
        if self._more and backlog.ready <= self._settings.fetch_limit // REFILL:
            return LIMITED_PACE if room.limited else 0.0
        return self._rest

    def _waits_for_delivery(self, backlog: Backlog) -> bool:
        """Whether a server that lists everything would list again too much that is done and only not delivered yet."""
        return self._limit_ignored and self._more and backlog.unreported > self._settings.fetch_limit

    async def _poll(self, room: Room, backlog: Backlog) -> float:
        self._wanted = False
        wish = self._wish(room, backlog)
        mark = await self._journal.mark()
        began = self._clock.monotonic()
        try:
            page = await self._source.fetch(wish)
        except (TaskApiError, NotNow) as error:
            if isinstance(error, TaskApiRejected):
                self._learn_refusal(wish.count(claims=self._claims))
            rest = self._after_failure(error)
            if self._turn and self._cut_off(error):
                await self._turn.pass_on()
            return rest
        took = self._clock.monotonic() - began
        accepted = await self._accept(page.tasks, room.keep, mark)
        return self._after_page(page, wish.count(claims=page.claimed), accepted, took)

    def _wish(self, room: Room, backlog: Backlog) -> Wish:
        return Wish(
            limit=min(room.ask + backlog.listed_again + self._left_alone, self._cap),
            new=min(room.ask, self._cap),
            most=self._settings.hold_limit + backlog.listed_again,
            types=self._types,
        )

    def _cut_off(self, error: TaskApiError | NotNow) -> bool:
        """Whether the way to the Task API seems closed, so that another replica may find it open.

        One that answers and asks for patience, or refuses what we ask, is not to be asked by all of us in turn.
        """
        if isinstance(error, TaskApiRejected) or getattr(error, "retry_after", None):
            return False
        return isinstance(error, NotNow) or self._failures >= TRIES_IN_TURN

    @property
    def _cap(self) -> int:
        """What to ask for at most, where the API refuses limits that are too large: half-way to the least of those.

        It is to grow again, for what is listed on every poll could fill the pages of a limit that was halved for good.
        """
        return sys.maxsize if self._refused == sys.maxsize else max(1, (self._granted + self._refused) // 2)

    def _learn_refusal(self, limit: int) -> None:
        self._refused = limit
        if self._granted >= limit:
            self._granted = 0

    @property
    def _types(self) -> Collection[str] | None:
        return None if self._settings.keep_unknown else self._processors.keys()

    async def _accept(self, tasks: Sequence[Task], room: int, mark: int) -> int:
        """Offer the tasks to the journal, most urgent first, until ``room`` of them were new."""
        accepted = position = 0
        known, self._keys = self._keys, {}
        while accepted < room and position < len(tasks):
            chunk = tasks[position : position + min(max(room - accepted, SMALLEST_CHUNK), LARGEST_CHUNK)]
            position += len(chunk)
            self._keys |= {task.id: known.get(task.id) or self._batch_key(task) for task in chunk}
            accepted += await self._accept_chunk(chunk, mark)
        return accepted

    async def _accept_chunk(self, chunk: Sequence[Task], mark: int) -> int:
        planned = {task.id: task.with_key(self._keys[task.id]) for task in chunk}
        kept = await self._journal.accept(tuple(planned.values()), mark)
        for task_id in kept:
            task = planned[task_id]
            self._observer(TaskAccepted(task_id=task.id, correlation_id=task.correlation_id, type=task.type))
        return len(kept)

    def _batch_key(self, task: Task) -> str:
        work = planned(task, self._processors)
        return sys.intern(f"{task.type} {work.key}") if isinstance(work, Work) else ""

    def _after_page(self, page: Page, limit: int, accepted: int, took: float) -> float:
        left_alone = self._tell_left_alone(page)
        grown = left_alone > self._left_alone
        self._left_alone = 0 if page.claimed else left_alone
        self._claims = page.claimed
        self._failures = 0
        self._granted = max(self._granted, limit)
        self._limit_ignored = page.listed > limit
        self._more = page.listed >= limit and (accepted > 0 or grown)
        self._observer(Polled(listed=page.listed, accepted=accepted, left_alone=left_alone))
        interval = self._settings.interval
        if page.listed > self._settings.fetch_limit:
            interval = max(interval, min(took / FETCH_SHARE, LONGEST_REST))
        self._rest_for(interval * self._random.uniform(EARLIEST, LATEST))
        return 0.0 if accepted or self._more else self._rest

    def _tell_left_alone(self, page: Page) -> int:
        """Tell of the entries that are not for us; answer how many they are."""
        if page.unusable:
            self._observer(EntryUnusable(count=len(page.unusable), reason=page.unusable[0]))
        for kind, count in page.foreign.items():
            self._observer(TypeUnknown(type=kind, count=count))
        return len(page.unusable) + sum(page.foreign.values())

    def _after_failure(self, error: TaskApiError | NotNow) -> float:
        rest = self._backoff(error)
        self._failures += 1
        self._more = False
        self._observer(PollFailed(reason=str(error), rest=rest))
        self._rest_for(rest)
        return rest

    def _backoff(self, error: TaskApiError | NotNow) -> float:
        if isinstance(error, NotNow):
            return max(0.0, error.until - self._clock.now())
        grown = FIRST_BACKOFF * 2.0 ** min(self._failures, 10)
        longest = max(LONGEST_BACKOFF, self._settings.interval)
        wished = error.retry_after if isinstance(error, TaskApiUnavailable) and error.retry_after else 0.0
        # Equal jitter: replicas that lost the same API do not come back in one wave.
        return max(wished, min(grown, longest) * self._random.uniform(0.5, 1.0))

    def _rest_for(self, seconds: float) -> None:
        self._polled_at = self._clock.monotonic()
        self._rest = seconds
