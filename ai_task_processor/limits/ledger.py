"""What of the limiter outlives the process, and the port through which it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ai_task_processor.limits.timeline import Reading


@dataclass(frozen=True, slots=True)
class Bucket:
    """The admissions of a window that ended up in one bucket; ``end`` is on the line of the reading beside it."""

    window: str
    end: float
    count: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is kept: when it was last written, None before the first time, and the buckets."""

    reading: Reading | None = None
    buckets: tuple[Bucket, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: buckets with what they hold now (not what was added), and per window the end up to which to drop."""

    reading: Reading
    buckets: tuple[Bucket, ...]
    forget: Mapping[str, float] = field(default_factory=dict)


class LimitStore(Protocol):
    """Keeps the ledger. Each method is one transaction, durable when it returns, and raises JournalError.

    Changes take effect in the order of the calls, also where a caller is cancelled: such a change has happened whole
    or not at all.
    """

    async def load(self) -> Ledger:
        """All that is kept."""
        ...

    async def save(self, entry: Entry) -> None:
        """Write one change."""
        ...

    async def replace(self, ledger: Ledger) -> None:
        """Keep this and nothing else."""
        ...
