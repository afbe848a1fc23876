"""When a provider wants to be asked again, from the headers of its refusal."""

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

_RESETS = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_SPANS = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+", re.ASCII)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds to wait: ``retry-after-ms``, ``Retry-After`` (seconds or a date), else the later ``x-ratelimit-reset-*``.

    ``now`` in Unix seconds. None where no header says so in a way that can be understood.
    """
    for wait in _waits(headers, now):
        if wait is not None and math.isfinite(wait):
            return max(0.0, wait)
    return None


def _waits(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    yield None if milliseconds is None else milliseconds / 1000
    value = headers.get("retry-after", "")
    yield _number(value)
    yield _until_date(value, now)
    yield max((seconds_in(headers.get(name, "")) for name in _RESETS), key=lambda wait: wait or 0.0)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _until_date(value: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None


def seconds_in(value: str) -> float | None:
    """The length of a span like ``6m0s``, ``1s`` or ``20ms``; None where it is none."""
    if not _SPANS.fullmatch(value):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(value))
