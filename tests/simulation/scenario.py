"""One integer becomes a whole scenario: how the daemon is configured, what it meets, and when it dies."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.simulation.faults import (
    API_FAULTS,
    API_OUTAGES,
    DATABASE_FAULTS,
    DATABASE_OUTAGES,
    HANG_BEFORE,
    PROVIDER_FAULTS,
    PROVIDER_OUTAGES,
    REFUSED,
    TOKEN_OUTAGES,
    Outage,
    Weather,
    drawn_outages,
    drawn_rates,
)

MODEL = "nomic-embed-text"

REPLICAS = 0.05
"""The share of the seeds in which several daemons share a database: they cost many times as much as one."""

FEW_LANES = {"delivery_concurrency": 2, "concurrency_limit": 2}
"""What each of several daemons has: each lane looks by itself for what others have left in the database."""

GOOD, DUPLICATE = "good", "duplicate"
POISON, CRASHING = "poison", "crashing"
MALFORMED, UNKNOWN, NAMELESS, UNWELCOME = "malformed", "unknown", "nameless", "unwelcome"

_MALFORMED = (
    None,
    "",
    "   ",
    7,
    [],
    {},
    {"text": None},
    {"text": ""},
    {"text": 5},
    {"text": "x", "dimensions": -1},
    {"text": "x", "model": 3},
)
_NAMELESS: tuple[object, ...] = (
    "no object",
    None,
    {"type": "text_embedding"},
    {"_id": "", "type": "text_embedding"},
    {"_id": "\n"},
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A task that the application will create ``at`` seconds after the beginning."""

    at: float
    kind: str
    id: str
    entry: object
    text: str = ""
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """Traits of the Task API. ``deploys`` are moments at which ``honours_limit`` turns over.

    A ``strict`` one answers 409 for a finished task. ``lag`` is by how much its pages are behind, in seconds.
    ``touches`` are moments at which somebody else sets a finished task back, finishes or deletes a pending one.
    """

    fetch: Weather
    patch: Weather
    token: Weather
    honours_limit: bool = True
    largest_limit: int | None = None
    order: str = "oldest"
    strict: bool = False
    lag: float = 0.0
    duplicates: float = 0.0
    callback_throws: float = 0.0
    refuses_error: bool = False
    token_life: float = 3600.0
    says_life: str = "number"
    refusal: int = 401
    revocations: tuple[float, ...] = ()
    deploys: tuple[float, ...] = ()
    touches: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """Traits of one provider; ``most_characters`` in one request, ``timeout`` of the guard in seconds.

    It counts ``figure`` times as many tokens as were estimated, and does not say how many where that is 0.
    """

    weather: Weather
    most_characters: int = 1_000_000
    timeout: float = 60.0
    figure: float = 1.0


@dataclass(frozen=True, slots=True)
class Ends:
    """How the lives of the daemon end: ``deaths`` of them before everything heals, after about ``mean`` seconds.

    A share of them are graceful stops, a share reboots of the machine, a share kills at a named point.
    """

    deaths: int
    mean: float
    gracefully: float = 0.3
    at_points: float = 0.5
    reboots: float = 0.0
    downtime: float = 60.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """Several daemons on one ``database``, to which the way has that weather.

    Their clocks are ``ahead`` of the true time by so many seconds, the database's is set as ``jumps`` say. Each is
    ``cut`` off from it at times at which the others are not. Idle ones look for work every ``glance`` seconds.
    """

    ahead: tuple[float, ...]
    database: Weather
    cut: tuple[tuple[Outage, ...], ...]
    jumps: tuple[tuple[float, float], ...] = ()
    glance: float = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about one simulated world; ``healed`` is when nothing more goes wrong."""

    seed: int
    healed: float
    settings: Mapping[str, object]
    tasks: tuple[Planned, ...]
    api: Api
    engines: Mapping[str, Engine]
    ends: Ends
    jumps: tuple[tuple[float, float], ...] = ()
    sql: bool = False
    forgets: bool = False
    """Whether the state in memory is lost with each life, for a test of the invariants."""
    journal_latency: float = 0.0
    glance: float = math.inf
    replicas: Replicas | None = None

    @property
    def clocks_differ(self) -> bool:
        """Whether nobody can know from one clock what another one says."""
        return bool(self.jumps) or (self.replicas is not None and any(self.replicas.ahead))

    @property
    def grace(self) -> float:
        return float(str(self.settings["shutdown_grace_seconds"]))


def drawn(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(f"scenario {seed}")
    together = chance.random() < REPLICAS
    healed = chance.choice(
        (300.0, 600.0, 900.0) if together else (300.0, 900.0, 1_800.0, 1_800.0, 3_600.0, 3_600.0, 7_200.0, 14_400.0)
    )
    jumps = _jumps(chance, healed)
    settings = _settings(chance, healed)
    if together:
        settings = _without_long_waits(settings) | FEW_LANES
    engines = _engines(chance, healed, "ollama openai" if settings["processing_mode"] == "hybrid" else "openai")
    tasks = _tasks(chance, healed, seed, alone_in_limit=settings.get("rate_limit_per_minute") == 1)
    api = _api(chance, healed, len(tasks))
    ends = _ends(chance, healed)
    replicas = _replicas(chance, healed, float(str(settings["lease_seconds"]))) if together else None
    return Scenario(
        seed=seed,
        healed=healed,
        settings=settings,
        tasks=tasks,
        api=api if not api.largest_limit else replace(api, largest_limit=api.largest_limit + _listed_for_ever(tasks)),
        engines=engines,
        ends=ends if not jumps else replace(ends, reboots=0.0),  # after both, nobody could know how late it is
        jumps=jumps,
        sql=chance.random() < 0.1 and not together,
        journal_latency=chance.choice((0.0, 0.0, 0.002, 0.05)),
        glance=10.0 if together or (chance.random() < 0.1 and healed <= 1_800) else math.inf,
        replicas=replicas,
    )


# --- The daemon's configuration ---------------------------------------------------------------------------------------


def _settings(chance: random.Random, healed: float) -> dict[str, object]:
    batch_size = chance.choice((1, 2, 3, 8, 64))
    hybrid = chance.random() < 0.15
    return basic_settings() | {
        "processing_mode": "hybrid" if hybrid else "openai",
        "hybrid_fallback_model": chance.choice(("text-embedding-3-small", "none")),
        "polling_interval_seconds": max(chance.choice((1, 5, 30)), healed / 60),
        "request_timeout": chance.choice((2, 10, 30)),
        "unknown_task_types": chance.choice(("leave", "leave", "fail")),
        "result_format": chance.choice(("vector", "detailed")),
        "claim_tasks": chance.random() < 0.3,
        "fetch_limit": chance.choice((1, 3, 10, 1_000)),
        "hold_limit": max(batch_size, chance.choice((1, 5, 20, 10_000))),
        "delivery_concurrency": chance.choice((1, 2, 8)),
        "concurrency_limit": chance.choice((1, 2, 5)),
        "batch_size": batch_size,
        "max_retries": chance.randint(0, 3),
        "retry_backoff_factor": chance.choice((1.0, 2.0)),
        "max_attempts": chance.choice((2, 4, 10, 10)),
        "circuit_breaker_threshold": chance.choice((1, 3, 5)),
        "circuit_breaker_recovery_seconds": chance.choice((5, 30)),
        "shutdown_grace_seconds": chance.choice((0, 2, 30)),
        "embedding_cache_mb": chance.choice((0, 0, 1)),
        "lease_seconds": chance.choice((5, 15, 60)),
        **(_limits(chance) if chance.random() < 0.35 else {}),
    }


def _without_long_waits(settings: dict[str, object]) -> dict[str, object]:
    """Without the limits for which several daemons would look at their database for hours."""
    return {key: value for key, value in settings.items() if not key.endswith(("limit_per_hour", "limit_per_day"))}


def basic_settings() -> dict[str, object]:
    """What every scenario has in common; the rest is as it is by default, unless it is drawn."""
    return {
        "api_base_url": "http://api.test",
        "api_features": "none",
        "oauth2_token_url": "http://auth.test/oauth2/token",
        "oauth2_client_id": "simulated",
        "oauth2_client_secret": "simulated-secret",
        "processing_mode": "openai",
        "openai_api_key": "simulated-key",
        "default_embedding_model": MODEL,
        "unknown_task_types": "leave",
        "result_format": "vector",
        "concurrency_limit": 5,
        "max_retries": 3,
        "max_attempts": 10,
        "circuit_breaker_threshold": 5,
        "circuit_breaker_recovery_seconds": 30,
        "shutdown_grace_seconds": 30,
        "state_retention_hours": 24,
    }


def _limits(chance: random.Random) -> dict[str, object]:
    limits: dict[str, object] = {"rate_limit_strategy": chance.choice(("rolling", "fixed"))}
    if chance.random() < 0.6:
        limits["rate_limit_per_minute"] = chance.choice((1, 2, 3, 10, 30))
    if chance.random() < 0.4:
        limits["rate_limit_per_hour"] = chance.choice((20, 60, 200))
    if chance.random() < 0.2:
        limits["rate_limit_per_day"] = chance.choice((300, 600))
    return limits | _budgets(chance)


def _budgets(chance: random.Random) -> dict[str, object]:
    """Limits of tokens and money; each lets any single text through, and the question who is at fault beside it."""
    limits: dict[str, object] = {}
    if chance.random() < 0.4:
        limits["token_limit_per_minute"] = chance.choice((100, 250, 1_000))
    if chance.random() < 0.2:
        limits["token_limit_per_hour"] = chance.choice((1_000, 5_000))
    if chance.random() < 0.1:
        limits["token_limit_per_day"] = 20_000
    if chance.random() < 0.3:
        limits["cost_limit_per_minute"] = chance.choice((0.00002, 0.0001))
    if chance.random() < 0.2:
        limits["cost_limit_per_hour"] = chance.choice((0.0002, 0.001))
    return limits


# --- Tasks ------------------------------------------------------------------------------------------------------------


def _tasks(chance: random.Random, healed: float, seed: int, *, alone_in_limit: bool) -> tuple[Planned, ...]:
    weights = {kind: chance.choice((0, 0, 1, 3)) for kind in (DUPLICATE, POISON, CRASHING, MALFORMED, UNKNOWN)}
    weights[DUPLICATE] *= chance.choice((1, 4, 20))
    weights |= {NAMELESS: chance.choice((0, 0, 2)), UNWELCOME: chance.choice((0, 0, 0, 2)), GOOD: 40}
    if alone_in_limit:
        weights[CRASHING] = (
            0  # with one place in a minute nobody can be asked who is at fault: it would be tried for ever
        )
    count = chance.choice((3, 10, 10, 20, 30, 40))
    dimensions = chance.choice(((4,), (4, 8), (4, 8, 16), (8, None)))
    early = chance.random()
    tasks: list[Planned] = []
    for number in range(count):
        kind = chance.choices(list(weights), list(weights.values()))[0]
        at = 0.0 if chance.random() < early else chance.uniform(0, healed * 0.8)
        tasks.append(_task(chance, f"{seed}-{number}", kind, at, chance.choice(dimensions), tasks))
    return tuple(tasks)


def _task(
    chance: random.Random, name: str, kind: str, at: float, dimensions: int | None, earlier: list[Planned]
) -> Planned:
    if kind == NAMELESS:
        return Planned(at, kind, f"nameless-{name}", chance.choice(_NAMELESS))
    text = f"{kind} text {name} " + "and so on " * chance.randint(0, 5)
    if kind == DUPLICATE:
        twins = [task for task in earlier if task.kind == GOOD]
        kind = GOOD
        if twins:
            text, dimensions = twins[-1].text, twins[-1].dimensions
    content: object = {"text": text, "model": MODEL, "dimensions": dimensions}
    if kind == MALFORMED:
        content, text = chance.choice(_MALFORMED), ""
    elif dimensions is None:
        content = chance.choice((text, {"text": text}, {"text": text, "model": f"{MODEL}:latest"}))
    task_id = f"t{name}"
    entry = {
        chance.choice(("_id", "id")): task_id,
        "type": "image_caption" if kind == UNKNOWN else "text_embedding",
        "state": "pending",
        "content": content,
        "correlationId": f"c-{name}",
        "callbackRoute": "verification_update_embedding",
    }
    if chance.random() < 0.2:
        entry["priority"] = chance.choice(("critical", "high", "low", 5))
    return Planned(at, kind, task_id, entry, text, dimensions)


def last_task(name: str, number: int) -> Planned:
    """A task that nothing is wrong with."""
    text = f"last text {name}"
    content = {"text": text, "model": MODEL, "dimensions": 4}
    entry = {"_id": f"t{name}", "type": "text_embedding", "content": content, "correlationId": f"c-{number}"}
    return Planned(0.0, GOOD, f"t{name}", entry, text, 4)


def _listed_for_ever(tasks: tuple[Planned, ...]) -> int:
    return sum(task.kind in {UNKNOWN, NAMELESS, UNWELCOME} for task in tasks)


# --- The other side ---------------------------------------------------------------------------------------------------


def _api(chance: random.Random, healed: float, tasks: int) -> Api:
    wishes = chance.choice(((1,), (5, 30), (30, 600), (4_000,)))
    life = chance.choice((3.0, 15.0, 60.0, 3600.0))
    lag = chance.choice((0.0,) * 9 + (20.0,))
    latency = chance.choice(((0.0, 0.0), (0.001, 0.05), (0.01, 1.0))) if not lag else (0.5, 1.0)

    def weather(outages: tuple[str, ...], most: int) -> Weather:
        return Weather(
            outages=drawn_outages(chance, outages, most, healed),
            rates=drawn_rates(chance, API_FAULTS, chance.choice((0.0, 0.2, 0.6))),
            latency=latency,
            slow=chance.choice((0.0, 0.0, 0.05)),
            wishes=wishes,
        )

    down = drawn_outages(chance, API_OUTAGES, 1, healed)  # of the whole API
    fetch, patch = weather(API_OUTAGES, 1), weather(API_OUTAGES, 1)
    touches = chance.choice((0, 0, 3, 10))
    return Api(
        fetch=replace(fetch, outages=(*down, *fetch.outages)),
        patch=replace(patch, outages=(*down, *patch.outages)),
        token=weather(TOKEN_OUTAGES, 1),
        honours_limit=chance.random() < 0.7,
        largest_limit=chance.choice((None, None, None, 2 + tasks // 10)),
        order=chance.choice(("oldest", "newest", "any")),
        strict=chance.random() < 0.3,
        lag=lag,
        duplicates=chance.choice((0.0, 0.0, 0.3)),
        callback_throws=chance.choice((0.0, 0.2, 0.6)),
        refuses_error=chance.random() < 0.2,
        token_life=life,
        says_life=chance.choice(("number", "text", "not at all") if life > 10 else ("number", "text")),
        refusal=chance.choice((401, 403)),
        revocations=tuple(chance.uniform(0, healed) for _ in range(chance.choice((0, 0, 3)))),
        deploys=tuple(chance.uniform(0, healed) for _ in range(chance.choice((0, 0, 2)))),
        touches=tuple(
            (chance.uniform(0, healed), chance.choice(("set back", "set back", "rival", "delete")))
            for _ in range(touches)
        ),
    )


def _engines(chance: random.Random, healed: float, names: str) -> dict[str, Engine]:
    return {name: _engine(chance, healed) for name in names.split()}


def _engine(chance: random.Random, healed: float) -> Engine:
    latency, slow, timeout = chance.choice(
        (
            ((0.0, 0.0), 0.0, 60.0),
            ((0.01, 0.29), 0.05, 60.0),  # slow answers come just in time: what is too late is a fault, and drawn as one
            ((0.5, 5.0), 0.0, 15.0),
        )
    )
    return Engine(
        weather=Weather(
            outages=drawn_outages(chance, PROVIDER_OUTAGES, 2, healed),
            rates=drawn_rates(chance, PROVIDER_FAULTS, chance.choice((0.0, 0.2, 0.5))),
            latency=latency,
            slow=slow,
            wishes=chance.choice(((1,), (5, 30), (60, 600))),
        ),
        most_characters=chance.choice((100, 1_000, 1_000_000)),
        timeout=timeout,
        figure=chance.choice((0.0, 0.3, 0.6, 1.0, 1.5)),
    )


def _ends(chance: random.Random, healed: float) -> Ends:
    deaths = chance.choice((0, 1, 2, 4, 8))
    return Ends(
        deaths=deaths,
        mean=healed / (deaths + 1),
        gracefully=chance.choice((0.0, 0.3, 1.0)),
        at_points=chance.choice((0.0, 0.5, 0.9)),
        reboots=chance.choice((0.0, 0.0, 0.3)),
        downtime=chance.choice((0.0, 5.0, 60.0, 600.0)),
    )


def _replicas(chance: random.Random, healed: float, lease: float) -> Replicas:
    count = chance.choice((2, 2, 2, 3, 4))
    cuts = chance.choice((0, 0, 2, 5))
    skew = chance.choice((0.0, 0.0, 0.5, 30.0))
    return Replicas(
        ahead=tuple(chance.uniform(-skew, skew) for _ in range(count)),
        database=Weather(
            outages=drawn_outages(chance, DATABASE_OUTAGES, 2, healed),
            rates=drawn_rates(chance, DATABASE_FAULTS, chance.choice((0.0, 0.02, 0.1))),
            latency=chance.choice(((0.0, 0.0), (0.001, 0.005), (0.01, 0.2))),
            slow=chance.choice((0.0, 0.0, 0.01)),
        ),
        cut=tuple(tuple(_cut(chance, healed, lease) for _ in range(cuts)) for _ in range(count)),
        jumps=()
        if chance.random() < 0.8
        else ((chance.uniform(0, healed), chance.choice((-600.0, -1.0, 1.0, 600.0))),),
    )


def _cut(chance: random.Random, healed: float, lease: float) -> Outage:
    """A time in which a lease runs out, just so or by far."""
    begin = chance.uniform(0, healed)
    return Outage(begin, begin + lease * chance.choice((1.1, 1.3, 1.5, 3.0)), chance.choice((REFUSED, HANG_BEFORE)))


def _jumps(chance: random.Random, healed: float) -> tuple[tuple[float, float], ...]:
    if chance.random() < 0.75:
        return ()
    moments = sorted(chance.uniform(0, healed) for _ in range(chance.randint(1, 4)))
    return tuple((moment, chance.choice((-3600.0, 3600.0, -1.0, 1.0, -864_000.0))) for moment in moments)
