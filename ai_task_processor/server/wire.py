"""The JSON of the task server: every field name of a task stands here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, TypeVar

import numpy as np
import orjson
from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ai_task_processor.domain.task import NORMAL_PRIORITY, PRIORITIES
from ai_task_processor.server.problems import Fault, Problem, invalid, malformed, too_large
from ai_task_processor.server.results import TooDeep, answer_of, as_json, embedding_fault
from ai_task_processor.server.tasks import Change, Changed, Claim, NewTask, State, StoredTask

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]

LONGEST_LEASE = 86_400
MOST_CLAIMED = 10_000
MOST_RENEWED = 10_000
MOST_RESULTS = 1_000

M = TypeVar("M", bound=BaseModel)


def _priority(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or number or (isinstance(value, str) and value in PRIORITIES):
        return value
    raise PydanticCustomError("priority", "Input should be {names} or a number", {"names": ", ".join(PRIORITIES)})


class TaskBody(BaseModel):
    """A new task as a client sends it."""

    model_config = STRICT

    type: Name
    content: object
    callback_route: Name | None = Field(default=None, alias="callbackRoute")
    callback_params: dict[str, object] | None = Field(default=None, alias="callbackParams")
    priority: Annotated[str | int | float | None, BeforeValidator(_priority)] = None

    def task(self) -> NewTask:
        """The task to keep. Raises TooDeep."""
        return NewTask(
            type=self.type,
            content=as_json(self.content),
            callback_route=self.callback_route,
            callback_params=None if self.callback_params is None else as_json(self.callback_params),
            priority=None if self.priority is None else as_json(self.priority),
            urgency=_urgency(self.priority),
        )


class ChangeBody(BaseModel):
    """What a client says about a task: that it works on it, or what came of it."""

    model_config = STRICT

    state: Annotated[State, Field(strict=False)]
    result: object = None
    error: Annotated[str, StringConstraints(max_length=10_000)] | None = None

    def change(self) -> Change:
        """The change to make. Raises Problem or TooDeep."""
        if self.state is State.SUCCEEDED and self.result is None:
            raise invalid("result: a task that succeeded has one")
        if self.state is not State.SUCCEEDED and self.result is not None:
            raise invalid(f"result: must be null or absent with the state {self.state}")
        if self.state is not State.FAILED and self.error is not None:
            raise invalid(f"error: must be null or absent with the state {self.state}")
        if self.state is not State.SUCCEEDED:
            return Change(self.state, error=self.error)
        return Change(self.state, answer_of(self.result), not_an_embedding=embedding_fault(self.result))


class ClaimBody(BaseModel):
    """What a worker asks for: new tasks, and more time for those that it holds."""

    model_config = STRICT

    limit: Annotated[int, Field(ge=0)]
    lease_seconds: Annotated[int | float, Field(alias="leaseSeconds", ge=1, le=LONGEST_LEASE)]
    worker: Name
    renew: Annotated[list[Id], Field(max_length=MOST_RENEWED)] | None = None

    def claim(self) -> Claim:
        """What is to be claimed: at most 10,000 tasks, however high the limit is."""
        return Claim(self.worker, min(self.limit, MOST_CLAIMED), self.lease_seconds, tuple(self.renew or ()))


class ResultBody(ChangeBody):
    """One result among others."""

    id: Id


class ResultsBody(BaseModel):
    """What came of several tasks; the results are judged one by one."""

    model_config = STRICT

    results: list[object]


_TASKS = TypeAdapter(list[TaskBody])

NEW_TASKS_SCHEMA: dict[str, object] = TypeAdapter(TaskBody | list[TaskBody]).json_schema()
CHANGE_SCHEMA: dict[str, object] = ChangeBody.model_json_schema()
CLAIM_SCHEMA: dict[str, object] = ClaimBody.model_json_schema()
RESULTS_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "results": {"type": "array", "maxItems": MOST_RESULTS, "items": ResultBody.model_json_schema()},
    },
}

# --- Reading ----------------------------------------------------------------------------------------------------------


class Report(Struct, frozen=True):
    """One of several results: the id that it gives, empty where it gives none, and the change, or why there is none."""

    task_id: str
    change: Change | Problem


class _Entry(Struct, frozen=True):
    value: object
    line: int | None = None


def read_tasks(body: bytes) -> list[NewTask]:
    """New tasks from one JSON object, or from an array of them. Raises Problem."""
    value = _parsed(body)
    return _tasks([_Entry(item) for item in (value if isinstance(value, list) else [value])])


def read_task_lines(body: bytes) -> list[NewTask]:
    """New tasks from JSON Lines, one object per line; blank lines are passed over. Raises Problem."""
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), start=1) if line.strip()]
    entries, faults = [], []
    for index, (number, line) in enumerate(lines):
        try:
            entries.append(_Entry(orjson.loads(line), number))
        except orjson.JSONDecodeError as error:
            faults.append(Fault(index, f"not JSON: {error.msg}", number))
    if faults:
        raise malformed(_summary(faults), faults=faults)
    return _tasks(entries)


def read_change(body: bytes) -> Change:
    """A change of a task. Raises Problem."""
    return _change(ChangeBody, _parsed(body))


def read_claim(body: bytes) -> Claim:
    """What a worker asks for. Raises Problem."""
    return _validated(ClaimBody, _parsed(body)).claim()


def read_results(body: bytes) -> list[Report]:
    """Several results, each understood or refused by itself. Raises Problem where there are none, or too many."""
    results = _validated(ResultsBody, _parsed(body)).results
    if len(results) > MOST_RESULTS:
        raise too_large(f"The request holds {len(results)} results; send at most {MOST_RESULTS} at once.")
    return [_report(result) for result in results]


def _report(value: object) -> Report:
    given = value.get("id") if isinstance(value, dict) else None
    task_id = given if isinstance(given, str) else ""
    try:
        return Report(task_id, _change(ResultBody, value))
    except Problem as problem:
        return Report(task_id, problem)


def _change(kind: type[ChangeBody], value: object) -> Change:
    try:
        return _validated(kind, value).change()
    except TooDeep as error:
        raise invalid(f"result: {error}") from error


def _validated(kind: type[M], value: object) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid("; ".join(_reason(details["loc"], details["msg"]) for details in _details(error))) from error


def _parsed(body: bytes) -> object:
    if not body.strip():
        raise malformed("The request has no body; it needs one of JSON.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"The body is not JSON: {error}") from error


def _tasks(entries: Sequence[_Entry]) -> list[NewTask]:
    if not entries:
        raise invalid("The request holds no task.")
    try:
        bodies = _TASKS.validate_python([entry.value for entry in entries])
    except ValidationError as error:
        faults = _faults(error, entries)
        raise invalid(_summary(faults), faults=faults) from error
    return [_task(index, body, entries[index].line) for index, body in enumerate(bodies)]


def _task(index: int, body: TaskBody, line: int | None) -> NewTask:
    try:
        return body.task()
    except TooDeep as error:
        faults = [Fault(index, f"content or callbackParams: {error}", line)]
        raise invalid(_summary(faults), faults=faults) from error


def _faults(error: ValidationError, entries: Sequence[_Entry]) -> list[Fault]:
    reasons: dict[int, list[str]] = {}
    for details in _details(error):
        index, *where = details["loc"]
        reasons.setdefault(int(index), []).append(_reason(where, details["msg"]))
    return [Fault(index, "; ".join(said), entries[index].line) for index, said in reasons.items()]


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _reason(where: Iterable[int | str], message: str) -> str:
    place = ".".join(map(str, where))
    return f"{place}: {message}" if place else message


def _summary(faults: Sequence[Fault]) -> str:
    first = faults[0]
    place = f"index {first.index}" if first.line is None else f"line {first.line}"
    others = f" ({len(faults) - 1} more are faulty too)" if len(faults) > 1 else ""
    return f"Nothing was taken. The task at {place} cannot be used: {first.message}{others}"


# --- Writing ----------------------------------------------------------------------------------------------------------


def write(value: object) -> bytes:
    """``value`` as JSON; numpy vectors are written with the shortest decimals that give back the same float32."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_tasks(tasks: Sequence[StoredTask]) -> bytes:
    """Tasks as a JSON array."""
    return write([task_json(task) for task in tasks])


def write_page(tasks: Sequence[StoredTask], limit: int) -> bytes:
    """A page of tasks that was asked for with ``limit``."""
    more = len(tasks) == limit
    return write({"tasks": [task_json(task) for task in tasks], "next": tasks[-1].id if more else None})


def write_verdicts(reports: Sequence[Report], outcomes: Sequence[Changed | Problem]) -> bytes:
    """What became of each result, in order."""
    return write({"results": [_verdict(*pair) for pair in zip(reports, outcomes, strict=True)]})


def _verdict(report: Report, outcome: Changed | Problem) -> dict[str, object]:
    if isinstance(outcome, Problem):
        return {"id": report.task_id or None, "status": outcome.status.value, "error": outcome.message}
    return {"id": report.task_id, "status": HTTPStatus.OK.value}


def changed_json(task: Changed) -> dict[str, object]:
    """A task after a change: what became of it, without what the client has just sent itself."""
    return {
        "_id": task.id,
        "type": task.standing.type,
        "state": task.standing.state,
        "updatedAt": iso(task.updated_at),
    }


def task_json(task: StoredTask) -> dict[str, object]:
    """A task as clients see it; ``result`` and ``error`` only where the answer was read with it."""
    return {
        "_id": task.id,
        "type": task.type,
        "state": task.state,
        "content": orjson.Fragment(task.content),
        **_given(task),
        "createdAt": iso(task.created_at),
        "updatedAt": iso(task.updated_at),
        **({} if task.leased_until is None else {"leaseExpiresAt": iso(task.leased_until)}),
        **_answered(task),
    }


def _urgency(priority: str | float | None) -> float:
    if isinstance(priority, str):
        return PRIORITIES[priority]
    return NORMAL_PRIORITY if priority is None else float(priority)


def iso(milliseconds: int) -> str:
    """A time in Unix milliseconds as ISO 8601 in UTC: ``2024-01-01T00:00:00.000Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _given(task: StoredTask) -> Mapping[str, object]:
    given: dict[str, object] = {}
    if task.callback_route is not None:
        given["callbackRoute"] = task.callback_route
    if task.callback_params is not None:
        given["callbackParams"] = orjson.Fragment(task.callback_params)
    if task.priority is not None:
        given["priority"] = orjson.Fragment(task.priority)
    return given


def _answered(task: StoredTask) -> Mapping[str, object]:
    if task.answer is None:
        return {}
    return {"result": _result(task.answer.vector, task.answer.json), "error": task.error}


def _result(vector: bytes | None, text: str | None) -> object:
    if vector is not None:
        return np.frombuffer(vector, dtype="<f4")
    return None if text is None else orjson.Fragment(text)
