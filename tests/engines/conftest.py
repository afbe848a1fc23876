"""One server for all tests of a session."""

from collections.abc import Iterator

import pytest

from tests.engines.llama_server import llama_server


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    """The address of a llama.cpp that keeps texts apart: one slot."""
    with llama_server() as url:
        yield url
