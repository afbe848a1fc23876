"""The simulated world: runs the daemon from life to life until everything has come to rest, and judges."""

import asyncio
import logging
import math
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ai_task_processor.domain.ports import Backlog
from ai_task_processor.settings import Settings, load_settings
from ai_task_processor.wiring.engines import price_at
from tests.simulation.crew import Crew
from tests.simulation.database import SharedDatabase
from tests.simulation.host import Host, States, Surroundings
from tests.simulation.invariants import Ledger
from tests.simulation.machine import Machine, SimulatedLoop, SimulationStuck
from tests.simulation.provider import SimulatedProvider
from tests.simulation.scenario import UNWELCOME, Scenario, last_task
from tests.simulation.server import TaskServer
from tests.simulation.spending import Note, Spending
from tests.simulation.state import Commits, Disk, Shared
from tests.simulation.trace import Trace

GLANCE = 20.0
"""Simulated seconds between two looks at whether everything is at rest."""

PATIENCE = 6 * 86_400.0
"""Simulated seconds after the healing in which everything must have come to rest."""

LAST_GRACE = 90.0
"""Simulated seconds in which the last stop, with nothing in its way, has finished and delivered what was begun."""

QUIET, QUIET_POLLS = 3, 5
"""Intervals in which nothing is left to do, and the most polls in them, however many replicas there are."""

POLLED = "event: Polled"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a scenario; ``counts`` say how often what happened in it."""

    seed: int
    violations: Sequence[str]
    trace: Trace
    counts: Mapping[str, int]
    simulated: float
    spending: Sequence[Note]


def simulate(scenario: Scenario) -> Report:
    """Run a scenario from its beginning to its end."""
    random.seed(f"conflicts {scenario.seed}")  # what the storage draws for itself
    with ExitStack() as stack:
        loop = SimulatedLoop()
        stack.callback(loop.close)
        folder = None
        if scenario.sql:
            directory = tempfile.TemporaryDirectory(dir=_in_memory(), ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(directory))
        complaints = stack.enter_context(_Complaints())
        trace = Trace(loop)
        settings = load_settings(None, **scenario.settings)
        moments = _Moments(scenario, loop)
        ledger = Ledger(scenario, trace, settings.limits, Spending(moments))
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(_Simulation(scenario, settings, loop, ledger, trace, folder, moments, stack).run())
            except SimulationStuck as stuck:
                ledger.violated(str(stuck))
        for complaint in (*loop.complaints, *complaints.messages):
            ledger.violated(f"a complaint: {complaint}")
        return Report(
            scenario.seed, ledger.violations, trace, Counter(ledger.counts), loop.time(), ledger.spending.notes
        )


class _Moments:
    """Where the limiter's line of time is, which never goes back."""

    def __init__(self, scenario: Scenario, loop: SimulatedLoop) -> None:
        self._rolls = scenario.settings.get("rate_limit_strategy", "rolling") == "rolling"
        self._loop = loop
        self._line = self._line_at = 0.0
        self.host: Host | None = None
        """The only one there is."""
        self.database: SharedDatabase | None = None
        """Whose clock all replicas go by."""

    def begin(self) -> None:
        """A limiter that knows of nothing goes by the clock of the machine."""
        self._line, self._line_at = -math.inf, self._loop.time()

    def __call__(self) -> float:
        if self.database is not None:
            self._line = max(self._line, self.database.machine.wall())
            return self._line
        now = self._loop.time()
        if self._rolls:
            return now
        assert self.host is not None
        self._line = max(self._line + now - self._line_at, self.host.clock.now())
        self._line_at = now
        return self._line


class _Simulation:
    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        loop: SimulatedLoop,
        ledger: Ledger,
        trace: Trace,
        folder: Path | None,
        moments: _Moments,
        stack: ExitStack,
    ) -> None:
        self._scenario = scenario
        self._settings = settings
        self._loop = loop
        self._ledger = ledger
        self._tell = trace
        self._folder = folder
        self._moments = moments
        self._stack = stack
        self._something_sent = asyncio.Event()
        self._parked: set[str] = set()
        self._hosts: Sequence[Host] = ()

    async def run(self) -> None:
        """Life after life, and the judgement."""
        scenario = self._scenario
        machines = self._machines()
        self._server = TaskServer(scenario, self._ledger, machines[0], self._tell)
        around = Surroundings(
            scenario,
            self._settings,
            self._loop,
            self._ledger,
            self._tell,
            self._server,
            self._providers(),
            self._states(),
            self._life_begins,
        )
        self._hosts = [Host(number, around, machine) for number, machine in enumerate(machines)]
        self._moments.host = self._hosts[0]
        for number, (moment, seconds) in enumerate(scenario.jumps):
            self._loop.call_at(moment, self._jump, machines[number % len(machines)], seconds)
        self._tell(f"scenario {scenario.seed}: {dict(scenario.settings)}")
        await asyncio.gather(*(host.live() for host in self._hosts))
        await self._last_days()
        self._ledger.judge()

    def _machines(self) -> Sequence[Machine]:
        machines = [Machine(self._loop)]
        if self._scenario.replicas:
            self._ledger.counts["replicas"] += 1
            machines = [Machine(self._loop) for _ in self._scenario.replicas.ahead]
            for machine, seconds in zip(machines, self._scenario.replicas.ahead, strict=True):
                machine.jump(seconds)
        return machines

    def _providers(self) -> Mapping[str, SimulatedProvider]:
        return {
            name: SimulatedProvider(
                name,
                self._scenario,
                self._ledger,
                price=price_at(self._settings, name),
                sent=self._something_sent.set,
                tell=self._tell,
            )
            for name in self._scenario.engines
        }

    def _states(self) -> States:
        replicas = self._scenario.replicas
        if replicas is None:
            commits = Commits(self._ledger.settled, self._reported, self._parked.add)
            return Disk(self._folder, self._scenario, self._settings, commits)
        crew = Crew(
            self._ledger, self._server, self._parked, lease=self._settings.lease_seconds, steady=not replicas.jumps
        )
        database = SharedDatabase(
            replicas,
            healed=self._scenario.healed,
            machine=Machine(self._loop),
            chance=random.Random(f"database {self._scenario.seed}"),
            witness=crew,
            tell=self._tell,
        )
        self._stack.callback(database.close)
        for moment, seconds in replicas.jumps:
            self._loop.call_at(moment, self._jump, database.machine, seconds)
        self._moments.database = database
        return Shared(database, replicas, self._settings)

    def _life_begins(self) -> None:
        if not any(self._ledger.requests.values()):  # those that were not sent were booked as well
            self._moments.begin()

    def _reported(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._server.written_down(task_id)

    def _jump(self, machine: Machine, seconds: float) -> None:
        self._tell(f"a clock jumps by {seconds:.0f}")
        if self._moments.database is None:
            self._moments()  # the limiter has seen this moment too
        self._ledger.counts["clock jumps"] += 1
        machine.jump(seconds)

    # --- Rest ---------------------------------------------------------------------------------------------------------

    async def _last_days(self) -> None:
        """Everything comes to rest; then the daemons are stopped while they work in a world in which all is well."""
        await self._at_rest()
        if not self._one_has_ended():
            self._check_rest(await self._backlog())
            await self._begins_something()
        for host in self._hosts:
            if host.work.done():
                host.check_end()
                self._ledger.violated("the daemon ended although nobody stopped it")
        running = [host for host in self._hosts if not host.work.done()]
        await asyncio.gather(*(host.stop(LAST_GRACE) for host in running))
        for host in running:
            host.check_clean_end()
        if running and min(host.unreported or 0 for host in running) != 0:
            self._ledger.violated("the last life ended with results that were not reported")

    def _one_has_ended(self) -> bool:
        return any(host.work.done() for host in self._hosts)

    async def _at_rest(self) -> None:
        """Wait until nothing is left to do, and a while longer, in which nothing may happen."""
        deadline = self._scenario.healed + PATIENCE
        looks = 0  # at which all was done: at one alone a page may still be on its way
        while not self._one_has_ended() and looks < 2 and self._loop.time() < deadline:
            await asyncio.sleep(GLANCE)
            looks = looks + 1 if await self._all_done() else 0
        if self._one_has_ended():
            return
        await asyncio.sleep(2 * self._scenario.api.lag)
        sent, polls = self._ledger.spending.sent, self._ledger.counts[POLLED]
        await asyncio.sleep(QUIET * self._settings.polling_interval_seconds)
        if self._ledger.spending.sent != sent:
            self._ledger.violated("something was sent to a provider after everything was done")
        polls = self._ledger.counts[POLLED] - polls
        if polls > QUIET_POLLS:
            self._ledger.violated(f"{polls} polls in {QUIET} intervals without anything to do")

    async def _begins_something(self) -> None:
        """Give them a few tasks, and wait until the first has gone to a provider; limits may allow none for long."""
        for number in range(3):
            self._server.create(last_task(f"{self._scenario.seed}-last-{number}", number))
        self._something_sent.clear()
        sent = asyncio.create_task(self._something_sent.wait(), name="sent")
        patience = 3 * self._settings.polling_interval_seconds + 120
        works = {host.work for host in self._hosts}
        await asyncio.wait({*works, sent}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        sent.cancel()

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
        state = self._hosts[0].state
        assert state is not None
        return await state.journal.backlog()

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


def _in_memory() -> Path | None:
    """A folder whose files need no disk, where there is one: a simulated crash loses no cache of the system."""
    folder = Path("/dev/shm")  # noqa: S108  # the folder in it has a name of its own
    return folder if folder.is_dir() else None
