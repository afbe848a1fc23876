"""Traces of a real daemon: what a collector gets, what servers are told, and that it is off unless somebody asks."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.collector import Collector
from tests.fakes.daemon import REAL_SECONDS, Process, environment_for, started
from tests.fakes.openai_server import API_KEY, OpenAIServer
from tests.fakes.task_api_server import CLIENT_SECRET, FakeTaskApi, answer

TEXT = "an unmistakable sentence"
CLIENT, INTERNAL = 3, 1


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


def traced(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"} | more


async def stopped(daemon: Process) -> None:
    daemon.send(signal.SIGTERM)
    assert await daemon.ended() == 0


def sent_along(headers: dict[str, str]) -> tuple[str, str]:
    """Trace and span of a W3C traceparent."""
    version, trace, span, flags = headers["traceparent"].split("-")
    assert version == "00"
    assert int(flags, 16) & 1, "sampled"
    return trace, span


async def test_a_batch_is_one_trace_from_its_request_to_its_delivery(api: FakeTaskApi, tmp_path: Path) -> None:
    async with Collector() as collector, OpenAIServer() as openai:
        env = environment_for(
            api, tmp_path, processing_mode="openai", openai_api_key=API_KEY, openai_base_url=openai.url
        ) | traced(collector, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
        api.script("patch", answer(500), task_id="1")
        api.add(
            *(
                {"_id": str(number), "correlationId": f"order-{number}", "content": {"text": f"{TEXT} {number}"}}
                for number in range(3)
            )
        )
        async with started("run", folder=tmp_path, env=env) as daemon:
            await collector.until(lambda: len(collector.named("report")) >= 4)
            await stopped(daemon)
        (batch,) = collector.named("process text_embedding")
        fetch = next(span for span in collector.named("fetch") if span.facts["ai_task_processor.fetch.listed"] == 3)

    assert batch.parent == ""
    assert batch.facts["ai_task_processor.batch.size"] == batch.facts["ai_task_processor.batch.succeeded"] == 3
    assert sorted(batch.facts["ai_task_processor.task.ids"]) == ["0", "1", "2"]
    assert {(link[0], link[1]) for link in batch.links} == {(fetch.trace, fetch.id)}
    assert {link[2]["ai_task_processor.correlation_id"] for link in batch.links} == {"order-0", "order-1", "order-2"}

    of_batch = [span for span in collector.spans if span.trace == batch.trace]
    by_id = {span.id: span for span in of_batch}
    parents = {(span.name, by_id[span.parent].name) for span in of_batch if span.parent}
    assert parents >= {
        ("embeddings text-embedding-3-small", "process text_embedding"),
        ("POST /embeddings", "embeddings text-embedding-3-small"),
        ("settle", "process text_embedding"),
        ("report", "process text_embedding"),
        ("PATCH /api/ai-tasks/{id}", "report"),
    }
    (embed,) = [span for span in of_batch if span.name.startswith("embeddings ")]
    assert embed.kind == CLIENT
    assert embed.facts["gen_ai.operation.name"] == "embeddings"
    assert embed.facts["gen_ai.provider.name"] == "openai"
    assert embed.facts["gen_ai.request.model"] == embed.facts["gen_ai.response.model"] == "text-embedding-3-small"
    assert embed.facts["gen_ai.usage.input_tokens"] > 0
    assert embed.facts["server.address"] == "127.0.0.1"
    assert f":{embed.facts['server.port']}/" in openai.url
    assert batch.kind == INTERNAL

    patches = {(span.trace, span.id): span for span in of_batch if span.name.startswith("PATCH")}
    asked = [sent_along(dict(one.headers)) for one in api.requests if one.route == "patch"]
    assert set(asked) == set(patches)
    assert len(asked) == 4
    assert {sent_along(headers) for headers in openai.headers} == {
        (span.trace, span.id) for span in of_batch if span.name == "POST /embeddings"
    }
    statuses = sorted(span.facts["http.response.status_code"] for span in patches.values())
    assert statuses == [200, 200, 200, 500]
    assert [span.failed for span in patches.values()].count(True) == 1
    assert {span.facts["error.type"] for span in patches.values() if span.failed} == {"500"}

    listed = {(span.trace, span.id) for span in collector.named("GET /api/ai-tasks/pending")}
    assert {sent_along(dict(one.headers)) for one in api.requests if one.route == "fetch"} >= listed
    assert fetch.trace in {trace for trace, _ in listed}

    service = batch.service
    assert (service["service.name"], service["deployment.environment.name"]) == ("ai-task-processor", "test")
    assert "service.version" in service
    for secret in (TEXT, API_KEY, CLIENT_SECRET, "token-1"):
        assert secret.encode() not in collector.raw
    assert not any(span.events for span in collector.spans)


async def test_what_fails_is_told_by_its_class_alone(api: FakeTaskApi, tmp_path: Path) -> None:
    async with Collector() as collector, OpenAIServer() as openai:
        env = environment_for(
            api,
            tmp_path,
            processing_mode="openai",
            openai_api_key="sk-another-key-of-theirs",
            openai_base_url=openai.url,
        ) | traced(collector, OTEL_SERVICE_NAME="claims-embedder")
        api.add({"_id": "1", "content": {"text": TEXT}})
        async with started("run", folder=tmp_path, env=env) as daemon:
            await collector.until(lambda: collector.named("process text_embedding"))
            await stopped(daemon)
        (embed,) = [span for span in collector.spans if span.name.startswith("embeddings ")][:1]
        batch = collector.named("process text_embedding")[0]
    assert embed.failed
    assert embed.facts["error.type"] == batch.facts["error.type"] == "ProviderPaused"
    assert batch.facts["ai_task_processor.batch.deferred"] == 1
    assert batch.service["service.name"] == "claims-embedder"
    assert b"sk-another" not in collector.raw
    assert TEXT.encode() not in collector.raw


async def test_a_collector_that_takes_nothing_disturbs_nobody(api: FakeTaskApi, tmp_path: Path) -> None:
    async with Collector(status=401) as collector:
        env = environment_for(api, tmp_path) | traced(collector, OTEL_EXPORTER_OTLP_TIMEOUT="1")
        api.add(*({"_id": str(number)} for number in range(5)))
        async with started("run", folder=tmp_path, env=env) as daemon:
            async with asyncio.timeout(REAL_SECONDS):
                await api.until(lambda: set(api.states()) == {"succeeded"})
            lost = await daemon.says("Traces are not taken by their collector, dropped", level="warning")
            assert "401" in lost["reason"]
            assert lost["spans"] > 0
            await stopped(daemon)
    assert collector.headers
    assert len([line for line in daemon.lines if line["level"] in {"warning", "error"}]) <= 3


async def test_an_address_that_is_none_disturbs_nobody(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "1"})
    env = environment_for(api, tmp_path) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with started("run", folder=tmp_path, env=env) as daemon:
        lost = await daemon.says("Traces are not taken by their collector, dropped")
        assert "collector:4318" in lost["reason"]
        await stopped(daemon)


# --- Off --------------------------------------------------------------------------------------------------------------

WITHOUT = """
    import sys
    for name in {absent}:
        sys.modules[name] = None  # as if it were not installed
    from ai_task_processor.cli import main
    try:
        main()
    finally:
        loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk") and sys.modules[name])
        print("loaded:", loaded)
"""


async def run_to_its_end(api: FakeTaskApi, folder: Path, *, absent: list[str], **env: str) -> str:
    """A daemon whose interpreter may lack modules: all that it wrote, after it has done a task."""
    api.add({"_id": "1"})
    script = WITHOUT.format(absent=absent).replace("\n    ", "\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        "run",
        cwd=folder,
        env=environment_for(api, folder) | {"PATH": ""} | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(REAL_SECONDS):
        await api.until(lambda: set(api.states()) == {"succeeded"})
        process.send_signal(signal.SIGTERM)
        said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def test_without_the_extra_it_says_so_once_and_works(api: FakeTaskApi, tmp_path: Path) -> None:
    said = await run_to_its_end(
        api,
        tmp_path,
        absent=["opentelemetry.sdk", "opentelemetry.exporter"],
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    assert said.count("pip install 'ai-task-processor[otel]'") == 1


async def test_what_nobody_asks_for_is_not_even_loaded(api: FakeTaskApi, tmp_path: Path) -> None:
    said = await run_to_its_end(api, tmp_path, absent=[])
    assert "loaded: []" in said
    assert not any("traceparent" in request.headers for request in api.requests)
