"""Every metric by name, kind, labels and meaning; the documentation's table is made from it."""

from typing import Literal

from msgspec import Struct

PREFIX = "ai_task_processor_"

Kind = Literal["counter", "gauge", "histogram"]


class Description(Struct, frozen=True):
    """One metric: ``name`` without the prefix, as it is scraped (a counter's ends in ``_total``)."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name as it is scraped."""
        return PREFIX + self.name


TASK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DELIVERY_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0)

CATALOGUE: tuple[Description, ...] = (
    # --- Tasks
    Description("tasks_accepted_total", "counter", "Tasks that came into the journal.", ("type",)),
    Description(
        "tasks_total",
        "counter",
        "Tasks settled, by status: succeeded, failed or deferred (a task may be deferred many times).",
        ("type", "status"),
    ),
    Description(
        "task_duration_seconds",
        "histogram",
        "Time that performing took a task that succeeded or failed; tasks of one batch share its time.",
        ("type",),
        TASK_SECONDS,
    ),
    Description("tasks_in_flight", "gauge", "Tasks that are with their processor at this moment."),
    Description(
        "backlog_tasks",
        "gauge",
        "Tasks in the journal still to be performed, by state: ready, deferred or claimed.",
        ("state",),
    ),
    Description("deferrals_total", "counter", "Tasks put off, by the class of the reason.", ("cause",)),
    Description("batch_size", "histogram", "Tasks in one batch given to a processor.", ("type",), BATCH_SIZES),
    Description("batches_split_total", "counter", "Batches refused and tried again in parts.", ("type",)),
    Description("batches_crashed_total", "counter", "Batches that met a defect of the daemon.", ("type",)),
    Description("claims_lost_total", "counter", "Tasks announced that were no longer ours, by receipt.", ("receipt",)),
    # --- Task API
    Description("token_requests_total", "counter", "Token requests: succeeded, refused or unavailable.", ("outcome",)),
    Description(
        "api_requests_total",
        "counter",
        "Requests to the Task API; status is none where no answer came.",
        ("route", "method", "status"),
    ),
    Description(
        "api_request_duration_seconds",
        "histogram",
        "Time until the Task API answered or was given up.",
        ("route", "method"),
        REQUEST_SECONDS,
    ),
    Description(
        "api_feature",
        "gauge",
        "1 while an optional route of the Task API is used, 0 since it was lost: claim or bulk.",
        ("feature",),
    ),
    Description("polls_total", "counter", "Polls of the Task API: succeeded or failed.", ("outcome",)),
    Description("paused", "gauge", "1 while nothing new is taken because an operator paused it, else 0."),
    Description(
        "last_successful_poll_timestamp_seconds", "gauge", "When the last poll succeeded, in Unix time; 0 before that."
    ),
    Description(
        "entries_unusable_total", "counter", "Listed entries without a usable id, counted again at every poll."
    ),
    Description(
        "tasks_unknown_type_total",
        "counter",
        "Listed tasks of a type that nothing here handles, counted again at every poll.",
        ("type",),
    ),
    # --- Delivery
    Description(
        "reported_total", "counter", "Outcomes that are with the Task API: taken, gone or conflict.", ("receipt",)
    ),
    Description(
        "report_wait_seconds",
        "histogram",
        "Time from an outcome's settlement to its acknowledgement.",
        (),
        DELIVERY_SECONDS,
    ),
    Description("postponed_total", "counter", "Deliveries of single outcomes that failed and will be repeated."),
    Description("delivery_halts_total", "counter", "Times that all delivery rested because the Task API took nothing."),
    Description("parked_total", "counter", "Outcomes that the Task API refused."),
    Description("unreported_results", "gauge", "Outcomes in the journal that wait for delivery."),
    Description(
        "oldest_unreported_result_age_seconds", "gauge", "Age of the oldest undelivered outcome; 0 where there is none."
    ),
    Description("parked_results", "gauge", "Outcomes in the journal that wait for an operator."),
    # --- Providers
    Description(
        "provider_requests_total",
        "counter",
        "Requests to a provider: succeeded, unavailable, throttled, rejected or refused.",
        ("provider", "model", "outcome"),
    ),
    Description(
        "provider_inputs_total", "counter", "Texts in requests to a provider.", ("provider", "model", "outcome")
    ),
    Description(
        "provider_tokens_total",
        "counter",
        "Tokens that a provider counted for its requests.",
        ("provider", "model", "outcome"),
    ),
    Description(
        "provider_cost_usd_total",
        "counter",
        "What a provider's tokens cost by the prices that are known, in US dollars.",
        ("provider", "model", "outcome"),
    ),
    Description(
        "provider_request_duration_seconds",
        "histogram",
        "Time until a provider answered or was given up.",
        ("provider", "model"),
        TASK_SECONDS,
    ),
    Description("provider_retries_total", "counter", "Provider requests tried again in memory.", ("provider",)),
    Description("provider_concurrency", "gauge", "Requests that a provider is sent at once, at most.", ("provider",)),
    Description("provider_paused", "gauge", "1 while a provider refuses our account, else 0.", ("provider",)),
    Description("fallbacks_total", "counter", "Requests answered by the fallback model.", ("model", "fallback_model")),
    Description(
        "fallback_inputs_total", "counter", "Texts embedded by the fallback model.", ("model", "fallback_model")
    ),
    Description("cache_hits_total", "counter", "Texts whose vectors the cache had.", ("provider", "model")),
    Description(
        "cache_misses_total", "counter", "Texts that the cache did not have, asked for.", ("provider", "model")
    ),
    Description(
        "cache_shared_total",
        "counter",
        "Texts whose vectors came with a request that was on its way for an equal text.",
        ("provider", "model"),
    ),
    Description("cache_evicted_total", "counter", "Entries that had to make room in the cache for newer ones."),
    Description("cache_damaged_total", "counter", "Entries of the cache that were damaged and dropped.", ("provider",)),
    Description("cache_entries", "gauge", "Vectors in the cache."),
    Description("cache_bytes", "gauge", "About what they take in the state file."),
    Description(
        "space_changes_total",
        "counter",
        "Times that vectors for a model became not comparable with earlier ones.",
        ("model",),
    ),
    Description("breaker_state", "gauge", "1 for the state that a circuit breaker is in, else 0.", ("name", "state")),
    Description("breaker_changes_total", "counter", "Changes of a circuit breaker to a state.", ("name", "state")),
    # --- Limits
    Description("rate_limit_used", "gauge", "Tasks booked in a window.", ("window",)),
    Description("rate_limit_limit", "gauge", "Tasks that a window allows.", ("window",)),
    Description("rate_limit_remaining", "gauge", "Tasks that may still be booked in a window.", ("window",)),
    Description("token_limit_used", "gauge", "Tokens booked in a window.", ("window",)),
    Description("token_limit_limit", "gauge", "Tokens that a window allows.", ("window",)),
    Description("token_limit_remaining", "gauge", "Tokens that may still be booked in a window.", ("window",)),
    Description("cost_limit_used_usd", "gauge", "US dollars booked in a window.", ("window",)),
    Description("cost_limit_limit_usd", "gauge", "US dollars that a window allows.", ("window",)),
    Description("cost_limit_remaining_usd", "gauge", "US dollars that may still be booked in a window.", ("window",)),
    Description(
        "rate_limit_exceeded_total",
        "counter",
        "Times that a window became full: minute … of tasks, tokens_per_minute …, cost_per_minute ….",
        ("window",),
    ),
    # --- The daemon
    Description(
        "event_loop_lag_seconds",
        "histogram",
        "How late the event loop came to a timer: for so long it was held up. Looked at many times a second.",
        (),
        LAG_SECONDS,
    ),
    Description("ready", "gauge", "1 where a check of /ready is ok, else 0.", ("check",)),
    Description("scrape_errors_total", "counter", "Scrapes answered with an old backlog, the journal gave none."),
    Description("build_info", "gauge", "Always 1; what runs stands in the labels.", ("version", "python")),
    Description("start_time_seconds", "gauge", "When the daemon started, in Unix time."),
)
