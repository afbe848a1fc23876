"""Time as the program sees it."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Two readings of time; waiting is asyncio's business."""

    def now(self) -> float:
        """Unix seconds, never smaller than an earlier reading of the same clock object."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; not moved by changes of the system's time."""
        ...


class SystemClock:
    """The machine's clock.

    When the system's time is set back, ``now`` goes on from its last reading at the pace of the monotonic clock until
    the system's time has caught up, so that what waits for a moment waits no longer than it was told to.

    ``wall`` and ``monotonic`` read the system's two clocks; a simulation brings its own.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._latest = wall()
        self._read_at = monotonic()

    def now(self) -> float:
        """Unix seconds, never going backwards."""
        read_at = self._monotonic()
        self._latest = max(self._wall(), self._latest + read_at - self._read_at)
        self._read_at = read_at
        return self._latest

    def monotonic(self) -> float:
        """Seconds of the system's monotonic clock."""
        return self._monotonic()
