"""One run of the daemon in the simulated world, from its start to its end, which may be sudden."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.invariants import LifeFacts

CANCELLED_WITHIN = 5.0
"""Seconds in which a cancelled daemon has ended, at most."""


@dataclass(frozen=True, slots=True)
class Trap:
    """Kills the daemon when it passes a point for the ``countdown``-th time whose name begins with ``point``."""

    point: str
    countdown: int


class Life:
    """What the rest of the world knows of a running daemon.

    After its death nothing that it still tries has an effect: every door is closed, and each of its coroutines is
    cancelled as soon as it comes to one.
    """

    def __init__(self, facts: LifeFacts, trap: Trap | None, tell: Callable[[str], None]) -> None:
        self.facts = facts
        self.dead = False
        self.died = asyncio.Event()
        self._trap = trap
        self._left = trap.countdown if trap else 0
        self._tell = tell

    def door(self) -> None:
        """Pass from the daemon to the world, or end here."""
        if self.dead:
            raise asyncio.CancelledError

    def point(self, name: str) -> None:
        """A moment at which the process may die."""
        self.door()
        if self._trap is None or not name.startswith(self._trap.point):
            return
        self._left -= 1
        if self._left == 0:
            self.kill(name)
            raise asyncio.CancelledError

    def kill(self, where: str) -> None:
        """The process is no more."""
        self._tell(f"life {self.facts.number} KILLED at {where}")
        self.dead = True
        self.facts.abrupt = True
        self.facts.ended_at = asyncio.get_running_loop().time()
        self.died.set()
