"""Settings that change while the daemon runs: on SIGHUP for a real process, and what they change on simulated time."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.domain.events import LimitReached, ModelsMissing, ModelsReady, Polled
from ai_task_processor.settings import load_settings
from tests.fakes.daemon import REAL_SECONDS, Daemon, Process, running, settings_for, simulated_time, started
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.task_api_server import CLIENT_SECRET, FakeTaskApi
from tests.fakes.time import LoopClock


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


def write(folder: Path, api: FakeTaskApi, **settings: object) -> None:
    """The settings of a daemon in a hurry, as its operator would write them."""
    hurry = {"polling_interval_seconds": 0.2, "request_timeout": 5, "log_format": "json"}
    values = settings_for(api, folder) | hurry | settings
    del values["oauth2_client_secret"]
    lines = [f"{name.upper()}={value}" for name, value in values.items()]
    (folder / ".env").write_text("\n".join([*lines, "OAUTH2_CLIENT_SECRET_FILE=secret"]))
    if not (folder / "secret").exists():
        (folder / "secret").write_text(CLIENT_SECRET)


async def done(api: FakeTaskApi, count: int) -> None:
    """Wait until so many tasks have their results."""
    async with asyncio.timeout(REAL_SECONDS):
        await api.until(lambda: api.states()["succeeded"] == count)


async def windows(daemon: Process) -> Mapping[str, tuple[int, int]]:
    """What is used of each limit."""
    _, body = await daemon.get("/health")
    used: dict[str, Any] = json.loads(body)["rate_limiting"]["current_usage"]
    return {window: (one["current"], one["limit"]) for window, one in used.items()}


async def writing_end(fifo: Path) -> int:
    """The fifo opened for writing, which nobody can do before somebody opens it for reading."""
    async with asyncio.timeout(REAL_SECONDS):
        while True:
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                await asyncio.sleep(0.005)


# --- A real process ---------------------------------------------------------------------------------------------------


async def test_new_limits_hold_at_once_and_forget_nothing(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": str(number)} for number in range(6)))
    write(tmp_path, api, rate_limit_per_day=2, log_level="INFO")
    async with started("run", folder=tmp_path) as daemon:
        await done(api, 2)
        assert await windows(daemon) == {"day": (2, 2)}
        write(tmp_path, api, rate_limit_per_day=5, rate_limit_per_month=100, log_level="DEBUG")
        daemon.send(signal.SIGHUP)
        changed = await daemon.says("Configuration changed")
        await done(api, 5)
        assert await windows(daemon) == {"day": (5, 5), "month": (3, 100)}
        await daemon.says("Task API request", level="debug")
        daemon.send(signal.SIGHUP)
        await daemon.says("Configuration read again, it is the same")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert sorted(changed["changes"]) == [
        "LOG_LEVEL: INFO became DEBUG",
        "RATE_LIMIT_PER_DAY: 2 became 5",
        "RATE_LIMIT_PER_MONTH: 0 became 100",
    ]
    assert not [line for line in daemon.lines[: daemon.lines.index(changed)] if line["level"] == "debug"]


async def test_a_change_that_cannot_be_made_is_refused_as_a_whole_with_every_fault(
    api: FakeTaskApi, tmp_path: Path
) -> None:
    write(tmp_path, api, rate_limit_per_day=20)
    async with started("run", folder=tmp_path) as daemon:
        await daemon.url()
        write(tmp_path, api, rate_limit_per_day=40, rate_limit_per_week="plenty", batch_size=32, log_level="DEBUG")
        (tmp_path / "secret").write_text("another secret of theirs")
        daemon.send(signal.SIGHUP)
        refused = await daemon.says("Configuration cannot be changed like this", level="error")
        assert len(refused["faults"]) == 3
        told = "\n".join(refused["faults"])
        assert "RATE_LIMIT_PER_WEEK: 'plenty' cannot be used" in told
        assert "BATCH_SIZE: 64 became 32; a restart is needed for that" in told
        assert "OAUTH2_CLIENT_SECRET: changed; a restart is needed for that" in told
        assert await windows(daemon) == {"day": (0, 20)}
        for content, fault in (
            (b"LOG_LEVEL=\xff", "cannot be read: it is not UTF-8"),
            (b"", "API_BASE_URL: is missing"),
        ):
            (tmp_path / ".env").write_bytes(content)
            daemon.send(signal.SIGHUP)
            await daemon.until(lambda fault=fault: fault in daemon.text)  # type: ignore[misc]  # the loop's own
        write(tmp_path, api, rate_limit_per_day=40)
        (tmp_path / "secret").write_text(CLIENT_SECRET)
        daemon.send(signal.SIGHUP)
        await daemon.says("Configuration changed")
        assert await windows(daemon) == {"day": (0, 40)}
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert not [line for line in daemon.lines if line["level"] == "debug"]
    assert "another secret" not in daemon.text
    assert CLIENT_SECRET not in daemon.text


async def test_a_signal_while_it_starts_kills_nobody(api: FakeTaskApi, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    write(tmp_path, api, poll_token_file="token", log_level="INFO")
    async with started("run", folder=tmp_path) as daemon:
        pipe = await writing_end(tmp_path / "token")  # the daemon reads it now: it has begun, and no loop runs
        daemon.send(signal.SIGHUP)
        os.write(pipe, b"knock-knock")
        os.close(pipe)
        await daemon.url()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


# --- What changes, on simulated time ----------------------------------------------------------------------------------


async def change(daemon: Daemon, **settings: object) -> None:
    """Have the daemon go on with these settings, other than before."""
    given = {name: getattr(daemon.settings, name) for name in daemon.settings.model_fields_set}
    await daemon.app.adjust(load_settings(None, before=daemon.settings, **(given | settings)))


@simulated_time
async def test_a_limit_that_is_raised_lets_what_waits_for_it_go_on(tmp_path: Path) -> None:
    clock = LoopClock()
    async with FakeTaskApi(clock=clock) as api:
        api.add(*({"_id": str(number)} for number in range(30)))
        async with running(api, tmp_path, rate_limit_per_month=10, concurrency_limit=2, batch_size=8) as daemon:
            await daemon.reported(10)
            await daemon.watch.seen(LimitReached, window="month")
            began = clock.now()
            await change(daemon, rate_limit_per_month=1_000)
            await daemon.reported(30)
            assert clock.now() - began < 150
            assert await daemon.metric("rate_limit_used", window="month") == 30
            assert await daemon.metric("rate_limit_limit", window="month") == 1_000
            await change(daemon, rate_limit_per_month=0, token_limit_per_day=10**6)
            _, metrics = await daemon.get("/health")
            assert set(metrics["rate_limiting"]["current_usage"]) == {"tokens_per_day"}
            assert await daemon.metric("rate_limit_used") == 0
            await change(daemon, rate_limit_enabled=False)
            _, health = await daemon.get("/health")
            assert health["rate_limiting"] == {"enabled": False, "strategy": "rolling", "current_usage": {}}


@simulated_time
async def test_a_shorter_interval_ends_a_long_rest(tmp_path: Path) -> None:
    clock = LoopClock()
    async with FakeTaskApi(clock=clock) as api, running(api, tmp_path, polling_interval_seconds=3_600) as daemon:
        await daemon.watch.seen(Polled)
        await change(daemon, polling_interval_seconds=10)
        began = clock.now()
        await daemon.watch.seen(Polled, 4)
        assert 20 < clock.now() - began < 45


@simulated_time
async def test_models_that_are_added_are_pulled_and_removed_ones_are_refused(tmp_path: Path) -> None:
    clock = LoopClock()
    async with (
        FakeTaskApi(clock=clock) as api,
        OllamaServer(models=["nomic-embed-text"], registry=["all-minilm"]) as ollama,
        running(api, tmp_path, processing_mode="ollama", ollama_base_url=ollama.url) as daemon,
    ):
        await daemon.watch.seen(ModelsReady)
        await change(daemon, supported_models="nomic-embed-text,misspelt")
        await daemon.watch.seen(ModelsMissing, 6)
        began = clock.now()
        await change(daemon, supported_models="all-minilm")
        await daemon.watch.seen(ModelsReady, 2)
        assert clock.now() - began < 5, "the rest after a failure is cut short"
        assert ollama.pulls[-1] == "all-minilm"
        api.add(
            {"_id": "new", "content": {"text": "a", "model": "all-minilm"}},
            {"_id": "gone", "content": {"text": "b", "model": "nomic-embed-text"}},
            {"_id": "none", "content": {"text": "c"}},
        )
        await daemon.reported(3)
        assert {key: task["state"] for key, task in api.tasks.items()} == {
            "new": "succeeded",
            "gone": "failed",
            "none": "succeeded",
        }
        assert "is not supported here; use one of: all-minilm" in api.tasks["gone"]["error"]
        assert len(api.tasks["none"]["result"]) == 384
