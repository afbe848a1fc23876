"""A task as the task server keeps it, with the rules by which its state changes."""

from enum import StrEnum
from http import HTTPStatus

from msgspec import Struct

from ai_task_processor.domain.task import NORMAL_PRIORITY
from ai_task_processor.server.problems import Problem, invalid

EMBEDDING_TYPE = "text_embedding"


class State(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


FINISHED = frozenset({State.SUCCEEDED, State.FAILED})


class NewTask(Struct, frozen=True):
    """A task to be kept; ``content``, ``callback_params`` and ``priority`` are JSON as text.

    ``urgency`` is the priority as a number: smaller goes first.
    """

    type: str
    content: str
    callback_route: str | None = None
    callback_params: str | None = None
    priority: str | None = None
    urgency: float = NORMAL_PRIORITY


class Claim(Struct, frozen=True):
    """What a worker asks for: at most ``limit`` tasks, and a new lease of those that it still holds of ``renew``."""

    worker: str
    limit: int
    lease_seconds: float
    renew: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """A task's result as it is kept: float32 little-endian numbers, or JSON as text; never both."""

    vector: bytes | None = None
    json: str | None = None


NO_ANSWER = Answer()


class StoredTask(Struct, frozen=True):
    """A task that is kept; times are Unix milliseconds.

    ``answer`` and ``error`` are None where they were not asked for, ``leased_until`` where no worker has claimed it.
    """

    id: str
    type: str
    state: State
    content: str
    callback_route: str | None
    callback_params: str | None
    priority: str | None
    created_at: int
    updated_at: int
    leased_until: int | None = None
    answer: Answer | None = None
    error: str | None = None


class Standing(Struct, frozen=True):
    """What a change of a task is judged by."""

    type: str
    state: State
    answer: Answer = NO_ANSWER
    error: str | None = None


class Change(Struct, frozen=True):
    """What a client says about a task; ``not_an_embedding`` says why its result would not do for an embedding."""

    state: State
    answer: Answer = NO_ANSWER
    error: str | None = None
    not_an_embedding: str | None = None


class Changed(Struct, frozen=True):
    """A task after a change; ``updated_at`` in Unix milliseconds."""

    id: str
    standing: Standing
    updated_at: int


def changed(standing: Standing, change: Change) -> Standing:
    """The task after ``change``; the very same object where the change repeats what is known.

    A finished task keeps its outcome, unless it is set back to pending to be done again. Raises Problem.
    """
    if change.not_an_embedding and standing.type == EMBEDDING_TYPE:
        raise invalid(change.not_an_embedding)
    after = Standing(standing.type, change.state, change.answer, change.error)
    if standing.state not in FINISHED or change.state is State.PENDING:
        return after
    if after == standing:
        return standing
    raise Problem(HTTPStatus.CONFLICT, _conflict(standing, change))


def _conflict(standing: Standing, change: Change) -> str:
    if standing.state is change.state:
        return f"The task is {standing.state} already, with another {_outcome(change.state)}."
    return f"The task is {standing.state} already; only a change to pending, to do it again, is possible now."


def _outcome(state: State) -> str:
    return "result" if state is State.SUCCEEDED else "error"
