import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.server.results import answer_of, embedding_fault
from ai_task_processor.server.tasks import Answer

JSON_NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def numbers_of(answer: Answer) -> list[float]:
    if answer.vector is None:
        return orjson.loads(answer.json or "")
    return orjson.loads(orjson.dumps(np.frombuffer(answer.vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY))


@given(st.lists(FLOAT32, min_size=1, max_size=20))
def test_shortest_decimals_of_float32_are_kept_as_float32(values: list[float]) -> None:
    vector = np.array(values, dtype="<f4")
    sent = orjson.loads(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))

    assert answer_of(sent).vector == vector.tobytes()


@given(st.lists(JSON_NUMBERS, max_size=20))
def test_every_list_of_numbers_comes_back_as_it_was(values: list[float]) -> None:
    assert numbers_of(answer_of(values)) == values


@pytest.mark.parametrize(
    "result", [[0.1234567890123], [1e300], [], ["a"], [True], [[1.0]], {"b": 1, "a": [None]}, "x", 0]
)
def test_what_float32_cannot_hold_is_kept_as_json(result: object) -> None:
    answer = answer_of(result)

    assert answer.vector is None
    assert orjson.loads(answer.json or "") == result


def test_the_order_of_keys_makes_no_difference() -> None:
    assert answer_of({"a": 1, "b": 2}) == answer_of({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "result", [[1, 0.5], {"embedding": [0.5]}, {"embedding": [0.5, 1], "dimensions": 2, "usage": {"tokens": 3}}]
)
def test_embeddings_have_no_fault(result: object) -> None:
    assert embedding_fault(result) is None


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([], "result: is empty"),
        ([0.1, "x"], "result: must hold nothing but numbers; the one at index 1"),
        ([0.1, None], "index 1"),
        ([0.1, True], "index 1"),
        ("text", "result: an embedding is a list"),
        (1.5, "result: an embedding is a list"),
        ({"vector": [1]}, 'its "embedding"'),
        ({"embedding": "x"}, "result.embedding: must be a list"),
        ({"embedding": []}, "result.embedding: is empty"),
        ({"embedding": [{}]}, "result.embedding: must hold nothing but numbers"),
        ({"embedding": [1, 2], "dimensions": 3}, "result.dimensions: must be 2"),
        ({"embedding": [1, 2], "dimensions": "2"}, "result.dimensions: must be 2"),
    ],
)
def test_the_fault_of_what_is_no_embedding_is_named(result: object, words: str) -> None:
    assert words in (embedding_fault(result) or "")


def test_infinity_never_gets_so_far() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads("[1e999]")
    assert math.isinf(float("1e999"))
