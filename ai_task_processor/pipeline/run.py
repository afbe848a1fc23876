"""Repeating stages, waking them, and stopping them in the order of the flow."""

import asyncio
import math
from collections.abc import Sequence

from msgspec import Struct

from ai_task_processor.domain.ports import Stage

SHORTEST_REST = 0.001
"""Seconds; a stage that has just said «not yet» is not asked again in the same breath."""


LAST_MOMENT = 1.0
"""Seconds in which a round that would be dropped by a stop may end by itself."""


class Bell:
    """Wakes every lane that waits for it; a ring between a lane's step and its wait is not lost."""

    def __init__(self) -> None:
        self.rings = 0
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self.rings += 1
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, heard: int, seconds: float) -> None:
        """Return at the first ring after the ``heard``-th, or after ``seconds``."""
        if self.rings != heard:
            return
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else max(seconds, SHORTEST_REST)):
                await self._rung.wait()
        except TimeoutError:
            return


class Lane(Struct, frozen=True):
    """A stage as it is repeated: woken by ``bell``; a round that did something rings the bells in ``wakes``.

    A lane that ``drops`` holds nothing that a stop should wait for: its round is cancelled, after a moment in which it
    may still put away what it is just being given. It steps again after ``longest_rest`` seconds, at the latest, for
    others may have changed the journal beside us.
    """

    name: str
    stage: Stage
    bell: Bell
    wakes: Sequence[Bell] = ()
    drops: bool = False
    longest_rest: float = math.inf


class Pipeline:
    """The lanes of the flow: ``inner`` ones take and perform work, ``outer`` ones deliver it."""

    def __init__(self, *, inner: Sequence[Lane], outer: Sequence[Lane]) -> None:
        self._inner = inner
        self._outer = outer
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self._droppable: list[asyncio.Task[None]] = []

    def stop(self) -> None:
        """Take nothing new, finish what is held, deliver it; then :meth:`run` returns."""
        self._stopping.set()
        for task in self._droppable:
            task.get_loop().call_later(LAST_MOMENT, task.cancel)
        self._ring(self._inner)

    async def run(self) -> None:
        """Repeat every lane until :meth:`stop`; an error of a stage ends all of them and is raised."""
        async with asyncio.TaskGroup() as outer:
            for lane in self._outer:
                outer.create_task(_repeat(lane, self._draining, drain=True), name=lane.name)
            async with asyncio.TaskGroup() as inner:
                for lane in self._inner:
                    task = inner.create_task(_repeat(lane, self._stopping, drain=False), name=lane.name)
                    if lane.drops:
                        self._droppable.append(task)
            self._draining.set()
            self._ring(self._outer)

    def _ring(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            lane.bell.ring()


async def _repeat(lane: Lane, ending: asyncio.Event, *, drain: bool) -> None:
    """Step until ``ending``; with ``drain`` on until a round after it finds nothing to do."""
    while drain or not ending.is_set():
        heard = lane.bell.rings
        last_round = ending.is_set()
        rest = await lane.stage.step()
        if rest > 0 and last_round:
            return
        if rest <= 0:
            for bell in lane.wakes:
                bell.ring()
        else:
            await lane.bell.wait(heard, min(rest, lane.longest_rest))
