import math
from collections.abc import Mapping

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.domain import events
from ai_task_processor.domain.amount import USD
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import Backlog, WindowUsage
from ai_task_processor.ops.catalogue import CATALOGUE, PREFIX
from ai_task_processor.ops.metrics import LONGEST_VALUE, MOST_VALUES, Metrics
from tests.fakes.events import SAMPLES
from tests.fakes.time import BEGINNING, ManualClock

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
USAGE = {
    "minute": WindowUsage(current=5, limit=20, remaining=15, reset_at=BEGINNING + 60),
    "tokens_per_hour": WindowUsage(current=700, limit=1_000, remaining=300, reset_at=BEGINNING + 60, unit="tokens"),
    "cost_per_day": WindowUsage(USD // 4, 2 * USD, 2 * USD - USD // 4, BEGINNING + 60, unit="cost"),
}
BACKLOG = Backlog(ready=1, deferred=2, claimed=3, unreported=4, parked=5, oldest_unreported=BEGINNING - 90)
PER_TASK = ("t1", "c1", "text_embedding")

Series = tuple[str, frozenset[tuple[str, str]]]


def make(*given: Event) -> Metrics:
    metrics = Metrics("1.2.3", clock=ManualClock(), types=["text_embedding"], breakers=["task_api"])
    for event in given:
        metrics(event)
    return metrics


def scrape(metrics: Metrics, backlog: Backlog | None = BACKLOG) -> Mapping[Series, float]:
    """Every sample without our prefix, read back by the library's own parser."""
    _, body = metrics.render("", backlog, USAGE, BEGINNING)
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def series(name: str, /, **labels: str) -> Series:
    return (name, frozenset(labels.items()))


@pytest.mark.parametrize(
    "accept", ["", "text/plain", OPENMETRICS, "*/*", "application/openmetrics-text", "nonsense;;="]
)
def test_both_formats_are_read_back_and_hold_every_metric_under_its_name(accept: str) -> None:
    deferred = events.TaskSettled(*PER_TASK, "deferred", 0, cause="BreakerOpen")
    content_type, body = make(*SAMPLES, deferred).render(accept, BACKLOG, USAGE, BEGINNING, {"token": True})
    wants_openmetrics = "openmetrics" in accept
    parse = openmetrics.text_string_to_metric_families if wants_openmetrics else text_string_to_metric_families
    families = list(parse(body.decode()))
    assert content_type.startswith("application/openmetrics-text" if wants_openmetrics else "text/plain")
    sampled = {sample.name for family in families for sample in family.samples}
    for one in CATALOGUE:
        assert (f"{one.full_name}_count" if one.kind == "histogram" else one.full_name) in sampled
    assert all(family.documentation for family in families)


def test_nothing_is_shown_that_the_catalogue_does_not_name() -> None:
    ours = {name for name, _ in scrape(make(*SAMPLES)) if not name.startswith("process_")}
    known = {one.name for one in CATALOGUE}
    histograms = {
        f"{one.name}{end}" for one in CATALOGUE if one.kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    assert ours <= known | histograms


def test_names_follow_the_rules() -> None:
    for one in CATALOGUE:
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert bool(one.buckets) == (one.kind == "histogram"), one.name
        assert one.help.endswith("."), one.name
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize(
    ("event", "name", "labels", "value"),
    [
        (events.TaskAccepted(*PER_TASK), "tasks_accepted_total", {"type": "text_embedding"}, 1),
        (events.TaskStarted(*PER_TASK, "m"), "tasks_in_flight", {}, 1),
        (
            events.TaskSettled(*PER_TASK, "failed", 0.2),
            "tasks_total",
            {"type": "text_embedding", "status": "failed"},
            1,
        ),
        (events.TaskSettled(*PER_TASK, "succeeded", 0.2), "task_duration_seconds_sum", {"type": "text_embedding"}, 0.2),
        (
            events.TaskSettled(*PER_TASK, "deferred", 0.2),
            "tasks_total",
            {"type": "text_embedding", "status": "deferred"},
            1,
        ),
        (
            events.TaskSettled(*PER_TASK, "deferred", 0, cause="BreakerOpen"),
            "deferrals_total",
            {"cause": "BreakerOpen"},
            1,
        ),
        (events.BatchStarted("text_embedding", "m", 5), "batch_size_sum", {"type": "text_embedding"}, 5),
        (events.BatchSplit("text_embedding", "m", 5, "400"), "batches_split_total", {"type": "text_embedding"}, 1),
        (events.BatchCrashed("text_embedding", "m", 5, "…"), "batches_crashed_total", {"type": "text_embedding"}, 1),
        (events.ClaimLost("t1", "c1", "gone"), "claims_lost_total", {"receipt": "gone"}, 1),
        (events.TokenObtained(60), "token_requests_total", {"outcome": "succeeded"}, 1),
        (events.TokenFailed("no", refused=True), "token_requests_total", {"outcome": "refused"}, 1),
        (events.TokenFailed("no", refused=False), "token_requests_total", {"outcome": "unavailable"}, 1),
        (
            events.ApiRequested("/api/ai-tasks/{id}", "PATCH", 500, 0.5),
            "api_requests_total",
            {"route": "/api/ai-tasks/{id}", "method": "PATCH", "status": "500"},
            1,
        ),
        (
            events.ApiRequested("/r", "GET", 0, 0.5),
            "api_requests_total",
            {"route": "/r", "method": "GET", "status": "none"},
            1,
        ),
        (
            events.ApiRequested("/r", "GET", 200, 0.5),
            "api_request_duration_seconds_sum",
            {"route": "/r", "method": "GET"},
            0.5,
        ),
        (events.Polled(5, 3, 1), "polls_total", {"outcome": "succeeded"}, 1),
        (events.Polled(0, 0, 0), "last_successful_poll_timestamp_seconds", {}, BEGINNING),
        (events.PollFailed("503", 1), "polls_total", {"outcome": "failed"}, 1),
        (events.PollFailed("503", 1), "last_successful_poll_timestamp_seconds", {}, 0),
        (events.IntakePaused(), "paused", {}, 1),
        (events.IntakeResumed(), "paused", {}, 0),
        (events.EntryUnusable(7, "no id"), "entries_unusable_total", {}, 7),
        (events.TypeUnknown("summary", 4), "tasks_unknown_type_total", {"type": "summary"}, 4),
        (events.Reported(*PER_TASK, "succeeded", "gone", 2), "reported_total", {"receipt": "gone"}, 1),
        (events.Reported(*PER_TASK, "succeeded", "gone", 2), "report_wait_seconds_sum", {}, 2),
        (events.ReportPostponed("t1", "c1", 0, "500"), "postponed_total", {}, 1),
        (events.DeliveryHalted(0, "down"), "delivery_halts_total", {}, 1),
        (events.Parked("t1", "c1", "400"), "parked_total", {}, 1),
        (
            events.ProviderCalled("openai", "m", "throttled", 9, 80, 0.5),
            "provider_inputs_total",
            {"provider": "openai", "model": "m", "outcome": "throttled"},
            9,
        ),
        (
            events.ProviderCalled("openai", "m", "succeeded", 9, 80, 0.5),
            "provider_tokens_total",
            {"provider": "openai", "model": "m", "outcome": "succeeded"},
            80,
        ),
        (events.Retried("openai", 1, 0.5, "500"), "provider_retries_total", {"provider": "openai"}, 1),
        (events.ProviderWasPaused("openai", 0, "quota"), "provider_paused", {"provider": "openai"}, 1),
        (events.ConcurrencyChanged("openai", 2, "slow down"), "provider_concurrency", {"provider": "openai"}, 2),
        (events.FellBack("m", "n", 7, "down"), "fallbacks_total", {"model": "m", "fallback_model": "n"}, 1),
        (events.FellBack("m", "n", 7, "down"), "fallback_inputs_total", {"model": "m", "fallback_model": "n"}, 7),
        (events.CacheAnswered("p", "m", 3, 2, 1), "cache_hits_total", {"provider": "p", "model": "m"}, 3),
        (events.CacheAnswered("p", "m", 3, 2, 1), "cache_shared_total", {"provider": "p", "model": "m"}, 2),
        (events.CacheAnswered("p", "m", 3, 2, 1), "cache_misses_total", {"provider": "p", "model": "m"}, 1),
        (events.CacheFilled(4, 900, 5), "cache_entries", {}, 4),
        (events.CacheFilled(4, 900, 5), "cache_bytes", {}, 900),
        (events.CacheFilled(4, 900, 5), "cache_evicted_total", {}, 5),
        (events.CacheDamaged("p", "m", 6), "cache_damaged_total", {"provider": "p"}, 6),
        (events.SpaceChanged("m", None, "a m 1", "b n 1"), "space_changes_total", {"model": "m"}, 1),
        (events.BreakerChanged("ollama", "open"), "breaker_state", {"name": "ollama", "state": "open"}, 1),
        (events.BreakerChanged("ollama", "open"), "breaker_state", {"name": "ollama", "state": "closed"}, 0),
        (events.BreakerChanged("ollama", "open"), "breaker_changes_total", {"name": "ollama", "state": "open"}, 1),
        (
            events.ProviderCalled("openai", "m", "succeeded", inputs=1, tokens=100, seconds=0.1, cost=0.002),
            "provider_cost_usd_total",
            {"provider": "openai", "model": "m", "outcome": "succeeded"},
            0.002,
        ),
        (events.LimitReached("minute", 20, 0), "rate_limit_exceeded_total", {"window": "minute"}, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_event_is_counted(event: Event, name: str, labels: dict[str, str], value: float) -> None:
    assert scrape(make(event))[series(name, **labels)] == value


def test_what_lives_elsewhere_is_shown_as_it_is_at_the_scrape() -> None:
    shown = scrape(make())
    assert [shown[series("backlog_tasks", state=state)] for state in ("ready", "deferred", "claimed")] == [1, 2, 3]
    assert shown[series("unreported_results")] == 4
    assert shown[series("parked_results")] == 5
    assert shown[series("oldest_unreported_result_age_seconds")] == 90
    assert [shown[series(f"rate_limit_{what}", window="minute")] for what in ("used", "limit", "remaining")] == [
        5,
        20,
        15,
    ]
    assert shown[series("token_limit_used", window="hour")] == 700
    assert shown[series("token_limit_remaining", window="hour")] == 300
    assert shown[series("cost_limit_used_usd", window="day")] == 0.25
    assert shown[series("cost_limit_limit_usd", window="day")] == 2
    assert shown[series("scrape_errors_total")] == 0


def test_without_a_backlog_the_last_one_is_shown_and_the_error_counted() -> None:
    metrics = make()
    scrape(metrics)
    shown = scrape(metrics, backlog=None)
    assert shown[series("unreported_results")] == 4
    assert shown[series("scrape_errors_total")] == 1


def test_nothing_unreported_has_no_age() -> None:
    assert scrape(make(), Backlog())[series("oldest_unreported_result_age_seconds")] == 0


def test_a_task_is_in_flight_until_it_is_settled_even_if_its_batch_was_split() -> None:
    started, settled = events.TaskStarted(*PER_TASK, "m"), events.TaskSettled(*PER_TASK, "failed", 0)
    assert scrape(make(started, started))[series("tasks_in_flight")] == 1
    assert scrape(make(started, started, settled))[series("tasks_in_flight")] == 0
    assert scrape(make(settled, started))[series("tasks_in_flight")] == 1


def test_a_pause_ends() -> None:
    metrics = make(events.ProviderWasPaused("openai", 0, "quota"), events.ProviderResumed("openai"))
    assert scrape(metrics)[series("provider_paused", provider="openai")] == 0


def test_what_has_not_happened_yet_is_shown_as_zero() -> None:
    shown = scrape(make())
    assert shown[series("tasks_total", type="text_embedding", status="failed")] == 0
    assert shown[series("polls_total", outcome="failed")] == 0
    assert shown[series("breaker_state", name="task_api", state="closed")] == 1
    assert shown[series("breaker_state", name="task_api", state="open")] == 0


def test_what_runs_is_shown() -> None:
    (labels,) = [dict(labels) for name, labels in scrape(make()) if name == "build_info"]
    assert labels["version"] == "1.2.3"
    assert labels["python"].startswith("3.")
    assert scrape(make())[series("start_time_seconds")] == BEGINNING
    assert scrape(make())[series("process_cpu_seconds_total")] > 0


def test_types_without_a_processor_share_one_label() -> None:
    metrics = make(*(events.TaskAccepted("t", "c", f"type {number}") for number in range(9)))
    assert scrape(metrics)[series("tasks_accepted_total", type="other")] == 9


@pytest.mark.parametrize(
    ("name", "events_"),
    [
        ("provider_requests_total", [events.ProviderCalled("p", f"m{n}", "succeeded", 1, 1, 0) for n in range(500)]),
        ("tasks_unknown_type_total", [events.TypeUnknown(f"type {n}", 1) for n in range(500)]),
        ("deferrals_total", [events.TaskSettled(*PER_TASK, "deferred", 0, cause=f"c{n}") for n in range(500)]),
        ("api_requests_total", [events.ApiRequested(f"/{n}", "GET", 200, 0) for n in range(500)]),
    ],
)
def test_labels_are_bounded_and_nothing_goes_uncounted(name: str, events_: list[Event]) -> None:
    shown = {labels: value for (found, labels), value in scrape(make(*events_)).items() if found == name}
    assert len(shown) == MOST_VALUES + 1
    assert math.fsum(shown.values()) == 500


def test_reserved_models_have_their_label_however_many_came_before() -> None:
    metrics = Metrics("1", clock=ManualClock(), models=["mine"])
    for number in range(500):
        metrics(events.ProviderCalled("p", f"m{number}", "succeeded", 1, 1, 0))
    metrics(events.ProviderCalled("p", "mine", "succeeded", 1, 1, 0))
    assert scrape(metrics)[series("provider_requests_total", provider="p", model="mine", outcome="succeeded")] == 1


def test_a_label_is_never_long_nor_able_to_break_the_format() -> None:
    strange = 'a"b\\c\nd'
    shown = scrape(make(events.TypeUnknown("x" * (LONGEST_VALUE + 1), 1), events.TypeUnknown(strange, 2)))
    assert shown[series("tasks_unknown_type_total", type="other")] == 1
    assert shown[series("tasks_unknown_type_total", type=strange)] == 2


def test_two_of_them_do_not_share_anything() -> None:
    make(events.Polled(1, 1, 0))
    assert scrape(make())[series("polls_total", outcome="succeeded")] == 0
