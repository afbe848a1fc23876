"""Tasks from the Task API."""

import asyncio
from collections.abc import Collection

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.task import Page
from ai_task_processor.task_api.client import TaskApiClient
from ai_task_processor.task_api.wire import reading


class ApiTaskSource:
    """The pending tasks of a Task API; see :class:`~ai_task_processor.domain.ports.TaskSource`."""

    def __init__(self, client: TaskApiClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def fetch(self, limit: int, *, most: int | None = None, types: Collection[str] | None = None) -> Page:
        """Fetch and understand one page, letting others run between its parts."""
        fetched_at = self._clock.now()
        steps = reading(await self._client.pending(limit), fetched_at, most=most, types=types)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                page: Page = end.value
                return page
            await asyncio.sleep(0)
