import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.providers.mock import DIMENSIONS_OF_STRANGERS, Mock, mock_vector
from tests.fakes.time import LoopClock, virtual_time

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(text=texts, dimensions=st.integers(2, 64))
def test_a_vector_has_length_one_and_the_dimensions_asked_for(text: str, dimensions: int) -> None:
    vector = np.frombuffer(mock_vector(text, "m", dimensions), "<f4")
    assert len(vector) == dimensions
    assert np.linalg.norm(vector.astype(float)) == pytest.approx(1, abs=1e-6)


@given(one=texts, other=texts)
def test_different_texts_have_different_vectors(one: str, other: str) -> None:
    assert (mock_vector(one, "m", 16) == mock_vector(other, "m", 16)) == (one == other)


def test_a_vector_never_changes_from_version_to_version() -> None:
    digest = hashlib.sha256(mock_vector("hello", "text-embedding-3-small")).hexdigest()
    assert digest == "983e98d9de6f44a0be6189be13f7ba32aceabb8710990e3286cef56d09f272a3"


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [
        ("nomic-embed-text", 768),
        ("nomic-embed-text:latest", 768),
        ("text-embedding-3-large", 3072),
        ("never-heard-of-it", DIMENSIONS_OF_STRANGERS),
    ],
)
def test_the_model_decides_the_length(model: str, dimensions: int) -> None:
    assert len(mock_vector("a", model)) == 4 * dimensions


def test_model_and_length_are_part_of_the_seed() -> None:
    vectors = {
        mock_vector("a", "one", 4),
        mock_vector("a", "other", 4),
        mock_vector("a", "one", 5)[:16],
        mock_vector("b", "one", 4),
    }
    assert len(vectors) == 4
    assert mock_vector("a", "one:latest", 4) == mock_vector("a", "one", 4)


async def test_an_answer_names_itself_and_counts() -> None:
    answer = await Mock().embed(["one", "another one"], model="m", dimensions=8)
    assert answer.vectors == (mock_vector("one", "m", 8), mock_vector("another one", "m", 8))
    assert (answer.model, answer.provider) == ("m", "mock")
    assert answer.tokens > 1


@virtual_time
async def test_latency_is_waited_for() -> None:
    clock = LoopClock()
    await Mock(latency=2.5).embed(["one"], model="m", dimensions=None)
    assert clock.monotonic() == pytest.approx(2.5)
