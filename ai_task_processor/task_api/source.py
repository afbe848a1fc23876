"""Tasks from the Task API."""

import asyncio
from collections.abc import Collection

from msgspec.structs import replace

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.ports import Wish
from ai_task_processor.domain.task import Page
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.requests import Body
from ai_task_processor.task_api.wire import reading


class ApiTaskSource:
    """The pending tasks of a Task API; see :class:`~ai_task_processor.domain.ports.TaskSource`."""

    def __init__(self, client: TaskApiClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def fetch(self, wish: Wish) -> Page:
        """Fetch and understand one page; how many of it are new is not the API's to know."""
        fetched_at = self._clock.now()
        body = await self._client.pending(wish.limit)
        return await understood(body, fetched_at, most=wish.most, types=wish.types)


async def understood(
    body: Body,
    fetched_at: float,
    *,
    most: int | None = None,
    types: Collection[str] | None = None,
    claimed: bool = False,
) -> Page:
    """Understand one page, letting others run between its parts."""
    steps = reading(body, fetched_at, most=most, types=types)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            page: Page = end.value
            return replace(page, claimed=claimed)
        await asyncio.sleep(0)
