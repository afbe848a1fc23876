"""What goes wrong on the way to a server and back: outages with a beginning and an end, and single faults."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# What may become of one exchange. "before" is without effect at the server, "after" with it.
REFUSED = "refused"
RESET_BEFORE, RESET_AFTER = "reset before", "reset after"
HANG_BEFORE, HANG_AFTER = "hang before", "hang after"
LATE = "late"
TRUNCATED = "truncated"
ERROR_BEFORE, ERROR_AFTER = "500 before", "500 after"
GATEWAY = "502"
BUSY, BUSY_WITH_WISH = "503", "503 with Retry-After"
THROTTLED, THROTTLED_WITH_WISH = "429", "429 with Retry-After"
WEB_PAGE = "web page"
FORBIDDEN = "403"
INVALID_CLIENT = "invalid_client"
QUOTA = "quota"
CONFLICT = "conflict"
NOT_FINITE, TOO_FEW, WRONG_LENGTH, ZEROS = "not finite", "too few", "wrong length", "zeros"

API_FAULTS = (
    *(REFUSED, RESET_BEFORE, RESET_AFTER, HANG_BEFORE, HANG_AFTER, LATE, TRUNCATED, ERROR_BEFORE, ERROR_AFTER),
    *(GATEWAY, BUSY, BUSY_WITH_WISH, THROTTLED, THROTTLED_WITH_WISH, WEB_PAGE),
)
API_OUTAGES = (REFUSED, HANG_BEFORE, ERROR_BEFORE, GATEWAY, BUSY, BUSY_WITH_WISH, WEB_PAGE, FORBIDDEN, RESET_AFTER)
TOKEN_OUTAGES = (REFUSED, HANG_BEFORE, ERROR_BEFORE, BUSY_WITH_WISH, WEB_PAGE, INVALID_CLIENT)
PROVIDER_FAULTS = (
    *(REFUSED, ERROR_BEFORE, ERROR_AFTER, HANG_BEFORE, HANG_AFTER, BUSY_WITH_WISH, THROTTLED, THROTTLED_WITH_WISH),
    *(NOT_FINITE, TOO_FEW, WRONG_LENGTH, ZEROS),
)
PROVIDER_OUTAGES = (REFUSED, ERROR_BEFORE, HANG_BEFORE, BUSY_WITH_WISH, THROTTLED, THROTTLED_WITH_WISH, QUOTA)

DATABASE_FAULTS = (REFUSED, RESET_BEFORE, RESET_AFTER, CONFLICT)
DATABASE_OUTAGES = (REFUSED, HANG_BEFORE, BUSY, FORBIDDEN)

WITHOUT_EFFECT = frozenset(
    {REFUSED, RESET_BEFORE, HANG_BEFORE, ERROR_BEFORE, GATEWAY, BUSY, BUSY_WITH_WISH, THROTTLED, THROTTLED_WITH_WISH}
    | {WEB_PAGE, FORBIDDEN, INVALID_CLIENT, QUOTA}
)


@dataclass(frozen=True, slots=True)
class Outage:
    """From ``begin`` until ``end`` every exchange meets the same ``fault``."""

    begin: float
    end: float
    fault: str


@dataclass(frozen=True, slots=True)
class Weather:
    """How one route fares: outages, single faults with their rates, and how long its answers take, in seconds.

    ``wishes`` are the Retry-After values in use.
    """

    outages: Sequence[Outage] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    latency: tuple[float, float] = (0.0, 0.0)
    slow: float = 0.0
    """Share of the answers that take a hundred times as long."""
    wishes: Sequence[int] = (5,)

    def outage(self, now: float) -> Outage | None:
        """The outage that there is at ``now``."""
        return next((outage for outage in self.outages if outage.begin <= now < outage.end), None)

    def fault(self, now: float, healed: float, chance: random.Random) -> str:
        """What becomes of an exchange at ``now``; from ``healed`` on nothing more goes wrong."""
        if now >= healed:
            return ""
        outage = self.outage(now)
        if outage:
            return outage.fault
        left = chance.random()
        for fault, rate in self.rates.items():
            left -= rate
            if left < 0:
                return fault
        return ""

    def delay(self, now: float, healed: float, chance: random.Random) -> float:
        """Seconds for one way at ``now``; from ``healed`` on all is quick."""
        seconds = chance.uniform(*self.latency)
        if now >= healed:
            return seconds / 20
        return seconds * 100 if chance.random() < self.slow else seconds


CALM = Weather()


def drawn_rates(chance: random.Random, faults: Sequence[str], highest: float) -> dict[str, float]:
    """A few of the faults, with rates that add up to at most ``highest``."""
    some = chance.sample(faults, chance.randint(1, min(5, len(faults))))
    total = chance.uniform(0, highest)
    return {fault: total / len(some) for fault in some}


def drawn_outages(chance: random.Random, faults: Sequence[str], most: int, span: float) -> tuple[Outage, ...]:
    """At most ``most`` outages one after the other, from half a minute up to half the span long."""
    outages = []
    moments = sorted(chance.uniform(0, span) for _ in range(2 * chance.randint(0, most)))
    if moments and chance.random() < 0.4:
        moments[0] = 0.0  # with the first tasks
    for begin, end in zip(moments[::2], moments[1::2], strict=True):
        outages.append(Outage(begin, min(end, begin + span / 2), chance.choice(faults)))
    return tuple(outages)
