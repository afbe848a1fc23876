"""A task as the Task API lists it, and the page that it came on."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct, field

JsonValue: TypeAlias = str | int | float | bool | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None

PRIORITIES: Mapping[str, int] = {"critical": 0, "high": 1, "normal": 2, "low": 3}
"""Names that a task may give its priority; smaller numbers go first, also where a task gives a number."""

NORMAL_PRIORITY = PRIORITIES["normal"]


class Task(Struct, frozen=True):
    """One unit of work.

    ``content`` is what the API sent, not yet understood: only the processor of the task's type reads it.
    ``created_at`` is in Unix seconds; a task without a usable creation time carries the time of its fetch.
    ``correlation_id`` follows the task through fetch, provider and PATCH.
    ``batch_key`` is set when the task is accepted: tasks with equal keys can be performed together.
    ``attempts`` counts how often performing it has failed through its own fault so far.
    """

    id: str
    type: str
    content: JsonValue
    created_at: float
    priority: int = NORMAL_PRIORITY
    correlation_id: str = ""
    batch_key: str = ""
    attempts: int = 0

    def with_key(self, batch_key: str) -> "Task":
        """The same with another batch key; a third of the time that replacing a field by its name takes."""
        return Task(
            self.id,
            self.type,
            self.content,
            self.created_at,
            self.priority,
            self.correlation_id,
            batch_key,
            self.attempts,
        )


class Page(Struct, frozen=True):
    """One answer of the Task API.

    ``tasks`` are those with a usable id, each id once, in the order of :func:`urgency`; where only so many of certain
    types were wanted, the most urgent of them.
    ``listed`` is how many entries the answer had; ``unusable`` holds one short reason for each entry that has no
    usable id and is therefore left alone. ``foreign`` counts the tasks of types that were not wanted.
    With ``claimed`` the API has given them to us alone for a while, and lists none of them again until then.
    """

    tasks: tuple[Task, ...]
    listed: int
    unusable: tuple[str, ...] = ()
    claimed: bool = False
    foreign: Mapping[str, int] = field(default_factory=dict)


def urgency(task: Task) -> tuple[int, float, str]:
    """Sort key of everything that waits: priority, then age, then id so that the order is total."""
    return (task.priority, task.created_at, task.id)
