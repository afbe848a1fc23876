"""The life of the process: starts, stops, exit codes and words, as a supervisor and a shell see them."""

import asyncio
import json
import re
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ai_task_processor import __version__
from tests.fakes.daemon import REAL_SECONDS, environment_for, finished, metric_in, right_vector, started
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET, FakeTaskApi, answer, hang

GRACE = 30.0
"""Seconds of SHUTDOWN_GRACE_SECONDS in these tests; a stop that has nothing to wait for takes far less."""

AT_ONCE = 10.0
"""Seconds, on a busy machine."""


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


def env(api: FakeTaskApi, folder: Path, **settings: object) -> dict[str, str]:
    return environment_for(api, folder, shutdown_grace_seconds=GRACE, **settings)


async def rest_is_done(api: FakeTaskApi, folder: Path) -> float:
    """Start again until every task has its vector; answer how many texts were embedded for that."""
    async with started("run", folder=folder, env=env(api, folder)) as again:
        await api.until(lambda: set(api.states()) == {"succeeded"})  # looked at with every poll
        _, exposition = await again.get("/metrics")
        again.send(signal.SIGTERM)
        assert await again.ended() == 0
    for task in api.tasks.values():
        assert right_vector(task["result"], task["content"]["text"])
    for bodies in api.patches.values():
        assert all(body == bodies[0] for body in bodies)
    return metric_in(exposition, "provider_inputs_total")


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


# --- SIGTERM at any moment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_while_idle(api: FakeTaskApi, tmp_path: Path, number: signal.Signals) -> None:
    async with started("run", folder=tmp_path, env=env(api, tmp_path, polling_interval_seconds=60)) as daemon:
        await daemon.says("All services started")
        await api.until(lambda: bool(api.fetches))
        began = time.monotonic()
        daemon.send(number)
        assert await daemon.ended() == 0
        assert time.monotonic() - began < AT_ONCE
    assert daemon.logged("Stopping", reason=number.name)
    assert daemon.logged("AI Task Processor stopped", unreported=0)
    assert "Traceback" not in daemon.text


async def test_stop_during_the_start(api: FakeTaskApi, tmp_path: Path) -> None:
    async with started("run", folder=tmp_path, env=env(api, tmp_path)) as daemon:
        await daemon.says("AI Task Processor starting up")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert "Traceback" not in daemon.text


@pytest.mark.parametrize("route", ["token", "fetch"])
async def test_stop_while_the_first_request_hangs(api: FakeTaskApi, tmp_path: Path, route: str) -> None:
    api.always("token" if route == "token" else "fetch", hang())
    async with started("run", folder=tmp_path, env=env(api, tmp_path, request_timeout=60)) as daemon:
        await api.until(lambda: any(request.route == route for request in api.requests))
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert time.monotonic() - began < AT_ONCE
    assert "Traceback" not in daemon.text


async def test_stop_while_models_are_looked_for(api: FakeTaskApi, tmp_path: Path) -> None:
    ollama = env(api, tmp_path, processing_mode="ollama", ollama_base_url="http://127.0.0.1:9")
    async with started("run", folder=tmp_path, env=ollama) as daemon:
        await daemon.says("Ensuring Ollama models are available")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within=AT_ONCE) == 0
    assert "Traceback" not in daemon.text


async def test_stop_while_texts_are_embedded_finishes_and_delivers_them(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": str(number)} for number in range(20)))
    slow = env(api, tmp_path, mock_latency_seconds=0.5, batch_size=10, concurrency_limit=2, log_level="DEBUG")
    async with started("run", folder=tmp_path, env=slow) as daemon:
        await daemon.until(lambda: len(daemon.logged("Processing batch")) == 2)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert daemon.logged("AI Task Processor stopped", unreported=0)
    assert api.states() == {"succeeded": 20}
    assert {len(bodies) for bodies in api.patches.values()} == {1}


async def test_stop_with_work_waiting_leaves_it_for_the_next_start(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": str(number)} for number in range(60)))
    slow = env(api, tmp_path, mock_latency_seconds=0.3, batch_size=10, concurrency_limit=1, log_level="DEBUG")
    async with started("run", folder=tmp_path, env=slow) as daemon:
        await daemon.says("Processing batch")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    done = api.states()["succeeded"]
    assert 0 < done < 60
    assert await rest_is_done(api, tmp_path) == 60 - done
    assert {len(bodies) for bodies in api.patches.values()} == {1}


async def test_stop_during_a_patch_that_hangs_ends_with_the_grace(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "a"}, {"_id": "b"})
    api.always("patch", hang(effect=True), task_id="a")
    short = env(api, tmp_path, request_timeout=60) | {"SHUTDOWN_GRACE_SECONDS": "0.5"}
    async with started("run", folder=tmp_path, env=short) as daemon:
        await api.until(lambda: {"a", "b"} <= api.patches.keys())
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert 0.5 <= time.monotonic() - began < 0.5 + AT_ONCE
    api.heal()
    api.tasks["a"]["state"] = "pending"  # so that it is waited for; it is in the journal and is not embedded again
    assert await rest_is_done(api, tmp_path) == 0
    assert (len(api.patches["a"]), len(api.patches["b"])) == (2, 1)


async def test_stop_during_a_backoff_waits_for_nothing(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "a"})
    api.always("patch", answer(500))
    async with started("run", folder=tmp_path, env=env(api, tmp_path)) as daemon:
        await api.until(lambda: len(api.patches.get("a", [])) == 2)
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert time.monotonic() - began < AT_ONCE
    assert daemon.logged("AI Task Processor stopped", unreported=1)
    api.heal()
    assert await rest_is_done(api, tmp_path) == 0


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add(*({"_id": str(number)} for number in range(5)))
    stuck = env(api, tmp_path, mock_latency_seconds=60, log_level="DEBUG") | {"SHUTDOWN_GRACE_SECONDS": "60"}
    async with started("run", folder=tmp_path, env=stuck) as daemon:
        await daemon.says("Processing batch")
        daemon.send(signal.SIGTERM)
        await daemon.says("Stopping")
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert time.monotonic() - began < AT_ONCE
    assert api.patches == {}
    assert await rest_is_done(api, tmp_path) == 5


async def test_routes_answer_while_it_stops(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "a"})
    slow = env(api, tmp_path, mock_latency_seconds=1, log_level="DEBUG")
    async with started("run", folder=tmp_path, env=slow) as daemon:
        await daemon.says("Processing batch")
        daemon.send(signal.SIGTERM)
        await daemon.says("Stopping")
        assert (await daemon.get("/health"))[0] == 200
        status, body = await daemon.get("/ready")
        assert status == 503
        assert "stopping (SIGTERM)" in body
        assert await daemon.ended() == 0


# --- Exit codes -------------------------------------------------------------------------------------------------------


async def test_a_second_process_on_the_same_state_is_refused(api: FakeTaskApi, tmp_path: Path) -> None:
    async with started("run", folder=tmp_path, env=env(api, tmp_path)) as daemon:
        await daemon.says("All services started")
        code, text = await finished("run", folder=tmp_path, env=env(api, tmp_path))
        assert code == 74
        assert "The state cannot be used:" in text
        assert "state.db" in text
        assert "Traceback" not in text
        assert (await daemon.get("/health"))[0] == 200


async def test_a_state_file_that_is_none_is_left_as_it_is(api: FakeTaskApi, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database" * 500)
    code, text = await finished("run", folder=tmp_path, env=env(api, tmp_path))
    assert code == 74
    assert "state.db" in text
    assert "Traceback" not in text
    assert (tmp_path / "state.db").read_bytes().startswith(b"this is no database")


async def test_a_bad_configuration_is_refused_with_every_fault_and_no_secret(tmp_path: Path) -> None:
    faulty = {
        "API_BASE_URL": "not an address",
        "OAUTH2_CLIENT_SECRET": "the-secret-of-secrets",
        "OPENAI_API_KEY": "sk-also-secret-12345",
        "PROCESSING_MODE": "magic",
        "BATCH_SIZE": "0",
        "METRICS_PORT": "70000",
        "RATE_LIMIT_TIMEZONE": "Mars/Base",
        "STATE_URL": "mysql://user:the-password@host/db",
    }
    code, text = await finished("run", folder=tmp_path, env=faulty)
    assert code == 78
    for name in ("PROCESSING_MODE", "BATCH_SIZE", "METRICS_PORT", "RATE_LIMIT_TIMEZONE", "STATE_URL", "API_BASE_URL"):
        assert f"{name}: " in text
    for name in ("ORY_PROJECT_SLUG", "OAUTH2_CLIENT_ID"):
        assert f"{name}: is missing" in text
    for secret in ("the-secret-of-secrets", "sk-also-secret", "the-password"):
        assert secret not in text
    assert "Traceback" not in text
    assert is_empty(tmp_path)


async def test_a_taken_port_and_a_missing_file_are_faults_of_the_configuration(
    api: FakeTaskApi, tmp_path: Path
) -> None:
    port = api.url.rpartition(":")[2]
    code, text = await finished("run", folder=tmp_path, env=env(api, tmp_path, metrics_port=port))
    assert code == 78
    assert f"METRICS_PORT={port} is in use" in text
    code, text = await finished("run", "--env-file", "elsewhere.env", folder=tmp_path, env=env(api, tmp_path))
    assert code == 78
    assert "there is no file 'elsewhere.env'" in text


async def test_settings_come_from_a_file_and_the_environment_goes_before_it(api: FakeTaskApi, tmp_path: Path) -> None:
    values = env(api, tmp_path, log_level="ERROR", batch_size=7)
    (tmp_path / ".env").write_text("".join(f"{name}={value}   # a comment\n" for name, value in values.items()))
    async with started("run", folder=tmp_path, env={"LOG_LEVEL": "INFO"}) as daemon:
        line = await daemon.says("AI Task Processor starting up")
        assert line["batch_size"] == 7
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


CRASH = """
    from contextlib import asynccontextmanager
    from msgspec.structs import replace
    from ai_task_processor.app import World
    from ai_task_processor.wiring.state import open_state
    from ai_task_processor.cli import main
    from ai_task_processor.daemon import run_daemon
    from ai_task_processor.settings import load_settings

    class Broken:
        def __init__(self, journal):
            self._journal = journal
        def __getattr__(self, name):
            return getattr(self._journal, name)
        async def claim(self, limit, without=()):
            raise RuntimeError("a defect in dispatch")

    @asynccontextmanager
    async def broken(settings, clock):
        async with open_state(settings, clock) as state:
            yield replace(state, journal=Broken(state.journal))

    main(lambda: run_daemon(load_settings(None), world=World(state=broken)))
"""


async def test_a_stage_that_crashes_takes_the_process_down_with_its_traceback(api: FakeTaskApi, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(CRASH),
        env=env(api, tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), REAL_SECONDS)
    assert process.returncode == 70
    last = json.loads(output.splitlines()[-1])
    assert last["level"] == "critical"
    assert last["event"] == "Crashed: a defect, please report it"
    assert "RuntimeError: a defect in dispatch" in last["exception"]


# --- Commands ---------------------------------------------------------------------------------------------------------


async def test_check_of_a_setup_that_works(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "a"})
    code, text = await finished("check", folder=tmp_path, env=env(api, tmp_path))
    assert code == 0
    for words in ("token", "obtained", "task api", "answers", "provider mock", "768 dimensions", "state"):
        assert words in text
    assert "✗" not in text
    assert api.patches == {}, "nothing is changed"
    assert not (tmp_path / "state.db").exists()


@pytest.mark.parametrize(
    ("has", "wanted", "told"),
    [
        ({"claim"}, "auto", "optional routes: claim"),
        ({"claim", "bulk"}, "none", "optional routes are not used"),
    ],
)
async def test_check_says_which_optional_routes_there_are_and_claims_nothing(
    api: FakeTaskApi, tmp_path: Path, has: set[str], wanted: str, told: str
) -> None:
    api.features = has
    api.add({"_id": "a"})
    code, text = await finished("check", "--json", folder=tmp_path, env=env(api, tmp_path, api_features=wanted))
    assert code == 0
    assert f'; {told}"' in text
    assert api.states() == {"pending": 1}


async def test_check_of_a_setup_that_does_not_work_says_what_to_do(api: FakeTaskApi, tmp_path: Path) -> None:
    api.client_secret = "another"
    code, text = await finished("check", "--json", folder=tmp_path, env=env(api, tmp_path))
    assert code == 1
    findings = {finding["name"]: finding for finding in json.loads(text)}
    assert findings["configuration"]["ok"]
    assert findings["provider mock"]["ok"]
    assert not findings["token"]["ok"]
    assert "OAUTH2_CLIENT_SECRET" in findings["token"]["advice"]
    assert not findings["task api"]["ok"]
    assert CLIENT_SECRET not in text


async def test_check_of_everything_broken_still_tells_all(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database")
    nowhere = {
        "API_BASE_URL": "http://127.0.0.1:9",
        "OAUTH2_TOKEN_URL": "http://127.0.0.1:9/token",
        "OAUTH2_CLIENT_ID": CLIENT_ID,
        "OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
        "PROCESSING_MODE": "ollama",
        "OLLAMA_BASE_URL": "http://127.0.0.1:9",
        "STATE_URL": f"sqlite:///{tmp_path / 'state.db'}",
    }
    code, text = await finished("check", "--json", folder=tmp_path, env=nowhere)
    assert code == 1
    broken = {finding["name"]: finding["advice"] for finding in json.loads(text) if not finding["ok"]}
    assert set(broken) == {"token", "task api", "provider ollama", "state"}
    assert "http://127.0.0.1:9/token" in broken["token"]
    assert "OLLAMA_BASE_URL (http://127.0.0.1:9)" in broken["provider ollama"]


async def test_check_of_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    code, text = await finished("check", folder=tmp_path)
    assert code == 78
    assert "API_BASE_URL: is missing" in text
    assert f"there is no .env in {tmp_path}" in text


async def test_version(tmp_path: Path) -> None:
    assert await finished("--version", folder=tmp_path) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("run", "serve", "check", "demo", "journal", "--version")),
        (
            "run",
            ("SIGTERM", "SHUTDOWN_GRACE_SECONDS", "Exit codes", "70", "74", "78", "/ready", "STATE_URL", "--env-file"),
        ),
        ("check", ("Exit code", "78", "--json", "--env-file")),
        ("serve", ("TASK_SERVER_CLIENT_ID", "TASK_SERVER_CLIENT_SECRET", "--port", "--database", "127.0.0.1")),
        ("demo", ("--mode", "--keep", ".csv", ".jsonl")),
    ],
)
async def test_help_reads_like_a_manual_page(tmp_path: Path, command: str, words: tuple[str, ...]) -> None:
    code, text = await finished(*command.split(), "--help", folder=tmp_path)
    assert code == 0
    unstyled = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert [word for word in words if word not in unstyled] == []
