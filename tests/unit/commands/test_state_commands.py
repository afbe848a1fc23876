import asyncio
import json
from pathlib import Path

import pytest

from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.space_store import SqlSpaceStore
from ai_task_processor.providers.spaces import Spaces
from ai_task_processor.state_commands import forget_spaces, list_spaces
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
    forget_spaces(url, model)
    assert "1 space forgotten" in capsys.readouterr().out
    assert names(url, capsys) == ["other"]


def test_a_model_that_is_not_known_changes_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    forget_spaces(url, "stranger")
    assert "0 spaces forgotten" in capsys.readouterr().out
    assert names(url, capsys) == ["nomic", "other"]
