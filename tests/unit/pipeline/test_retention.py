import pytest

from ai_task_processor.domain.outcome import Succeeded
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.retention import Retention
from tests.fakes.flow import VECTOR, task
from tests.fakes.time import ManualClock


@pytest.mark.parametrize(("seconds", "rest"), [(86_400.0, 600.0), (3_600.0, 360.0), (60.0, 6.0), (2.0, 1.0)])
async def test_the_shorter_tasks_are_remembered_the_more_often_it_looks(seconds: float, rest: float) -> None:
    clock = ManualClock()
    assert await Retention(seconds, journal=MemoryJournal(clock), clock=clock).step() == pytest.approx(rest)


async def test_what_was_reported_long_enough_ago_is_forgotten() -> None:
    clock = ManualClock()
    journal = MemoryJournal(clock)
    retention = Retention(60.0, journal=journal, clock=clock)
    await journal.accept([task("a")], await journal.mark())
    await journal.claim(1)
    await journal.settle({"a": Succeeded(VECTOR, "m", "p", 1)})
    await journal.mark_reported(["a"])
    clock.advance(59)
    before = await journal.mark()
    await retention.step()
    assert await journal.accept([task("a")], before - 1) == (), "still known"
    clock.advance(2)
    await retention.step()
    assert await journal.accept([task("a")], before - 1) == ("a",)
