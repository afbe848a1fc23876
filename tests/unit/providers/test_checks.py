import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.checks import check_embeddings
from ai_task_processor.providers.mock import mock_vector

NAN, INFINITY = float("nan"), float("inf")


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def answer(*vectors: bytes, model: str = "stranger") -> Embeddings:
    return Embeddings(vectors=vectors, model=model, provider="openai")


@pytest.mark.parametrize(
    ("given", "inputs", "dimensions"),
    [
        (answer(floats(1, 0)), 1, None),
        (answer(floats(1, 0), floats(0, -1)), 2, 2),
        (answer(mock_vector("a", "nomic-embed-text"), model="nomic-embed-text"), 1, None),
        (answer(mock_vector("a", "nomic-embed-text"), model="nomic-embed-text:latest"), 1, None),
        (answer(mock_vector("a", "nomic-embed-text", 64), model="nomic-embed-text"), 1, 64),
    ],
)
def test_believed(given: Embeddings, inputs: int, dimensions: int | None) -> None:
    check_embeddings(given, inputs=inputs, dimensions=dimensions)


@pytest.mark.parametrize(
    ("given", "inputs", "dimensions", "fault"),
    [
        (answer(), 1, None, "0 vectors for 1 texts"),
        (answer(floats(1)), 2, None, "1 vectors for 2 texts"),
        (answer(floats(1), floats(1)), 1, None, "2 vectors for 1 texts"),
        (answer(floats(1, 0), floats(1)), 2, None, "different lengths"),
        (answer(b""), 1, None, "not a row of float32"),
        (answer(b"12345"), 1, None, "not a row of float32"),
        (answer(floats(1, 0)), 1, 3, "gave 2 dimensions instead of 3"),
        (answer(floats(1, 0), model="nomic-embed-text"), 1, None, "gave 2 dimensions instead of 768"),
        (answer(floats(1, 0), model="nomic-embed-text:latest"), 1, None, "gave 2 dimensions instead of 768"),
        (answer(floats(1, NAN)), 1, None, "not finite"),
        (answer(floats(1, 0), floats(-INFINITY, 1)), 2, None, "not finite"),
        (answer(floats(0, 0)), 1, None, "all zeros"),
        (answer(floats(1, 0), floats(0, -0.0)), 2, None, "all zeros"),
    ],
)
def test_not_believed(given: Embeddings, inputs: int, dimensions: int | None, fault: str) -> None:
    with pytest.raises(ProviderUnavailable, match=fault):
        check_embeddings(given, inputs=inputs, dimensions=dimensions)


@given(vectors=st.lists(st.binary(max_size=12), max_size=4), inputs=st.integers(1, 4))
def test_any_bytes_are_believed_or_not_and_nothing_else(vectors: list[bytes], inputs: int) -> None:
    try:
        check_embeddings(answer(*vectors), inputs=inputs, dimensions=None)
    except ProviderUnavailable:
        return
    assert len(vectors) == inputs
    assert len({len(vector) for vector in vectors}) == 1
    assert all(any(number for (number,) in struct.iter_unpack("<f", vector)) for vector in vectors)
