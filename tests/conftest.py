"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
