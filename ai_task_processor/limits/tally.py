"""What one limit window holds: its admissions in buckets, and how much room they leave."""

from collections.abc import Iterable

from ai_task_processor.limits.windows import Window


class Tally:
    """Counts the admissions of one window; every time is on the limiter's line.

    ``used`` is what counted when the time was last told by :meth:`expire`; it may be above ``limit`` after the limit
    was lowered. ``forgotten`` is the end up to which buckets were dropped since somebody last set it to None.
    """

    def __init__(self, window: Window, limit: int, buckets: Iterable[tuple[float, int]] = ()) -> None:
        self.limit = limit
        self.used = 0
        self.forgotten: float | None = None
        self._window = window
        self._buckets: dict[float, int] = {}  # by end, in the order of the ends
        self.recall(buckets)

    def recall(self, buckets: Iterable[tuple[float, int]]) -> None:
        """Hold these buckets and nothing else."""
        self.used = 0
        self.forgotten = None
        self._buckets.clear()
        for end, count in sorted(buckets):
            self._put(end, count)

    @property
    def room(self) -> int:
        """How many admissions fit."""
        return max(0, self.limit - self.used)

    def expire(self, time: float) -> None:
        """Drop the buckets that do not count any more."""
        horizon = self._window.horizon(time)
        while self._buckets and (oldest := next(iter(self._buckets))) <= horizon:
            self.used -= self._buckets.pop(oldest)
            self.forgotten = horizon

    def add(self, time: float, count: int) -> float:
        """Count admissions made until ``time``; answers the end of the bucket that they went into."""
        end = self._window.bucket_end(time)
        if self._buckets:
            end = max(end, next(reversed(self._buckets)))  # counting longer is safe, and keeps the order
        self._put(end, count)
        return end

    def remove(self, end: float, count: int) -> None:
        """Take back admissions from the bucket that they went into; nothing where that does not count any more."""
        if end in self._buckets:
            self._put(end, -count)

    def held(self, end: float) -> int | None:
        """What the bucket with this end holds; None where it does not count any more."""
        return self._buckets.get(end)

    def buckets(self) -> tuple[tuple[float, int], ...]:
        """Every bucket that counts: its end and what it holds."""
        return tuple(self._buckets.items())

    def fits_at(self, count: int) -> float | None:
        """From when on ``count`` fits (or, where it is above the limit, nothing counts); None where that is now."""
        excess = self.used + min(count, self.limit) - self.limit
        if excess <= 0:
            return None
        for end, held in self._buckets.items():
            excess -= held
            if excess <= 0:
                return self._window.frees_at(end)
        raise AssertionError("the buckets hold less than their sum")

    def frees_at(self) -> float | None:
        """When the oldest admissions stop counting; None where nothing counts."""
        for end, held in self._buckets.items():
            if held:
                return self._window.frees_at(end)
        return None

    def _put(self, end: float, count: int) -> None:
        self._buckets[end] = self._buckets.get(end, 0) + count
        self.used += count
