"""Calls that arrive while one group of them is being done are done together as the next."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Turns a function of many items, at most ``most`` at a time, into one of a single item.

    ``perform`` answers one value per item, in order; where it raises, every caller of that group gets the error. The
    first caller of a group performs it for all; if that one is cancelled, the next does it again, so ``perform`` must
    be safe to repeat.
    """

    def __init__(self, perform: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int) -> None:
        self._perform = perform
        self._most = most
        self._waiting: dict[asyncio.Future[R], T] = {}
        self._turn = asyncio.Lock()

    async def __call__(self, item: T) -> R:
        """Do ``item`` together with all that wait by the time its turn comes."""
        mine: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[mine] = item
        try:
            async with self._turn:
                if not mine.done():
                    await self._perform_next()
            return mine.result()
        finally:
            self._waiting.pop(mine, None)
            mine.cancel()

    async def _perform_next(self) -> None:
        group = dict(islice(self._waiting.items(), self._most))
        try:
            results = await self._perform(list(group.values()))
        except Exception as error:  # noqa: BLE001 - handed to every caller, who raises it
            for future in self._leaving(group):
                future.set_exception(error)
        else:
            values = dict(zip(group, results, strict=True))
            for future in self._leaving(group):
                future.set_result(values[future])

    def _leaving(self, group: Iterable[asyncio.Future[R]]) -> list[asyncio.Future[R]]:
        for future in group:
            self._waiting.pop(future, None)
        return [future for future in group if not future.done()]
