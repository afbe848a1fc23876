"""Numbers, times and money as people read them."""

import math
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3_600, 86_400

_NAMES = {DAY: "d", HOUR: "h", MINUTE: "min", 1: "s"}
_PARTS = ((DAY, "d", HOUR, 10), (HOUR, "h", MINUTE, 24), (MINUTE, "min", 1, 10))
"""A unit, its name, the next smaller one, and from how many on that one is left out."""

_LARGE = 10_000
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """``12,345``."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """Three digits and a letter from ten thousand up, never more than there is: ``12.3k``."""
    if number < _LARGE:
        return count(number)
    scale, letter = next((scale, letter) for scale, letter in _UNITS if number >= scale)
    scaled = math.floor(number / scale * 10) / 10
    return f"{scaled if scaled < 100 else math.floor(scaled):,g}{letter}"  # noqa: PLR2004  # three digits


def plural(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def money(dollars: float) -> str:
    """US dollars with cents, and with as many more digits as a small sum needs: ``$1,204.50``, ``$0.00042``."""
    if dollars == 0 or dollars >= 0.1:  # noqa: PLR2004  # below that two digits would tell too little
        return f"${dollars:,.2f}"
    return "$" + f"{dollars:.{1 - math.floor(math.log10(dollars))}f}" if dollars >= 1e-6 else "less than $0.000001"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """The two largest units, where the second still matters: ``3 h 12 min``, ``40 s``."""
    rest = max(0, round(seconds))
    for size, unit, smaller, least in _PARTS:
        if rest >= size:
            whole, part = divmod(rest, size)
            fine = part // smaller if whole < least else 0
            return f"{whole} {unit}" + (f" {fine} {_NAMES[smaller]}" if fine else "")
    return f"{rest} s"


def ago(moment: float, now: float) -> str:
    """``12 s ago``, in one unit: nobody counts the minutes of what was yesterday."""
    seconds = max(0, round(now - moment))
    size = next((size for size in _NAMES if seconds >= size), 1)
    return f"{seconds // size} {_NAMES[size]} ago" if seconds else "just now"


def iso(moment: float) -> str:
    """For machines: ``2026-11-20T19:45:00Z``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_time(moment: float) -> str:
    """For people: ``2026-11-20 19:45:00 UTC``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(text: str, longest: int = 500) -> str:
    """On one line, without characters that move a cursor, and cut."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
