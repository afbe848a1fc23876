"""Whether the daemon is alive, and whether it is able to work."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from ai_task_processor.domain.amount import USD, Unit
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import (
    ApiRequested,
    BreakerChanged,
    DeliveryHalted,
    EnsuringModels,
    Event,
    IntakePaused,
    IntakeResumed,
    ModelDownloading,
    ModelsMissing,
    ModelsReady,
    Parked,
    Polled,
    PollFailed,
    PollPlanned,
    ProviderCalled,
    ProviderResumed,
    ProviderWasPaused,
    Reported,
    ReportPostponed,
    Running,
    Started,
    StateLost,
    StateRegained,
    Stopping,
    TaskAccepted,
    TaskSettled,
    TaskStarted,
    TokenFailed,
    TokenObtained,
    TurnElsewhere,
)
from ai_task_processor.domain.ports import WindowUsage
from ai_task_processor.ops.observers import Handler, Selective

OK = 200
UNAVAILABLE = 503

BY_ITSELF = "tried again without your help"

_OF_SINGLE_TASKS = frozenset({ApiRequested, ProviderCalled, TaskAccepted, TaskSettled, TaskStarted})
"""Events that come by the thousand and say nothing about health."""


class Check(Struct, frozen=True):
    """One condition of being able to work; ``detail`` says how it is, and what to do where it is not."""

    ok: bool
    detail: str


class HealthSettings(Struct, frozen=True):
    """What the health check is told once.

    A poll may come ``poll_margin`` seconds later than planned, and the first may take ``startup_grace`` seconds after
    the last sign of progress of the start. ``providers`` are the names of all engines in use, ``preparing`` of those
    that must make models ready first.
    """

    service: str
    version: str
    poll_margin: float
    startup_grace: float
    limits_enabled: bool
    limits_strategy: str
    providers: Collection[str]
    preparing: Collection[str] = ()


class Health(Selective):
    """Observes events and answers the two questions of a supervisor.

    Alive: the loop turns (it answers) and a poll was attempted lately, whatever came of it. Able: all checks are ok.
    ``storage`` says what is wrong with the state storage, in words for the operator; None while it can be written.
    """

    def __init__(self, settings: HealthSettings, *, clock: Clock, storage: Callable[[], str | None]) -> None:
        self._settings = settings
        self._clock = clock
        self._pulse = _Pulse(clock, settings)
        self._token = _Token(clock)
        self._task_api = _TaskApi(clock)
        self._models = _Models(settings.preparing)
        self._provider = _Provider(settings.providers)
        self._running = _Running()
        self._state = _State(storage)

    def handler(self, kind: type[Event]) -> Handler | None:
        """What takes events of this type; None where they say nothing about health."""
        if kind in _OF_SINGLE_TASKS:
            return None
        return self._task_api.delivered if kind is Reported else self._told

    def _told(self, event: Event) -> None:
        self._pulse(event)
        self._token(event)
        self._task_api(event)
        self._models(event)
        self._provider(event)
        self._running(event)
        self._state(event)

    def adjust(self, *, limits_enabled: bool) -> None:
        """Limits hold from now on, or do not."""
        self._settings = replace(self._settings, limits_enabled=limits_enabled)

    @property
    def alive(self) -> bool:
        """Whether a poll was attempted when one was due; nothing outside the process can make it False."""
        return self._pulse.beats()

    @property
    def paused(self) -> bool:
        """Whether an operator wants nothing new to be taken; that is neither dead nor unable."""
        return self._running.paused

    def checks(self) -> Mapping[str, Check]:
        """Every condition of being able to work, by name."""
        return {
            "running": self._running.check(),
            "token": self._token.check(),
            "task_api": self._task_api.check(),
            "models": self._models.check(),
            "provider": self._provider.check(),
            "state": self._state.check(),
        }

    def health_body(self, usage: Mapping[str, WindowUsage]) -> tuple[int, dict[str, object]]:
        """Status and JSON body of ``GET /health``."""
        alive = self.alive
        return OK if alive else UNAVAILABLE, {
            "status": "healthy" if alive else "unhealthy",
            "service": self._settings.service,
            "version": self._settings.version,
            "paused": self.paused,
            "rate_limiting": {
                "enabled": self._settings.limits_enabled,
                "strategy": self._settings.limits_strategy,
                "current_usage": {window: _window(used) for window, used in usage.items()},
            },
        }

    def ready_body(self) -> tuple[int, dict[str, object]]:
        """Status and JSON body of ``GET /ready``."""
        checks = self.checks()
        ready = all(check.ok for check in checks.values())
        return OK if ready else UNAVAILABLE, {
            "status": "ready" if ready else "not_ready",
            "checks": {name: {"ok": check.ok, "detail": check.detail} for name, check in checks.items()},
        }


def _window(used: WindowUsage) -> dict[str, object]:
    return {
        "current": _shown(used.current, used.unit),
        "limit": _shown(used.limit, used.unit),
        "remaining": _shown(used.remaining, used.unit),
        "reset_at": None if used.reset_at is None else _iso(used.reset_at),
    }


def _shown(count: int, unit: Unit) -> float:
    """Money in US dollars."""
    return count / USD if unit == "cost" else count


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


# --- Alive ------------------------------------------------------------------------------------------------------------


class _Pulse:
    """Until when the next sign of life is to be expected, on the monotonic clock: jumps of the other kill nobody."""

    def __init__(self, clock: Clock, settings: HealthSettings) -> None:
        self._clock = clock
        self._margin = settings.poll_margin
        self._grace = settings.startup_grace
        self._polling = False
        self._stopping = False
        self._expect(within=self._grace)

    def __call__(self, event: Event) -> None:
        match event:
            case Stopping(grace=grace):
                self._stopping = True
                self._expect(within=grace + self._margin)
            case PollPlanned(by=by) if not self._stopping:
                self._polling = True
                self._expect(within=max(0.0, by - self._clock.now()) + self._margin)
            case StateLost(rest=rest) if not self._stopping:
                self._expect(within=rest + max(self._grace, self._margin))  # no poll can be planned without it
            case ModelsMissing(rest=rest) if not self._polling:
                self._expect(within=rest + self._grace)
            case Started() | Running() | EnsuringModels() | ModelDownloading() if not self._polling:
                self._expect(within=self._grace)

    def beats(self) -> bool:
        return self._clock.monotonic() <= self._expected

    def _expect(self, *, within: float) -> None:
        self._expected = self._clock.monotonic() + within


# --- Able -------------------------------------------------------------------------------------------------------------


class _Running:
    def __init__(self) -> None:
        self.paused = False
        self._check = Check(ok=False, detail="starting")

    def __call__(self, event: Event) -> None:
        match event:
            case Running():
                self._check = Check(ok=True, detail="all services run")
            case Stopping(reason=reason):
                self._check = Check(ok=False, detail=f"stopping ({reason}): what is held is finished first")
            case IntakePaused():
                self.paused = True
            case IntakeResumed():
                self.paused = False

    def check(self) -> Check:
        if self.paused and self._check.ok:
            return Check(ok=True, detail="paused: nothing new is taken before it is resumed")
        return self._check


class _State:
    """A file that cannot be written ends the process; a database that is away is waited for."""

    def __init__(self, storage: Callable[[], str | None]) -> None:
        self._storage = storage
        self._lost = ""

    def __call__(self, event: Event) -> None:
        match event:
            case StateLost(reason=reason):
                self._lost = reason
            case StateRegained():
                self._lost = ""

    def check(self) -> Check:
        if self._lost:
            return Check(ok=False, detail=f"{self._lost}; {BY_ITSELF}")
        trouble = self._storage()
        return Check(ok=False, detail=trouble) if trouble else Check(ok=True, detail="writable")


class _Token:
    """A token that is still good stays good while a newer one cannot be had; refused credentials end that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._good_until = 0.0
        self._failure: TokenFailed | None = None
        self._ever = False
        self._elsewhere = False

    def __call__(self, event: Event) -> None:
        match event:
            case TokenObtained(expires_in=seconds):
                self._good_until = self._clock.monotonic() + (float("inf") if seconds is None else seconds)
                self._failure, self._ever = None, True
            case TokenFailed():
                self._failure = event
            case TurnElsewhere() | IntakePaused():
                self._elsewhere = True

    def check(self) -> Check:
        failure = self._failure
        if failure is None:
            if self._elsewhere and not self._ever:
                return Check(ok=True, detail="not needed yet: it does not poll")
            return Check(ok=True, detail="held") if self._ever else Check(ok=False, detail="not asked for yet")
        if failure.refused:
            return Check(ok=False, detail=f"credentials refused: {failure.reason}")
        if self._ever and self._clock.monotonic() < self._good_until:
            return Check(ok=True, detail=f"held, but a new one cannot be had: {failure.reason}; {BY_ITSELF}")
        mend = "if it lasts, check OAUTH2_TOKEN_URL or ORY_PROJECT_SLUG"
        return Check(ok=False, detail=f"none can be had: {failure.reason}; {BY_ITSELF}; {mend}")


class _TaskApi:
    """Fetching and delivering are looked at apart: a server may do the one and not the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._polled = False
        self._elsewhere = False
        self._paused = False
        self._fetching = ""
        self._delivering = ""
        self._halted_until = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Polled():
                self._polled = True
                self._elsewhere = False
                self._fetching = ""
            case TurnElsewhere():
                self._elsewhere = True
                self._fetching = ""
            case IntakePaused():
                self._paused = True
            case IntakeResumed():
                self._paused = False
                self._fetching = ""
            case PollFailed(reason=reason):
                self._fetching = reason
            case DeliveryHalted(until=until, reason=reason):
                self._delivering, self._halted_until = reason, until
            case Parked():
                self.delivered(event)
            case ReportPostponed() if (
                self._clock.now() >= self._halted_until
            ):  # before that, it was sent before the halt
                self._delivering = ""

    def delivered(self, _event: Reported | Parked) -> None:
        self._delivering = ""

    def check(self) -> Check:
        trouble = ("" if self._paused else self._fetching) or self._delivering
        if trouble:
            mend = "if it lasts, check API_BASE_URL and that server's own log"
            return Check(ok=False, detail=f"{trouble}; {BY_ITSELF}; {mend}")
        if self._paused:
            return Check(ok=True, detail="not polled while paused")
        if self._elsewhere:
            return Check(ok=True, detail="polled by another replica")
        return Check(ok=True, detail="answers") if self._polled else Check(ok=False, detail="not polled yet")


class _Models:
    def __init__(self, preparing: Collection[str]) -> None:
        self._missing = dict.fromkeys(preparing, "not looked for yet")

    def __call__(self, event: Event) -> None:
        match event:
            case EnsuringModels(provider=provider, models=models):
                self._missing[provider] = f"looking for {', '.join(models)}"
            case ModelDownloading(provider=provider, model=model, completed=completed, total=total):
                self._missing[provider] = f"downloading {model}{_share(completed, total)}"
            case ModelsMissing(provider=provider, reason=reason, rest=rest):
                mend = "check OLLAMA_BASE_URL and SUPPORTED_MODELS"
                self._missing[provider] = f"{reason}; tried again after {rest:.0f} s; if it lasts, {mend}"
            case ModelsReady(provider=provider):
                self._missing.pop(provider, None)

    def check(self) -> Check:
        if not self._missing:
            return Check(ok=True, detail="all that must be prepared are there")
        return Check(ok=False, detail="; ".join(f"{provider}: {what}" for provider, what in self._missing.items()))


def _share(completed: int, total: int) -> str:
    return f" ({100 * completed // total} %)" if total else ""


class _Provider:
    """Not ok while every engine is paused; one that is merely down is told of, and its breaker deals with it."""

    def __init__(self, providers: Collection[str]) -> None:
        self._providers = tuple(providers)
        self._paused: dict[str, str] = {}
        self._down: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case ProviderWasPaused(provider=provider, until=until, reason=reason):
                self._paused[provider] = f"paused ({reason}): mend the account or key; probed again at {_iso(until)}"
            case ProviderResumed(provider=provider):
                self._paused.pop(provider, None)
            case BreakerChanged(name=name, state="open", reason=reason):
                self._down[name] = f"down ({reason}): {BY_ITSELF}"
            case BreakerChanged(name=name, state="closed"):
                self._down.pop(name, None)

    def check(self) -> Check:
        states = {name: self._paused.get(name) or self._down.get(name, "usable") for name in self._providers}
        ok = not states or any(name not in self._paused for name in states)
        return Check(ok=ok, detail="; ".join(f"{name}: {state}" for name, state in states.items()))
