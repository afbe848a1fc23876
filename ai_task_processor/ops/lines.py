"""Which log line each event becomes."""

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct, field

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import (
    ApiRequested,
    BatchCrashed,
    BatchSettled,
    BatchSplit,
    BatchStarted,
    BreakerChanged,
    CacheAnswered,
    CacheDamaged,
    CacheFilled,
    ClaimLost,
    ConcurrencyChanged,
    ConfigurationChanged,
    ConfigurationRefused,
    DeliveryHalted,
    EnsuringModels,
    EntryUnusable,
    Event,
    FeatureFound,
    FeatureLost,
    FellBack,
    IntakePaused,
    IntakeResumed,
    LimitReached,
    LoopLagged,
    ModelDownloaded,
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
    Reopened,
    Reported,
    ReportPostponed,
    Retried,
    Running,
    SpaceChanged,
    Started,
    StateLost,
    StateRegained,
    Stopped,
    Stopping,
    TaskAccepted,
    TaskSettled,
    TasksLetGo,
    TaskStarted,
    TextsMixed,
    TokenFailed,
    TokenObtained,
    TracesLost,
    TurnElsewhere,
    TypeUnknown,
    Warned,
)
from ai_task_processor.ops.repetition import Repetition

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

NOT_LOGGED: frozenset[type[Event]] = frozenset({PollPlanned, LoopLagged})
"""Events without a line: what the flow plans to do is for the health check alone, how late it is for the metrics."""


class Logger(Protocol):
    """What a logger must be able to do; structlog's filtering loggers can."""

    def log(self, level: int, event: str, **fields: object) -> object:
        """Write a line."""
        ...

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of this level are written."""
        ...


class Line(Struct, frozen=True):
    """One line: a standard level, words that never change, and the facts."""

    level: int
    words: str
    fields: Mapping[str, object] = field(default_factory=dict)


class LogObserver:
    """Writes a line, seldom two, for each event.

    What lasts or repeats itself (an API that is down, a breaker that stays open) is told at once, then at most once a
    minute with ``times``, and once more when it is over; the repetitions between are told at DEBUG.
    """

    def __init__(self, logger: Logger, *, clock: Clock) -> None:
        self._repetition = Repetition(clock)
        self.adjust(logger)

    def __call__(self, event: Event) -> None:
        """Write what is to be said of ``event``."""
        if self._quiet and type(event) in _SILENT:
            return
        ending = ENDINGS.get(type(event))
        if ending and ending.when(event):
            self._tell_end(ending, event)
        if self._quiet and _is_only_debug(event):
            return
        for line in lines(event):
            self._tell(line, event)

    def adjust(self, logger: Logger) -> None:
        """Write with this logger from now on."""
        self._logger = logger
        self._quiet = not logger.is_enabled_for(DEBUG)

    def _tell_end(self, ending: "_Ending", event: Event) -> None:
        lasted = self._repetition.over(_key(ending.of, event))
        if lasted and ending.words:
            facts = {"times": lasted.times, "seconds": round(lasted.seconds, 3)}
            self._logger.log(INFO, ending.words, **_identity(ending.of, event), **facts)

    def _tell(self, line: Line, event: Event) -> None:
        lasting = LASTING.get(type(event))
        if lasting is None or not lasting.when(event):
            self._logger.log(line.level, line.words, **line.fields)
            return
        times = self._repetition.met(_key(type(event), event), every=lasting.every)
        repeated = {"times": times} if times > 1 else {}
        self._logger.log(line.level if times else DEBUG, line.words, **line.fields, **repeated)


def lines(event: Event) -> tuple[Line, ...]:
    """The lines of an event, as if it were the first of its kind; pure."""
    kind = type(event)
    if kind in NOT_LOGGED:
        return ()
    if kind in SPECIAL:
        return tuple(SPECIAL[kind](event))
    level, words = PLAIN[kind]
    return (Line(level, words, facts(event)),)


# --- What is said -----------------------------------------------------------------------------------------------------

PLAIN: Mapping[type[Event], tuple[int, str]] = {
    Running: (INFO, "All services started, running indefinitely"),
    ConfigurationRefused: (ERROR, "Configuration cannot be changed like this, it stays as it was"),
    Stopping: (INFO, "Stopping, what is held is finished first"),
    Stopped: (INFO, "AI Task Processor stopped"),
    Reopened: (INFO, "Journal opened"),
    TracesLost: (WARNING, "Traces are not taken by their collector, dropped"),
    StateLost: (ERROR, "State database cannot be used, tried again"),
    StateRegained: (INFO, "State database can be used again"),
    TokenObtained: (INFO, "OAuth2 token generated successfully"),
    ApiRequested: (DEBUG, "Task API request"),
    FeatureFound: (INFO, "Task API has an optional route, used from now on"),
    FeatureLost: (WARNING, "Task API has an optional route no longer, done without it"),
    TasksLetGo: (WARNING, "Leases have ended, tasks that were not begun are given up until they are claimed again"),
    TurnElsewhere: (INFO, "Another replica polls the Task API"),
    IntakePaused: (WARNING, "Paused, nothing new is taken and what is held is finished"),
    IntakeResumed: (INFO, "Resumed, new tasks are taken again"),
    PollFailed: (WARNING, "Polling the Task API failed"),
    TaskAccepted: (DEBUG, "Task accepted"),
    EntryUnusable: (WARNING, "Listed entries cannot be used, left alone"),
    TypeUnknown: (WARNING, "Tasks of an unknown type, left alone"),
    BatchStarted: (DEBUG, "Processing batch"),
    BatchSplit: (DEBUG, "Batch refused, trying its parts"),
    ProviderCalled: (DEBUG, "Provider request"),
    Retried: (WARNING, "Provider request is tried again"),
    ProviderWasPaused: (ERROR, "Provider refuses our account, paused"),
    TextsMixed: (ERROR, "Provider mixes the texts that it embeds, nothing of it can be used"),
    ProviderResumed: (INFO, "Provider answers again, resumed"),
    FellBack: (WARNING, "Fallback model used, its vectors are not comparable with the primary model's"),
    CacheAnswered: (DEBUG, "Embeddings looked up"),
    CacheFilled: (DEBUG, "Embeddings kept in the cache"),
    CacheDamaged: (WARNING, "Entries of the cache are damaged, dropped and asked for anew"),
    SpaceChanged: (WARNING, "Vectors for this model are of another space now, not comparable with those before"),
    EnsuringModels: (INFO, "Ensuring Ollama models are available"),
    ModelDownloaded: (INFO, "Model downloaded successfully"),
    ModelsReady: (INFO, "All models are available"),
    ModelsMissing: (WARNING, "Models are not available yet"),
    LimitReached: (INFO, "Rate limit reached, waiting for room"),
    Reported: (DEBUG, "Outcome reported"),
    ReportPostponed: (WARNING, "Outcome could not be delivered, kept"),
    DeliveryHalted: (WARNING, "Task API takes no outcomes, all are kept"),
    Parked: (WARNING, "Task API refuses an outcome, parked until an operator looks"),
    ClaimLost: (DEBUG, "Task is no longer ours, not performed"),
}
"""Events whose line says all that they hold."""


def _started(event: Started) -> Iterator[Line]:
    yield Line(INFO, "AI Task Processor starting up", event.facts)


def _warned(event: Warned) -> Iterator[Line]:
    yield Line(WARNING, event.message)


def _configuration_changed(event: ConfigurationChanged) -> Iterator[Line]:
    if event.changes:
        yield Line(INFO, "Configuration changed", facts(event))
    else:
        yield Line(INFO, "Configuration read again, it is the same")


def _token_failed(event: TokenFailed) -> Iterator[Line]:
    if event.refused:
        yield Line(ERROR, "OAuth2 credentials refused", {"reason": event.reason})
    else:
        yield Line(WARNING, "OAuth2 token not available", {"reason": event.reason})


def _polled(event: Polled) -> Iterator[Line]:
    counts = {"count": event.listed, "accepted": event.accepted, "left_alone": event.left_alone}
    yield Line(INFO if event.listed else DEBUG, "Found pending tasks", counts)


def _task_started(event: TaskStarted) -> Iterator[Line]:
    named = {"task_id": event.task_id, "correlation_id": event.correlation_id} | _of_key(event.key)
    yield Line(DEBUG, f"Processing {event.type.replace('_', ' ')} task", named)


def _task_settled(event: TaskSettled) -> Iterator[Line]:
    named = {"task_id": event.task_id, "correlation_id": event.correlation_id}
    if event.dimensions:
        made = {"model": event.model, "provider": event.provider, "dimensions": event.dimensions}
        yield Line(DEBUG, "Embedding created successfully", named | made)
    level = WARNING if event.status == "failed" else DEBUG
    yield Line(level, "Task processing completed", facts(event, without=("dimensions", "counts")))


def _batch_settled(event: BatchSettled) -> Iterator[Line]:
    # Without a key it is one task that never came to its processor; the task's own line has said it.
    yield Line(INFO if event.key else DEBUG, "Batch completed", facts(event))


def _batch_crashed(event: BatchCrashed) -> Iterator[Line]:
    held = facts(event, without=("traceback",)) | {"exception": event.traceback}
    yield Line(ERROR, "Batch crashed: a defect of the daemon, please report it", held)


def _concurrency_changed(event: ConcurrencyChanged) -> Iterator[Line]:
    words = "Provider throttles, fewer requests at once" if event.reason else "Provider requests at once changed"
    yield Line(INFO if event.reason else DEBUG, words, facts(event))


def _breaker_changed(event: BreakerChanged) -> Iterator[Line]:
    level = {"open": WARNING, "half_open": DEBUG}.get(event.state, INFO)
    yield Line(level, "Circuit breaker changed", facts(event))


def _model_downloading(event: ModelDownloading) -> Iterator[Line]:
    known = {"completed": event.completed, "total": event.total} if event.total else {}
    named: dict[str, object] = {"provider": event.provider, "model": event.model}
    yield Line(INFO, "Downloading missing supported model", named | known)


SPECIAL: Mapping[type[Event], Callable[..., Iterator[Line]]] = {
    Started: _started,
    Warned: _warned,
    ConfigurationChanged: _configuration_changed,
    TokenFailed: _token_failed,
    Polled: _polled,
    TaskStarted: _task_started,
    TaskSettled: _task_settled,
    BatchSettled: _batch_settled,
    BatchCrashed: _batch_crashed,
    ConcurrencyChanged: _concurrency_changed,
    BreakerChanged: _breaker_changed,
    ModelDownloading: _model_downloading,
}
"""Events whose line depends on what they hold."""

ONLY_DEBUG = frozenset(kind for kind, (level, _) in PLAIN.items() if level == DEBUG) | {TaskStarted}
"""Events, several for each task, that need not even be put into words above DEBUG."""


def _is_only_debug(event: Event) -> bool:
    return type(event) in ONLY_DEBUG or (isinstance(event, TaskSettled) and event.status != "failed")


# --- What repeats itself ----------------------------------------------------------------------------------------------

MINUTE = 60.0
ONCE = math.inf


def _always(_event: Event) -> bool:
    return True


def _nothing_done(event: Event) -> bool:
    return isinstance(event, BatchSettled) and event.deferred == event.size


def _narrowed(event: Event) -> bool:
    return isinstance(event, ConcurrencyChanged) and bool(event.reason)


def _opened(event: Event) -> bool:
    return isinstance(event, BreakerChanged) and event.state == "open"


def _closed(event: Event) -> bool:
    return isinstance(event, BreakerChanged) and event.state == "closed"


class _Lasting(Struct, frozen=True):
    """Events of one type that are one condition where the attributes ``by`` are equal.

    They are told at most once in ``every`` seconds, as far as ``when`` holds for them.
    """

    by: tuple[str, ...] = ()
    every: float = MINUTE
    when: Callable[[Event], bool] = _always


class _Ending(Struct, frozen=True):
    """What an event shows to be over: the condition that events of type ``of`` are, as far as ``when`` holds.

    ``words`` tell of it with how long it lasted; empty where the event's own line says enough.
    """

    of: type[Event]
    words: str = ""
    when: Callable[[Event], bool] = _always


LASTING: Mapping[type[Event], _Lasting] = {
    StateLost: _Lasting(),
    TracesLost: _Lasting(),
    TurnElsewhere: _Lasting(every=ONCE),
    TokenObtained: _Lasting(),
    TokenFailed: _Lasting(),
    PollFailed: _Lasting(),
    EntryUnusable: _Lasting(by=("count", "reason"), every=ONCE),
    TypeUnknown: _Lasting(by=("type",), every=ONCE),
    BatchSettled: _Lasting(by=("type", "key"), when=_nothing_done),
    Retried: _Lasting(by=("provider",)),
    ConcurrencyChanged: _Lasting(by=("provider",), when=_narrowed),
    ProviderWasPaused: _Lasting(by=("provider",)),
    TextsMixed: _Lasting(by=("provider", "model")),
    FellBack: _Lasting(by=("model", "fallback_model")),
    CacheDamaged: _Lasting(by=("provider", "model")),
    SpaceChanged: _Lasting(by=("name", "dimensions", "after")),
    BreakerChanged: _Lasting(by=("name",), when=_opened),
    ModelDownloading: _Lasting(by=("provider", "model"), every=10.0),
    ModelsMissing: _Lasting(by=("provider",)),
    LimitReached: _Lasting(by=("window",)),
    ReportPostponed: _Lasting(),
    DeliveryHalted: _Lasting(),
}

ENDINGS: Mapping[type[Event], _Ending] = {
    StateRegained: _Ending(StateLost),
    TokenObtained: _Ending(TokenFailed, "OAuth2 token is available again"),
    Polled: _Ending(PollFailed, "Polling the Task API works again"),
    Reported: _Ending(DeliveryHalted, "Task API takes outcomes again"),
    BreakerChanged: _Ending(BreakerChanged, when=_closed),
    ProviderResumed: _Ending(ProviderWasPaused),
    ModelsReady: _Ending(ModelsMissing),
}


_SILENT = ONLY_DEBUG - ENDINGS.keys()
"""Events that say nothing at all above DEBUG."""


def _key(kind: type[Event], event: Event) -> Hashable:
    return (kind, *_identity(kind, event).values()) if LASTING[kind].by else (kind,)


def _identity(kind: type[Event], event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in LASTING[kind].by}


# --- Facts ------------------------------------------------------------------------------------------------------------


def facts(event: Event, *, without: tuple[str, ...] = ()) -> dict[str, object]:
    """The fields of an event for people: moments as ISO dates, durations rounded, what is not known left out."""
    told: dict[str, object] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in without or value in ("", None):
            continue
        told |= _of_key(value) if name == "key" else {name: _readable(name, value)}
    return told


def _of_key(key: str) -> dict[str, str]:
    """A batch key in words: the model, then the dimensions where they were asked for."""
    model, _, dimensions = key.partition(" ")
    return {"model": model, "dimensions": dimensions} if dimensions else {"model": model}


def _readable(name: str, value: object) -> object:
    if not isinstance(value, float):
        return value
    if name == "until" and math.isfinite(value):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    return round(value, 4)
