"""What happens, told to whoever observes: logs, metrics and health. An event never carries a text or a secret."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The daemon starts; ``facts`` say what runs, with which mode and limits."""

    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Running(Event):
    """Every stage runs; ``routes`` is where supervisors ask, empty where they cannot."""

    routes: str = ""


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that an operator should know at the start, in words (mock mode by placeholder key, mixed spaces)."""

    message: str


@dataclass(frozen=True, slots=True)
class ConfigurationChanged(Event):
    """Other settings hold from now on; ``changes`` says which, in words without secrets, and is empty where none do."""

    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigurationRefused(Event):
    """The settings stay as they were, because the new ones have ``faults``."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TracesLost(Event):
    """Nobody took so many spans; they are dropped."""

    spans: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LoopLagged(Event):
    """The event loop came to a timer ``seconds`` late: so long, at least, it was held up. Told many times a second."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """A stop was asked for; ``reason`` is a signal's name or words. ``grace`` in seconds."""

    reason: str
    grace: float


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The daemon ends; ``unreported`` outcomes stay in the journal for the next start."""

    unreported: int


@dataclass(frozen=True, slots=True)
class Reopened(Event):
    """The journal was opened: what an earlier run left."""

    due: int
    unreported: int
    parked: int


@dataclass(frozen=True, slots=True)
class StateLost(Event):
    """The state database cannot be used now; it is tried again after ``rest`` seconds, and nothing is lost."""

    reason: str
    rest: float


@dataclass(frozen=True, slots=True)
class StateRegained(Event):
    """The state database can be used again."""


# --- Task API ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenObtained(Event):
    """The token endpoint gave a token; ``expires_in`` in seconds, None where the server did not say."""

    expires_in: float | None


@dataclass(frozen=True, slots=True)
class TokenFailed(Event):
    """No token: ``refused`` is True for wrong credentials, False for an endpoint that is down or talks nonsense."""

    reason: str
    refused: bool


@dataclass(frozen=True, slots=True)
class ApiRequested(Event):
    """One request to the Task API; ``route`` is a template, ``status`` 0 where no answer came."""

    route: str
    method: str
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FeatureFound(Event):
    """The Task API has an optional route, which is used from now on."""

    feature: str


@dataclass(frozen=True, slots=True)
class FeatureLost(Event):
    """The Task API has no longer an optional route: done without it, and looked for again now and then."""

    feature: str
    reason: str


@dataclass(frozen=True, slots=True)
class TasksLetGo(Event):
    """So many tasks that were not begun are no longer surely ours: their leases have ended."""

    count: int


@dataclass(frozen=True, slots=True)
class PollPlanned(Event):
    """Intake rests: the next poll is to be expected by ``by`` (Unix seconds)."""

    by: float


@dataclass(frozen=True, slots=True)
class TurnElsewhere(Event):
    """Another replica polls; this one does not, but performs and delivers."""


@dataclass(frozen=True, slots=True)
class IntakePaused(Event):
    """An operator wants nothing new to be taken; what is held is finished."""


@dataclass(frozen=True, slots=True)
class IntakeResumed(Event):
    """New tasks are taken again."""


@dataclass(frozen=True, slots=True)
class PollFailed(Event):
    """A poll brought nothing because of an error; the next is tried after ``rest`` seconds."""

    reason: str
    rest: float


@dataclass(frozen=True, slots=True)
class Polled(Event):
    """A poll succeeded: entries listed, tasks new to us, entries left alone."""

    listed: int
    accepted: int
    left_alone: int


@dataclass(frozen=True, slots=True)
class TaskAccepted(Event):
    """A task is in the journal now."""

    task_id: str
    correlation_id: str
    type: str


@dataclass(frozen=True, slots=True)
class EntryUnusable(Event):
    """Listed entries without a usable id, left alone: how many, and one of the reasons."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class TypeUnknown(Event):
    """Tasks of a type that no processor handles, left alone: told once per type and page."""

    type: str
    count: int


# --- Performing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchStarted(Event):
    """A batch goes to its processor."""

    type: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class TaskStarted(Event):
    """One task of a batch that goes to its processor."""

    task_id: str
    correlation_id: str
    type: str
    key: str


@dataclass(frozen=True, slots=True)
class TaskSettled(Event):
    """One task has an outcome: ``status`` is succeeded, failed or deferred.

    ``seconds`` is the time its batch took, ``tokens`` its share of the usage, ``dimensions`` 0 where there is no
    vector, ``counts`` whether a deferral counts as an attempt. ``cause`` is a class of reason for metrics (the name of
    the error that deferred it), ``reason`` the words.
    """

    task_id: str
    correlation_id: str
    type: str
    status: str
    seconds: float
    model: str = ""
    provider: str = ""
    dimensions: int = 0
    tokens: int = 0
    reason: str = ""
    cause: str = ""
    counts: bool = False


@dataclass(frozen=True, slots=True)
class BatchSettled(Event):
    """A batch is in the journal with its outcomes."""

    type: str
    key: str
    size: int
    succeeded: int
    failed: int
    deferred: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchSplit(Event):
    """A batch was refused and is tried again in parts, to find the input that is at fault."""

    type: str
    key: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class BatchCrashed(Event):
    """A processor raised what it should not: a defect of ours. ``traceback`` is text."""

    type: str
    key: str
    size: int
    traceback: str


# --- Providers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderCalled(Event):
    """One request to a provider ended: ``outcome`` is succeeded, unavailable, throttled, rejected or refused.

    ``cost`` is what its ``tokens`` cost by the prices that are known, in US dollars.
    """

    provider: str
    model: str
    outcome: str
    inputs: int
    tokens: int
    seconds: float
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """A provider request is tried again after ``wait`` seconds; ``attempt`` is the number of the one that failed."""

    provider: str
    attempt: int
    wait: float
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderWasPaused(Event):
    """A provider refuses our account; it is probed again at ``until`` (Unix seconds)."""

    provider: str
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderResumed(Event):
    """A paused provider answers again."""

    provider: str


@dataclass(frozen=True, slots=True)
class TextsMixed(Event):
    """A provider gives a text another vector beside others than alone: nothing that it embeds can be used."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class ConcurrencyChanged(Event):
    """From now on a provider is sent at most ``at_once`` requests at once.

    ``reason`` is the throttling that narrowed it; empty where the provider's own figures or successes changed it.
    """

    provider: str
    at_once: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FellBack(Event):
    """Hybrid mode used its second provider for ``inputs`` texts."""

    model: str
    fallback_model: str
    inputs: int
    reason: str


@dataclass(frozen=True, slots=True)
class CacheAnswered(Event):
    """One call's texts have their vectors: ``hits`` from the cache, ``shared`` from a request of another call.

    ``misses`` are those that were asked for. Equal texts of one call are counted once.
    """

    provider: str
    model: str
    hits: int
    shared: int
    misses: int


@dataclass(frozen=True, slots=True)
class CacheFilled(Event):
    """The cache took new vectors: it has ``entries`` of about ``size`` bytes now, ``evicted`` older ones had to go."""

    entries: int
    size: int
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class CacheDamaged(Event):
    """Entries of the cache were not as they had been stored; they were dropped, and their texts are asked for anew."""

    provider: str
    model: str
    count: int


@dataclass(frozen=True, slots=True)
class SpaceChanged(Event):
    """Vectors for the tasks' model ``name`` are of another space from now on: not comparable with those ``before``.

    ``dimensions`` are those that the tasks ask for, None where they ask for none. ``before`` and ``after`` name
    provider, model and length.
    """

    name: str
    dimensions: int | None
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """A circuit breaker is now ``closed``, ``open`` or ``half_open``."""

    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EnsuringModels(Event):
    """The models that must be there are looked for."""

    provider: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelDownloading(Event):
    """A missing model is being pulled; ``completed`` and ``total`` in bytes, 0 where not known yet."""

    provider: str
    model: str
    completed: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ModelDownloaded(Event):
    """A missing model is there now."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class ModelsReady(Event):
    """Every model that must be there is there."""

    provider: str


@dataclass(frozen=True, slots=True)
class ModelsMissing(Event):
    """Models could not be made ready; tried again after ``rest`` seconds."""

    provider: str
    reason: str
    rest: float


# --- Limits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LimitReached(Event):
    """A window is full until ``until`` (Unix seconds); told once per closing. Limits of money are in US dollars."""

    window: str
    limit: float
    until: float


# --- Delivery ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reported(Event):
    """An outcome is with the Task API: ``receipt`` is taken, gone or conflict."""

    task_id: str
    correlation_id: str
    type: str
    status: str
    receipt: str
    waited: float


@dataclass(frozen=True, slots=True)
class ReportPostponed(Event):
    """An outcome could not be delivered and is kept; tried again at ``until`` (Unix seconds)."""

    task_id: str
    correlation_id: str
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class DeliveryHalted(Event):
    """The Task API takes nothing now; delivery rests until ``until`` (Unix seconds)."""

    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Parked(Event):
    """The Task API refuses an outcome; an operator must look."""

    task_id: str
    correlation_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClaimLost(Event):
    """With ``CLAIM_TASKS``: somebody else has the task, or it is gone; it is not performed."""

    task_id: str
    correlation_id: str
    receipt: str
