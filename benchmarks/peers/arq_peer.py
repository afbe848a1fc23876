"""arq: the bridge as a script, the worker by ``arq arq_peer.WorkerSettings``."""

import asyncio
import os
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from common import AT_ONCE, Task, bridge, perform, session

QUEUE = f"bench:arq:{os.environ['BENCH_RUN']}"
"""Of this run alone: nothing in a Redis that may be somebody's is ever cleared."""

REDIS = RedisSettings(database=9)


async def embed(context: dict[str, Any], task: Task) -> None:
    """The job."""
    await perform(context["http"], task)


async def startup(context: dict[str, Any]) -> None:
    """Open the connections."""
    context["http"] = session()


class WorkerSettings:
    """As arq's documentation has it, with more jobs at once than its ten."""

    functions: ClassVar = [embed]
    on_startup = startup
    queue_name = QUEUE
    redis_settings = REDIS
    max_jobs = AT_ONCE
    keep_result = 0
    poll_delay = 0.1


async def main() -> None:
    """The bridge: the job's id is the task's, so that none is in the queue twice."""
    pool = await create_pool(REDIS, default_queue_name=QUEUE)

    async def enqueue(tasks: list[Task]) -> None:
        for task in tasks:
            await pool.enqueue_job("embed", task, _job_id=task["_id"])

    await bridge(enqueue)


if __name__ == "__main__":
    asyncio.run(main())
