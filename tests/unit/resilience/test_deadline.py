"""A deadline does what `asyncio.timeout` does: each test runs with both."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from ai_task_processor.resilience.deadline import Deadline
from tests.fakes.time import virtual_time

Limit = Callable[[float], AbstractAsyncContextManager[object]]


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    with Deadline(seconds):
        yield


both = pytest.mark.parametrize("limit", [deadline, asyncio.timeout])


@both
@virtual_time
async def test_what_ends_in_time_is_left_alone(limit: Limit) -> None:
    async with limit(2):
        await asyncio.sleep(1)
    await asyncio.sleep(5)
    with pytest.raises(ZeroDivisionError):
        async with limit(2):
            raise ZeroDivisionError


@both
@virtual_time
async def test_what_takes_longer_is_stopped(limit: Limit) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with limit(2):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() - began == pytest.approx(2)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


@both
@virtual_time
async def test_an_error_on_the_way_out_is_not_hidden(limit: Limit) -> None:
    async def fail_when_stopped() -> None:
        async with limit(2):
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_when_stopped()


@both
@virtual_time
async def test_the_inner_of_two_is_the_first(limit: Limit) -> None:
    async with limit(9):
        with pytest.raises(TimeoutError):
            async with limit(2):
                await asyncio.Event().wait()
        await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        async with limit(2), limit(9):
            await asyncio.Event().wait()


@both
@pytest.mark.parametrize("seconds", [2, 9])
@virtual_time
async def test_a_cancellation_from_elsewhere_passes_also_where_both_come_together(limit: Limit, seconds: float) -> None:
    async def wait() -> None:
        async with limit(seconds):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + 2, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


def test_outside_of_a_task_there_is_none() -> None:
    with pytest.raises(RuntimeError), Deadline(1):
        pass
