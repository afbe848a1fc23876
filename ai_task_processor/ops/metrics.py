"""Counts what happens, for Prometheus."""

import platform
from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from ai_task_processor.domain.amount import USD, Unit
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.events import (
    ApiRequested,
    BatchCrashed,
    BatchSplit,
    BatchStarted,
    BreakerChanged,
    CacheAnswered,
    CacheDamaged,
    CacheFilled,
    ClaimLost,
    ConcurrencyChanged,
    DeliveryHalted,
    EntryUnusable,
    Event,
    FeatureFound,
    FeatureLost,
    FellBack,
    IntakePaused,
    IntakeResumed,
    LimitReached,
    LoopLagged,
    Parked,
    Polled,
    PollFailed,
    ProviderCalled,
    ProviderResumed,
    ProviderWasPaused,
    Reported,
    ReportPostponed,
    Retried,
    SpaceChanged,
    TaskAccepted,
    TaskSettled,
    TaskStarted,
    TokenFailed,
    TokenObtained,
    TypeUnknown,
)
from ai_task_processor.domain.ports import Backlog, WindowUsage
from ai_task_processor.ops.catalogue import CATALOGUE, Description
from ai_task_processor.ops.observers import Handler, Selective
from ai_task_processor.ops.series import Counts, Measurements

OTHER = "other"
MOST_VALUES = 50
"""Distinct values of one label; what comes after them is counted as ``other``."""
LONGEST_VALUE = 100

_LIMITS: Mapping[Unit, tuple[str, int, str]] = {
    "tasks": ("rate_limit", 1, ""),
    "tokens": ("token_limit", 1, ""),
    "cost": ("cost_limit", USD, "_usd"),
}
"""How the gauges of a unit's windows are called, what one of them counts, and the unit in their names."""

BREAKER_STATES = ("closed", "open", "half_open")


class Metrics(Selective):
    """Counts events in a registry of its own, and writes the registry down for a scrape.

    ``types`` are the task types that have a processor; all others share the label ``other``, where any are given.
    ``models`` have their labels reserved, further ones get one until there are too many. ``breakers`` are shown as
    closed until they change, and for each provider of ``concurrency`` that many requests at once.
    """

    def __init__(
        self,
        version: str,
        *,
        clock: Clock,
        types: Collection[str] = (),
        models: Collection[str] = (),
        breakers: Collection[str] = (),
        concurrency: Mapping[str, int] | None = None,
    ) -> None:
        # A setting of the library as a whole: when a series began is of no use, and costs as much as its value.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation here
        self._clock = clock
        self._registry = CollectorRegistry()
        self._counters = {one.name: Counts(one) for one in CATALOGUE if one.kind == "counter"}
        self._gauges = {one.name: _gauge(one, self._registry) for one in CATALOGUE if one.kind == "gauge"}
        self._histograms = {one.name: Measurements(one) for one in CATALOGUE if one.kind == "histogram"}
        for collector in (*self._counters.values(), *self._histograms.values()):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        self._types = _Values(types, most=len(types) or MOST_VALUES)
        self._unknown_types = _Values()
        self._models = _Values(models)
        self._causes = _Values()
        self._routes = _Values()
        self._in_flight: set[str] = set()
        self._backlog = Backlog()
        self._windows: Mapping[str, Unit] = {}
        self._handlers = self._by_type()
        self._begin(version, breakers)
        for provider, at_once in (concurrency or {}).items():
            self._set("provider_concurrency", at_once, provider)

    def handler(self, kind: type[Event]) -> Handler | None:
        """What counts events of this type; None where they are not counted."""
        return self._handlers.get(kind)

    @property
    def in_flight(self) -> int:
        """Tasks that are with their processor at this moment."""
        return len(self._in_flight)

    def render(
        self,
        accept: str,
        backlog: Backlog | None,
        usage: Mapping[str, WindowUsage],
        now: float,
        ready: Mapping[str, bool] | None = None,
    ) -> tuple[str, bytes]:
        """Everything as it is at ``now`` (Unix seconds): the content type and the body.

        ``accept`` is the request's Accept header, which chooses between Prometheus' text and OpenMetrics. ``backlog``
        None means that it could not be had: the last one is shown again, and a scrape error counted. ``ready`` says
        of each check whether it is ok.
        """
        if backlog is None:
            self._count("scrape_errors_total")
        else:
            self._backlog = backlog
        self._set_backlog(self._backlog, now)
        self._set_usage(usage)
        for check, ok in (ready or {}).items():
            self._set("ready", int(ok), check)
        self._set("tasks_in_flight", self.in_flight)
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    # --- At scrape time -------------------------------------------------------------------------------------------

    def _set_backlog(self, backlog: Backlog, now: float) -> None:
        self._set("backlog_tasks", backlog.ready, "ready")
        self._set("backlog_tasks", backlog.deferred, "deferred")
        self._set("backlog_tasks", backlog.claimed, "claimed")
        self._set("unreported_results", backlog.unreported)
        self._set("parked_results", backlog.parked)
        oldest = now if backlog.oldest_unreported is None else backlog.oldest_unreported
        self._set("oldest_unreported_result_age_seconds", max(0.0, now - oldest))

    def _set_usage(self, usage: Mapping[str, WindowUsage]) -> None:
        for key in self._windows.keys() - usage.keys():
            self._forget_window(key, self._windows[key])
        self._windows = {key: used.unit for key, used in usage.items()}
        for key, used in usage.items():
            window = key.rpartition("_")[2]
            family, scale, unit = _LIMITS[used.unit]
            self._set(f"{family}_used{unit}", used.current / scale, window)
            self._set(f"{family}_limit{unit}", used.limit / scale, window)
            self._set(f"{family}_remaining{unit}", used.remaining / scale, window)

    def _forget_window(self, key: str, unit: Unit) -> None:
        """A window without a limit has no figures, rather than those that it had last."""
        family, _, suffix = _LIMITS[unit]
        for figure in ("used", "limit", "remaining"):
            self._gauges[f"{family}_{figure}{suffix}"].forget(key.rpartition("_")[2])

    # --- Events ---------------------------------------------------------------------------------------------------

    def _by_type(self) -> Mapping[type[Event], Handler]:
        return {
            TaskAccepted: self._task_accepted,
            TaskStarted: self._task_started,
            TaskSettled: self._task_settled,
            BatchStarted: self._batch_started,
            BatchSplit: self._batch_split,
            BatchCrashed: self._batch_crashed,
            ClaimLost: self._claim_lost,
            TokenObtained: self._token_obtained,
            TokenFailed: self._token_failed,
            ApiRequested: self._api_requested,
            FeatureFound: self._feature_found,
            FeatureLost: self._feature_lost,
            Polled: self._polled,
            PollFailed: self._poll_failed,
            IntakePaused: self._intake_paused,
            IntakeResumed: self._intake_resumed,
            EntryUnusable: self._entry_unusable,
            TypeUnknown: self._type_unknown,
            Reported: self._reported,
            ReportPostponed: self._report_postponed,
            DeliveryHalted: self._delivery_halted,
            Parked: self._parked,
            ProviderCalled: self._provider_called,
            Retried: self._retried,
            ConcurrencyChanged: self._concurrency_changed,
            ProviderWasPaused: self._provider_paused,
            ProviderResumed: self._provider_resumed,
            FellBack: self._fell_back,
            CacheAnswered: self._cache_answered,
            CacheFilled: self._cache_filled,
            CacheDamaged: self._cache_damaged,
            SpaceChanged: self._space_changed,
            BreakerChanged: self._breaker_changed,
            LimitReached: self._limit_reached,
            LoopLagged: self._loop_lagged,
        }

    def _begin(self, version: str, breakers: Collection[str]) -> None:
        self._set("build_info", 1, version, platform.python_version())
        self._set("start_time_seconds", self._clock.now())
        for name in breakers:
            self._set_breaker(name, "closed")
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what will be counted before it is: the first of a kind is an increase too."""
        for kind in self._types:
            for status in ("succeeded", "failed", "deferred"):
                self._count("tasks_total", kind, status, by=0)
            self._count("batches_crashed_total", kind, by=0)
        for model in self._models:
            self._count("space_changes_total", model, by=0)
        for outcome in ("succeeded", "failed"):
            self._count("polls_total", outcome, by=0)
        for outcome in ("succeeded", "refused", "unavailable"):
            self._count("token_requests_total", outcome, by=0)
        for receipt in ("taken", "gone", "conflict"):
            self._count("reported_total", receipt, by=0)

    def _task_accepted(self, event: TaskAccepted) -> None:
        self._count("tasks_accepted_total", self._types[event.type])

    def _task_started(self, event: TaskStarted) -> None:
        self._in_flight.add(event.task_id)

    def _task_settled(self, event: TaskSettled) -> None:
        kind = self._types[event.type]
        self._in_flight.discard(event.task_id)
        self._count("tasks_total", kind, event.status)
        if event.status == "deferred":
            self._count("deferrals_total", self._causes[event.cause])
        else:
            self._observe("task_duration_seconds", event.seconds, kind)

    def _batch_started(self, event: BatchStarted) -> None:
        self._observe("batch_size", event.size, self._types[event.type])

    def _batch_split(self, event: BatchSplit) -> None:
        self._count("batches_split_total", self._types[event.type])

    def _batch_crashed(self, event: BatchCrashed) -> None:
        self._count("batches_crashed_total", self._types[event.type])

    def _claim_lost(self, event: ClaimLost) -> None:
        self._count("claims_lost_total", event.receipt)

    def _token_obtained(self, _event: TokenObtained) -> None:
        self._count("token_requests_total", "succeeded")

    def _token_failed(self, event: TokenFailed) -> None:
        self._count("token_requests_total", "refused" if event.refused else "unavailable")

    def _api_requested(self, event: ApiRequested) -> None:
        route = self._routes[event.route]
        self._count("api_requests_total", route, event.method, str(event.status or "none"))
        self._observe("api_request_duration_seconds", event.seconds, route, event.method)

    def _feature_found(self, event: FeatureFound) -> None:
        self._set("api_feature", 1, event.feature)

    def _feature_lost(self, event: FeatureLost) -> None:
        self._set("api_feature", 0, event.feature)

    def _polled(self, _event: Polled) -> None:
        self._count("polls_total", "succeeded")
        self._set("last_successful_poll_timestamp_seconds", self._clock.now())

    def _poll_failed(self, _event: PollFailed) -> None:
        self._count("polls_total", "failed")

    def _intake_paused(self, _event: IntakePaused) -> None:
        self._set("paused", 1)

    def _intake_resumed(self, _event: IntakeResumed) -> None:
        self._set("paused", 0)

    def _entry_unusable(self, event: EntryUnusable) -> None:
        self._count("entries_unusable_total", by=event.count)

    def _type_unknown(self, event: TypeUnknown) -> None:
        self._count("tasks_unknown_type_total", self._unknown_types[event.type], by=event.count)

    def _reported(self, event: Reported) -> None:
        self._count("reported_total", event.receipt)
        self._observe("report_wait_seconds", event.waited)

    def _report_postponed(self, _event: ReportPostponed) -> None:
        self._count("postponed_total")

    def _delivery_halted(self, _event: DeliveryHalted) -> None:
        self._count("delivery_halts_total")

    def _parked(self, _event: Parked) -> None:
        self._count("parked_total")

    def _provider_called(self, event: ProviderCalled) -> None:
        model = self._models[event.model]
        self._count("provider_requests_total", event.provider, model, event.outcome)
        self._count("provider_inputs_total", event.provider, model, event.outcome, by=event.inputs)
        self._count("provider_tokens_total", event.provider, model, event.outcome, by=event.tokens)
        self._count("provider_cost_usd_total", event.provider, model, event.outcome, by=event.cost)
        self._observe("provider_request_duration_seconds", event.seconds, event.provider, model)

    def _retried(self, event: Retried) -> None:
        self._count("provider_retries_total", event.provider)

    def _concurrency_changed(self, event: ConcurrencyChanged) -> None:
        self._set("provider_concurrency", event.at_once, event.provider)

    def _provider_paused(self, event: ProviderWasPaused) -> None:
        self._set("provider_paused", 1, event.provider)

    def _provider_resumed(self, event: ProviderResumed) -> None:
        self._set("provider_paused", 0, event.provider)

    def _fell_back(self, event: FellBack) -> None:
        models = self._models[event.model], self._models[event.fallback_model]
        self._count("fallbacks_total", *models)
        self._count("fallback_inputs_total", *models, by=event.inputs)

    def _cache_answered(self, event: CacheAnswered) -> None:
        labels = event.provider, self._models[event.model]
        self._count("cache_hits_total", *labels, by=event.hits)
        self._count("cache_shared_total", *labels, by=event.shared)
        self._count("cache_misses_total", *labels, by=event.misses)

    def _cache_filled(self, event: CacheFilled) -> None:
        self._set("cache_entries", event.entries)
        self._set("cache_bytes", event.size)
        self._count("cache_evicted_total", by=event.evicted)

    def _cache_damaged(self, event: CacheDamaged) -> None:
        self._count("cache_damaged_total", event.provider, by=event.count)

    def _space_changed(self, event: SpaceChanged) -> None:
        self._count("space_changes_total", self._models[event.name])

    def _breaker_changed(self, event: BreakerChanged) -> None:
        self._count("breaker_changes_total", event.name, event.state)
        self._set_breaker(event.name, event.state)

    def _limit_reached(self, event: LimitReached) -> None:
        self._count("rate_limit_exceeded_total", event.window)

    def _loop_lagged(self, event: LoopLagged) -> None:
        self._observe("event_loop_lag_seconds", event.seconds)

    # --- Series ---------------------------------------------------------------------------------------------------

    def _set_breaker(self, name: str, state: str) -> None:
        for one in BREAKER_STATES:
            self._set("breaker_state", int(one == state), name, one)

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        self._counters[name].add(labels, by)

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._gauges[name][labels].set(value)

    def _observe(self, name: str, value: float, *labels: str) -> None:
        self._histograms[name].add(labels, value)


class _Values(dict[str, str]):
    """How each value of one label is shown: as it is, until there are too many."""

    def __init__(self, known: Collection[str] = (), *, most: int = MOST_VALUES) -> None:
        super().__init__(zip(known, known, strict=True))
        self._most = max(most, len(known))

    def __missing__(self, value: str) -> str:
        if len(self) >= self._most or len(value) > LONGEST_VALUE:
            return OTHER
        return self.setdefault(value, value)


class _Gauges(dict[tuple[str, ...], Gauge]):
    """A gauge's series by their labels: looking one up here costs a quarter of what the library's own way does."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__()
        self._gauge = gauge

    def __missing__(self, labels: tuple[str, ...]) -> Gauge:
        return self.setdefault(labels, self._gauge.labels(*labels) if labels else self._gauge)

    def forget(self, *labels: str) -> None:
        """Show this series no more."""
        if self.pop(labels, None) is not None:
            self._gauge.remove(*labels)


def _gauge(about: Description, registry: CollectorRegistry) -> _Gauges:
    return _Gauges(Gauge(about.full_name, about.help, about.labels, registry=registry))
