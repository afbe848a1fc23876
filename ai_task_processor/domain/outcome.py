"""What performing a task can come to: a closed set of values."""

from typing import TypeAlias

from msgspec import Struct

from ai_task_processor.domain.task import JsonValue

FLOAT32_BYTES = 4


class Vector(Struct, frozen=True):
    """An embedding as float32 numbers, little-endian, one after the other: the form in which it is stored.

    ``kept_as`` names the copy that the state keeps of it already, so that it need not be written down twice; empty
    where there is none. Vectors of the same numbers are equal, wherever else they are kept.
    """

    data: bytes
    kept_as: bytes = b""

    @property
    def dimensions(self) -> int:
        """How many numbers the vector has."""
        return len(self.data) // FLOAT32_BYTES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)


class Succeeded(Struct, frozen=True):
    """The task's answer, with who gave it: ``tokens`` is the task's share of what the provider counted."""

    result: Vector | JsonValue
    model: str = ""
    provider: str = ""
    tokens: int = 0


class Failed(Struct, frozen=True):
    """The task cannot be done; ``reason`` tells its author what to change."""

    reason: str


class Deferred(Struct, frozen=True):
    """Not now: try again at ``until`` (Unix seconds).

    ``counts`` says whether this was an attempt that the task itself may have spoilt; waiting for a limit, an open
    breaker or a provider that is down for everybody is none.
    """

    until: float
    reason: str
    counts: bool = False


Settled: TypeAlias = Succeeded | Failed
Outcome: TypeAlias = Succeeded | Failed | Deferred
