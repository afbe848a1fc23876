"""The gate through which new tasks come, which an operator may close."""

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import IntakePaused, IntakeResumed, PollPlanned
from ai_task_processor.domain.ports import Observer, Stage, Turn

GLANCE = 5.0
"""Seconds between signs of life of a stage behind a closed gate, and between looks whether it has the turn."""


class Gate:
    """Whether new tasks are taken; tells ``observer`` when that changes. It is open at first."""

    def __init__(self, observer: Observer) -> None:
        self.paused = False
        """Whether it is closed."""
        self._observer = observer

    def pause(self) -> None:
        """Take nothing new until :meth:`resume`; what is held is finished."""
        if not self.paused:
            self.paused = True
            self._observer(IntakePaused())

    def resume(self) -> None:
        """Take new tasks again."""
        if self.paused:
            self.paused = False
            self._observer(IntakeResumed())


class Gated:
    """The ``stage`` that fetches, behind ``gate``: while that is closed, the ``turn`` is left to other replicas.

    A round that has begun when the gate is closed is finished, and what it brought is held.
    """

    def __init__(self, stage: Stage, gate: Gate, *, clock: Clock, observer: Observer, turn: Turn | None = None) -> None:
        self._stage = stage
        self._gate = gate
        self._turn = turn
        self._clock = clock
        self._observer = observer

    async def step(self) -> float:
        """Do a round of the stage, or none; see :class:`~ai_task_processor.domain.ports.Stage`."""
        if not self._gate.paused:
            return await self._stage.step()
        if self._turn and await self._turn.mine():
            await self._turn.pass_on()
        self._observer(PollPlanned(by=self._clock.now() + GLANCE))
        return GLANCE
