"""How much of what limits count: tasks, tokens and money."""

import sys
from typing import Literal, TypeAlias

from msgspec import Struct

Unit: TypeAlias = Literal["tasks", "tokens", "cost"]

UNITS: tuple[Unit, ...] = ("tasks", "tokens", "cost")

USD = 10**12
"""A US dollar in the unit of cost: whole trillionths, so that no sum is rounded."""


class Amount(Struct, frozen=True):
    """Tasks, tokens, and what they cost in trillionths of a US dollar; never below zero."""

    tasks: int = 0
    tokens: int = 0
    cost: int = 0

    def of(self, unit: Unit) -> int:
        """How much of one unit."""
        return self.tasks if unit == "tasks" else self.tokens if unit == "tokens" else self.cost

    def within(self, room: "Amount") -> bool:
        """Whether this is no more than ``room`` in any unit."""
        return self.tasks <= room.tasks and self.tokens <= room.tokens and self.cost <= room.cost

    def fitting(self, room: "Amount") -> int:
        """How many of these there is room for together."""
        return min((room.of(unit) // self.of(unit) for unit in UNITS if self.of(unit)), default=sys.maxsize)

    def above(self, other: "Amount") -> "Amount":
        """By how much this is more than ``other``, unit by unit."""
        return Amount(
            max(0, self.tasks - other.tasks), max(0, self.tokens - other.tokens), max(0, self.cost - other.cost)
        )

    def at_most(self, other: "Amount") -> "Amount":
        """The lesser of the two, unit by unit."""
        return Amount(min(self.tasks, other.tasks), min(self.tokens, other.tokens), min(self.cost, other.cost))

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.tasks + other.tasks, self.tokens + other.tokens, self.cost + other.cost)


ONE_TASK = Amount(tasks=1, tokens=1)
"""The least that is worth asking for, where it may be free of charge."""

UNLIMITED = Amount(sys.maxsize, sys.maxsize, sys.maxsize)
"""More than anybody can ask for."""


def window_key(unit: Unit, window: str) -> str:
    """What a window is called: ``minute`` where it counts tasks, else ``tokens_per_minute`` or ``cost_per_minute``."""
    return window if unit == "tasks" else f"{unit}_per_{window}"
