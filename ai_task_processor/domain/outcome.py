"""What performing a task can come to: a closed set of values."""

from dataclasses import dataclass, field
from typing import TypeAlias

from ai_task_processor.domain.task import JsonValue

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding as float32 numbers, little-endian, one after the other: the form in which it is stored.

    ``kept_as`` names the copy that the state keeps of it already, so that it need not be written down twice; empty
    where there is none.
    """

    data: bytes
    kept_as: bytes = field(default=b"", compare=False)

    @property
    def dimensions(self) -> int:
        """How many numbers the vector has."""
        return len(self.data) // FLOAT32_BYTES


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task's answer, with who gave it: ``tokens`` is the task's share of what the provider counted."""

    result: Vector | JsonValue
    model: str = ""
    provider: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The task cannot be done; ``reason`` tells its author what to change."""

    reason: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: try again at ``until`` (Unix seconds).

    ``counts`` says whether this was an attempt that the task itself may have spoilt; waiting for a limit, an open
    breaker or a provider that is down for everybody is none.
    """

    until: float
    reason: str
    counts: bool = False


Settled: TypeAlias = Succeeded | Failed
Outcome: TypeAlias = Succeeded | Failed | Deferred
