"""A real Prometheus on a free port of this machine, which scrapes and judges in fractions of a second."""

import asyncio
import math
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
import yaml

HOW = "Prometheus is not installed: on Debian and Ubuntu, apt-get install --no-install-recommends prometheus"
LISTENING = re.compile(r'msg="Listening on" address="?([^"\s]+)')
GLANCE = 0.05
PATIENCE = 20.0

T = TypeVar("T")


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; skips the test where it is missing and need not be there."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") == "1" else pytest.skip)(HOW)
    return found


@dataclass
class Prometheus:
    """Its query API."""

    url: str
    session: aiohttp.ClientSession

    async def is_ready(self) -> bool:
        async with self.session.get(f"{self.url}/-/ready") as response:
            return response.status == 200

    async def has_scraped(self) -> bool:
        """Some five seconds after the start: it looks for its targets no more often than that."""
        return await self.has_figures("up == 1")

    async def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The labels and values that an expression has now; raises where it is not understood."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            body = await response.json()
        assert body["status"] == "success", f"{expression}\n{body}"
        return [(one["metric"], float(one["value"][1])) for one in body["data"]["result"]]

    async def has_figures(self, expression: str) -> bool:
        """Whether the expression has a finite value now."""
        return any(math.isfinite(value) for _, value in await self.query(expression))

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by name."""
        async with self.session.get(f"{self.url}/api/v1/alerts") as response:
            found = (await response.json())["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in found if alert["state"] == "firing"}


async def until(condition: Callable[[], Awaitable[T]], *, within: float = PATIENCE) -> T:
    """Ask again and again until the answer is one."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):  # noqa: ASYNC110  # another process: nothing here could be set
            await asyncio.sleep(GLANCE)
    return answer


@asynccontextmanager
async def scraping(target: str, rules: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Start it with ``target`` (host and port) as its job and the text of ``rules``; end it with the block."""
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    (folder / "prometheus.yml").write_text(_configuration(target), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        "--web.listen-address=127.0.0.1:0",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.TaskGroup() as group:
        try:
            url = f"http://{await asyncio.wait_for(_address(process.stderr), PATIENCE)}"
            drain = group.create_task(_drained(process.stderr), name="what Prometheus says")
            async with aiohttp.ClientSession() as session:
                prometheus = Prometheus(url, session)
                await until(prometheus.is_ready)
                await until(prometheus.has_scraped)
                yield prometheus
            drain.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _configuration(target: str) -> str:
    often = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    job = {"job_name": "ai-task-processor", "static_configs": [{"targets": [target]}]}
    return yaml.safe_dump({"global": often, "rule_files": ["rules.yml"], "scrape_configs": [job]})


async def _address(output: asyncio.StreamReader) -> str:
    said = ""
    async for line in output:
        said += line.decode()
        if found := LISTENING.search(said):
            return found[1]
    raise AssertionError(f"Prometheus did not start:\n{said}")


async def _drained(output: asyncio.StreamReader) -> None:
    async for _ in output:
        pass
