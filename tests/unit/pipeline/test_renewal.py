from collections.abc import Sequence

import pytest

from ai_task_processor.domain.errors import BreakerOpen, TaskApiUnavailable
from ai_task_processor.domain.events import TasksLetGo
from ai_task_processor.domain.outcome import Succeeded
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.renewal import Renewal
from tests.fakes.flow import VECTOR, Recorder, task
from tests.fakes.time import ManualClock


class Desk:
    """Leases of a minute, with a journal that holds some tasks."""

    def __init__(self) -> None:
        self.has_leases = True
        self.fault: Exception | None = None
        self.renewed: list[Sequence[str]] = []
        self.clock = ManualClock()
        self.seen = Recorder()
        self.journal = MemoryJournal(self.clock)
        self.my_turn = True
        self.renewal = self.made()

    def made(self, *, lets_go: bool = True) -> Renewal:
        return Renewal(
            60,
            journal=self.journal,
            leases=self,
            clock=self.clock,
            observer=self.seen,
            turn=self,
            lets_go=lets_go,
        )

    async def used(self) -> bool:
        if self.fault:
            raise self.fault
        return self.has_leases

    async def renew(self, task_ids: Sequence[str]) -> None:
        self.renewed.append(task_ids)

    async def mine(self) -> bool:
        return self.my_turn

    async def pass_on(self) -> None:
        raise AssertionError("nobody asked for it")


@pytest.fixture
async def desk() -> Desk:
    made = Desk()
    await made.journal.accept([task("a"), task("b"), task("c")], 0)
    return made


async def test_everything_that_is_held_is_renewed_three_times_in_a_lease(desk: Desk) -> None:
    assert await desk.renewal.step() == 20
    await desk.journal.claim(2)
    await desk.journal.settle({"a": Succeeded(VECTOR)})
    assert await desk.renewal.step() == 20
    await desk.journal.mark_reported(["a"])
    assert await desk.renewal.step() == 20
    assert [sorted(ids) for ids in desk.renewed] == [["a", "b", "c"], ["a", "b", "c"], ["b", "c"]]


async def test_nothing_is_renewed_that_is_not_leased(desk: Desk) -> None:
    desk.has_leases = False
    assert await desk.renewal.step() == 20
    assert desk.renewed == []


async def test_one_replica_renews_for_all(desk: Desk) -> None:
    desk.my_turn = False
    assert await desk.renewal.step() == 20
    assert desk.renewed == []


@pytest.mark.parametrize("fault", [TaskApiUnavailable("down"), BreakerOpen("open", until=1.0)])
async def test_what_fails_is_tried_again_soon(desk: Desk, fault: Exception) -> None:
    desk.fault = fault
    assert await desk.renewal.step() == 4
    desk.fault = None
    assert await desk.renewal.step() == 20
    assert len(desk.renewed) == 1


async def test_what_was_not_renewed_in_time_and_not_begun_is_let_go_once(desk: Desk) -> None:
    await desk.renewal.step()
    await desk.journal.claim(1)
    desk.fault = TaskApiUnavailable("down")
    waited = 0.0
    while await desk.journal.backlog() == Backlog(ready=2, claimed=1):
        rest = await desk.renewal.step()
        desk.clock.advance(rest)
        waited += rest
    assert 60 < waited <= 60 + 2 * 4
    assert desk.seen.events == [TasksLetGo(count=2)]
    assert await desk.journal.held() == ("a",)
    await desk.journal.accept([task("b")], 0)
    desk.clock.advance(600)
    await desk.renewal.step()
    assert {*await desk.journal.held()} == {"a", "b"}, "claimed, or listed, since"


async def test_what_a_process_left_long_ago_is_let_go_before_the_next_begins(desk: Desk) -> None:
    await desk.renewal.step()
    desk.clock.advance(59)
    await desk.made().let_go()
    assert len(await desk.journal.held()) == 3
    desk.clock.advance(2)
    await desk.made().let_go()
    assert await desk.journal.held() == ()


async def test_where_nothing_is_leased_nothing_is_let_go(desk: Desk) -> None:
    desk.has_leases = False
    for _ in range(9):
        desk.clock.advance(await desk.renewal.step())
    assert len(await desk.journal.held()) == 3


async def test_who_announces_tasks_lets_none_go(desk: Desk) -> None:
    announcing = desk.made(lets_go=False)
    await announcing.step()
    desk.clock.advance(600)
    await announcing.let_go()
    assert len(await desk.journal.held()) == 3
