"""A task that its processor has understood, ready to be performed together with its like."""

from msgspec import Struct

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.task import Task


class Work(Struct, frozen=True):
    """A planned task: ``key`` says what it can be batched with, ``payload`` is for its processor alone.

    ``size`` is an upper estimate of the tokens that the provider will count for it, ``cost`` of what they will cost
    (see :mod:`~ai_task_processor.domain.amount`).
    """

    task: Task
    key: str
    payload: object
    size: int = 0
    cost: int = 0

    @property
    def amount(self) -> Amount:
        """What limits count for it."""
        return Amount(tasks=1, tokens=self.size, cost=self.cost)


class Rejection(Struct, frozen=True):
    """The task's content cannot be used; ``reason`` tells its author what to change."""

    reason: str


class Batch(Struct, frozen=True):
    """Works of one task type with equal keys; never empty."""

    type: str
    key: str
    works: tuple[Work, ...]
