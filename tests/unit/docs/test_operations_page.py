"""The commands of the operations page run as they are written."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ai_task_processor.domain.outcome import Failed
from ai_task_processor.domain.task import Task
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.storage.engine import open_storage
from tests.fakes.time import BEGINNING, ManualClock

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
PARKED = "68b89107952364b0aad89c1d"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a daemon has run that has left one parked row."""

    async def park() -> None:
        async with open_storage(f"sqlite:///{tmp_path}/data/state.db") as storage:
            journal = SqlJournal(storage, ManualClock())
            task = Task(
                PARKED, type="text_embedding", content="a text", created_at=BEGINNING, batch_key="k", correlation_id="c"
            )
            await journal.accept((task,), await journal.mark())
            await journal.claim(1)
            await journal.settle({PARKED: Failed("the text is empty")})
            await journal.unreported(1)
            await journal.park(PARKED, "the Task API refuses it: HTTP 422")

    asyncio.run(park())
    return tmp_path


def commands(heading: str) -> str:
    """The shell commands under a heading of the page."""
    section = PAGE.partition(f"\n{heading}\n")[2]
    found = re.search(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def shell(commands: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(  # noqa: S603  # what the page says is what is tried
        ["/bin/sh", "-eu", "-c", commands],
        cwd=folder,
        env={"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_parked_row_is_found_shown_and_sent_again(folder: Path) -> None:
    said = shell(commands("### Parked rows"), folder)
    assert said.count(PARKED) >= 2
    assert "HTTP 422" in said
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["state"]) for row in rows] == [(PARKED, "failed")]
    assert "a text" not in said


def test_a_backup_holds_what_the_state_held(folder: Path) -> None:
    shell(commands("## Backup"), folder)
    with sqlite3.connect(folder / "state-backup.db") as backup:
        assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert PARKED in str(backup.execute("SELECT * FROM tasks").fetchall())
