"""What an operator sees of a daemon at work: routes, log lines, correlation ids, and never a secret or a text."""

import json
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from ai_task_processor import __version__
from tests.fakes.daemon import Process, environment_for, metric_in, running, simulated_time, started
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.task_api_server import CLIENT_SECRET, FakeTaskApi, answer
from tests.fakes.time import LoopClock

SECRET_TEXT = "the patient's unmistakable diagnosis"


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


async def until_finished(api: FakeTaskApi) -> None:
    """Looked at with every request, and there is one with every poll."""
    await api.until(lambda: not {"pending", "in_progress"} & set(api.states()))


# --- Routes -----------------------------------------------------------------------------------------------------------


@simulated_time
async def test_the_routes_of_a_daemon_that_works(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": str(number)} for number in range(5)))
        async with running(api, tmp_path, rate_limit_per_minute=20, rate_limit_per_day=1_000) as daemon:
            await daemon.reported(5)
            status, health = await daemon.get("/health")
            assert status == 200
            assert (health["status"], health["service"], health["version"]) == (
                "healthy",
                "ai-task-processor",
                __version__,
            )
            limiting = health["rate_limiting"]
            assert (limiting["enabled"], limiting["strategy"]) == (True, "rolling")
            minute = limiting["current_usage"]["minute"]
            assert (minute["current"], minute["limit"], minute["remaining"]) == (5, 20, 15)
            assert datetime.fromisoformat(minute["reset_at"]).timestamp() > LoopClock().now()
            assert limiting["current_usage"]["day"]["current"] == 5
            status, ready = await daemon.get("/ready")
            assert (status, ready["status"]) == (200, "ready")
            assert set(ready["checks"]) >= {"running", "token", "task_api", "models", "provider", "state"}
            assert all(check["ok"] and check["detail"] for check in ready["checks"].values())


@simulated_time
async def test_the_metrics_of_a_daemon_that_works(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "bad", "content": {}}, *({"_id": str(number)} for number in range(9)))
        api.script("patch", answer(500))
        async with running(api, tmp_path, rate_limit_per_hour=100) as daemon, aiohttp.ClientSession() as session:
            await daemon.reported(10)
            async with session.get(daemon.app.ops_url + "/metrics") as response:
                text = await response.text()
            headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with session.get(daemon.app.ops_url + "/metrics", headers=headers) as response:
                assert response.content_type == "application/openmetrics-text"
                assert (await response.text()).endswith("# EOF\n")
        expected = {
            ("tasks_total", "succeeded"): 9,
            ("tasks_total", "failed"): 1,
        }
        assert {key: metric_in(text, key[0], status=key[1]) for key in expected} == expected
        assert metric_in(text, "token_requests_total", outcome="succeeded") == 1
        assert metric_in(text, "api_requests_total", method="PATCH", status="200") == 10
        assert metric_in(text, "api_requests_total", method="PATCH", status="500") == 1
        assert metric_in(text, "provider_inputs_total", provider="mock", model="nomic-embed-text") == 9
        assert metric_in(text, "provider_tokens_total") > 0
        assert metric_in(text, "rate_limit_used", window="hour") == 9
        assert metric_in(text, "rate_limit_remaining", window="hour") == 91
        assert metric_in(text, "breaker_state", name="task_api", state="closed") == 1
        assert metric_in(text, "postponed_total") == 1
        assert metric_in(text, "unreported_results") == metric_in(text, "tasks_in_flight") == 0
        assert metric_in(text, "last_successful_poll_timestamp_seconds") >= LoopClock().now() - 60
        assert metric_in(text, "build_info", version=__version__) == 1
        names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
        assert {name for name in names if not name.startswith(("ai_task_processor_", "process_"))} == set()


# --- Log lines --------------------------------------------------------------------------------------------------------

START = (
    "AI Task Processor starting up",
    "OAuth2 token generated successfully",
    "All services started, running indefinitely",
)


async def test_the_words_that_users_look_for(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": str(number)} for number in range(3)))
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path, log_level="DEBUG")) as daemon:
        await until_finished(api)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    for words in START:
        assert [line["level"] for line in daemon.logged(words)] == ["info"]
    assert daemon.lines[0]["event"] == START[0]
    assert daemon.logged(START[0], mode="mock", version=__version__)
    assert daemon.logged("Found pending tasks", count=3, level="info")
    assert len(daemon.logged("Processing text embedding task", model="nomic-embed-text", level="debug")) == 3
    assert len(daemon.logged("Embedding created successfully", dimensions=768, level="debug")) == 3
    assert len(daemon.logged("Task processing completed", status="succeeded", level="debug")) == 3
    (batch,) = daemon.logged("Batch completed", level="info")
    assert (batch["size"], batch["succeeded"]) == (3, 3)
    assert daemon.logged("MOCK PROCESSING", level="warning")


async def test_at_info_there_is_a_line_for_a_batch_and_none_for_a_task(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": f"task-{number}"} for number in range(200)))
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path)) as daemon:
        await until_finished(api)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert len(daemon.logged("Batch completed")) == 4
    assert len(daemon.lines) < 25
    assert "task-" not in daemon.text


async def test_the_words_of_a_download(api: FakeTaskApi, tmp_path: Path) -> None:
    async with OllamaServer() as ollama:
        env = environment_for(api, tmp_path, processing_mode="ollama", ollama_base_url=ollama.url)
        async with started("run", folder=tmp_path, env=env) as daemon:
            await daemon.says("Ensuring Ollama models are available")
            await daemon.says("Downloading missing supported model", model="nomic-embed-text")
            await daemon.says("Model downloaded successfully", model="nomic-embed-text")


# --- Correlation ------------------------------------------------------------------------------------------------------


async def test_one_correlation_id_follows_a_task_through_everything(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "theirs", "correlationId": "order-4711"}, {"_id": "ours"})
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path, log_level="DEBUG")) as daemon:
        await until_finished(api)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    sent = {
        request.task_id: request.headers["X-Correlation-ID"] for request in api.requests if request.route == "patch"
    }
    assert sent["theirs"] == "order-4711"
    assert len(sent["ours"]) == 16
    for task_id, correlation_id in sent.items():
        told = {line["event"] for line in daemon.lines if line.get("correlation_id") == correlation_id}
        assert told == {
            "Task accepted",
            "Processing text embedding task",
            "Embedding created successfully",
            "Task processing completed",
            "Outcome reported",
        }
        assert {line["correlation_id"] for line in daemon.lines if line.get("task_id") == task_id} == {correlation_id}


# --- Secrets ----------------------------------------------------------------------------------------------------------


async def all_that_it_says(daemon: Process) -> str:
    """Everything written, and the bodies of all routes."""
    routes = [await daemon.get(route) for route in ("/health", "/ready", "/metrics")]
    return "\n".join((daemon.text, *(body for _, body in routes)))


async def test_no_secret_and_no_text_is_ever_told(api: FakeTaskApi, tmp_path: Path) -> None:
    quoting = answer(400, {"message": f"cannot take it: Bearer token-1-of-the-tests, {CLIENT_SECRET}"})
    api.add({"_id": "long", "content": {"text": SECRET_TEXT, "dimensions": "many"}})
    api.add({"_id": "typed", "content": [SECRET_TEXT]}, {"_id": "strange", "type": "vision", "content": SECRET_TEXT})
    api.add(*({"_id": str(number), "content": {"text": f"{SECRET_TEXT} {number}"}} for number in range(10)))
    api.script("patch", quoting, task_id="0")
    api.script("patch", answer(500, f"callback failed for {CLIENT_SECRET}"), answer(401), task_id="1")
    api.script("token", answer(503, f"no {CLIENT_SECRET}"))
    api.script("fetch", answer(200, b"<html>" + SECRET_TEXT.encode()), answer(502, CLIENT_SECRET))
    env = environment_for(api, tmp_path, log_level="DEBUG", openai_api_key="sk-the-key-of-keys-123")
    async with started("run", folder=tmp_path, env=env) as daemon:
        await daemon.until(lambda: len(daemon.logged("Outcome reported")) == 11)
        told = await all_that_it_says(daemon)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    told += daemon.text
    assert daemon.logged("Task API refuses an outcome, parked"), "the errors have been told"
    assert daemon.logged("Outcome could not be delivered")
    assert CLIENT_SECRET not in told
    assert "of-the-tests" not in told
    assert "unmistakable" not in told
    assert "sk-the-key" not in told
    assert SECRET_TEXT not in json.dumps([request.body for request in api.requests])


async def test_refused_credentials_are_told_without_them(api: FakeTaskApi, tmp_path: Path) -> None:
    api.client_secret = "another"
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path, log_level="DEBUG")) as daemon:
        line = await daemon.says("OAuth2 credentials refused")
        assert "OAUTH2_CLIENT_SECRET" in line["reason"]
        await daemon.says("Polling the Task API failed")
        assert CLIENT_SECRET not in await all_that_it_says(daemon)
