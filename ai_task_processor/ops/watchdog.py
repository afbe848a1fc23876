"""Notices when the event loop is held up."""

import asyncio

from ai_task_processor.domain.events import LoopLagged
from ai_task_processor.domain.ports import Observer

EVERY = 0.05
"""Seconds between two looks: whatever holds the loop up for longer is noticed."""


async def watch_loop(observer: Observer, *, every: float = EVERY) -> None:
    """Set a timer every so many seconds, and tell how late the loop comes to it, for as long as this runs."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every
        await asyncio.sleep(every)
        observer(LoopLagged(seconds=max(0.0, loop.time() - due)))
