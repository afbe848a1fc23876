"""`ai-task-processor status` beside a daemon, as a person and a script use it; and completion of the command line."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.daemon import environment_for, finished, started
from tests.fakes.task_api_server import FakeTaskApi


@pytest.fixture
async def api() -> AsyncIterator[FakeTaskApi]:
    async with FakeTaskApi() as server:
        yield server


async def test_beside_a_daemon(api: FakeTaskApi, tmp_path: Path) -> None:
    api.add({"_id": "good", "content": {"text": "a text"}}, {"_id": "bad", "content": {}})
    async with started("run", folder=tmp_path, env=environment_for(api, tmp_path)) as daemon:
        url = await daemon.url()
        await api.until(lambda: "pending" not in api.states())
        where = {"METRICS_PORT": url.rpartition(":")[2]}
        code, said = await finished("status", folder=tmp_path, env=where)
        assert code == 0
        assert "mock mode" in said
        assert "content.text must be a string" in said
        code, said = await finished("status", "--json", "--url", url, folder=tmp_path)
        assert (code, json.loads(said)["total"]["succeeded"]) == (0, 1)
        await api.down()
        await daemon.says("Polling the Task API failed")
        async with asyncio.timeout(30):
            assert "✗ Not ready" in await not_ready(tmp_path, where)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


async def not_ready(folder: Path, where: dict[str, str]) -> str:
    """What it says as soon as it ends with 1: a look that somebody else took may be a moment old."""
    while True:
        code, said = await finished("status", folder=folder, env=where)
        if code == 1:
            return said


@pytest.mark.parametrize("more", [[], ["--json"], ["--watch"], ["--watch", "--json"]])
async def test_without_a_daemon_it_says_what_to_do(tmp_path: Path, more: list[str]) -> None:
    code, said = await finished("status", *more, folder=tmp_path, env={"METRICS_PORT": "9"})
    assert code == 69
    assert "no daemon answers at http://127.0.0.1:9/status" in said
    assert "Traceback" not in said


async def test_a_port_that_cannot_be_known_is_named(tmp_path: Path) -> None:
    code, said = await finished("status", folder=tmp_path, env={"METRICS_PORT": "0"})
    assert code == 78
    assert "METRICS_PORT" in said


# --- Completion -------------------------------------------------------------------------------------------------------


async def completed(words: str, folder: Path) -> set[str]:
    """What bash would offer after these words."""
    env = {
        "_AI_TASK_PROCESSOR_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    _, said = await finished(folder=folder, env=env)
    return set(said.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ai-task-processor st", {"status"}),
        ("ai-task-processor journal ", {"list", "show", "retry", "export"}),
        ("ai-task-processor status --w", {"--watch"}),
        ("ai-task-processor demo --mode m", {"mock"}),
        ("ai-task-processor journal list --state p", {"parked"}),
    ],
)
async def test_bash_completes(tmp_path: Path, words: str, offered: set[str]) -> None:
    assert await completed(words, tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
async def test_completion_is_shown_for_any_shell(tmp_path: Path, shell: str) -> None:
    wish = {"_AI_TASK_PROCESSOR_COMPLETE": f"source_{shell}"}
    code, script = await finished(folder=tmp_path, env=wish)
    assert code == 0
    assert "_AI_TASK_PROCESSOR_COMPLETE" in script


async def test_bash_completes_after_it_was_installed(tmp_path: Path) -> None:
    """The command looks which shell has started it, so that it must be one."""
    code, said = await in_bash("ai-task-processor --install-completion; exit $?", home=tmp_path)
    assert code == 0
    assert "bash completion installed" in said
    assert "_AI_TASK_PROCESSOR_COMPLETE" in (await in_bash("ai-task-processor --show-completion; exit $?", tmp_path))[1]
    code, known = await in_bash("source ~/.bashrc && complete -p ai-task-processor", home=tmp_path)
    assert (code, known.strip().endswith("ai-task-processor")) == (0, True)


async def in_bash(line: str, home: Path) -> tuple[int | None, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", line, env={"PATH": path, "HOME": str(home)}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()
