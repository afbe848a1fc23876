import asyncio
import math

import pytest

from ai_task_processor.pipeline.run import Bell, Lane, Pipeline
from tests.fakes.time import virtual_time


class Counting:
    """A stage that answers each step with the next rest of its script, and rests for ever after the last."""

    def __init__(self, *rests: float) -> None:
        self.rests = list(rests)
        self.times: list[float] = []

    async def step(self) -> float:
        self.times.append(asyncio.get_running_loop().time())
        return self.rests.pop(0) if self.rests else math.inf


async def stop_after(pipeline: Pipeline, seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline.run())
        await asyncio.sleep(seconds)
        pipeline.stop()


@virtual_time
async def test_a_stage_is_repeated_at_once_or_after_its_rest() -> None:
    stage = Counting(0, 0, 5)
    await stop_after(Pipeline(inner=[Lane("stage", stage, Bell())], outer=[]), 60)
    assert stage.times == pytest.approx([0, 0, 0, 5], abs=0.01)


@virtual_time
async def test_a_round_that_did_something_wakes_the_next_stage() -> None:
    first, second = Counting(7, 0), Counting()
    bell = Bell()
    lanes = [Lane("first", first, Bell(), wakes=[bell]), Lane("second", second, bell)]
    await stop_after(Pipeline(inner=lanes, outer=[]), 60)
    assert second.times == pytest.approx([0, 7], abs=0.01)


@virtual_time
async def test_a_ring_during_a_step_is_not_lost() -> None:
    bell = Bell()

    class RungWhileBusy(Counting):
        async def step(self) -> float:
            if not self.times:
                bell.ring()
            return await super().step()

    stage = RungWhileBusy()
    await stop_after(Pipeline(inner=[Lane("stage", stage, bell)], outer=[]), 10)
    assert len(stage.times) == 2


@virtual_time
async def test_a_stop_lets_the_outer_lanes_drain() -> None:
    inner, outer = Counting(), Counting(math.inf, 0, 0, 0)
    pipeline = Pipeline(inner=[Lane("inner", inner, Bell())], outer=[Lane("outer", outer, Bell())])
    await stop_after(pipeline, 3)
    assert outer.rests == []
    assert outer.times == pytest.approx([0, 3, 3, 3, 3], abs=0.01)


@virtual_time
async def test_a_lane_that_drops_is_cancelled_by_a_stop_and_others_finish() -> None:
    finished: list[str] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        async def step(self) -> float:
            await asyncio.sleep(100)
            finished.append(self.name)
            return 0.0

    lanes = [Lane("fetch", Slow("fetch"), Bell(), drops=True), Lane("work", Slow("work"), Bell())]
    await stop_after(Pipeline(inner=lanes, outer=[]), 1)
    assert finished == ["work"]


@virtual_time
async def test_a_crash_of_one_lane_ends_all() -> None:
    class Broken:
        async def step(self) -> float:
            raise LookupError

    pipeline = Pipeline(inner=[Lane("broken", Broken(), Bell())], outer=[Lane("outer", Counting(), Bell())])
    with pytest.raises(ExceptionGroup) as caught:
        await pipeline.run()
    assert caught.group_contains(LookupError)


@virtual_time
async def test_an_idle_stage_looks_again_by_itself() -> None:
    stage = Counting()
    await stop_after(Pipeline(inner=[Lane("stage", stage, Bell(), longest_rest=10)], outer=[]), 25)
    assert stage.times == pytest.approx([0, 10, 20], abs=0.01)
