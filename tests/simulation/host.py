"""A machine on which the daemon runs: one life after the other, each with an end of its own."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ai_task_processor.app import App, World, open_app
from ai_task_processor.domain.clock import Clock, SystemClock
from ai_task_processor.domain.events import BatchCrashed, Event, Stopped
from ai_task_processor.settings import Settings
from ai_task_processor.wiring.engines import Bench
from ai_task_processor.wiring.engines import Engine as WiredEngine
from ai_task_processor.wiring.state import State
from tests.simulation.invariants import Ledger
from tests.simulation.life import CANCELLED_WITHIN, Life, Trap
from tests.simulation.machine import Machine, SimulatedLoop
from tests.simulation.provider import Leaf, SimulatedProvider
from tests.simulation.scenario import MODEL, Scenario
from tests.simulation.server import TaskServer, Wire
from tests.simulation.trace import Trace

POINTS = (
    *(
        "settle",
        "mark_reported",
        "accept",
        "claim",
        "unreported",
        "postpone",
        "reopen",
        "mark",
        "limits change",
        "cache put",
        "spaces",
        "park",
    ),
    *("fetch sent", "fetch answered", "patch sent", "patch answered", "token sent", "token answered"),
    *("provider before", "provider after"),
)
BETWEEN_REPLICAS = (*POINTS, "committed", "committed")


class States(Protocol):
    """What survives the lives."""

    def opened(self, life: Life, clock: Clock) -> AbstractAsyncContextManager[State]:
        """The state as a new process finds it."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all hosts have in common."""

    scenario: Scenario
    settings: Settings
    loop: SimulatedLoop
    ledger: Ledger
    tell: Trace
    server: TaskServer
    providers: Mapping[str, SimulatedProvider]
    states: States
    life_begins: Callable[[], None]


class Host:
    """One of the machines; ``number`` 0 is the only one where there are no replicas."""

    def __init__(self, number: int, around: Surroundings, machine: Machine) -> None:
        self.machine = machine
        self.clock: Clock = SystemClock(wall=machine.wall, monotonic=machine.monotonic)
        self.unreported: int | None = None
        """What the last life left undelivered, by its own account."""
        self.state: State | None = None
        self._number = number
        self._around = around
        self._scenario = around.scenario
        self._ledger = around.ledger
        self._tell = around.tell
        self._chance = random.Random(f"lives {around.scenario.seed} {number}")
        self._deaths = 0
        self._app: App | None = None
        self._life: Life
        self._work: asyncio.Task[None]

    @property
    def work(self) -> "asyncio.Task[None]":
        """The daemon of the life that there is."""
        return self._work

    async def live(self) -> None:
        """Run the daemon from life to life; return when the last one has begun."""
        ends = self._scenario.ends
        for _ in range(ends.deaths):
            self._begin(self._trap())
            await self._ended()
            await asyncio.sleep(self._chance.uniform(0, ends.downtime))
        self._begin(None)

    async def stop(self, grace: float) -> None:
        """What the process does on a signal: ask, wait for the grace period, cancel."""
        life = self._life
        self._tell(f"life {life.facts.number} is asked to stop")
        self.unreported = None
        if self._app is not None:
            self._app.stop("SIGTERM", grace)
            await asyncio.wait({self._work}, timeout=grace)
        if not self._work.done() and not life.dead:
            self._tell(f"life {life.facts.number} is cut short")
            self._ledger.counts["stops cut short"] += 1
            life.facts.abrupt = True
            life.facts.ended_at = self._around.loop.time()
        await self._cancelled()
        life.dead = True
        self.check_end()

    def check_end(self) -> None:
        """A daemon may not fail."""
        if not self._work.done() or self._work.cancelled():
            return
        error = self._work.exception()
        if error is not None:
            self._ledger.violated(f"life {self._life.facts.number} ended by {_innermost(error)!r}")

    def check_clean_end(self) -> None:
        """The last stop has nothing in its way."""
        if self._life.facts.abrupt:
            self._ledger.violated("the last stop took longer than its grace although nothing was in its way")

    # --- One life -----------------------------------------------------------------------------------------------------

    def _begin(self, trap: Trap | None) -> None:
        facts = self._ledger.born(self._number, self._around.loop.time())
        self._life = Life(facts, trap, self._tell)
        self._tell(
            f"life {facts.number} begins on host {self._number}, "
            + (f"trap {trap.point} {trap.countdown}" if trap else "no trap")
        )
        self._around.life_begins()
        self._app = None
        self._work = asyncio.create_task(self._daemon(self._life), name="daemon")

    def _trap(self) -> Trap | None:
        if self._chance.random() >= self._scenario.ends.at_points:
            return None
        points = BETWEEN_REPLICAS if self._scenario.replicas else POINTS
        return Trap(self._chance.choice(points), int(self._chance.expovariate(0.15)) + 1)

    async def _ended(self) -> None:
        """Wait for the end of a life, and look at it."""
        life, ends = self._life, self._scenario.ends
        seconds = self._chance.expovariate(1 / ends.mean)
        died = asyncio.create_task(life.died.wait(), name="death")
        await asyncio.wait({self._work, died}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if not life.dead and not self._work.done() and self._chance.random() < ends.gracefully:
            self._ledger.counts["graceful stops"] += 1
            await self.stop(self._scenario.grace)
        else:
            await self._buried()
        self._ledger.ended(life.facts, self._around.loop.time())

    async def _buried(self) -> None:
        if not self._life.dead:
            self._life.kill("any moment")
        self._ledger.counts["kills"] += 1
        await self._cancelled()
        self.check_end()
        if self._chance.random() < self._scenario.ends.reboots:
            self._tell("the machine starts anew")
            self._ledger.counts["reboots"] += 1
            self.machine.reboot()

    async def _cancelled(self) -> None:
        self._work.cancel()
        await asyncio.wait({self._work}, timeout=CANCELLED_WITHIN)
        if not self._work.done():
            self._ledger.violated("a cancelled daemon does not end")

    async def _daemon(self, life: Life) -> None:
        around = self._around
        clock = self.clock = SystemClock(wall=self.machine.wall, monotonic=self.machine.monotonic)
        world = World(
            clock=clock,
            boot=self.machine.boot,
            randomness=random.Random(f"daemon {self._scenario.seed} {life.facts.number}"),
            wire=lambda *_: Wire(around.server, life),
            engine=self._engine_of(life),
            state=lambda _settings, clock: self._opened(life, clock),
            glance=self._scenario.glance,
            serves=False,
        )
        async with open_app(around.settings, observers=[self._observe], world=world) as app:
            self._app = app
            await app.run()

    @asynccontextmanager
    async def _opened(self, life: Life, clock: Clock) -> AsyncIterator[State]:
        async with self._around.states.opened(life, clock) as state:
            self.state = state
            yield state

    def _engine_of(self, life: Life) -> Callable[[Bench, str], WiredEngine]:
        def make(_bench: Bench, name: str) -> WiredEngine:
            provider = self._around.providers[name]
            leaf = Leaf(provider, life, served=(MODEL,) if name == "ollama" else ())
            return WiredEngine(leaf, timeout=provider.timeout)

        return make

    def _observe(self, event: Event) -> None:
        match event:
            case BatchCrashed(traceback=traceback):
                self._ledger.violated(f"a defect: {traceback.strip().splitlines()[-1]}\n{traceback}")
            case Stopped(unreported=unreported):
                self.unreported = unreported
        self._ledger.noticed(event)
        self._tell(event)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
