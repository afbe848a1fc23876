"""Everything that happened in a simulated world, in order, and its hash."""

import hashlib

from tests.simulation.machine import SimulatedLoop


class Trace:
    """Lines with their simulated time; two runs of one seed have equal hashes."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.lines: list[str] = []
        self._loop = loop

    def __call__(self, what: str) -> None:
        self.lines.append(f"{self._loop.time():14.6f}  {what}")

    @property
    def hash(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]
