"""The simulated world: runs the daemon from life to life until everything has come to rest, and judges."""

import asyncio
import logging
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ai_task_processor.app import App, World, open_app
from ai_task_processor.domain.clock import Clock, SystemClock
from ai_task_processor.domain.events import BatchCrashed, Event, Stopped
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.settings import Settings, load_settings
from ai_task_processor.wiring.engines import Bench
from ai_task_processor.wiring.engines import Engine as WiredEngine
from ai_task_processor.wiring.state import State
from tests.simulation.invariants import Ledger, LifeFacts
from tests.simulation.life import CANCELLED_WITHIN, Life, Trap
from tests.simulation.machine import Machine, SimulatedLoop, SimulationStuck
from tests.simulation.provider import Leaf, SimulatedProvider
from tests.simulation.scenario import MODEL, UNWELCOME, Scenario, last_task
from tests.simulation.server import TaskServer, Wire
from tests.simulation.state import Disk, Guardian, guarded
from tests.simulation.trace import Trace

GLANCE = 20.0
"""Simulated seconds between two looks at whether everything is at rest."""

PATIENCE = 6 * 86_400.0
"""Simulated seconds after the healing in which everything must have come to rest."""

LAST_GRACE = 90.0
"""Simulated seconds in which the last stop, with nothing in its way, has finished and delivered what was begun."""

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


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a scenario; ``counts`` say how often what happened in it."""

    seed: int
    violations: Sequence[str]
    trace: Trace
    counts: Mapping[str, int]
    simulated: float


def simulate(scenario: Scenario) -> Report:
    """Run a scenario from its beginning to its end."""
    with ExitStack() as stack:
        loop = SimulatedLoop()
        stack.callback(loop.close)
        folder = None
        if scenario.sql:
            directory = tempfile.TemporaryDirectory(dir=_in_memory(), ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(directory))
        complaints = stack.enter_context(_Complaints())
        trace = Trace(loop)
        ledger = Ledger(scenario, trace)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(_Simulation(scenario, loop, ledger, trace, folder).run())
            except SimulationStuck as stuck:
                ledger.violated(str(stuck))
        for complaint in (*loop.complaints, *complaints.messages):
            ledger.violated(f"a complaint: {complaint}")
        return Report(scenario.seed, ledger.violations, trace, Counter(ledger.counts), loop.time())


class _Simulation:
    def __init__(
        self, scenario: Scenario, loop: SimulatedLoop, ledger: Ledger, trace: Trace, folder: Path | None
    ) -> None:
        self._scenario = scenario
        self._loop = loop
        self._ledger = ledger
        self._tell = trace
        self._settings = load_settings(None, **scenario.settings)
        self._chance = random.Random(f"lives {scenario.seed}")
        self._machine = Machine(loop)
        self._disk = Disk(folder, self._settings)
        self._deaths = 0
        self._goes_on = True
        self._something_sent = asyncio.Event()
        self._parked: set[str] = set()
        self._unreported: int | None = None
        self._app: App | None = None
        self._state: State | None = None
        self._line = self._line_at = 0.0

    async def run(self) -> None:
        """Life after life, and the judgement."""
        scenario = self._scenario
        self._server = TaskServer(scenario, self._ledger, self._machine, self._tell)
        self._providers = {
            name: SimulatedProvider(name, scenario, self._ledger, sent=self._sent, tell=self._tell)
            for name in scenario.engines
        }
        for moment, seconds in scenario.jumps:
            self._loop.call_at(moment, self._jump, seconds)
        self._tell(f"scenario {scenario.seed}: {dict(scenario.settings)}")
        await self._one_life()
        while self._goes_on:
            await asyncio.sleep(self._chance.uniform(0, scenario.ends.downtime))
            await self._one_life()
        self._ledger.judge()

    def _jump(self, seconds: float) -> None:
        self._tell(f"the clock jumps by {seconds:.0f}")
        self._ledger.counts["clock jumps"] += 1
        self._machine.jump(seconds)

    # --- One life -----------------------------------------------------------------------------------------------------

    async def _one_life(self) -> None:
        """Run the daemon until something ends it."""
        facts = LifeFacts(len(self._ledger.lives) + 1, began_at=self._loop.time())
        self._ledger.lives.append(facts)
        will_die = self._deaths < self._scenario.ends.deaths
        self._deaths += will_die
        trap = self._trap() if will_die else None
        life = Life(facts, trap, self._tell)
        self._tell(f"life {facts.number} begins, {f'trap {trap.point} {trap.countdown}' if trap else 'no trap'}")
        self._app = None
        work = asyncio.create_task(self._work(life), name="daemon")
        self._goes_on = await self._ended(life, work, will_die=will_die)
        facts.ended_at = min(facts.ended_at, self._loop.time())

    def _trap(self) -> Trap | None:
        if self._chance.random() >= self._scenario.ends.at_points:
            return None
        return Trap(self._chance.choice(POINTS), int(self._chance.expovariate(0.15)) + 1)

    async def _ended(self, life: Life, work: "asyncio.Task[None]", *, will_die: bool) -> bool:
        """Wait for the end of a life, and look at it; answer whether there is to be another."""
        if not will_die:
            await self._last_days(life, work)
            return False
        seconds = self._chance.expovariate(1 / self._scenario.ends.mean)
        died = asyncio.create_task(life.died.wait(), name="death")
        await asyncio.wait({work, died}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if not life.dead and not work.done() and self._chance.random() < self._scenario.ends.gracefully:
            self._ledger.counts["graceful stops"] += 1
            await self._stop(life, work, grace=self._scenario.grace)
            return True
        await self._buried(life, work)
        if self._chance.random() < self._scenario.ends.reboots:
            self._tell("the machine starts anew")
            self._ledger.counts["reboots"] += 1
            self._machine.reboot()
        return True

    async def _last_days(self, life: Life, work: "asyncio.Task[None]") -> None:
        """Everything comes to rest; then the daemon is stopped while it works in a world in which all is well."""
        await self._at_rest(work)
        if not work.done():
            self._check_rest(await self._backlog())
            await self._begins_something(work)
        if work.done():
            self._check_end(life, work)
            self._ledger.violated("the daemon ended although nobody stopped it")
            return
        await self._stop(life, work, grace=LAST_GRACE)
        self._check_clean_end(life)

    async def _begins_something(self, work: "asyncio.Task[None]") -> None:
        """Give it a few tasks, and wait until the first has gone to a provider; limits may allow none for long."""
        for number in range(3):
            self._server.create(last_task(f"{self._scenario.seed}-last-{number}", number))
        self._something_sent.clear()
        sent = asyncio.create_task(self._something_sent.wait(), name="sent")
        patience = 3 * self._settings.polling_interval_seconds + 120
        await asyncio.wait({work, sent}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        sent.cancel()

    async def _work(self, life: Life) -> None:
        clock = SystemClock(wall=self._machine.wall, monotonic=self._machine.monotonic)
        self._life, self._clock = life, clock
        world = World(
            clock=clock,
            boot=self._machine.boot,
            randomness=random.Random(f"daemon {self._scenario.seed} {life.facts.number}"),
            wire=lambda _: Wire(self._server, life),
            engine=self._engine,
            state=self._open_state,
            glance=self._scenario.glance,
            serves=False,
        )
        async with open_app(self._settings, observers=[self._observe], world=world) as app:
            self._app = app
            await app.run()

    async def _buried(self, life: Life, work: "asyncio.Task[None]") -> None:
        if not life.dead:
            life.kill("any moment")
        self._ledger.counts["kills"] += 1
        await self._cancelled(work)
        self._check_end(life, work)

    async def _stop(self, life: Life, work: "asyncio.Task[None]", *, grace: float) -> None:
        """What the process does on a signal: ask, wait for the grace period, cancel."""
        self._tell(f"life {life.facts.number} is asked to stop")
        self._unreported = None
        if self._app is not None:
            self._app.stop("SIGTERM", grace)
            await asyncio.wait({work}, timeout=grace)
        if not work.done() and not life.dead:
            self._tell(f"life {life.facts.number} is cut short")
            self._ledger.counts["stops cut short"] += 1
            life.facts.abrupt = True
            life.facts.ended_at = self._loop.time()
        await self._cancelled(work)
        life.dead = True
        self._check_end(life, work)

    async def _cancelled(self, work: "asyncio.Task[None]") -> None:
        work.cancel()
        await asyncio.wait({work}, timeout=CANCELLED_WITHIN)
        if not work.done():
            self._ledger.violated("a cancelled daemon does not end")

    def _check_end(self, life: Life, work: "asyncio.Task[None]") -> None:
        if not work.done() or work.cancelled():
            return
        error = work.exception()
        if error is not None:
            self._ledger.violated(f"life {life.facts.number} ended by {_innermost(error)!r}")

    # --- What the daemon is given -------------------------------------------------------------------------------------

    def _engine(self, _bench: Bench, name: str) -> WiredEngine:
        provider = self._providers[name]
        leaf = Leaf(provider, self._life, served=(MODEL,) if name == "ollama" else ())
        return WiredEngine(leaf, timeout=provider.timeout)

    @asynccontextmanager
    async def _open_state(self, _settings: Settings, clock: Clock) -> AsyncIterator[State]:
        if self._scenario.forgets:
            self._disk = Disk(None, self._settings)
        async with self._disk.opened(clock) as state:
            self._state = state
            life = self._life
            guardian = Guardian(life, self._scenario.journal_latency)
            yield guarded(
                state,
                guardian,
                settled=self._ledger.settled,
                reported=self._written_down,
                parked=self._parked.add,
            )

    def _written_down(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            item = self._server.items.get(task_id)
            if item is not None and item.acknowledged_at is not None:
                item.written = True

    def _sent(self, count: int) -> None:
        """So many inputs leave the daemon now: note when that is, on the limiter's own line of time too."""
        now = self._loop.time()
        self._line = max(self._line + now - self._line_at, self._clock.now())
        self._line_at = now
        self._ledger.sent.append((now, self._line, count))
        self._something_sent.set()

    def _observe(self, event: Event) -> None:
        match event:
            case BatchCrashed(traceback=traceback):
                self._ledger.violated(f"a defect: {traceback.strip().splitlines()[-1]}\n{traceback}")
            case Stopped(unreported=unreported):
                self._unreported = unreported
        self._ledger.counts[f"event: {type(event).__name__}"] += 1
        self._tell(event)

    # --- Rest ---------------------------------------------------------------------------------------------------------

    async def _at_rest(self, work: "asyncio.Task[None]") -> None:
        """Wait until nothing is left to do, and a while longer, in which nothing may happen."""
        deadline = self._scenario.healed + PATIENCE
        looks = 0  # at which all was done: at one alone a page may still be on its way
        while not work.done() and looks < 2 and self._loop.time() < deadline:
            await asyncio.sleep(GLANCE)
            looks = looks + 1 if await self._all_done() else 0
        if work.done():
            return
        await asyncio.sleep(2 * self._scenario.api.lag)
        sent = len(self._ledger.sent)
        await asyncio.sleep(3 * self._settings.polling_interval_seconds)
        if len(self._ledger.sent) != sent:
            self._ledger.violated("something was sent to a provider after everything was done")

    async def _all_done(self) -> bool:
        healed = self._loop.time() > self._scenario.healed
        return healed and self._server.is_at_rest() and not self._not_parked() and _idle(await self._backlog())

    def _not_parked(self) -> list[str]:
        """Tasks whose results will be refused, and which have not come to that yet."""
        unwelcome = [item for item in self._server.items.values() if item.plan.kind == UNWELCOME]
        return [
            item.plan.id
            for item in unwelcome
            if item.plan.id not in self._parked and not item.foreign and not item.gone
        ]

    async def _backlog(self) -> Backlog:
        assert self._state is not None
        return await self._state.journal.backlog()

    def _check_rest(self, backlog: Backlog) -> None:
        for item in self._server.items.values():
            if not self._server.expected(item):
                self._ledger.violated(f"task {item.plan.id} ({item.plan.kind}) is {item.state} {item.body[:200]!r}")
        if not _idle(backlog):
            self._ledger.violated(f"rows are stuck: {backlog}")
        unwelcome = {item.plan.id for item in self._server.items.values() if item.plan.kind == UNWELCOME}
        if self._parked - unwelcome:
            self._ledger.violated(f"parked without need: {sorted(self._parked - unwelcome)}")
        if self._not_parked():
            self._ledger.violated(f"not parked although they are refused: {self._not_parked()}")
        if backlog.parked > len(self._parked):
            self._ledger.violated(f"{backlog.parked} rows are parked, but only {len(self._parked)} were")

    def _check_clean_end(self, life: Life) -> None:
        if life.facts.abrupt:
            self._ledger.violated("the last stop took longer than its grace although nothing was in its way")
        if self._unreported != 0:
            self._ledger.violated(f"the last life ended with {self._unreported} unreported")


class _Complaints(logging.Handler):
    """Collects what observers complain about: their defects are logged, and harm nobody else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def _idle(backlog: Backlog) -> bool:
    return backlog.listed_again == backlog.parked


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _in_memory() -> Path | None:
    """A folder whose files need no disk, where there is one: a simulated crash loses no cache of the system."""
    folder = Path("/dev/shm")  # noqa: S108  # the folder in it has a name of its own
    return folder if folder.is_dir() else None
