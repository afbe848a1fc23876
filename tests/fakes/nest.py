"""The NestJS example, its token server and its rigs, as processes on free ports of this machine."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import Process

FOLDER = Path(__file__).parents[2] / "examples" / "nestjs"
BUILT = FOLDER / "dist" / "ready"
HOW = "the NestJS example is not built: make nestjs does it, with Node.js 20.19 or later"

TOKEN_SERVER = "dev/token-server.mjs"
RIG = "dist/test/rig/main.js"
CONTRACT = "dist/test/rig/contract.js"


def node() -> str:
    """Path of Node.js; skips the test where it, or what it shall run, is missing and need not be there."""
    found = shutil.which("node")
    if found is None or not is_built():
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") == "1" else pytest.skip)(HOW)
    return found


def is_built() -> bool:
    """Whether the example was built after its last change."""
    sources = [path for name in ("src", "test") for path in (FOLDER / name).rglob("*.ts")]
    return BUILT.exists() and BUILT.stat().st_mtime >= max(path.stat().st_mtime for path in sources)


@asynccontextmanager
async def node_process(script: str, *options: str, **environment: object) -> AsyncIterator[Process]:
    """Run a script of the example; each line of its output that is JSON is an event. It is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        node(),
        *options,
        script,
        cwd=FOLDER,
        env=_environment(**environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**22,
    )
    watched = Process(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(watched.read(), name=script)
        try:
            yield watched
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@contextmanager
def contract_rig() -> Iterator[dict[str, Any]]:
    """The module alone, for the contract suite: its ``url``, and a ``token`` that is good for a day."""
    with subprocess.Popen([node(), "--no-warnings", CONTRACT], cwd=FOLDER, stdout=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            listening: dict[str, Any] = json.loads(process.stdout.readline())
            yield listening
        finally:
            process.terminate()


def _environment(**more: object) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PORT": "0", **{name: str(value) for name, value in more.items()}}
