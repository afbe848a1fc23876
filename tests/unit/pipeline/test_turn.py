"""Intake where replicas share the journal: one of them polls."""

import random

import pytest

from ai_task_processor.domain.errors import (
    AuthenticationFailed,
    BreakerOpen,
    TaskApiRejected,
    TaskApiUnavailable,
    TaskProcessorError,
)
from ai_task_processor.domain.events import PollPlanned, TurnElsewhere
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.intake import TURN_GLANCE, Intake, IntakeSettings
from tests.fakes.flow import Echo, OneWindow, Recorder, ScriptedSource, page
from tests.fakes.time import BEGINNING, ManualClock

DOWN, KEPT_OUT = TaskApiUnavailable("down"), AuthenticationFailed("kept out")
PATIENCE = TaskApiUnavailable("busy", retry_after=5.0)


class Turns:
    """Whose turn it is, as a test says."""

    def __init__(self, *, ours: bool) -> None:
        self.ours = ours
        self.passed_on = 0

    async def mine(self) -> bool:
        return self.ours

    async def pass_on(self) -> None:
        self.passed_on += 1


def intake(turns: Turns, interval: float, source: ScriptedSource, seen: Recorder, clock: ManualClock) -> Intake:
    return Intake(
        IntakeSettings(interval=interval, fetch_limit=10, hold_limit=100),
        source=source,
        journal=MemoryJournal(clock),
        processors={"echo": Echo()},
        limiter=OneWindow(),
        clock=clock,
        observer=seen,
        randomness=random.Random(1),
        turn=turns,
    )


async def test_leaves_polling_to_another_and_looks_again_soon() -> None:
    source, seen, clock = ScriptedSource(), Recorder(), ManualClock()
    ours = intake(Turns(ours=False), 30.0, source, seen, clock)
    assert await ours.step() == TURN_GLANCE
    assert source.limits == []
    assert seen.of(TurnElsewhere) == [TurnElsewhere()]
    assert seen.of(PollPlanned) == [PollPlanned(by=clock.now() + TURN_GLANCE)]
    assert await intake(Turns(ours=False), 0.5, source, seen, clock).step() == 0.5


async def test_polls_at_once_when_it_becomes_its_turn() -> None:
    source, clock = ScriptedSource(), ManualClock()
    turns = Turns(ours=False)
    ours = intake(turns, 30.0, source, Recorder(), clock)
    clock.advance(await ours.step())
    turns.ours = True
    await ours.step()
    assert source.limits == [10]


async def test_stops_polling_when_it_is_no_longer_its_turn() -> None:
    source, clock = ScriptedSource(), ManualClock()
    turns = Turns(ours=True)
    ours = intake(turns, 30.0, source, Recorder(), clock)
    clock.advance(await ours.step())
    turns.ours = False
    for _ in range(3):
        clock.advance(await ours.step())
    assert source.limits == [10]


@pytest.mark.parametrize(
    ("errors", "passed_on"),
    [
        ([DOWN], 0),
        ([DOWN, DOWN], 1),
        ([DOWN, DOWN, DOWN], 2),
        ([KEPT_OUT, KEPT_OUT], 1),
        ([BreakerOpen("open", until=BEGINNING + 30)], 1),
        ([PATIENCE, PATIENCE, PATIENCE], 0),
        ([TaskApiRejected("limit too large"), TaskApiRejected("limit too large")], 0),
    ],
)
async def test_passes_its_turn_on_when_the_api_cannot_be_reached(
    errors: list[TaskProcessorError], passed_on: int
) -> None:
    source, clock, turns = ScriptedSource(*errors), ManualClock(), Turns(ours=True)
    ours = intake(turns, 30.0, source, Recorder(), clock)
    for _ in errors:
        clock.advance(await ours.step())
    assert (len(source.limits), turns.passed_on) == (len(errors), passed_on)


async def test_a_page_makes_failures_before_it_forgotten() -> None:
    source, clock, turns = ScriptedSource(DOWN, page(), DOWN), ManualClock(), Turns(ours=True)
    ours = intake(turns, 30.0, source, Recorder(), clock)
    for _ in range(3):
        clock.advance(await ours.step())
    assert (len(source.limits), turns.passed_on) == (3, 0)
