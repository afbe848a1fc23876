import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.outcome import Failed, Succeeded, Vector
from ai_task_processor.journal.encoding import (
    Damaged,
    decoded,
    encoded,
    outcome_columns,
    outcome_of,
    storable,
    vector_numbers,
)

ORDER = ("outcome", "result", "error", "model", "provider", "tokens", "dimensions")


def kept(outcome: Any) -> list[Any]:
    columns = outcome_columns(outcome)
    return [columns[name] for name in ORDER]


def test_short_contents_stay_readable_for_whoever_looks_into_the_file() -> None:
    assert encoded({"text": "ä claim", "model": "m"}) == '{"text":"ä claim","model":"m"}'.encode()


def test_long_contents_are_deflated_where_that_pays() -> None:
    text = "the quick brown fox " * 100
    assert len(encoded({"text": text})) < 200
    assert decoded(encoded({"text": text})) == {"text": text}


def test_long_contents_are_left_where_it_does_not_pay() -> None:
    letters = [chr(code) for code in range(33, 127) if chr(code) not in '"\\']
    noise = "".join(random.Random(7).choices(letters, k=2_000))
    assert encoded(noise).decode() == f'"{noise}"'


@pytest.mark.parametrize("value", [2**64, -(2**70), "half \ud800", {"half \ud800": [1]}, {"text": "\udfff" * 600}])
def test_what_is_no_plain_json_comes_back_all_the_same(value: Any) -> None:
    assert decoded(encoded(value)) == value


def test_what_cannot_be_written_at_all_becomes_null() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert decoded(encoded(endless)) is None


@given(st.binary())
def test_no_bytes_are_fatal(stored: bytes) -> None:
    with suppress(Damaged):
        decoded(stored)


@pytest.mark.parametrize("stored", [None, b"", b"{", b"\x78\x01cut", b" {", b"\xff", b"[" * 100_000])
def test_damage_is_told(stored: bytes | None) -> None:
    with pytest.raises(Damaged):
        decoded(stored)


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded(Vector(bytes(16)), "model", "mock", 3),
        Succeeded({"label": ["x"] * 500}, "model", "mock", 3),
        Succeeded(None),
        Succeeded("bare"),
        Failed("no text"),
        Failed(""),
    ],
)
def test_outcomes_come_back_as_they_were(outcome: Any) -> None:
    assert outcome_of(*kept(outcome)) == outcome


@pytest.mark.parametrize("change", [{"result": bytes(15)}, {"result": None}, {"dimensions": None}, {"dimensions": 3}])
def test_a_vector_of_another_length_is_not_believed(change: dict[str, Any]) -> None:
    columns = outcome_columns(Succeeded(Vector(bytes(16)))) | change
    with pytest.raises(Damaged, match="vector"):
        outcome_of(*[columns[name] for name in ORDER])


@pytest.mark.parametrize("kind", [None, "damaged", "other"])
def test_an_unknown_kind_of_outcome_is_not_believed(kind: str | None) -> None:
    with pytest.raises(Damaged, match="unknown kind"):
        outcome_of(kind, b"", "", "", "", 0, 0)


def test_texts_that_no_database_takes_are_mended() -> None:
    assert storable("half \ud800, nul \0, ä") == "half ?, nul ?, ä"
    assert kept(Failed("\ud800"))[2] == "?"


def test_vectors_are_readable_as_numbers() -> None:
    assert vector_numbers(b"\x00\x00\x80\x3f\x00\x00\x00\xc0") == [1.0, -2.0]
    with pytest.raises(Damaged):
        vector_numbers(b"\x00\x00\x80")
