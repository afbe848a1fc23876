"""taskiq: the bridge as a script, the worker by ``taskiq worker taskiq_peer:broker``."""

import asyncio
import os

from common import AT_ONCE, Task, bridge, perform, session
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker("redis://127.0.0.1:6379/9", queue_name=f"bench:taskiq:{os.environ['BENCH_RUN']}")


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state: TaskiqState) -> None:
    """Open the connections."""
    state.http = session()


@broker.task(task_name="embed")
async def embed(task: Task, context: Context = TaskiqDepends()) -> None:  # noqa: B008  # taskiq's way
    """The job."""
    await perform(context.state.http, task)


async def main() -> None:
    """The bridge."""
    await broker.startup()

    async def enqueue(tasks: list[Task]) -> None:
        await asyncio.gather(*(embed.kiq(task) for task in tasks[:AT_ONCE]))
        if len(tasks) > AT_ONCE:
            await enqueue(tasks[AT_ONCE:])

    await bridge(enqueue)


if __name__ == "__main__":
    asyncio.run(main())
