"""What must hold in every simulated world, noted while it runs and judged at the end."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ai_task_processor.domain.outcome import Outcome, Succeeded, Vector
from tests.simulation.faults import (
    QUOTA,
    THROTTLED,
    THROTTLED_WITH_WISH,
    Outage,
)
from tests.simulation.scenario import Scenario

JUST_NOW = 2.0
"""Seconds between the arrival of an answer and its transaction, at most: what is lost in a crash is not older."""

CANARY = "canary"


@dataclass(eq=False, slots=True)
class LifeFacts:
    """What is known of one run of the daemon. An ``abrupt`` end is a kill, or a stop whose grace was too short."""

    number: int
    began_at: float
    ended_at: float = float("inf")
    abrupt: bool = False


@dataclass(eq=False, slots=True)
class Charge:
    """One text that a provider charged for. ``answered_at`` is when a good answer arrived, None where none did."""

    number: int
    text: str
    at: float
    life: LifeFacts
    answered_at: float | None = None
    written: bool = False


@dataclass
class Ledger:
    """Every fact that an invariant needs; ``violations`` are told in words."""

    scenario: Scenario
    tell: Callable[[str], None]
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    charges: list[Charge] = field(default_factory=list)
    by_vector: dict[bytes, Charge] = field(default_factory=dict)
    sent: list[tuple[float, float, int]] = field(default_factory=list)
    requests: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lives: list[LifeFacts] = field(default_factory=list)
    allowed: dict[str, int] = field(default_factory=dict)
    """How many answers each text may cost: one for each time that a task with it was to be done."""

    def violated(self, what: str) -> None:
        self.tell(f"VIOLATED: {what}")
        if len(self.violations) < 20:
            self.violations.append(what)

    # --- Noted on the way ---------------------------------------------------------------------------------------------

    def charge(self, text: str, at: float, life: LifeFacts) -> Charge:
        """A provider charges for a text."""
        charge = Charge(len(self.charges), text, at, life)
        self.charges.append(charge)
        return charge

    def settled(self, outcomes: Mapping[str, Outcome]) -> None:
        """The journal has committed outcomes."""
        for outcome in outcomes.values():
            if isinstance(outcome, Succeeded) and isinstance(outcome.result, Vector):
                charge = self.by_vector.get(outcome.result.data)
                if charge is None:
                    self.violated("a vector was written into the journal that no provider has answered")
                else:
                    charge.written = True

    # --- Judged at the end --------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """See to everything that can only be seen from the end."""
        self._judge_payments()
        self._judge_limits()
        for name, engine in self.scenario.engines.items():
            for outage in engine.weather.outages:
                self._judge_probes(name, outage)

    def _judge_payments(self) -> None:
        paid = Counter[str]()
        for charge in self.charges:
            if charge.answered_at is None or charge.text == CANARY:
                continue
            if charge.written:
                paid[charge.text] += 1
            elif not charge.life.abrupt or charge.answered_at < charge.life.ended_at - JUST_NOW:
                self.violated(
                    f"paid for nothing: {charge.text[:40]!r} was answered at {charge.answered_at:.3f} and not written"
                )
            else:
                self.counts["answers lost in a crash"] += 1
        for text, count in paid.items():
            if count > self.allowed.get(text, 0):
                self.violated(f"paid {count} times instead of {self.allowed.get(text, 0)}: {text[:40]!r}")

    def _judge_limits(self) -> None:
        for window in ("minute", "hour", "day", "week", "month"):
            limit = int(str(self.scenario.settings.get(f"rate_limit_per_{window}", 0)))
            if not limit:
                continue
            rolling = self.scenario.settings["rate_limit_strategy"] == "rolling"
            used = self._most_rolling(window) if rolling else self._most_fixed(window)
            if used > limit:
                self.violated(f"{used} inputs were sent in one {window} whose limit is {limit}")
            if used == limit:
                self.counts["limits reached"] += 1

    def _most_rolling(self, window: str) -> int:
        most = used = first = 0
        for moment, _, count in self.sent:
            used += count
            while self.sent[first][0] <= moment - LENGTHS[window]:
                used -= self.sent[first][2]
                first += 1
            most = max(most, used)
        return most

    def _most_fixed(self, window: str) -> int:
        used = Counter[datetime]()
        for _, line, count in self.sent:
            used[_period(window, line)] += count
        return max(used.values(), default=0)

    def _judge_probes(self, name: str, outage: Outage) -> None:
        arrived = self.requests[name]
        begin, end = (bisect.bisect(arrived, moment) for moment in (outage.begin, outage.end))
        lives = sum(life.began_at < outage.end and life.ended_at > outage.begin for life in self.lives)
        most = lives * self._most_probes(name, outage)
        if end - begin > most:
            lasted = outage.end - outage.begin
            self.violated(
                f"{end - begin} requests instead of {most:.0f} in an outage of {name} ({outage.fault}, {lasted:.0f} s)"
            )

    def _most_probes(self, name: str, outage: Outage) -> float:
        """What each life may send: a burst before it knows, then a few for each pause."""
        settings = self.scenario.settings
        at_once, repeats, threshold, recovery = (
            int(str(settings[key]))
            for key in (
                "concurrency_limit",
                "max_retries",
                "circuit_breaker_threshold",
                "circuit_breaker_recovery_seconds",
            )
        )
        lasted = outage.end - outage.begin
        burst = 2 * (at_once * (repeats + 1) + threshold + 2)
        if outage.fault == QUOTA:
            return burst + 5 + lasted / 600
        if outage.fault == THROTTLED:
            return burst + at_once * (6 + lasted / 60)
        if outage.fault == THROTTLED_WITH_WISH:
            shortest = min(self.scenario.engines[name].weather.wishes)
            return burst + at_once * (repeats + 1) * (2 + lasted / shortest)
        return burst + 2 * (1 + lasted / recovery)


LENGTHS = {"minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "week": 604_800.0, "month": 2_592_000.0}


def _period(window: str, time: float) -> datetime:
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


def worst(violations: Sequence[str]) -> str:
    """The first violation, in one line."""
    return violations[0].splitlines()[0] if violations else "none"
