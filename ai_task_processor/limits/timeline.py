"""The line of time on which admissions are counted: it never steps back, not even over a restart."""

import math
from pathlib import Path

from msgspec import Struct

from ai_task_processor.domain.clock import Clock
from ai_task_processor.limits.windows import READING_ERROR, Strategy

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Reading(Struct, frozen=True):
    """What the line and the clocks said at one moment; ``boot`` names the machine's run, empty where unknown."""

    strategy: Strategy
    line: float
    wall: float
    monotonic: float
    boot: str = ""


class Timeline:
    """Time for one run of the limiter, beginning where the last reading of an earlier run ended.

    Rolling windows move with the monotonic clock alone, so that a change of the system's time neither shortens nor
    stretches them. Calendar windows follow the wall clock; while that is behind where the line has already been, the
    line goes on at the pace of the monotonic clock.

    How much time passed between two runs is asked of the monotonic clock if the machine has not been started anew
    meanwhile (``boot`` is the same), else of the wall clock, of which a step back counts as no time.

    A line that several replicas share is the database's: this one then goes on from where that was last heard to be,
    and is behind it by the time that hearing took, never ahead of it.
    """

    def __init__(self, clock: Clock, strategy: Strategy, *, last: Reading | None = None, boot: str = "") -> None:
        self._clock = clock
        self._strategy = strategy
        self._boot = boot
        self._anchored_at = clock.monotonic()
        self._anchor = self._beginning(last)
        self._latest = -math.inf
        self.shared = False
        self._asked_at = self._anchored_at
        self._doubt = 0.0

    def now(self) -> float:
        """Where the line is."""
        steady = self._anchor + self._clock.monotonic() - self._anchored_at
        time = steady if self.shared or self._strategy == "rolling" else max(steady, self._clock.now())
        self._latest = max(self._latest, time)
        return self._latest

    def at_most(self) -> float:
        """Where the line may be already."""
        return self.now() + self._doubt

    def ask(self) -> None:
        """Where a shared line is will be heard, and nobody has looked at it yet."""
        self._asked_at = self._clock.monotonic()

    def follow(self, line: float) -> None:
        """A shared line was here at some moment since :meth:`ask`."""
        self.shared = True
        self._anchor, self._anchored_at, self._latest = line, self._clock.monotonic(), line
        self._doubt = self._anchored_at - self._asked_at

    def wall(self, time: float) -> float:
        """When the line will be at ``time``, in Unix seconds of the clock; never a little too early."""
        lag = self._clock.now() - self.now()
        return time + lag + READING_ERROR if lag else time

    def reading(self) -> Reading:
        """What a later run begins with."""
        return Reading(self._strategy, self.now(), self._clock.now(), self._clock.monotonic(), self._boot)

    def _beginning(self, last: Reading | None) -> float:
        if last is None:
            return self._clock.now()
        return last.line + shift_between(last, self._strategy) + self._passed_since(last)

    def _passed_since(self, last: Reading) -> float:
        """Seconds between a reading of an earlier run and now: too few where the clocks cannot be trusted."""
        if last.boot and last.boot == self._boot and self._anchored_at >= last.monotonic:
            return self._anchored_at - last.monotonic
        return max(0.0, self._clock.now() - last.wall)


def shift_between(last: Reading | None, strategy: Strategy) -> float:
    """What to add to times that were counted under ``last`` to have them on the line of ``strategy``."""
    if last is None or strategy in {last.strategy, "rolling"}:
        return 0.0
    return last.wall - last.line


def boot_id() -> str:
    """A name for this run of the machine, from which its monotonic clock counts; empty where it has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
