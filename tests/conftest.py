"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ai_task_processor.providers.local.files import find_model
from ai_task_processor.providers.local.gguf import GgufModel
from tests.engines import installed
from tests.fakes.postgres import Database, database


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """A PostgreSQL database of this session's own; what is in it is the affair of whoever uses it."""
    with database() as made:
        yield made


@pytest.fixture
def postgres_url(postgres: Database) -> str:
    """The URL of a PostgreSQL database with nothing in its tables."""
    postgres.clear()
    return postgres.url


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty state database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def minilm() -> Iterator[Path]:
    """A folder with all-MiniLM-L6-v2 in ONNX."""
    with TemporaryDirectory(prefix="minilm-") as folder:  # 90 MB, which pytest would keep for three sessions
        yield installed.minilm_in_onnx(Path(folder) / "minilm")


@pytest.fixture(scope="session")
def smollm2() -> Iterator[GgufModel]:
    """A small language model, loaded from a GGUF file."""
    model = GgufModel(find_model(installed.smollm2()), truncate=False)
    yield model
    model.close()
