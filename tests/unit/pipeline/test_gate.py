from ai_task_processor.domain.events import IntakePaused, IntakeResumed, PollPlanned
from ai_task_processor.pipeline.gate import GLANCE, Gate, Gated
from tests.fakes.flow import Recorder
from tests.fakes.time import ManualClock


class Rounds:
    """A stage that counts its rounds."""

    def __init__(self) -> None:
        self.count = 0

    async def step(self) -> float:
        self.count += 1
        return 30.0


class Line:
    """Two replicas that stand in line; whether this one is first."""

    def __init__(self) -> None:
        self.first = True
        self.writes = 0

    async def mine(self) -> bool:
        return self.first

    async def pass_on(self) -> None:
        self.first = False
        self.writes += 1


def test_each_way_is_told_once() -> None:
    seen = Recorder()
    gate = Gate(seen)
    for act in (gate.resume, gate.pause, gate.pause, gate.resume, gate.resume):
        act()
    assert seen.events == [IntakePaused(), IntakeResumed()]


async def test_behind_a_closed_gate_there_are_signs_of_life_and_no_rounds() -> None:
    stage, seen, clock = Rounds(), Recorder(), ManualClock()
    gate = Gate(seen)
    gated = Gated(stage, gate, clock=clock, observer=seen)
    assert await gated.step() == 30.0
    gate.pause()
    for _ in range(3):
        clock.advance(await gated.step())
    assert stage.count == 1
    assert seen.of(PollPlanned)[-1] == PollPlanned(by=clock.now())
    gate.resume()
    assert await gated.step() == 30.0
    assert stage.count == 2


async def test_a_paused_replica_leaves_the_turn_to_another() -> None:
    seen, line = Recorder(), Line()
    gate = Gate(seen)
    gated = Gated(Rounds(), gate, clock=ManualClock(), observer=seen, turn=line)
    await gated.step()
    assert line.first
    gate.pause()
    assert await gated.step() == GLANCE
    assert not line.first
    await gated.step()
    assert line.writes == 1
