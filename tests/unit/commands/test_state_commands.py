import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ai_task_processor import cli
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.space_store import SqlSpaceStore
from ai_task_processor.providers.spaces import Spaces
from ai_task_processor.state_commands import forget_spaces, list_spaces, retry_rows
from ai_task_processor.storage.engine import open_storage
from tests.fakes.time import ManualClock


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A state in which tasks that name ``nomic`` were answered by a model of three dimensions."""
    location = f"sqlite:///{tmp_path / 'state.db'}"

    async def meet() -> None:
        async with open_storage(location) as storage:
            spaces = await Spaces.open(SqlSpaceStore(storage), identities={"openai": "here"}, clock=ManualClock())
            for name in ("nomic", "other"):
                answer = Embeddings(vectors=(bytes(12),), model=f"{name}-v1", provider="openai")
                await spaces.meet(name, None, answer)

    asyncio.run(meet())
    return location


def names(url: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    list_spaces(url, as_json=True)
    return [sighting["name"] for sighting in json.loads(capsys.readouterr().out)]


def test_spaces_are_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(url, capsys) == ["nomic", "other"]
    list_spaces(url, as_json=False)
    assert "nomic-v1" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["nomic", "nomic:latest", "nomic-v1"])
def test_a_model_is_forgotten_under_either_of_its_names(
    url: str, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    forget_spaces(url, model, as_json=False)
    assert "1 space forgotten" in capsys.readouterr().out
    assert names(url, capsys) == ["other"]


def test_a_model_that_is_not_known_changes_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    forget_spaces(url, "stranger", as_json=False)
    assert "0 spaces forgotten" in capsys.readouterr().out
    assert names(url, capsys) == ["nomic", "other"]


def test_a_script_is_told_how_many(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    forget_spaces(url, "nomic", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"forgotten": 1}
    retry_rows(url, [], as_json=True)
    assert json.loads(capsys.readouterr().out) == {"retried": 0}


def test_an_id_that_is_not_tried_again_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    retry_rows(url, ["nowhere"], as_json=False)
    assert "the others named are not here" in capsys.readouterr().out
    retry_rows(url, [], as_json=False)
    assert capsys.readouterr().out == "0 rows will be tried again\n"


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its path."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, f"{path}{name} ")
        else:
            yield f"{path}{name}", one


def test_every_command_that_tells_facts_tells_them_to_scripts_too() -> None:
    without = {
        name
        for name, command in commands(typer.main.get_command(cli.app))
        if not any("--json" in option.opts for option in command.params)
    }
    runs, is_json_anyway, is_for_watching = {"run", "serve"}, {"health", "journal export"}, {"demo"}
    assert without == runs | is_json_anyway | is_for_watching
