import asyncio
from itertools import pairwise

import pytest

from ai_task_processor.domain.errors import TaskApiUnavailable
from ai_task_processor.domain.events import Event, FeatureFound, FeatureLost
from ai_task_processor.task_api.answers import RouteMissing
from ai_task_processor.task_api.features import FIRST_WAIT, LONGEST_WAIT, Feature, Features
from tests.fakes.time import ManualClock

CLAIM, BULK = Feature.CLAIM, Feature.BULK


class Desk:
    """What is known of one route, which is there, or not, as ``answer`` says."""

    def __init__(self, *wanted: Feature) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.asked = 0
        self.answer: Exception | None = None
        self.features = Features(
            dict.fromkeys(wanted or (CLAIM,), self._ask), clock=self.clock, observer=self.events.append
        )

    async def _ask(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.answer:
            raise self.answer


async def test_what_is_there_is_asked_for_once() -> None:
    desk = Desk()
    assert not desk.features.known(CLAIM)
    assert await desk.features.has(CLAIM)
    desk.clock.advance(1e6)
    assert await desk.features.has(CLAIM)
    assert desk.features.known(CLAIM)
    assert desk.asked == 1
    assert desk.events == [FeatureFound("claim")]


async def test_many_who_ask_at_once_are_one_request() -> None:
    desk = Desk()
    assert await asyncio.gather(*(desk.features.has(CLAIM) for _ in range(20))) == [True] * 20
    assert desk.asked == 1


async def test_what_nobody_wants_is_not_asked_for() -> None:
    desk = Desk(BULK)
    assert not await desk.features.has(CLAIM)
    assert desk.asked == 0


async def test_what_is_not_there_is_asked_for_ever_more_seldom() -> None:
    desk = Desk()
    desk.answer = RouteMissing("404")
    moments = [desk.clock.monotonic()]
    while len(moments) < 12:
        try:
            await desk.features.has(CLAIM)
        except RouteMissing:
            desk.features.lack(CLAIM, "404")
            moments.append(desk.clock.monotonic())
        desk.clock.advance(1)
    rests = [later - before for before, later in pairwise(moments[1:])]
    assert rests[:4] == [15, 30, 60, 120]
    assert max(rests) == LONGEST_WAIT
    assert desk.events == []


async def test_what_cannot_be_learned_is_asked_for_again_at_once() -> None:
    desk = Desk()
    desk.answer = TaskApiUnavailable("down")
    for _ in range(3):
        with pytest.raises(TaskApiUnavailable):
            await desk.features.has(CLAIM)
    desk.answer = None
    assert await desk.features.has(CLAIM)
    assert desk.asked == 4


async def test_what_was_lost_is_told_and_found_again() -> None:
    desk = Desk()
    await desk.features.has(CLAIM)
    desk.features.lack(CLAIM, "404")
    assert not await desk.features.has(CLAIM)
    desk.clock.advance(FIRST_WAIT)
    assert await desk.features.has(CLAIM)
    assert desk.events == [FeatureFound("claim"), FeatureLost("claim", "404"), FeatureFound("claim")]
