import json
import math
import struct
from collections.abc import Generator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_task_processor.domain.errors import TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.outcome import Failed, Succeeded, Vector
from ai_task_processor.domain.task import Page, Task, urgency
from ai_task_processor.task_api import wire

FETCHED_AT = 1_700_000_000.0

DOCUMENT = {
    "_id": "68b89107952364b0aad89c1d",
    "type": "text_embedding",
    "state": "pending",
    "content": {"text": "Text to embed", "model": "nomic-embed-text"},
    "callbackRoute": "verification_update_embedding",
    "callbackParams": {"documentId": "doc-id"},
    "createdAt": "2024-01-01T00:00:00.000Z",
}


def drained(steps: Generator[None, None, Page]) -> Page:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            page: Page = end.value
            return page


def read(*entries: Any) -> Page:
    return wire.read_page(json.dumps(entries).encode(), FETCHED_AT)


def read_one(**changes: Any) -> Task:
    page = read({**DOCUMENT, **changes})
    assert len(page.tasks) == 1, page
    return page.tasks[0]


def test_a_task_as_the_contract_shows_it() -> None:
    task = read_one(updatedAt=None, somethingNew=[1, 2])
    assert (task.id, task.type) == ("68b89107952364b0aad89c1d", "text_embedding")
    assert task.content == {"text": "Text to embed", "model": "nomic-embed-text"}
    assert task.created_at == 1_704_067_200.0
    assert task.priority == 2
    assert len(task.correlation_id) == 16


def test_id_instead_of_underscore_id() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != "_id"}
    assert read({**document, "id": "b"}).tasks[0].id == "b"
    assert read({**document, "_id": None, "id": "b"}).tasks[0].id == "b"


@pytest.mark.parametrize(
    ("given_id", "understood"),
    [
        ("x", "x"),
        ("x" * 256, "x" * 256),
        (7, "7"),
        (0, "0"),
        ({"$oid": "68b89107952364b0aad89c1d"}, "68b89107952364b0aad89c1d"),
        ("a/b?c#d %é", "a/b?c#d %é"),
    ],
)
def test_ids_that_can_be_used(given_id: Any, understood: str) -> None:
    assert read_one(_id=given_id).id == understood


@pytest.mark.parametrize(
    "bad", [None, "", "x" * 257, "a\nb", "a\x7fb", ".", "..", True, 1.5, ["a"], {}, {"$oid": ""}, {"$oid": None}]
)
def test_ids_that_cannot_be_used_are_left_alone_and_never_repeated(bad: Any) -> None:
    page = read({**DOCUMENT, "_id": bad}, {**DOCUMENT, "_id": "good"})
    assert [task.id for task in page.tasks] == ["good"]
    assert page.unusable == (wire.BAD_ID,)
    assert page.listed == 2


@pytest.mark.parametrize(
    ("bad", "reason"), [(None, wire.NOT_AN_OBJECT), (3, wire.NOT_AN_OBJECT), ([], wire.NOT_AN_OBJECT), ({}, wire.NO_ID)]
)
def test_entries_that_are_no_tasks(bad: Any, reason: str) -> None:
    page = read(bad, DOCUMENT)
    assert (len(page.tasks), page.unusable, page.listed) == (1, (reason,), 2)


@pytest.mark.parametrize("kind", [None, 5, {}, ["text_embedding"]])
def test_a_type_that_is_no_text_is_an_unknown_type(kind: Any) -> None:
    assert read_one(type=kind).type == ""


@pytest.mark.parametrize("content", ["a bare text", None, 5, [1], {"text": 5}, {"text": "a", "dimensions": 256}])
def test_content_is_passed_on_as_it_is(content: Any) -> None:
    assert read_one(content=content).content == content


@pytest.mark.parametrize(
    ("given_date", "understood"),
    [
        ("2024-01-01T00:00:00.000Z", 1_704_067_200.0),
        ("2024-01-01T02:00:00+02:00", 1_704_067_200.0),
        ("2024-01-01T00:00:00", 1_704_067_200.0),
        ("2024-01-01", 1_704_067_200.0),
        (1_704_067_200_000, 1_704_067_200.0),
        (1_704_067_200_500.0, 1_704_067_200.5),
        ({"$date": "2024-01-01T00:00:00Z"}, 1_704_067_200.0),
        ("yesterday", FETCHED_AT),
        ("0001-01-01T00:00:00Z", FETCHED_AT),
        ("0001-01-01T00:00:00+23:59", FETCHED_AT),
        ("", FETCHED_AT),
        (None, FETCHED_AT),
        (True, FETCHED_AT),
        (0, FETCHED_AT),
        (-5, FETCHED_AT),
        ([], FETCHED_AT),
    ],
)
def test_creation_times(given_date: Any, understood: float) -> None:
    assert read_one(createdAt=given_date).created_at == understood


@pytest.mark.parametrize(
    ("given_priority", "understood"),
    [
        ("critical", 0),
        ("High", 1),
        ("NORMAL", 2),
        ("low", 3),
        ("urgent!", 2),
        (0, 0),
        (-7, -7),
        (1.9, 1),
        (1e300, 1_000_000),
        (-(10**30), -1_000_000),
        (None, 2),
        (True, 2),
        ([], 2),
    ],
)
def test_priorities(given_priority: Any, understood: int) -> None:
    assert read_one(priority=given_priority).priority == understood


def test_a_priority_that_is_not_a_number_is_normal() -> None:
    body = b'[{"_id": "a", "priority": NaN}, {"_id": "b", "priority": -Infinity}]'
    assert [task.priority for task in wire.read_page(body, FETCHED_AT).tasks] == [2, 2]


@pytest.mark.parametrize("given_correlation", ["run-7:a.b_c", "x" * 64])
def test_a_correlation_id_of_the_task_is_kept(given_correlation: str) -> None:
    assert read_one(correlationId=given_correlation).correlation_id == given_correlation


@pytest.mark.parametrize("given_correlation", [None, "", "x" * 65, "a b", "a\r\nX-Evil: 1", 5])
def test_any_other_correlation_id_is_made_anew(given_correlation: Any) -> None:
    made = read_one(correlationId=given_correlation).correlation_id
    assert made != given_correlation
    assert int(made, 16) >= 0


def test_most_urgent_first_and_each_id_once() -> None:
    page = read(
        {"_id": "young", "createdAt": 3000},
        {"_id": "old", "createdAt": 1000},
        {"_id": "young", "createdAt": 1},
        {"_id": "first", "createdAt": 9000, "priority": "critical"},
    )
    assert [task.id for task in page.tasks] == ["first", "old", "young"]
    assert page.tasks[-1].created_at == 3.0
    assert page.listed == 4


def test_of_a_long_page_only_the_most_urgent_of_the_wanted_types_are_kept() -> None:
    entries = [
        {"_id": f"t{age}", "type": "echo" if age % 2 else "vision", "createdAt": age} for age in range(99, 0, -1)
    ]
    steps = wire.reading(json.dumps(entries).encode(), FETCHED_AT, most=3, types={"echo"})
    page = drained(steps)
    assert [task.id for task in page.tasks] == ["t1", "t3", "t5"]
    assert (page.listed, page.foreign) == (99, {"vision": 49})


def test_a_flood_of_types_is_told_by_the_first_names_only() -> None:
    entries = [{"_id": f"t{number}", "type": f"kind {number}"} for number in range(wire.MOST_TYPES + 50)]
    page = drained(wire.reading(json.dumps(entries).encode(), FETCHED_AT, types=()))
    assert len(page.foreign) == wire.MOST_TYPES + 1
    assert page.foreign[wire.OTHER_TYPES] == 50


@pytest.mark.parametrize("tail", [b"", b" \r\n", b" " * 1_000])
def test_what_came_in_a_buffer_with_white_space_around_it(tail: bytes) -> None:
    body = bytearray(b"\xef\xbb\xbf\n [" + json.dumps(DOCUMENT).encode() + b"]" + tail)
    assert len(wire.read_page(body, FETCHED_AT).tasks) == 1


def test_a_text_cut_through_an_emoji_stops_nobody() -> None:
    body = b'[{"_id": "a", "content": "half \\ud83d"}, {"_id": "b", "content": "bad \xff byte"}, {"_id": "c"}]'
    page = wire.read_page(body, FETCHED_AT)
    assert {task.id: task.content for task in page.tasks} == {"a": "half \ufffd", "b": "bad \ufffd byte", "c": None}
    assert orjson.dumps([task.content for task in page.tasks])


def test_an_entry_nested_too_deeply_stops_nobody() -> None:
    deep = b'{"_id": "deep", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    page = wire.read_page(b'[{"_id": "a"}, ' + deep + b"]", FETCHED_AT)
    assert [task.id for task in page.tasks] == ["a"]
    assert page.unusable == (wire.NOT_AN_OBJECT,)


@pytest.mark.parametrize("name", ["data", "items", "tasks"])
def test_a_list_in_an_object_is_taken_for_the_list(name: str) -> None:
    page = wire.read_page(json.dumps({"total": 1, name: [DOCUMENT]}).encode(), FETCHED_AT)
    assert len(page.tasks) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"data": {}}',
        b'{"data": [',
        b'"text"',
        b"<!DOCTYPE html><html></html>",
        b"[",
        b"[{]",
        b'["unfinished]',
        b'[{"_id": "a"}',
        b'[{"_id": "a"}, {"_i',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_not_a_list_is_unavailability(body: bytes) -> None:
    with pytest.raises(TaskApiUnavailable, match="not a list of tasks") as caught:
        wire.read_page(body, FETCHED_AT)
    assert "html" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("_id", "id", "type", "content", "createdAt", "priority", "correlationId", "state", "updatedAt"), JSON
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(FIELDS | JSON, max_size=8))
def test_any_list_is_a_page(entries: list[Any]) -> None:
    page = wire.read_page(json.dumps(entries).encode("utf-8", "surrogatepass"), FETCHED_AT)
    ids = [task.id for task in page.tasks]
    assert page.listed == len(entries)
    assert len(set(ids)) == len(ids)
    assert len(page.tasks) + len(page.unusable) <= len(entries)
    assert list(page.tasks) == sorted(page.tasks, key=urgency)
    for task in page.tasks:
        assert 1 <= len(task.id) <= 256
        assert wire.CORRELATION_ID.fullmatch(task.correlation_id)
        assert abs(task.priority) <= 1_000_000
        assert 0 < task.created_at < math.inf


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_any_answer_is_a_page_or_unavailability(body: bytes) -> None:
    try:
        page = wire.read_page(body, FETCHED_AT)
    except TaskApiUnavailable:
        return
    assert body.removeprefix(b"\xef\xbb\xbf").strip()[:1] in {b"[", b"{"}
    assert page.listed >= len(page.tasks)


# --- Outcomes ---------------------------------------------------------------------------------------------------------

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@given(FLOATS)
def test_a_vector_is_sent_bare_and_comes_back_the_same(numbers: list[float]) -> None:
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    body = json.loads(wire.outcome_body(Succeeded(Vector(data))))
    assert body["state"] == "succeeded"
    assert body.keys() == {"state", "result"}
    assert np.array(body["result"], dtype="<f4").tobytes() == data


def test_the_shortest_decimals_are_sent() -> None:
    body = wire.outcome_body(Succeeded(Vector(struct.pack("<2f", 0.0123, -0.1))))
    assert body == b'{"state":"succeeded","result":[0.0123,-0.1]}'


def test_the_longest_vector_fits_into_nests_body_limit() -> None:
    numbers = np.random.default_rng(1).standard_normal(3072).astype("<f4")
    body = wire.outcome_body(Succeeded(Vector((numbers / np.linalg.norm(numbers)).tobytes())), detailed=True)
    assert len(body) < 50_000


def test_the_detailed_result() -> None:
    outcome = Succeeded(Vector(struct.pack("<2f", 1.0, 0.5)), model="m", provider="p", tokens=7)
    assert json.loads(wire.outcome_body(outcome, detailed=True))["result"] == {
        "embedding": [1.0, 0.5],
        "model": "m",
        "provider": "p",
        "dimensions": 2,
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_a_result_that_is_no_vector_is_sent_as_it_is() -> None:
    outcome = Succeeded({"labels": ["a", 1, None]})
    assert json.loads(wire.outcome_body(outcome, detailed=True))["result"] == {"labels": ["a", 1, None]}


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x80", struct.pack("<f", math.nan), struct.pack("<f", math.inf)])
def test_a_damaged_vector_is_never_sent(data: bytes) -> None:
    with pytest.raises(TaskApiRejected, match="damaged"):
        wire.outcome_body(Succeeded(Vector(data)))


def test_a_result_that_is_no_json_is_never_sent() -> None:
    with pytest.raises(TaskApiRejected, match="cannot be written"):
        wire.outcome_body(Succeeded("half \ud83d"))


def test_a_failure_says_why() -> None:
    body = json.loads(wire.outcome_body(Failed("content.text is missing \ud83d" + "x" * 5000)))
    assert body["state"] == "failed"
    assert body["result"] is None
    assert body["error"].startswith("content.text is missing ?")
    assert len(body["error"]) == 2_000


def test_a_failure_without_its_reason() -> None:
    assert json.loads(wire.outcome_body(Failed("why"), with_error=False)) == {"state": "failed", "result": None}
