"""An operator has nothing new taken for a while: by route or by command, on a daemon that works."""

import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.daemon import Process, environment_for, finished, metric_in, started
from tests.fakes.task_api_server import FakeTaskApi

TOKEN = "knock-knock"


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def shown(daemon: Process) -> tuple[float, bool, str]:
    """What the metric, /health and /ready say; both routes with 200."""
    _, metrics = await daemon.get("/metrics")
    (healthy, health), (ready, checks) = await daemon.get("/health"), await daemon.get("/ready")
    assert (healthy, ready) == (200, 200)
    return (
        metric_in(metrics, "paused"),
        json.loads(health)["paused"],
        json.loads(checks)["checks"]["running"]["detail"],
    )


async def test_a_paused_daemon_finishes_what_it_holds_and_takes_nothing_new(api: FakeTaskApi, tmp_path: Path) -> None:
    env = environment_for(
        api,
        tmp_path,
        poll_token=TOKEN,
        metrics_port=free_port(),
        fetch_limit=4,
        hold_limit=4,
        batch_size=1,
        concurrency_limit=1,
        mock_latency_seconds=0.02,
        polling_interval_seconds=0.05,
    )
    async with started("run", folder=tmp_path, env=env) as daemon:
        await daemon.says("All services started")
        await api.until(lambda: bool(api.fetches))
        api.add(*({"_id": f"early-{number}"} for number in range(4)))
        await api.until(lambda: bool(api.patches))  # the others are held
        assert await finished("pause", folder=tmp_path, env=env) == (0, "paused\n")
        api.add(*({"_id": f"late-{number}"} for number in range(4)))
        await api.until(lambda: all(task["state"] == "succeeded" for key, task in api.tasks.items() if "early" in key))
        fetches = len(api.fetches)
        assert await finished("pause", "--json", folder=tmp_path, env=env) == (0, '{"status": "paused"}\n')
        assert len(api.fetches) == fetches, "many intervals later"
        assert {task["state"] for key, task in api.tasks.items() if "late" in key} == {"pending"}
        assert await shown(daemon) == (1, True, "paused: nothing new is taken before it is resumed")
        assert await finished("resume", folder=tmp_path, env=env) == (0, "running\n")
        await api.until(lambda: set(api.states()) == {"succeeded"})
        assert await shown(daemon) == (0, False, "all services run")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert [len(daemon.logged(words)) for words in ("Paused", "Resumed")] == [1, 1]
    assert TOKEN not in daemon.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "POLL_TOKEN: is missing"),
        ({"POLL_TOKEN": "x", "METRICS_PORT": "0"}, "METRICS_PORT: 0 lets the daemon pick any port"),
        ({"POLL_TOKEN_FILE": "nowhere"}, "POLL_TOKEN_FILE: 'nowhere' cannot be read"),
    ],
)
async def test_what_the_command_needs_is_named(tmp_path: Path, given: dict[str, str], words: str) -> None:
    code, text = await finished("pause", folder=tmp_path, env=given)
    assert code == 78
    assert words in text
    assert len(text.splitlines()) == 2


async def test_a_daemon_that_is_not_there_is_named(tmp_path: Path) -> None:
    port = free_port()
    code, text = await finished("resume", folder=tmp_path, env={"POLL_TOKEN": TOKEN, "METRICS_PORT": str(port)})
    assert code == 1
    assert f"http://127.0.0.1:{port}/resume does not answer" in text
    assert TOKEN not in text
