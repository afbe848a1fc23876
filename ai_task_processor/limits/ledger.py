"""What of the limiter outlives the process, and the port through which it is kept."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from msgspec import Struct, field

from ai_task_processor.limits.timeline import Reading


class Bucket(Struct, frozen=True):
    """The admissions of a window that ended up in one bucket; ``end`` is on the line of the reading beside it."""

    window: str
    end: float
    count: int


class Ledger(Struct, frozen=True):
    """All that is kept: when it was last written, None before the first time, and the buckets.

    A ledger that several replicas write has a line of time of its own: ``line`` is where that was when it was read.
    """

    reading: Reading | None = None
    buckets: tuple[Bucket, ...] = ()
    line: float | None = None


class Change(Struct, frozen=True):
    """One change: buckets with what they hold now (not what was added), and per window the end up to which to drop."""

    reading: Reading
    buckets: tuple[Bucket, ...]
    forget: Mapping[str, float] = field(default_factory=dict)


Decide: TypeAlias = Callable[[Ledger | None], Change | None]
"""Answers the change to be made, or None for none; given None it is to decide by what the limiter remembers."""


class LimitStore(Protocol):
    """Keeps the ledger. Each method is one transaction, durable when it returns, and raises JournalError.

    Changes take effect in the order of the calls, also where a caller is cancelled: such a change has happened whole
    or not at all.
    """

    async def load(self) -> Ledger:
        """All that is kept."""
        ...

    async def change(self, decide: Decide) -> None:
        """Write what ``decide`` answers; nobody else changes the ledger between the question and the writing.

        Where only one process writes, it is given None and asked once. Where several do, it is given the ledger as it
        is, and is asked again where the transaction had to begin anew. What it raises arrives as it is, and nothing
        has been written.
        """
        ...

    async def replace(self, ledger: Ledger) -> None:
        """Keep this and nothing else."""
        ...
