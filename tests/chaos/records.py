"""What was seen from outside during a run: by the two servers, and by whoever started and ended the processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.offers import Payment


@dataclass
class Sending:
    """A request to the provider; times are seconds of one monotonic clock.

    ``charged_at`` is when its texts were paid for, None where they never were. ``delivered_at`` is when the last byte
    of a good answer was handed to the network soon enough for the client to be still there, None where that was not.
    """

    at: float
    payments: tuple[Payment, ...]
    fault: str = ""
    charged_at: float | None = None
    delivered_at: float | None = None


@dataclass
class Patch:
    """A PATCH; ``acknowledged_at`` is when the head of a 2xx answer was handed to the network in good time."""

    at: float
    task_id: str
    body: dict[str, Any]
    fault: str = ""
    acknowledged_at: float | None = None


@dataclass(frozen=True)
class Limit:
    """From ``since`` on at most ``count`` texts may reach the provider within a minute."""

    since: float
    count: int


@dataclass(frozen=True)
class End:
    """The end of a process, and what its journal held then: the state of each row.

    ``began`` and ``at`` are the moments of its start and end; ``how`` is killed, stopped, cut (stopped, but not given
    the time to finish) or unborn (stopped before it could know of signals). ``reported`` tells for the tasks of
    reported rows whether the Task API had taken them. ``ready`` says whether its start was over.
    """

    life: int
    began: float
    at: float
    how: str
    code: int
    rows: Mapping[str, str]
    reported: Mapping[str, bool] = field(default_factory=dict)
    ready: bool = True

    @property
    def finished(self) -> bool:
        """Whether it was given the time to finish what it held."""
        return self.how == "stopped"


@dataclass
class Records:
    """Everything that the invariants are checked against; ``resets`` are when tasks were set back to pending."""

    sendings: list[Sending] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    resets: dict[str, list[float]] = field(default_factory=dict)
