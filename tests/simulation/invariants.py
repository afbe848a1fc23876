"""What must hold in every simulated world, noted while it runs and judged at the end."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ai_task_processor.domain.events import Event, LimitReached
from ai_task_processor.domain.outcome import Outcome, Succeeded, Vector
from ai_task_processor.limits.windows import KEYS
from tests.simulation.faults import (
    QUOTA,
    THROTTLED,
    THROTTLED_WITH_WISH,
    Outage,
)
from tests.simulation.scenario import Scenario
from tests.simulation.spending import Request, Spending

JUST_NOW = 2.0
"""Seconds between the arrival of an answer and its transaction, at most: what is lost in a crash is not older."""

CANARY = "canary"


@dataclass(eq=False, slots=True)
class LifeFacts:
    """What is known of one run of the daemon. An ``abrupt`` end is a kill, or a stop whose grace was too short."""

    number: int
    host: int
    began_at: float
    ended_at: float = float("inf")
    abrupt: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.ended_at < float("inf")


@dataclass(eq=False, slots=True)
class Charge:
    """One text that a provider charged for. ``answered_at`` is when a good answer arrived, None where none did."""

    number: int
    text: str
    at: float
    life: LifeFacts
    request: Request
    answered_at: float | None = None
    written: bool = False


@dataclass
class Ledger:
    """Every fact that an invariant needs; ``violations`` are told in words."""

    scenario: Scenario
    tell: Callable[[str], None]
    limits: Mapping[str, int]
    spending: Spending
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    charges: list[Charge] = field(default_factory=list)
    by_vector: dict[bytes, Charge] = field(default_factory=dict)
    requests: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lives: list[LifeFacts] = field(default_factory=list)
    allowed: dict[str, int] = field(default_factory=dict)
    """How many answers each text may cost: one for each time that a task with it was to be done."""
    wishes: dict[tuple[str, int, str], float] = field(default_factory=dict)
    """Until when a provider wants to be left alone by a life with a text."""
    polls: list[int] = field(default_factory=list)
    """Which life each poll was of."""
    turns: int = 0
    """How often something happened after which another replica may poll."""
    taken: set[tuple[int, str]] = field(default_factory=set)
    adopted: set[tuple[int, str]] = field(default_factory=set)
    """The texts that others took from a life while it held them, and the outcomes, by their task ids."""

    def violated(self, what: str) -> None:
        self.tell(f"VIOLATED: {what}")
        if len(self.violations) < 20:
            self.violations.append(what)

    # --- Noted on the way ---------------------------------------------------------------------------------------------

    def born(self, host: int, now: float) -> LifeFacts:
        """A life begins."""
        facts = LifeFacts(len(self.lives) + 1, host, began_at=now)
        self.lives.append(facts)
        self.turns += 1
        return facts

    def ended(self, facts: LifeFacts, now: float) -> None:
        """A life is over, since now or since an earlier moment."""
        facts.ended_at = min(facts.ended_at, now)
        self.turns += 1

    def noticed(self, event: Event) -> None:
        """The daemon has told something."""
        self.counts[f"event: {type(event).__name__}"] += 1
        if isinstance(event, LimitReached):
            self.counts[f"closed: {KEYS[event.window][0]}"] += 1

    def charge(self, text: str, at: float, life: LifeFacts, request: Request) -> Charge:
        """A provider charges for a text."""
        charge = Charge(len(self.charges), text, at, life, request)
        self.charges.append(charge)
        return charge

    def settled(self, outcomes: Mapping[str, Outcome]) -> None:
        """The journal has committed outcomes."""
        for outcome in outcomes.values():
            if isinstance(outcome, Succeeded) and isinstance(outcome.result, Vector):
                self.written(outcome.result.data)

    def written(self, vector: bytes) -> None:
        """The journal has committed a vector."""
        charge = self.by_vector.get(vector)
        if charge is None:
            self.violated("a vector was written into the journal that no provider has answered")
        else:
            charge.written = True
            self.spending.settle(charge.request)

    # --- Judged at the end --------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """See to everything that can only be seen from the end."""
        self._judge_payments()
        self._judge_limits()
        self._judge_turns()
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
            elif (charge.life.number, charge.text) in self.taken:
                self.counts["answers lost with a lease"] += 1
            elif charge.life.abrupt and charge.answered_at >= self._unwritten_since(charge.life):
                self.counts["answers lost in a crash"] += 1
            else:
                self.violated(
                    f"paid for nothing: {charge.text[:40]!r} was answered at {charge.answered_at:.3f} and not written"
                )
        for text, count in paid.items():
            if count > self.allowed.get(text, 0):
                self.violated(f"paid {count} times instead of {self.allowed.get(text, 0)}: {text[:40]!r}")

    def _unwritten_since(self, life: LifeFacts) -> float:
        """From when on a life that ended abruptly may not have come to writing down what it heard."""
        since = life.ended_at - JUST_NOW
        for outage in sorted(self._away_from(life.host), key=lambda outage: -outage.begin):
            if outage.begin < since <= outage.end + JUST_NOW:
                since = outage.begin - JUST_NOW
        return since

    def _away_from(self, host: int) -> Sequence[Outage]:
        """When a host could not reach the database."""
        replicas = self.scenario.replicas
        return (*replicas.database.outages, *replicas.cut[host]) if replicas else ()

    def _judge_turns(self) -> None:
        """Another replica polls only after something has happened to the one that did."""
        changes = sum(one != other for one, other in pairwise(self.polls))
        if self.scenario.replicas and changes > 3 * self.turns:
            self.violated(f"{changes} times another replica polled; only {self.turns} times there was a reason for it")

    def _judge_limits(self) -> None:
        rolling = self.scenario.settings.get("rate_limit_strategy", "rolling") == "rolling"
        for key, limit in self.limits.items():
            used = self.spending.most(key, rolling=rolling)
            if used > limit:
                self.violated(f"{used} were let through in one window {key} whose limit is {limit}")
            if used == limit:
                self.counts["limits reached"] += 1

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


def worst(violations: Sequence[str]) -> str:
    """The first violation, in one line."""
    return violations[0].splitlines()[0] if violations else "none"
