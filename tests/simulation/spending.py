"""What requests came to, and the most that any window admitted: by the rule of the limits, counted from outside."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ai_task_processor.domain.amount import Amount
from ai_task_processor.limits.windows import KEYS, LENGTHS


@dataclass(eq=False, slots=True)
class Request:
    """One request that left the daemon, and what it came to as far as that was heard."""

    number: int
    sent_at: float
    reserved: Amount
    actual: Amount
    heard_at: float = float("inf")
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """From ``at`` on ``what`` counts with ``amount``, as something of the time ``since``.

    It ``admits`` if it needed room.
    """

    at: float
    what: tuple[int, str]
    since: float
    amount: Amount
    admits: bool = False


@dataclass
class Spending:
    """Every request in the order of what happened; ``moment`` tells where the limiter's line is, which never goes back.

    A request counts as it was reserved, and as no more than it came to once that is heard. What it came to above that
    counts from when it is certainly written down.
    """

    moment: Callable[[], float]
    notes: list[Note] = field(default_factory=list)
    sent: int = 0

    def send(self, reserved: Amount) -> Request:
        """A request leaves the daemon now."""
        self.sent += 1
        request = Request(self.sent, self.moment(), reserved, reserved)
        self.notes.append(Note(request.sent_at, (request.number, "sent"), request.sent_at, reserved, admits=True))
        return request

    def hear(self, request: Request, actual: Amount) -> None:
        """The daemon hears what it came to."""
        request.actual, request.heard_at = actual, self.moment()
        counts = actual.at_most(request.reserved)
        self.notes.append(Note(request.heard_at, (request.number, "sent"), request.sent_at, counts))

    def settle(self, request: Request) -> None:
        """What was done after the settlement is durable, so the settlement is."""
        over = request.actual.above(request.reserved)
        if not request.settled and over != Amount():
            self.notes.append(Note(self.moment(), (request.number, "over"), request.heard_at, over))
        request.settled = True

    def most(self, key: str, *, rolling: bool) -> int:
        """The most that a window held just after it had let something through."""
        unit, name = KEYS[key]
        is_over = _rolled(LENGTHS[name]) if rolling else _in_another_period(name)
        counted = ((note, note.amount.of(unit)) for note in self.notes)
        return _most(counted, is_over)


def _most(notes: Iterable[tuple[Note, int]], is_over: Callable[[float, float], bool]) -> int:
    most = used = 0
    counts: dict[tuple[int, str], int] = {}
    oldest: list[tuple[float, tuple[int, str]]] = []
    for note, amount in notes:
        while oldest and is_over(oldest[0][0], note.at):
            used -= counts.pop(heapq.heappop(oldest)[1])
        if note.what in counts:
            used += amount - counts[note.what]
            counts[note.what] = amount
        elif not is_over(note.since, note.at):
            used += amount
            counts[note.what] = amount
            heapq.heappush(oldest, (note.since, note.what))
        if note.admits and amount:
            most = max(most, used)
    return most


def _rolled(length: float) -> Callable[[float, float], bool]:
    return lambda since, now: since <= now - length


def _in_another_period(name: str) -> Callable[[float, float], bool]:
    return lambda since, now: since < _period(name, now).timestamp()


def _period(window: str, time: float) -> datetime:
    """The beginning of the calendar's minute, hour, day, week or month."""
    moment = datetime.fromtimestamp(time, UTC).replace(second=0, microsecond=0)
    if window == "minute":
        return moment
    moment = moment.replace(minute=0)
    if window == "hour":
        return moment
    moment = moment.replace(hour=0)
    if window == "week":
        return moment - timedelta(days=moment.weekday())
    return moment.replace(day=1) if window == "month" else moment
