"""The daemon as a process: started, killed, stopped, and what it left behind in its file and in its output."""

import asyncio
import base64
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tests.fakes.openai_server import API_KEY
from tests.fakes.task_api_server import CLIENT_ID, CLIENT_SECRET

PROGRAM = Path(sys.executable).with_name("ai-task-processor")

GRACE = 3.0
"""SHUTDOWN_GRACE_SECONDS."""

PATIENCE = 20.0
"""Seconds within which a process that ends by itself must have ended, whatever else this machine does."""

INHERITED = ("PATH", "PYTHONPATH")
"""What of our environment a process gets; PYTHONPATH lets another copy of the program be tried."""


@dataclass
class Life:
    """One process from start to end."""

    number: int
    began: float
    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(cls, number: int, folder: Path, environment: Mapping[str, str]) -> Self:
        log = folder / f"{number:04d}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                "run",
                cwd=folder,
                env=_inherited() | dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
        return cls(number, began, process, log)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def kill(self) -> int:
        """End it at once; its exit code."""
        if self.alive:
            self.process.kill()
        return await self.process.wait()

    def ask_to_stop(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGTERM)

    async def ended(self, within: float) -> int | None:
        """Its exit code, None where it has not ended ``within`` seconds."""
        try:
            async with asyncio.timeout(within):
                return await self.process.wait()
        except TimeoutError:
            return None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def secrets(tokens: int) -> tuple[str, ...]:
    """What no output may contain."""
    basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    return (CLIENT_SECRET, API_KEY, basic, *(f"token-{number}-of-the-tests" for number in range(1, tokens + 1)))


def rows_of(state: Path) -> dict[str, str]:
    """The state of each row in a journal that no process has open; looked at in a copy, the file stays as it was."""
    with TemporaryDirectory(dir=state.parent) as folder:
        for suffix in ("", "-wal"):
            source = state.with_name(state.name + suffix)
            if source.exists():
                shutil.copy(source, Path(folder) / source.name)
        with closing(sqlite3.connect(Path(folder) / state.name)) as connection:
            (health,) = connection.execute("PRAGMA quick_check").fetchone()
            if health != "ok":
                raise AssertionError(f"the state file is damaged: {health}")
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone()
            return dict(connection.execute("SELECT id, state FROM tasks")) if known else {}


def unfinished_count(state: Path) -> int:
    """How many rows of the journal of a running process are not reported."""
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM tasks WHERE state <> 'reported'").fetchone()
        return int(count)


async def unfinished_rows(folder: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What ``ai-task-processor journal list --json`` shows."""
    shown = ("journal", "list", "--json", "--limit", "100000")
    rows: list[dict[str, Any]] = json.loads(await command(*shown, folder=folder, environment=environment))
    return rows


async def command(*arguments: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What a command of the program prints."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        cwd=folder,
        env=_inherited() | dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise AssertionError(f"{' '.join(arguments[:2])} ended with code {process.returncode}")
    return output.decode()


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
