"""A task is answered at once although the interval is long, where somebody says that there is one."""

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.daemon import Process, environment_for, metric_in, right_vector, started
from tests.fakes.task_api_server import FakeTaskApi

INTERVAL = 30.0
TOKEN = "knock-knock"


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


async def by_route(daemon: Process) -> None:
    asked = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as session, session.post(f"{await daemon.url()}/poll", headers=asked) as answer:
        assert answer.status == 202


async def by_signal(daemon: Process) -> None:
    daemon.send(signal.SIGUSR1)


@pytest.mark.parametrize("wish", [by_route, by_signal])
async def test_a_task_does_not_wait_for_the_interval(
    api: FakeTaskApi, tmp_path: Path, wish: Callable[[Process], Awaitable[None]]
) -> None:
    env = environment_for(api, tmp_path, polling_interval_seconds=INTERVAL, poll_token=TOKEN)
    async with started("run", folder=tmp_path, env=env) as daemon:
        await daemon.url()
        await api.until(lambda: bool(api.fetches))
        for number in range(3):
            began = time.monotonic()
            api.add({"_id": str(number), "content": {"text": f"text {number}"}})
            await wish(daemon)
            await api.until(lambda: "pending" not in api.states())
            assert time.monotonic() - began < INTERVAL / 3
        assert all(right_vector(task["result"], task["content"]["text"]) for task in api.tasks.values())
        _, exposition = await daemon.get("/metrics")
        assert metric_in(exposition, "event_loop_lag_seconds_count") > 0
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert TOKEN not in daemon.text
        assert TOKEN not in exposition


async def test_without_a_token_there_is_no_such_route(api: FakeTaskApi, tmp_path: Path) -> None:
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path)) as daemon:
        url = f"{await daemon.url()}/poll"
        async with aiohttp.ClientSession() as session, session.post(url, headers={"Authorization": "Bearer "}) as no:
            assert no.status == 404
