from datetime import datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.server.problems import Problem
from ai_task_processor.server.tasks import Answer, Change, NewTask, State, StoredTask
from ai_task_processor.server.wire import iso, read_change, read_task_lines, read_tasks, task_json, write, write_page

GOOD = b'{"type": "text_embedding", "content": {"text": "a"}}'
DEEP = b"[" * 300 + b"]" * 300

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_one_task_many_and_lines_are_read_alike() -> None:
    task = NewTask("text_embedding", '{"text":"a"}')

    assert read_tasks(GOOD) == [task]
    assert read_tasks(b"[" + GOOD + b"," + GOOD + b"]") == [task, task]
    assert read_task_lines(GOOD + b"\r\n\n  \n" + GOOD) == [task, task]


def test_everything_a_task_may_have() -> None:
    body = {
        "type": "summary",
        "content": "bare",
        "callbackRoute": "done",
        "callbackParams": {"b": 1, "a": None},
        "priority": 2.5,
    }

    assert read_tasks(orjson.dumps(body)) == [NewTask("summary", '"bare"', "done", '{"a":null,"b":1}', "2.5", 2.5)]


@given(JSON)
def test_any_content_comes_back_as_it_was(content: object) -> None:
    (task,) = read_tasks(orjson.dumps({"type": "t", "content": content}))

    assert orjson.loads(task.content) == content


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no body"),
        (b" \n", "no body"),
        (b"{", "not JSON"),
        (b'{"type": "\xff"}', "not JSON"),
        (b"[NaN]", "not JSON"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_what_is_not_json_is_malformed(body: bytes, words: str) -> None:
    for read in (read_tasks, read_change):
        with pytest.raises(Problem, match=words) as problem:
            read(body)
        assert problem.value.status == 400


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, "type: Field required; content: Field required"),
        ({"type": "t"}, "content: Field required"),
        ({"type": "", "content": 1}, "type: String should have at least 1 character"),
        ({"type": 5, "content": 1}, "type: Input should be a valid string"),
        ({"type": "t", "content": 1, "priority": "urgent"}, "Input should be critical, high, normal, low or a number"),
        ({"type": "t", "content": 1, "priority": True}, "priority: Input should be"),
        ({"type": "t", "content": 1, "callbackParams": []}, "callbackParams: Input should be a valid dictionary"),
        ({"type": "t", "content": 1, "callbackRoute": 3}, "callbackRoute: Input should be a valid string"),
        ({"type": "t", "content": 1, "state": "failed"}, "state: Extra inputs are not permitted"),
        ({"type": "t", "content": orjson.Fragment(DEEP)}, "nested too deeply"),
        ("text", "Input should be"),
        (None, "Input should be"),
    ],
)  # fmt: skip
def test_the_faulty_task_is_named_by_its_index(task: object, words: str) -> None:
    with pytest.raises(Problem) as problem:
        read_tasks(orjson.dumps([orjson.Fragment(GOOD), task]))

    (fault,) = problem.value.faults
    assert problem.value.status == 422
    assert fault.index == 1
    assert fault.line is None
    assert words in fault.message
    assert "index 1" in problem.value.message


def test_the_faulty_line_is_named_by_its_number() -> None:
    with pytest.raises(Problem) as problem:
        read_task_lines(b"\n" + GOOD + b'\n\n{"type": 1, "content": 2}\n')

    assert problem.value.body()["errors"] == [
        {"index": 1, "line": 4, "message": "type: Input should be a valid string"}
    ]
    assert "line 4" in problem.value.message


def test_every_line_that_is_not_json_is_named() -> None:
    with pytest.raises(Problem) as problem:
        read_task_lines(b"{\n" + GOOD + b"\nx")

    assert problem.value.status == 400
    assert [(fault.index, fault.line) for fault in problem.value.faults] == [(0, 1), (2, 3)]
    assert "1 more" in problem.value.message


def test_a_flood_of_faults_is_told_in_part() -> None:
    with pytest.raises(Problem) as problem:
        read_tasks(orjson.dumps([{}] * 1000))

    assert len(problem.value.faults) == 1000
    assert len(problem.value.body()["errors"]) == 100  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"[]", b"\n\n"])
def test_no_task_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as problem:
        read_tasks(body) if body.strip() else read_task_lines(body)
    assert problem.value.status == 422


@pytest.mark.parametrize(
    ("body", "change"),
    [
        ({"state": "in_progress"}, Change(State.IN_PROGRESS)),
        ({"state": "pending", "result": None, "error": None}, Change(State.PENDING)),
        ({"state": "failed"}, Change(State.FAILED)),
        ({"state": "failed", "result": None, "error": "too long"}, Change(State.FAILED, error="too long")),
        ({"state": "succeeded", "result": [1]}, Change(State.SUCCEEDED, Answer(vector=b"\0\0\x80?"))),
        (
            {"state": "succeeded", "result": {"embedding": [1]}},
            Change(State.SUCCEEDED, Answer(json='{"embedding":[1]}')),
        ),
    ],
)
def test_changes_that_are_understood(body: object, change: Change) -> None:
    assert read_change(orjson.dumps(body)) == change


def test_a_result_that_is_no_embedding_is_left_to_the_task_to_judge() -> None:
    change = read_change(b'{"state": "succeeded", "result": "a summary"}')

    assert change.answer == Answer(json='"a summary"')
    assert change.not_an_embedding


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "state: Field required"),
        ([], "Input should be a valid dictionary"),
        ({"state": "done"}, "state: Input should be 'pending', 'in_progress', 'succeeded' or 'failed'"),
        ({"state": "succeeded"}, "result: a task that succeeded has one"),
        ({"state": "succeeded", "result": None}, "result: a task that succeeded has one"),
        ({"state": "succeeded", "result": [1], "error": "x"}, "error: must be null or absent"),
        ({"state": "failed", "result": [1]}, "result: must be null or absent"),
        ({"state": "in_progress", "result": [1]}, "result: must be null or absent"),
        ({"state": "failed", "error": 5}, "error: Input should be a valid string"),
        ({"state": "failed", "error": "x" * 10_001}, "error: String should have at most 10000"),
        ({"state": "failed", "reason": "x"}, "reason: Extra inputs are not permitted"),
        ({"state": "succeeded", "result": orjson.Fragment(DEEP)}, "nested too deeply"),
    ],
)
def test_changes_that_are_refused(body: object, words: str) -> None:
    with pytest.raises(Problem) as problem:
        read_change(orjson.dumps(body))
    assert problem.value.status == 422
    assert words in problem.value.message


STORED = StoredTask("abc", "t", State.PENDING, '{"text":"a"}', None, None, None, 1704067200000, 1704067200007)


def test_a_task_has_only_what_it_was_given() -> None:
    assert orjson.loads(write(task_json(STORED))) == {
        "_id": "abc",
        "type": "t",
        "state": "pending",
        "content": {"text": "a"},
        "createdAt": "2024-01-01T00:00:00.000Z",
        "updatedAt": "2024-01-01T00:00:00.007Z",
    }


def test_a_page_says_where_the_next_begins() -> None:
    assert orjson.loads(write_page([STORED], 1))["next"] == "abc"
    assert orjson.loads(write_page([STORED], 2))["next"] is None
    assert orjson.loads(write_page([], 2)) == {"tasks": [], "next": None}


@given(st.integers(0, 4_000_000_000_000))
def test_times_are_written_to_the_millisecond(milliseconds: int) -> None:

    assert round(datetime.fromisoformat(iso(milliseconds)).timestamp() * 1000) == milliseconds
