import asyncio
from collections.abc import Sequence

import pytest

from ai_task_processor.server.grouping import Grouped


class Doubling:
    """Doubles numbers, group by group as it is let; refuses a group with a zero in it."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = asyncio.Semaphore(0)
        self._let = asyncio.Semaphore(0)

    def let(self, groups: int) -> None:
        for _ in range(groups):
            self._let.release()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.groups.append(list(items))
        self.begun.release()
        await self._let.acquire()
        if 0 in items:
            raise ZeroDivisionError
        return [item * 2 for item in items]


async def start(grouped: Grouped[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(grouped(item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_calls_that_come_meanwhile_are_the_next_groups() -> None:
    double = Doubling()
    grouped = Grouped(double, most=3)
    tasks = await start(grouped, 1)
    tasks += await start(grouped, 2, 3, 4, 5)
    double.let(3)

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert double.groups == [[1], [2, 3, 4], [5]]


async def test_an_error_reaches_every_caller_of_its_group_and_nobody_else() -> None:
    double = Doubling()
    grouped = Grouped(double, most=2)
    tasks = await start(grouped, 1)
    tasks += await start(grouped, 0, 2, 3)
    double.let(3)

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert outcomes[0] == 2
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert isinstance(outcomes[2], ZeroDivisionError)
    assert outcomes[3] == 6


async def test_a_cancelled_performer_leaves_its_group_to_the_next() -> None:
    double = Doubling()
    grouped = Grouped(double, most=5)
    first = (await start(grouped, 1))[0]
    leader, follower = await start(grouped, 2, 3)
    double.let(1)
    await first
    await double.begun.acquire()
    await double.begun.acquire()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    double.let(1)

    assert await follower == 6
    assert double.groups == [[1], [2, 3], [3]]


async def test_a_caller_that_gives_up_while_waiting_is_left_out() -> None:
    double = Doubling()
    grouped = Grouped(double, most=5)
    first = (await start(grouped, 1))[0]
    waiting, other = await start(grouped, 2, 3)
    waiting.cancel()
    double.let(2)

    assert await asyncio.gather(first, other) == [2, 6]
    assert double.groups == [[1], [3]]
