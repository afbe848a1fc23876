"""procrastinate: the bridge and the worker in one process, as its documentation shows for async programs."""

import asyncio
import os

import procrastinate
from common import AT_ONCE, Task, bridge, perform, session

DATABASE = os.environ.get("BENCH_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
SCHEMA = "bench_procrastinate"

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=DATABASE, kwargs={"options": f"-c search_path={SCHEMA}"})
)
http = None


@app.task(name="embed", queue="bench")
async def embed(task: Task) -> None:
    """The job."""
    await perform(http, task)


async def prepare() -> None:
    """A schema of its own, made afresh."""
    async with app.open_async():
        await app.connector.execute_query_async(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await app.connector.execute_query_async(f"CREATE SCHEMA {SCHEMA}")
        await app.schema_manager.apply_schema_async()


async def enqueue(tasks: list[Task]) -> None:
    """All of them in one statement."""
    if tasks:
        await embed.batch_defer_async(*({"task": task} for task in tasks))


async def main() -> None:
    """Both for ever."""
    global http  # a task has no other way to it
    await prepare()
    async with app.open_async(), session() as http, asyncio.TaskGroup() as group:
        group.create_task(bridge(enqueue))
        group.create_task(app.run_worker_async(queues=["bench"], concurrency=AT_ONCE, delete_jobs="always"))


if __name__ == "__main__":
    asyncio.run(main())
