"""Intake where replicas share the journal: one of them polls."""

import random

from ai_task_processor.domain.events import PollPlanned, TurnElsewhere
from ai_task_processor.journal.memory import MemoryJournal
from ai_task_processor.pipeline.intake import TURN_GLANCE, Intake, IntakeSettings
from tests.fakes.flow import Echo, OneWindow, Recorder, ScriptedSource
from tests.fakes.time import ManualClock


class Turns:
    """Whose turn it is, as a test says."""

    def __init__(self, *, ours: bool) -> None:
        self.ours = ours

    async def mine(self) -> bool:
        return self.ours


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
