import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from ai_task_processor.domain.amount import USD
from ai_task_processor.domain.errors import JournalError
from ai_task_processor.domain.events import BreakerChanged, IntakePaused, Running, Stopping, TaskSettled
from ai_task_processor.domain.ports import Backlog, WindowUsage
from ai_task_processor.ops.health import Health, HealthSettings
from ai_task_processor.ops.status.facts import ParkedTask, Window
from ai_task_processor.ops.status.lookout import MOST_PARKED, Identity, Lookout, Readings
from ai_task_processor.ops.status.recent import Recent
from tests.fakes.time import BEGINNING, ManualClock, virtual_time

SETTINGS = HealthSettings("s", "v", 60, 60, limits_enabled=True, limits_strategy="rolling", providers=("mock",))
USAGE = {
    "minute": WindowUsage(5, 20, 15, BEGINNING + 30),
    "cost_per_day": WindowUsage(USD // 2, 2 * USD, 3 * USD // 2, None, "cost"),
}


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.health = Health(SETTINGS, clock=self.clock, storage=lambda: None)
        self.recent = Recent(clock=self.clock, breakers=["mock"])
        self.backlog: Callable[[], Awaitable[Backlog]] = self._count
        self.held = Backlog(parked=1)
        self.looks = 0
        self.asked: list[int] = []

    def lookout(self) -> Lookout:
        return Lookout(
            Identity("ai-task-processor", "1.2.3", "here", "mock", "rolling"),
            health=self.health,
            recent=self.recent,
            readings=Readings(self.backlog, self._parked, lambda: USAGE),
            in_flight=lambda: 7,
            clock=self.clock,
        )

    def tell(self, *events: object) -> None:
        for event in events:
            self.health(event)  # type: ignore[arg-type]  # events of the domain
            self.recent(event)  # type: ignore[arg-type]

    async def _count(self) -> Backlog:
        self.looks += 1
        return self.held

    async def _parked(self, limit: int) -> Sequence[ParkedTask]:
        self.asked.append(limit)
        return [ParkedTask("1", "text_embedding", BEGINNING, "server says\n\x1b[31m" + "no " * 1_000)]


async def test_facts_come_from_everywhere() -> None:
    world = World()
    world.tell(Running(), IntakePaused())
    status = await world.lookout().status()
    assert (status.phase, status.paused, status.alive, status.in_flight) == ("running", True, True, 7)
    assert status.checks["running"].ok
    assert status.windows == (
        Window("tasks", "minute", 5, 20, 15, BEGINNING + 30),
        Window("cost", "day", 0.5, 2, 1.5, None),
    )
    assert status.breakers[0].name == "mock"
    assert (status.service, status.version, status.host, status.mode) == ("ai-task-processor", "1.2.3", "here", "mock")


async def test_phases() -> None:
    world = World()
    assert (await world.lookout().status()).phase == "starting"
    world.tell(Running())
    assert (await world.lookout().status()).phase == "running"
    world.tell(Stopping("SIGTERM", 30.0))
    assert (await world.lookout().status()).phase == "stopping"


async def test_one_look_serves_all_who_ask_within_a_second() -> None:
    world = World()
    lookout = world.lookout()
    seen = await asyncio.gather(*(lookout.status() for _ in range(20)))
    assert world.looks == 1
    assert all(status is seen[0] for status in seen)
    world.clock.advance(0.9)
    assert await lookout.status() is seen[0]
    world.clock.advance(0.2)
    assert await lookout.status() is not seen[0]
    assert world.looks == 2


async def test_a_slow_journal_is_asked_less_often() -> None:
    world = World()

    async def slowly() -> Backlog:
        world.clock.advance(0.1)
        return await world._count()

    world.backlog = slowly
    lookout = world.lookout()
    await lookout.status()
    world.clock.advance(1.9)
    await lookout.status()
    assert world.looks == 1
    world.clock.advance(0.2)
    await lookout.status()
    assert world.looks == 2


async def test_however_slow_it_is_what_is_shown_is_never_old() -> None:
    world = World()

    async def very_slowly() -> Backlog:
        world.clock.advance(1.5)
        return await world._count()

    world.backlog = very_slowly
    lookout = world.lookout()
    await lookout.status()
    world.clock.advance(5)
    await lookout.status()
    assert world.looks == 2


async def broken() -> Backlog:
    raise JournalError("disk full")


async def hanging() -> Backlog:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("journal", [broken, hanging])
@virtual_time
async def test_without_a_journal_all_else_is_told(journal: Callable[[], Awaitable[Backlog]]) -> None:
    world = World()
    world.backlog = journal
    status = await world.lookout().status()
    assert status.backlog is None
    assert status.parked == ()
    assert status.in_flight == 7


async def test_parked_tasks_are_asked_for_only_where_there_are_some() -> None:
    world = World()
    assert len((await world.lookout().status()).parked) == 1
    assert world.asked == [MOST_PARKED]
    world.held = Backlog()
    assert (await world.lookout().status()).parked == ()
    assert world.asked == [MOST_PARKED]


async def test_what_servers_say_is_cut_and_holds_no_secret() -> None:
    world = World()
    key = "sk-abcdefghijklmnop"
    world.tell(
        BreakerChanged("mock", "open", f"401 for Authorization: Bearer {key}"),
        TaskSettled("1", "c", "text_embedding", "failed", 1.0, reason=f"refused {key}"),
    )
    status = await world.lookout().status()
    assert status.parked[0].reason.startswith("server says [31mno no")
    assert len(status.parked[0].reason) == 500
    assert key not in str(status)
    assert status.failures[0].reason == "refused [redacted]"
