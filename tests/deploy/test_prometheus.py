"""A real Prometheus scrapes a daemon at work: every panel has figures, and an alert fires when the Task API is gone."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import environment_for, started
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.openai_server import API_KEY, OpenAIServer, refusal
from tests.fakes.prometheus import Prometheus, program, scraping, until
from tests.fakes.provider_faults import Answer
from tests.fakes.task_api_server import FakeTaskApi

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8"))
VARIABLES = {"$__rate_interval": "5s", "$job": "ai-task-processor", "$instance": ".*"}

OUT_OF_MEMORY = Answer(500, {"error": "out of memory"})
NO_QUOTA = refusal(429, "You exceeded your current quota.", code="insufficient_quota")


@pytest.fixture(autouse=True)
def _installed() -> None:
    program("prometheus")


async def test_every_panel_has_figures_and_alerts_fire_when_everything_fails(tmp_path: Path) -> None:
    async with FakeTaskApi() as api, OllamaServer(models=["nomic-embed-text"]) as ollama, OpenAIServer() as openai:
        settings = environment_for(api, tmp_path, **hybrid(ollama, openai))
        async with started("run", folder=tmp_path, env=settings) as daemon:
            target = (await daemon.url()).removeprefix("http://")
            async with scraping(target, impatient(RULES), tmp_path) as prometheus:
                async with tasks_arriving(api):
                    await every_panel_has_figures(prometheus, ollama, openai)
                    assert "AiTaskProcessorNoSuccessfulPoll" not in await prometheus.alerts()
                await api.down()
                alert = await fires(prometheus, "AiTaskProcessorNoSuccessfulPoll")
                assert alert["labels"]["severity"] == "critical"
                assert alert["annotations"]["runbook"] == "docs/operations.md#aitaskprocessornosuccessfulpoll"
                await fires(prometheus, "AiTaskProcessorProviderPaused")
                await fires(prometheus, "AiTaskProcessorBreakerOpen")
                await fires(prometheus, "AiTaskProcessorNotReady")
                daemon.process.kill()
                await fires(prometheus, "AiTaskProcessorDown")


async def every_panel_has_figures(prometheus: Prometheus, ollama: OllamaServer, openai: OpenAIServer) -> None:
    """First all goes well, then Ollama fails and OpenAI steps in, then that has no quota either."""
    missing = dict(expressions())
    assert len(missing) == len(list(expressions())) > 30, "each panel needs a title of its own"
    await figures_come(prometheus, missing, until_there="Texts that were not paid for A")
    ollama.faults.rule = lambda _body: OUT_OF_MEMORY
    await figures_come(prometheus, missing, until_there="Retries and fallbacks B")
    openai.faults.rule = lambda _body: NO_QUOTA
    for panel in list(missing):
        await figures_come(prometheus, missing, until_there=panel)


async def figures_come(prometheus: Prometheus, missing: dict[str, str], *, until_there: str) -> None:
    """Strike off what has figures, until one panel has."""

    async def there() -> bool:
        for panel, expression in list(missing.items()):
            if await prometheus.has_figures(expression):
                del missing[panel]
        return until_there not in missing

    try:
        await until(there)
    except TimeoutError:
        pytest.fail(f"no figures came for: {', '.join(missing)}")


async def fires(prometheus: Prometheus, name: str) -> dict[str, Any]:
    async def firing() -> dict[str, Any] | None:
        return (await prometheus.alerts()).get(name)

    alert = await until(firing)
    assert alert is not None
    return alert


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard by its panel's title and its letter, as Grafana would send it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield f"{panel['title']} {target['refId']}", expression


def impatient(rules: str) -> str:
    """The same rules, which look back a few seconds only and wait for nothing; promtool tests them as they are."""
    rules = re.sub(r"\[\d+[mh]\]", "[3s]", rules)
    return re.sub(r"\bfor: \d+m", "for: 0s", rules).replace("> 600", "> 1")


def hybrid(ollama: OllamaServer, openai: OpenAIServer) -> dict[str, object]:
    return {
        "processing_mode": "hybrid",
        "ollama_base_url": ollama.url,
        "openai_base_url": openai.url,
        "openai_api_key": API_KEY,
        "polling_interval_seconds": 0.1,
        "circuit_breaker_threshold": 2,
        "max_retries": 1,
        "rate_limit_per_day": 1_000_000,
        "token_limit_per_day": 1_000_000_000,
        "cost_limit_per_day": 1_000,
    }


@asynccontextmanager
async def tasks_arriving(api: FakeTaskApi) -> AsyncIterator[None]:
    """Add a task with every poll; each text comes twice, so that the cache has something to do."""

    async def arrive() -> None:
        for number in count():
            api.add({"_id": str(number), "content": {"text": f"text {number // 2}", "model": "nomic-embed-text"}})
            seen = len(api.fetches)
            await api.until(lambda seen=seen: len(api.fetches) > seen)

    async with asyncio.TaskGroup() as group:
        arriving = group.create_task(arrive(), name="tasks")
        yield
        arriving.cancel()
