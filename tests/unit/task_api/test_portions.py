import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_task_processor.task_api.portions import portions

TEXT = st.text(alphabet='ab{}[],:"\\ \n\t}é😀', max_size=12)
VALUE = st.recursive(
    TEXT | st.integers(-9, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUE, max_size=12), st.sampled_from([1, 5, 40, 1000]), st.sampled_from([None, 1]), st.booleans())
def test_together_they_are_the_array(elements: list[Any], size: int, indent: int | None, ascii_only: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    body = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode()
    assert [element for portion in portions(body, size=size) for element in portion] == elements


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUE, max_size=8), st.sampled_from([1, 20]), st.integers(0, 8))
def test_a_broken_element_is_the_only_one_lost(elements: list[Any], size: int, position: int) -> None:
    parts = [orjson.dumps(element) for element in elements]
    parts.insert(position, b'{"broken": 1e999}')
    found = [element for portion in portions(b"[" + b",".join(parts) + b"]", size=size) for element in portion]
    elements.insert(position, None)
    assert found == elements


def test_nested_lists_of_objects_do_not_look_like_the_list() -> None:
    elements = [{"_id": str(number), "content": [{"a": 1}, {"a": 2}, {"_id": "x"}]} for number in range(50)]
    body = orjson.dumps(elements)
    for size in range(1, 60):
        assert [element for portion in portions(body, size=size) for element in portion] == elements


def test_a_long_array_comes_in_many_portions() -> None:
    body = orjson.dumps([{"_id": str(number), "content": "x" * 500} for number in range(2_000)])
    longest = max(len(portion) for portion in portions(body))
    assert longest < 300


@pytest.mark.parametrize("body", [b" \n[1, 2]\r\n", b"\xef\xbb\xbf[1,2]", b"[1,2]"])
def test_white_space_and_a_byte_order_mark_do_not_matter(body: bytes) -> None:
    assert list(portions(body)) == [[1, 2]]
