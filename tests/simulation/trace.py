"""Everything that happened in a simulated world, in order, and its hash."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

from ai_task_processor.domain.events import Event
from tests.simulation.machine import SimulatedLoop

WITHOUT = frozenset({"correlation_id", "facts"})
"""Fields of events that are different in each run, or too long."""


class Trace:
    """Notes with their simulated time, put into words only when somebody reads them."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._notes: list[tuple[float, str | Event]] = []

    def __call__(self, what: str | Event) -> None:
        self._notes.append((self._loop.time(), what))

    @cached_property
    def lines(self) -> Sequence[str]:
        """To be asked for at the end."""
        return [f"{time:14.6f}  {what if isinstance(what, str) else _told(what)}" for time, what in self._notes]

    @property
    def hash(self) -> str:
        """Equal for two runs of one seed."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


def _told(event: Event) -> str:
    facts = {name: getattr(event, name) for name in event.__struct_fields__ if name not in WITHOUT}
    said = " ".join(f"{name}={value}" for name, value in facts.items() if value != "")
    return f"    {type(event).__name__} {said}"
