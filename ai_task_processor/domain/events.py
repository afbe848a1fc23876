"""What happens, told to whoever observes: logs, metrics and health. An event never carries a text or a secret."""

from collections.abc import Mapping

from msgspec import Struct


class Event(Struct, frozen=True):
    """Something that happened."""


class Started(Event, frozen=True):
    """The daemon starts; ``facts`` say what runs, with which mode and limits."""

    facts: Mapping[str, object]


class Running(Event, frozen=True):
    """Every stage runs; ``routes`` is where supervisors ask, empty where they cannot."""

    routes: str = ""


class Warned(Event, frozen=True):
    """Something that an operator should know at the start, in words (mock mode by placeholder key, mixed spaces)."""

    message: str


class ConfigurationChanged(Event, frozen=True):
    """Other settings hold from now on; ``changes`` says which, in words without secrets, and is empty where none do."""

    changes: tuple[str, ...]


class ConfigurationRefused(Event, frozen=True):
    """The settings stay as they were, because the new ones have ``faults``."""

    faults: tuple[str, ...]


class TracesLost(Event, frozen=True):
    """Nobody took so many spans; they are dropped."""

    spans: int
    reason: str = ""


class LoopLagged(Event, frozen=True):
    """The event loop came to a timer ``seconds`` late: so long, at least, it was held up. Told many times a second."""

    seconds: float


class Stopping(Event, frozen=True):
    """A stop was asked for; ``reason`` is a signal's name or words. ``grace`` in seconds."""

    reason: str
    grace: float


class Stopped(Event, frozen=True):
    """The daemon ends; ``unreported`` outcomes stay in the journal for the next start."""

    unreported: int


class Reopened(Event, frozen=True):
    """The journal was opened: what an earlier run left."""

    due: int
    unreported: int
    parked: int


class StateLost(Event, frozen=True):
    """The state database cannot be used now; it is tried again after ``rest`` seconds, and nothing is lost."""

    reason: str
    rest: float


class StateRegained(Event, frozen=True):
    """The state database can be used again."""


# --- Task API ---------------------------------------------------------------------------------------------------------


class TokenObtained(Event, frozen=True):
    """The token endpoint gave a token; ``expires_in`` in seconds, None where the server did not say."""

    expires_in: float | None


class TokenFailed(Event, frozen=True):
    """No token: ``refused`` is True for wrong credentials, False for an endpoint that is down or talks nonsense."""

    reason: str
    refused: bool


class ApiRequested(Event, frozen=True):
    """One request to the Task API; ``route`` is a template, ``status`` 0 where no answer came."""

    route: str
    method: str
    status: int
    seconds: float


class FeatureFound(Event, frozen=True):
    """The Task API has an optional route, which is used from now on."""

    feature: str


class FeatureLost(Event, frozen=True):
    """The Task API has no longer an optional route: done without it, and looked for again now and then."""

    feature: str
    reason: str


class TasksLetGo(Event, frozen=True):
    """So many tasks that were not begun are no longer surely ours: their leases have ended."""

    count: int


class PollPlanned(Event, frozen=True):
    """Intake rests: the next poll is to be expected by ``by`` (Unix seconds)."""

    by: float


class TurnElsewhere(Event, frozen=True):
    """Another replica polls; this one does not, but performs and delivers."""


class IntakePaused(Event, frozen=True):
    """An operator wants nothing new to be taken; what is held is finished."""


class IntakeResumed(Event, frozen=True):
    """New tasks are taken again."""


class PollFailed(Event, frozen=True):
    """A poll brought nothing because of an error; the next is tried after ``rest`` seconds."""

    reason: str
    rest: float


class Polled(Event, frozen=True):
    """A poll succeeded: entries listed, tasks new to us, entries left alone."""

    listed: int
    accepted: int
    left_alone: int


class TaskAccepted(Event, frozen=True):
    """A task is in the journal now."""

    task_id: str
    correlation_id: str
    type: str


class EntryUnusable(Event, frozen=True):
    """Listed entries without a usable id, left alone: how many, and one of the reasons."""

    count: int
    reason: str


class TypeUnknown(Event, frozen=True):
    """Tasks of a type that no processor handles, left alone: told once per type and page."""

    type: str
    count: int


# --- Performing -------------------------------------------------------------------------------------------------------


class BatchStarted(Event, frozen=True):
    """A batch goes to its processor."""

    type: str
    key: str
    size: int


class TaskStarted(Event, frozen=True):
    """One task of a batch that goes to its processor."""

    task_id: str
    correlation_id: str
    type: str
    key: str


class TaskSettled(Event, frozen=True):
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


class BatchSettled(Event, frozen=True):
    """A batch is in the journal with its outcomes."""

    type: str
    key: str
    size: int
    succeeded: int
    failed: int
    deferred: int
    seconds: float
    reason: str = ""


class BatchSplit(Event, frozen=True):
    """A batch was refused and is tried again in parts, to find the input that is at fault."""

    type: str
    key: str
    size: int
    reason: str


class BatchCrashed(Event, frozen=True):
    """A processor raised what it should not: a defect of ours. ``traceback`` is text."""

    type: str
    key: str
    size: int
    traceback: str


# --- Providers --------------------------------------------------------------------------------------------------------


class ProviderCalled(Event, frozen=True):
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


class Retried(Event, frozen=True):
    """A provider request is tried again after ``wait`` seconds; ``attempt`` is the number of the one that failed."""

    provider: str
    attempt: int
    wait: float
    reason: str


class ProviderWasPaused(Event, frozen=True):
    """A provider refuses our account; it is probed again at ``until`` (Unix seconds)."""

    provider: str
    until: float
    reason: str


class ProviderResumed(Event, frozen=True):
    """A paused provider answers again."""

    provider: str


class TextsMixed(Event, frozen=True):
    """A provider gives a text another vector beside others than alone: nothing that it embeds can be used."""

    provider: str
    model: str


class ConcurrencyChanged(Event, frozen=True):
    """From now on a provider is sent at most ``at_once`` requests at once.

    ``reason`` is the throttling that narrowed it; empty where the provider's own figures or successes changed it.
    """

    provider: str
    at_once: int
    reason: str = ""


class FellBack(Event, frozen=True):
    """Hybrid mode used its second provider for ``inputs`` texts."""

    model: str
    fallback_model: str
    inputs: int
    reason: str


class CacheAnswered(Event, frozen=True):
    """One call's texts have their vectors: ``hits`` from the cache, ``shared`` from a request of another call.

    ``misses`` are those that were asked for. Equal texts of one call are counted once.
    """

    provider: str
    model: str
    hits: int
    shared: int
    misses: int


class CacheFilled(Event, frozen=True):
    """The cache took new vectors: it has ``entries`` of about ``size`` bytes now, ``evicted`` older ones had to go."""

    entries: int
    size: int
    evicted: int = 0


class CacheDamaged(Event, frozen=True):
    """Entries of the cache were not as they had been stored; they were dropped, and their texts are asked for anew."""

    provider: str
    model: str
    count: int


class SpaceChanged(Event, frozen=True):
    """Vectors for the tasks' model ``name`` are of another space from now on: not comparable with those ``before``.

    ``dimensions`` are those that the tasks ask for, None where they ask for none. ``before`` and ``after`` name
    provider, model and length.
    """

    name: str
    dimensions: int | None
    before: str
    after: str


class BreakerChanged(Event, frozen=True):
    """A circuit breaker is now ``closed``, ``open`` or ``half_open``."""

    name: str
    state: str
    reason: str = ""


class EnsuringModels(Event, frozen=True):
    """The models that must be there are looked for."""

    provider: str
    models: tuple[str, ...]


class ModelDownloading(Event, frozen=True):
    """A missing model is being pulled; ``completed`` and ``total`` in bytes, 0 where not known yet."""

    provider: str
    model: str
    completed: int = 0
    total: int = 0


class ModelDownloaded(Event, frozen=True):
    """A missing model is there now."""

    provider: str
    model: str


class ModelsReady(Event, frozen=True):
    """Every model that must be there is there."""

    provider: str


class ModelsMissing(Event, frozen=True):
    """Models could not be made ready; tried again after ``rest`` seconds."""

    provider: str
    reason: str
    rest: float


# --- Limits -----------------------------------------------------------------------------------------------------------


class LimitReached(Event, frozen=True):
    """A window is full until ``until`` (Unix seconds); told once per closing. Limits of money are in US dollars."""

    window: str
    limit: float
    until: float


# --- Delivery ---------------------------------------------------------------------------------------------------------


class Reported(Event, frozen=True):
    """An outcome is with the Task API: ``receipt`` is taken, gone or conflict."""

    task_id: str
    correlation_id: str
    type: str
    status: str
    receipt: str
    waited: float


class ReportPostponed(Event, frozen=True):
    """An outcome could not be delivered and is kept; tried again at ``until`` (Unix seconds)."""

    task_id: str
    correlation_id: str
    until: float
    reason: str


class DeliveryHalted(Event, frozen=True):
    """The Task API takes nothing now; delivery rests until ``until`` (Unix seconds)."""

    until: float
    reason: str


class Parked(Event, frozen=True):
    """The Task API refuses an outcome; an operator must look."""

    task_id: str
    correlation_id: str
    reason: str


class ClaimLost(Event, frozen=True):
    """With ``CLAIM_TASKS``: somebody else has the task, or it is gone; it is not performed."""

    task_id: str
    correlation_id: str
    receipt: str
