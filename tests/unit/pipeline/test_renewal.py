from collections.abc import Sequence

import pytest

from ai_task_processor.domain.errors import BreakerOpen, TaskApiUnavailable
from ai_task_processor.domain.outcome import Succeeded
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.renewal import Renewal
from tests.fakes.flow import VECTOR, task
from tests.fakes.time import ManualClock


class Desk:
    """Leases of a minute, with a journal that holds some tasks."""

    def __init__(self) -> None:
        self.has_leases = True
        self.fault: Exception | None = None
        self.renewed: list[Sequence[str]] = []
        self.journal = MemoryJournal(ManualClock())
        self.my_turn = True
        self.renewal = Renewal(60, journal=self.journal, leases=self, turn=self)

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
