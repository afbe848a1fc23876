"""The arithmetic of limit windows: which admissions count, and until when; pure, standard library only.

Admissions are kept in buckets. A bucket is known by its end, which lies after every admission in it, and all that it
holds counts until the bucket as a whole is certainly out of the window. So an admission may count a little too long
(the width of a bucket, less than 1 % of the window) and never too short, and a window needs a bounded number of
buckets whatever it admits.

Times are seconds on a line that never steps back; for calendar windows they are Unix seconds.
"""

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from msgspec import Struct

from ai_task_processor.domain.amount import UNITS, Unit, window_key

WindowName: TypeAlias = Literal["minute", "hour", "day", "week", "month"]
Strategy: TypeAlias = Literal["rolling", "fixed"]

LENGTHS: dict[WindowName, int] = {
    "minute": 60,
    "hour": 3_600,
    "day": 24 * 3_600,
    "week": 7 * 24 * 3_600,
    "month": 30 * 24 * 3_600,
}
"""Seconds of each rolling window, and the scale of the calendar window of that name."""

KEYS: Mapping[str, tuple[Unit, WindowName]] = MappingProxyType(
    {window_key(unit, name): (unit, name) for unit in UNITS for name in LENGTHS}
)
"""What each window counts, and which it is, by what it is called."""

BUCKETS = 128
"""How many buckets a window's length is cut into; a power of two, so that their ends are exact as floats."""

READING_ERROR = 0.001
"""Seconds by which two readings of a clock may disagree with the time between them: floats near 2e9 are coarse."""


class Window(Protocol):
    """Says which buckets count."""

    def bucket_end(self, time: float) -> float:
        """The end, later than ``time``, of the bucket that takes an admission made at ``time``."""
        ...

    def horizon(self, time: float) -> float:
        """At ``time`` a bucket counts if it ends later than this."""
        ...

    def frees_at(self, end: float) -> float:
        """From which time on the bucket that ends at ``end`` does not count."""
        ...


def window_of(name: WindowName, strategy: Strategy, zone: ZoneInfo) -> Window:
    """The window of that name; ``zone`` matters to the calendar only."""
    return Rolling(LENGTHS[name]) if strategy == "rolling" else Fixed(name, zone)


class Rolling(Struct, frozen=True):
    """The last ``length`` seconds, at every moment."""

    length: float

    def bucket_end(self, time: float) -> float:
        """See :class:`Window`."""
        return _grid_end(time, self.length / BUCKETS)

    def horizon(self, time: float) -> float:
        """See :class:`Window`."""
        return time - self.length - READING_ERROR

    def frees_at(self, end: float) -> float:
        """See :class:`Window`."""
        return end + self.length + 2 * READING_ERROR  # once more, so that who comes back then is not too early


class Fixed:
    """The calendar's minute, hour, day, week (from Monday) or month in a time zone.

    A bucket ends with its period at the latest. Days and longer begin at the first midnight of their date, so a day
    has 23 or 25 hours where the clocks change. Where they change by less than an hour, the hours around the change
    overlap, and what was admitted in both counts in both.
    """

    def __init__(self, name: WindowName, zone: ZoneInfo) -> None:
        self._name = name
        self._zone = zone
        self._width = LENGTHS[name] / BUCKETS
        self._latest = (math.inf, -math.inf)

    def bucket_end(self, time: float) -> float:
        """See :class:`Window`."""
        return min(_grid_end(time, self._width), self.period(time)[1])

    def horizon(self, time: float) -> float:
        """See :class:`Window`."""
        return self.period(time)[0]

    def frees_at(self, end: float) -> float:
        """See :class:`Window`."""
        start, period_end = self.period(end)
        return end if start == end else period_end

    def period(self, time: float) -> tuple[float, float]:
        """Beginning (included) and end (not included) of the period that ``time`` is in, in Unix seconds."""
        start, end = self._latest
        if not start <= time < end:
            self._latest = period_of(self._name, time, self._zone)
        return self._latest


def period_of(name: WindowName, time: float, zone: ZoneInfo) -> tuple[float, float]:
    """Beginning (included) and end (not included) of the calendar period around ``time``, in Unix seconds."""
    if name in {"minute", "hour"}:
        return _clock_period(time, LENGTHS[name], zone)
    first = _first_date(name, _local(time, zone).date())
    following = _following(name, first)
    if time >= _midnight(following, zone):  # clocks set back over midnight show the date before once more
        first, following = following, _following(name, following)
    return _midnight(first, zone), _midnight(following, zone)


def _clock_period(time: float, length: float, zone: ZoneInfo) -> tuple[float, float]:
    shift = (_local(time, zone).utcoffset() or timedelta()).total_seconds()
    start = math.floor((time + shift) / length) * length - shift
    return start, start + length


def _first_date(name: WindowName, day: date) -> date:
    match name:
        case "month":
            return day.replace(day=1)
        case "week":
            return day - timedelta(days=day.weekday())
        case _:
            return day


def _following(name: WindowName, first: date) -> date:
    match name:
        case "month":
            return (first + timedelta(days=31)).replace(day=1)
        case "week":
            return first + timedelta(days=7)
        case _:
            return first + timedelta(days=1)


def _local(time: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(math.floor(time), UTC).astimezone(zone)


def _midnight(day: date, zone: ZoneInfo) -> float:
    # A midnight that the clocks skip is the moment of the change, one that comes twice the first of both (fold=0).
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _grid_end(time: float, width: float) -> float:
    return (math.floor(time / width) + 1) * width
