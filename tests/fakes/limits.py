"""A computer whose clock is set, callers that book one thing after the other, and an executor without threads."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from hypothesis import strategies as st

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import RateLimited

T = TypeVar("T")


class Inline(Executor):
    """Runs what it is given at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - a future carries whatever was raised
            future.set_exception(error)
        return future


class Machine:
    """A computer: true time that only moves on, and a wall clock that may be set."""

    def __init__(self, wall: float, monotonic: float = 100.0) -> None:
        self.wall = wall
        self.monotonic = monotonic

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds

    def clock(self) -> Clock:
        return _ProcessClock(self)


class _ProcessClock:
    """As the system's clock of one process: never backwards."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._latest, self._read_at = machine.wall, machine.monotonic

    def now(self) -> float:
        steady = self._latest + self._machine.monotonic - self._read_at
        self._latest, self._read_at = max(self._machine.wall, steady), self._machine.monotonic
        return self._latest

    def monotonic(self) -> float:
        return self._machine.monotonic


class Caller:
    """An asyncio task that does one thing after the other, as a dispatch lane does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._orders: asyncio.Queue[tuple[Coroutine[Any, Any, None], asyncio.Future[None]]] = asyncio.Queue()
        self._loop = loop
        self.task = loop.create_task(self._work())
        self.booked: list[float] | None = None

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._orders.put_nowait((work, done))
        self._loop.run_until_complete(done)

    async def _work(self) -> None:
        while True:
            work, done = await self._orders.get()
            try:
                await work
            except RateLimited as error:
                done.set_exception(error)
            else:
                done.set_result(None)


SECONDS = st.one_of(
    st.floats(0, 2),
    st.floats(0, 130),
    st.sampled_from([0.46875, 59.999, 60.0, 60.47, 3_599.999, 3_600.0, 3_700.0]),
)
