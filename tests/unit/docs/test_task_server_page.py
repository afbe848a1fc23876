import asyncio
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from ai_task_processor.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/task-server.md").read_text(encoding="utf-8")
BY_HAND = PAGE.partition("## By hand")[2].partition("## The daemon on it")[0]
PROGRAM = Path(sys.executable).with_name("ai-task-processor")
PATIENCE = 30.0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
async def test_the_commands_run_as_written(tmp_path: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("serve", "--port", "0"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said = await by_hand(await url_of(server), tmp_path)
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    created = [len(answer["ids"]) for answer in said if isinstance(answer, dict) and "ids" in answer]
    assert created == [1, 2, 2]
    pending, stats, changed, shown, page = said[3:]
    assert [task["content"] for task in pending] == [{"text": "Text to embed"}, "one"]
    assert stats == {"pending": 5, "in_progress": 0, "succeeded": 0, "failed": 0}
    assert changed["state"] == shown["state"] == "succeeded"
    assert shown["result"] == page["tasks"][0]["result"] == [0.5, -0.25, 1.0]


async def url_of(server: asyncio.subprocess.Process) -> str:
    assert server.stdout is not None
    async for line in server.stdout:
        if found := re.search(r"http://\S+", line.decode()):
            return found[0]
    raise AssertionError("the task server did not start")


async def by_hand(url: str, folder: Path) -> list[object]:
    """Run every command of the page one after the other, against the server at ``url``."""
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```", BY_HAND, re.DOTALL | re.MULTILINE))
    assert "http://127.0.0.1:8090" in commands
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", commands.replace("http://127.0.0.1:8090", url)),
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await shell.communicate()
    assert shell.returncode == 0, (out, err)
    return documents(out.decode())


def documents(text: str) -> list[object]:
    """JSON documents that follow each other without anything between."""
    found: list[object] = []
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
    return found


def test_its_configuration_of_the_daemon_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    found = re.search(r"^```ini\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    file = tmp_path / "page.env"
    file.write_text(found[1], encoding="utf-8")
    settings = load_settings(file)
    assert settings.mode == "local"
    assert set(dotenv_values(file)) == {name.upper() for name in settings.model_fields_set}
