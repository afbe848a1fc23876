"""The shapes of the Task API: the only place that knows its field names."""

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import orjson

from ai_task_processor.domain.errors import TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.outcome import FLOAT32_BYTES, Failed, Settled, Succeeded, Vector
from ai_task_processor.domain.task import NORMAL_PRIORITY, PRIORITIES, JsonValue, Page, Task
from ai_task_processor.task_api.portions import portions
from ai_task_processor.task_api.requests import Body
from ai_task_processor.task_api.shortlist import Shortlist

PENDING_PATH = "/api/ai-tasks/pending"
TASK_PATH = "/api/ai-tasks/{id}"
CLAIM_PATH = "/api/ai-tasks/claim"
TASKS_PATH = "/api/ai-tasks"

IN_PROGRESS = b'{"state":"in_progress"}'

LONGEST_ID = 256
LONGEST_TYPE = 128
LONGEST_ERROR = 2_000
LARGEST_PRIORITY = 1_000_000

MOST_TYPES = 100
OTHER_TYPES = "(others)"
"""Types that nobody here knows are told by name, so many of them at most; the rest goes by this one."""

CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""What is passed on as a correlation id; anything else gets a new one."""

NOT_AN_OBJECT = "the entry is not a JSON object"
NO_ID = "the entry has neither _id nor id"
BAD_ID = "the entry's id cannot be used: it must have 1 to 256 characters, none of them a control character"

_chance = random.Random()  # noqa: S311  # a name, no secret: asking the system for each listed task costs too much

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def read_page(body: Body, fetched_at: float) -> Page:
    """Understand an answer of the pending route; ``fetched_at`` (Unix seconds) is the age of tasks without a date.

    Raises TaskApiUnavailable for an answer that is not a list of tasks, and nothing else.
    """
    steps = reading(body, fetched_at)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            page: Page = end.value
            return page


def reading(
    body: Body, fetched_at: float, *, most: int | None = None, types: Collection[str] | None = None
) -> Generator[None, None, Page]:
    """Do the same as :func:`read_page` in steps of a few milliseconds, for a page may hold every task there is.

    Only the ``most`` most urgent tasks of these ``types`` are kept, which bounds the memory; the others are counted.
    """
    listed = 0
    kept = Shortlist(most)
    foreign: Counter[str] = Counter()
    unusable: list[str] = []
    for entries in portions(body):
        listed += len(entries)
        for entry in entries:
            task = _task(entry, fetched_at)
            if isinstance(task, str):
                unusable.append(task)
            elif types is None or task.type in types:
                kept.offer(task)
            else:
                foreign[task.type if task.type in foreign or len(foreign) < MOST_TYPES else OTHER_TYPES] += 1
        yield
        yield from kept.settle()
    tasks = yield from kept.taken()
    return Page(tuple(tasks), listed=listed, unusable=tuple(unusable), foreign=foreign)


def outcome_body(outcome: Settled, *, detailed: bool = False, with_error: bool = True) -> bytes:
    """The body that reports ``outcome``.

    Raises TaskApiRejected where the stored outcome cannot be written: it was damaged, or is no JSON value.
    """
    if isinstance(outcome, Failed):
        return _failed(outcome, with_error=with_error)
    result = _result(outcome, detailed=detailed)
    try:
        return orjson.dumps({"state": "succeeded", "result": result})
    except TypeError as error:
        raise TaskApiRejected("the result cannot be written as JSON") from error


def claim_body(limit: int, *, worker: str, lease_seconds: int, renew: Sequence[str] = ()) -> bytes:
    """The body that claims tasks; with the limit 0 it asks whether that is possible, or renews only."""
    body: dict[str, object] = {"limit": limit, "leaseSeconds": lease_seconds, "worker": worker}
    return orjson.dumps({**body, "renew": renew} if renew else body)


def lists_tasks(body: Body) -> bool:
    """Whether this is an answer to a claim."""
    return body.lstrip().startswith(b"[")


def results_body(results: Iterable[tuple[str, bytes]]) -> bytes:
    """The body that reports many results: ids, and the body of each as :func:`outcome_body` has it."""
    return b'{"results":[%b]}' % b",".join(b'{"id":%b,%b' % (orjson.dumps(of), body[1:]) for of, body in results)


def lists_verdicts(body: Body) -> bool:
    """Whether this is an answer to a report of many results."""
    try:
        verdicts(body)
    except TaskApiUnavailable:
        return False
    return True


def verdicts(body: Body) -> Mapping[str, tuple[int, str]]:
    """What became of many results: by id the status that each would have been answered with, and the words.

    What makes no sense is left out. Raises TaskApiUnavailable where nothing does.
    """
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    results = said.get("results") if isinstance(said, dict) else None
    if not isinstance(results, list):
        raise TaskApiUnavailable("the answer to many results cannot be understood")
    return dict(filter(None, map(_verdict, results)))


def _verdict(entry: object) -> tuple[str, tuple[int, str]] | None:
    if not isinstance(entry, dict):
        return None
    task_id, status, words = _task_id(entry), entry.get("status"), entry.get("error")
    if task_id is None or type(status) is not int:
        return None
    return task_id, (status, words if isinstance(words, str) else "")


# --- Tasks ------------------------------------------------------------------------------------------------------------


def _task(entry: object, fetched_at: float) -> Task | str:
    """One entry as a task, or why it has no usable id."""
    if not isinstance(entry, dict):
        return NOT_AN_OBJECT
    task_id = _task_id(entry)
    if task_id is None:
        return BAD_ID if entry.keys() & {"_id", "id"} else NO_ID
    kind = entry.get("type")
    return Task(
        id=task_id,
        type=kind[:LONGEST_TYPE] if isinstance(kind, str) else "",
        content=entry.get("content"),
        created_at=_created_at(entry.get("createdAt")) or fetched_at,
        priority=_priority(entry.get("priority")),
        correlation_id=_correlation_id(entry.get("correlationId")),
    )


def _task_id(entry: dict[str, object]) -> str | None:
    return _usable_id(entry.get("_id")) or _usable_id(entry.get("id"))


def _usable_id(value: object) -> str | None:
    """The id as it goes into the path of a request, where ``.`` and ``..`` would mean another route."""
    if not isinstance(value, str):
        value = _id_of(value)
    if not 1 <= len(value) <= LONGEST_ID or value in {".", ".."}:
        return None
    return None if _CONTROL.search(value) else value


def _id_of(value: object) -> str:
    """The id in a number, or in an object as MongoDB writes it; empty where there is none."""
    if isinstance(value, dict):
        value = value.get("$oid")
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""


def _created_at(value: object) -> float | None:
    """Unix seconds of an ISO 8601 text (UTC where it names no offset) or of epoch milliseconds."""
    if isinstance(value, dict):
        value = value.get("$date")
    if isinstance(value, str):
        return _read_date(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value / 1000
    return None


def _read_date(text: str) -> float | None:
    """None also for dates before 1970: they are what a server writes that has no date."""
    try:
        date = datetime.fromisoformat(text)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def _priority(value: object) -> int:
    if value is None:
        return NORMAL_PRIORITY
    if isinstance(value, str):
        return PRIORITIES.get(value.lower(), NORMAL_PRIORITY)
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return int(max(-LARGEST_PRIORITY, min(value, LARGEST_PRIORITY)))
    return NORMAL_PRIORITY


def _correlation_id(value: object) -> str:
    if isinstance(value, str) and CORRELATION_ID.fullmatch(value):
        return value
    return _chance.randbytes(8).hex()


# --- Outcomes ---------------------------------------------------------------------------------------------------------


def _failed(outcome: Failed, *, with_error: bool) -> bytes:
    body: dict[str, JsonValue] = {"state": "failed", "result": None}
    if with_error:
        body["error"] = outcome.reason[:LONGEST_ERROR].encode("utf-8", "replace").decode()
    return orjson.dumps(body)


def _result(outcome: Succeeded, *, detailed: bool) -> object:
    if not isinstance(outcome.result, Vector):
        return outcome.result
    vector = _numbers(outcome.result)
    if not detailed:
        return vector
    return {
        "embedding": vector,
        "model": outcome.model,
        "provider": outcome.provider,
        "dimensions": outcome.result.dimensions,
        "usage": {"prompt_tokens": outcome.tokens, "total_tokens": outcome.tokens},
    }


def _numbers(vector: Vector) -> orjson.Fragment:
    """The vector as JSON, with the fewest decimals; what is not finite becomes null there, and is refused.

    To ask numpy whether all are finite would let another thread go first, for each vector.
    """
    if not vector.data or len(vector.data) % FLOAT32_BYTES:
        raise TaskApiRejected("the stored vector is damaged: its length is not that of a vector")
    numbers = np.frombuffer(vector.data, "<f4").astype(np.float32, copy=False)
    written = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"n" in written:
        raise TaskApiRejected("the stored vector is damaged: it holds numbers that are not finite")
    return orjson.Fragment(written)
