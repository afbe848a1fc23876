"""The states of a task's row."""

from enum import StrEnum


class State(StrEnum):
    """What a row is now; ``REPORTED`` is the end, ``PARKED`` waits for an operator."""

    DUE = "due"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REPORTED = "reported"
    PARKED = "parked"


UNREPORTED = frozenset({State.SUCCEEDED, State.FAILED})
"""An outcome is there, and waits for delivery."""

LONGEST_WAIT = 3600.0
"""Seconds that a row may go on waiting after a start: longer ones stem from a clock that was set back since."""
