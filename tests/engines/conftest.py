"""One server, and one file, for all tests of a session."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.engines import installed
from tests.engines.llama_server import llama_server


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    """The address of a llama.cpp that keeps texts apart: one slot."""
    with llama_server() as url:
        yield url


@pytest.fixture(scope="session")
def minilm_gguf() -> Iterator[Path]:
    """all-MiniLM-L6-v2 in a GGUF file."""
    with TemporaryDirectory(prefix="minilm-") as folder:
        yield installed.minilm_in_gguf(Path(folder) / "minilm.gguf")
