"""What outlives the process: the database of ``STATE_URL`` as journal, limits and memory."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from msgspec import Struct

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Journal, Observer, Turn
from ai_task_processor.journal.lease import Lease
from ai_task_processor.journal.operator import OperatorJournal
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.journal.worker import new_worker, worker_of
from ai_task_processor.limits.ledger import LimitStore
from ai_task_processor.limits.store import SharedLimitStore, SqlLimitStore
from ai_task_processor.ops.status.facts import ParkedTask
from ai_task_processor.settings import Settings
from ai_task_processor.storage.engine import Storage, is_postgres, open_storage
from ai_task_processor.wiring.engines import Job, Memory, open_memory, short_memory

SHARED_GLANCE = 1.0
"""Seconds after which idle dispatch looks into the journal where replicas share it: another one polls."""


class Relay:
    """An observer that passes events on as soon as there is somebody to tell."""

    def __init__(self) -> None:
        self.to: Observer | None = None

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on."""
        if self.to:
            self.to(event)


async def _nothing_parked(_limit: int) -> Sequence[ParkedTask]:
    return ()


class State(Struct, frozen=True):
    """What outlives the process; without ``memory`` the providers' ends with it. ``parked`` shows parked tasks.

    Where replicas share it: ``remember`` opens the memory once the database answers, ``turn`` says who polls, ``keep``
    is to run as long as this process holds anything, others bring work every ``glance`` seconds, and ``events`` tells
    of a database that is away.
    """

    journal: Journal
    limits: LimitStore
    memory: Memory | None = None
    parked: Callable[[int], Awaitable[Sequence[ParkedTask]]] = _nothing_parked
    remember: Callable[[], Awaitable[Memory]] | None = None
    worker: Callable[[], Awaitable[str]] | None = None
    turn: Turn | None = None
    keep: Sequence[Job] = ()
    glance: float = math.inf
    events: Relay | None = None


@asynccontextmanager
async def open_state(settings: Settings, clock: Clock) -> AsyncIterator[State]:
    """Open the database of ``STATE_URL``, as its owner or as one of its replicas; raises JournalError."""
    relay = Relay()
    async with open_storage(settings.state_location, observer=relay) as storage:
        if is_postgres(settings.state_location):
            async with shared_state(storage, settings, clock, relay) as state:
                yield state
        else:
            yield await state_in(storage, settings, clock)


@asynccontextmanager
async def shared_state(
    storage: Storage, settings: Settings, clock: Clock, relay: Relay, replica: str | None = None
) -> AsyncIterator[State]:
    """The state in a database that replicas share; this one goes by the name ``replica``, or makes one up."""
    from ai_task_processor.storage.postgres import database_time  # noqa: PLC0415  # costs a start that needs none

    lease = Lease(storage, seconds=settings.lease_seconds, time=database_time, replica=replica)
    try:
        yield State(
            journal=SqlJournal(storage, clock, lease),
            limits=SharedLimitStore(storage, time=database_time),
            parked=partial(_parked, storage),
            remember=partial(open_memory, settings, storage),
            worker=partial(worker_of, storage),
            turn=lease,
            keep=(lease.keep,),
            glance=SHARED_GLANCE,
            events=relay,
        )
    finally:
        await lease.leave()


async def state_in(storage: Storage, settings: Settings, clock: Clock) -> State:
    """The state in a database that this process owns."""
    return State(
        journal=SqlJournal(storage, clock),
        limits=SqlLimitStore(storage),
        memory=await open_memory(settings, storage),
        worker=partial(worker_of, storage),
        parked=partial(_parked, storage),
    )


async def _parked(storage: Storage, limit: int) -> Sequence[ParkedTask]:
    rows = await OperatorJournal(storage).parked(limit)
    return [ParkedTask(row.id, row.type, row.settled_at, row.reason or "") for row in rows]


async def worker_name(state: State) -> str:
    """By what name this state holds tasks at the Task API; without a place for it, a new one."""
    return await state.worker() if state.worker else new_worker()


async def memory_of(state: State, settings: Settings) -> Memory:
    """What providers know from earlier runs; without a place for it, it ends with the process."""
    if state.remember:
        return await state.remember()
    return state.memory or short_memory(settings)
