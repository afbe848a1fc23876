"""Who is measured: how each is started, what it needs, and how many tasks it is given."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.outcome import Succeeded, Vector
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage

HERE = Path(__file__).parent
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"

KNOWN_ROWS = 10_000


@dataclass(frozen=True)
class Contender:
    """``commands`` are started beside each other; ``prepare`` makes their folder ready; ``about`` stands in the table.

    ``share`` is the part of the tasks that it is given, for what is slow would take all day. ``server`` is the address
    (host, port) of what it cannot do without, and that is not ours to start.
    """

    name: str
    about: str
    commands: Callable[[str, Path], list[list[str]]]
    env: Callable[[str, Path], Mapping[str, str]] = lambda _base, _folder: {}
    prepare: Callable[[Path], None] = lambda _folder: None
    share: float = 1.0
    server: tuple[str, int] | None = None
    is_peer: bool = False


def _bare(*options: str) -> Callable[[str, Path], list[list[str]]]:
    return lambda base, _folder: [[sys.executable, str(HERE / "bare.py"), base, *options]]


def _daemon(_base: str, _folder: Path) -> list[list[str]]:
    return [[str(Path(sys.executable).with_name("ai-task-processor")), "run"]]


def daemon_env(base: str, folder: Path) -> dict[str, str]:
    """The daemon as it is by default: journal on disk, cache, breakers, metrics; with a limit that is never reached."""
    return {
        "API_BASE_URL": base,
        "OAUTH2_TOKEN_URL": f"{base}/oauth2/token",
        "OAUTH2_CLIENT_ID": "bench",
        "OAUTH2_CLIENT_SECRET": "bench",
        "PROCESSING_MODE": "openai",
        "OPENAI_API_KEY": "sk-measured",
        "OPENAI_BASE_URL": f"{base}/v1",
        "STATE_URL": f"sqlite:///{folder / 'state.db'}",
        "POLLING_INTERVAL_SECONDS": "1",
        "RATE_LIMIT_PER_DAY": "10000000",
        "METRICS_PORT": "0",
        "LOG_FORMAT": "json",
    }


def _fill_journal(folder: Path) -> None:
    asyncio.run(_filled(folder))


async def _filled(folder: Path) -> None:
    """Tasks that went all the way, as the journal remembers them for a day."""
    async with open_storage(f"sqlite:///{folder / 'state.db'}") as storage:
        journal = SqlJournal(storage, SystemClock())
        tasks = [
            Task(f"old-{number:08}", "text_embedding", {"text": f"old {number}"}, 1.0, batch_key="k")
            for number in range(KNOWN_ROWS)
        ]
        await journal.accept(tasks, await journal.mark())
        while claimed := await journal.claim(1_000):
            outcome = Succeeded(Vector(os.urandom(4 * 1536)), "text-embedding-3-small", "openai", 40)
            await journal.settle({task.id: outcome for task in claimed})
            await journal.mark_reported([task.id for task in claimed])


def _peer(module: str, *commands: str) -> Callable[[str, Path], list[list[str]]]:
    """The bridge, and the workers as their makers start them."""
    folder = HERE / "peers"

    def made(_base: str, _folder: Path) -> list[list[str]]:
        bridge = [str(PEERS_PYTHON), str(folder / f"{module}.py")]
        return [bridge, *([str(PEERS_PYTHON), *command.split()] for command in commands)]

    return made


def _peer_env(base: str, folder: Path) -> dict[str, str]:
    return {"BENCH_BASE": base, "BENCH_RUN": folder.name, "PYTHONPATH": str(HERE / "peers"), "PYTHONWARNINGS": "ignore"}


NOT_TO_BE_HAD = {
    "conductor-python": "it needs a Conductor server, a Java program that none of PyPI, npm and Debian carries"
}
"""Who would belong here, and why they cannot be measured."""

REDIS = ("127.0.0.1", 6379)
POSTGRES = ("127.0.0.1", 5432)

BARE = Contender("bare script", "aiohttp and orjson, no durability, no checks, no limits", _bare())
TUNED = Contender("bare script, tuned", "the same with uvloop and numpy", _bare("--tuned"))
OURS = Contender("AI Task Processor", "SQLite journal, cache, limits and checks on", _daemon, daemon_env)
OURS_FULL = Contender(
    "AI Task Processor, journal of 10,000",
    "the same with 10,000 finished tasks in the journal",
    _daemon,
    daemon_env,
    prepare=_fill_journal,
)
PEERS = (
    Contender(
        "arq",
        "Redis; a bridge that polls the list and enqueues by id",
        _peer("arq_peer", "-m arq arq_peer.WorkerSettings"),
        _peer_env,
        share=0.2,
        server=REDIS,
        is_peer=True,
    ),
    Contender(
        "taskiq",
        "Redis; a bridge that polls the list and kicks each task",
        _peer("taskiq_peer", "-m taskiq worker taskiq_peer:broker --workers 1"),
        _peer_env,
        share=0.2,
        server=REDIS,
        is_peer=True,
    ),
    Contender(
        "procrastinate",
        "PostgreSQL; a bridge that polls the list and defers each task",
        _peer("procrastinate_peer"),
        _peer_env,
        share=0.1,
        server=POSTGRES,
        is_peer=True,
    ),
)
