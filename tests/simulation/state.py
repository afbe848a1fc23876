"""What survives the daemon's death: state that may be cut off at any transaction, and keeps what was committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.outcome import Outcome
from ai_task_processor.domain.ports import Backlog, Entry, Journal
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.limits import ledger as limits
from ai_task_processor.limits.store import MemoryLimitStore
from ai_task_processor.providers.cache import CacheStore, Filling
from ai_task_processor.providers.spaces import Sighting, SpaceStore
from ai_task_processor.settings import Settings
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.wiring.engines import Memory, short_memory
from ai_task_processor.wiring.state import Relay, State, shared_state, state_in
from tests.simulation.database import SharedDatabase
from tests.simulation.life import Life
from tests.simulation.machine import Inline
from tests.simulation.scenario import Replicas, Scenario

T = TypeVar("T")


class Disk:
    """Durable state of one daemon: in memory, or in a SQLite file where there is a ``folder``.

    The callables hear of what is committed. A disk that ``forgets`` is empty for each life.
    """

    def __init__(self, folder: Path | None, scenario: Scenario, settings: Settings, commits: "Commits") -> None:
        self._folder = folder
        self._scenario = scenario
        self._settings = settings
        self._commits = commits
        self._clock = _Borrowed()
        self._state = self._empty()

    def _empty(self) -> State:
        return State(MemoryJournal(self._clock), MemoryLimitStore(), short_memory(self._settings))

    @asynccontextmanager
    async def opened(self, life: Life, clock: Clock) -> AsyncIterator[State]:
        """The state as a new process finds it."""
        guardian = Guardian(life, self._scenario.journal_latency)
        if self._folder is None:
            if self._scenario.forgets:
                self._state = self._empty()
            self._clock.clock = clock
            yield guarded(self._state, guardian, self._commits)
            return
        async with open_storage(f"sqlite:///{self._folder / 'state.db'}", executor=Inline()) as storage:
            yield guarded(await state_in(storage, self._settings, clock), guardian, self._commits)


class Shared:
    """The database that several daemons share."""

    def __init__(self, database: SharedDatabase, replicas: Replicas, settings: Settings) -> None:
        self._database = database
        self._replicas = replicas
        self._settings = settings

    @asynccontextmanager
    async def opened(self, life: Life, clock: Clock) -> AsyncIterator[State]:
        """The state as a new replica finds it."""
        name, relay = str(life.facts.number), Relay()
        storage = self._database.storage(life, name, relay)
        async with shared_state(storage, self._settings, clock, relay, name) as state:
            yield self._watched(state, Passing(life))

    def _watched(self, state: State, passing: "Passing") -> State:
        async def remember() -> Memory:
            assert state.remember is not None
            return _guarded_memory(await state.remember(), passing)

        return replace(
            state,
            journal=GuardedJournal(state.journal, passing, UNHEARD),
            limits=GuardedLimits(state.limits, passing),
            remember=remember,
            glance=self._replicas.glance,
        )


@dataclass(frozen=True, slots=True)
class Commits:
    """Who hears of what the journal has committed."""

    settled: Callable[[Mapping[str, Outcome]], None]
    reported: Callable[[Sequence[str]], None]
    parked: Callable[[str], None]


UNHEARD = Commits(lambda _: None, lambda _: None, lambda _: None)


class Transactions(Protocol):
    """Lets the daemon of one life at the state, at moments at which it may die."""

    async def transact(
        self, name: str, work: Callable[[], Awaitable[T]], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Run one transaction."""
        ...


class Passing:
    """Leaves everything to the database."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def transact(
        self, name: str, work: Callable[[], Awaitable[T]], committed: Callable[[], None] = lambda: None
    ) -> T:
        """See :class:`Transactions`."""
        self._life.point(f"{name} before")
        answer = await work()
        committed()
        self._life.point(f"{name} after")
        return answer


class Guardian:
    """Lets the daemon of one life at the disk: one transaction after the other, each with moments at which to die."""

    def __init__(self, life: Life, latency: float) -> None:
        self._life = life
        self._latency = latency
        self._turn = asyncio.Lock()

    async def transact(
        self, name: str, work: Callable[[], Awaitable[T]], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Run one transaction. A caller that is cancelled meanwhile does not know whether it happened."""
        async with self._turn:
            await self._wait()
            self._life.point(f"{name} before")
            try:
                answer = await work()
            finally:
                committed()
            self._life.point(f"{name} after")
            await self._wait()
            self._life.door()
            return answer

    async def _wait(self) -> None:
        if self._latency:
            await asyncio.sleep(self._latency)


class GuardedJournal:
    """The port ``Journal`` as one life of the daemon sees it; the callables hear of commits."""

    def __init__(
        self,
        journal: Journal,
        guardian: Transactions,
        commits: Commits,
    ) -> None:
        self._journal = journal
        self._do = guardian.transact
        self._settled = commits.settled
        self._reported = commits.reported
        self._parked = commits.parked

    async def mark(self) -> int:
        return await self._do("mark", self._journal.mark)

    async def accept(self, tasks: Sequence[Task], mark: int) -> tuple[str, ...]:
        return await self._do("accept", lambda: self._journal.accept(tasks, mark))

    async def claim(self, limit: int, without: Collection[str] = ()) -> tuple[Task, ...]:
        return await self._do("claim", lambda: self._journal.claim(limit, without))

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        await self._do("settle", lambda: self._journal.settle(outcomes), lambda: self._settled(outcomes))

    async def release(self, task_ids: Sequence[str]) -> None:
        await self._do("release", lambda: self._journal.release(task_ids))

    async def unreported(self, limit: int) -> tuple[Entry, ...]:
        return await self._do("unreported", lambda: self._journal.unreported(limit))

    async def mark_reported(self, task_ids: Sequence[str]) -> None:
        await self._do("mark_reported", lambda: self._journal.mark_reported(task_ids), lambda: self._reported(task_ids))

    async def postpone(self, task_ids: Sequence[str], until: float, *, counts: bool = True) -> None:
        await self._do("postpone", lambda: self._journal.postpone(task_ids, until, counts=counts))

    async def park(self, task_id: str, reason: str) -> None:
        await self._do("park", lambda: self._journal.park(task_id, reason), lambda: self._parked(task_id))

    async def reopen(self) -> None:
        await self._do("reopen", self._journal.reopen)

    async def next_due(self) -> float | None:
        return await self._do("next_due", self._journal.next_due)

    async def next_unreported(self) -> float | None:
        return await self._do("next_unreported", self._journal.next_unreported)

    async def backlog(self) -> Backlog:
        return await self._do("backlog", self._journal.backlog)

    async def held(self) -> tuple[str, ...]:
        return await self._do("held", self._journal.held)

    async def renewed(self, at: float) -> None:
        await self._do("renewed", lambda: self._journal.renewed(at))

    async def let_go(self, before: float) -> int:
        return await self._do("let_go", lambda: self._journal.let_go(before))

    async def forget(self, before: float) -> int:
        return await self._do("forget", lambda: self._journal.forget(before))


class GuardedLimits:
    """The port ``LimitStore`` as one life of the daemon sees it."""

    def __init__(self, store: limits.LimitStore, guardian: Transactions) -> None:
        self._store = store
        self._do = guardian.transact

    async def load(self) -> limits.Ledger:
        return await self._do("limits load", self._store.load)

    async def change(self, decide: limits.Decide) -> None:
        await self._do("limits change", lambda: self._store.change(decide))

    async def replace(self, ledger: limits.Ledger) -> None:
        await self._do("limits replace", lambda: self._store.replace(ledger))


class GuardedCache:
    """The port ``CacheStore`` as one life of the daemon sees it."""

    def __init__(self, store: CacheStore, guardian: Transactions) -> None:
        self._store = store
        self._do = guardian.transact

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        return await self._do("cache get", lambda: self._store.get_many(keys))

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        return await self._do("cache put", lambda: self._store.put_many(entries))

    async def drop(self, keys: Collection[bytes]) -> None:
        await self._do("cache drop", lambda: self._store.drop(keys))

    def filling(self) -> Filling:
        return self._store.filling()


class GuardedSpaces:
    """The port ``SpaceStore`` as one life of the daemon sees it."""

    def __init__(self, store: SpaceStore, guardian: Transactions) -> None:
        self._store = store
        self._do = guardian.transact

    async def load(self) -> Sequence[Sighting]:
        return await self._do("spaces load", self._store.load)

    async def save(self, sighting: Sighting, forget: Collection[Sighting]) -> None:
        await self._do("spaces save", lambda: self._store.save(sighting, forget))


def guarded(state: State, guardian: Transactions, commits: Commits) -> State:
    """The state, every part of it behind the guardian."""
    assert state.memory is not None
    return State(
        journal=GuardedJournal(state.journal, guardian, commits),
        limits=GuardedLimits(state.limits, guardian),
        memory=_guarded_memory(state.memory, guardian),
    )


def _guarded_memory(memory: Memory, guardian: Transactions) -> Memory:
    return Memory(GuardedCache(memory.cache, guardian), GuardedSpaces(memory.spaces, guardian))


class _Borrowed:
    """The clock of whichever life has the memory journal now."""

    def __init__(self) -> None:
        self.clock: Clock | None = None

    def now(self) -> float:
        assert self.clock is not None
        return self.clock.now()

    def monotonic(self) -> float:
        assert self.clock is not None
        return self.clock.monotonic()
