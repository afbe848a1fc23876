import logging
from typing import Any

import pytest

from ai_task_processor.domain import events
from ai_task_processor.domain.events import Event
from ai_task_processor.ops import lines as told
from ai_task_processor.ops.lines import LogObserver, lines
from tests.fakes.events import SAMPLES
from tests.fakes.time import ManualClock

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

SAMPLE = {type(sample): sample for sample in SAMPLES}
TASK = {"task_id": "t1", "correlation_id": "c1"}


class Pad:
    """A logger that keeps what it is told."""

    def __init__(self, level: int = DEBUG) -> None:
        self.level = level
        self.lines: list[tuple[int, str, dict[str, Any]]] = []

    def log(self, level: int, event: str, **fields: object) -> None:
        if level >= self.level:
            self.lines.append((level, event, fields))

    def is_enabled_for(self, level: int) -> bool:
        return level >= self.level


def every_type_of_event() -> set[type[Event]]:
    found = {one for one in vars(events).values() if isinstance(one, type) and issubclass(one, Event)}
    return found - {Event}


def test_there_is_a_sample_of_every_event() -> None:
    assert set(SAMPLE) == every_type_of_event()


def test_every_event_has_a_line_or_is_named_as_having_none() -> None:
    assert set(told.PLAIN) | set(told.SPECIAL) | told.NOT_LOGGED == every_type_of_event()
    assert len(told.PLAIN) + len(told.SPECIAL) + len(told.NOT_LOGGED) == len(every_type_of_event())


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_the_observer_takes_every_event(event: Event) -> None:
    pad = Pad()
    LogObserver(pad, clock=ManualClock())(event)
    assert bool(pad.lines) == (type(event) not in told.NOT_LOGGED)


@pytest.mark.parametrize(
    ("kind", "level", "words", "fields"),
    [
        (events.Started, INFO, "AI Task Processor starting up", {"mode": "mock", "limits": ("20 a minute",)}),
        (events.EnsuringModels, INFO, "Ensuring Ollama models are available", {"models": ("nomic-embed-text",)}),
        (events.ModelDownloading, INFO, "Downloading missing supported model", {"completed": 10, "total": 100}),
        (events.ModelDownloaded, INFO, "Model downloaded successfully", {"model": "nomic-embed-text"}),
        (events.Running, INFO, "All services started, running indefinitely", {}),
        (events.TokenObtained, INFO, "OAuth2 token generated successfully", {"expires_in": 3600.0}),
        (events.Polled, INFO, "Found pending tasks", {"count": 5, "accepted": 3, "left_alone": 1}),
        (events.TaskStarted, DEBUG, "Processing text embedding task", TASK | {"model": "nomic-embed-text"}),
        (events.BatchSettled, INFO, "Batch completed", {"size": 2, "succeeded": 2, "failed": 0, "seconds": 0.2}),
        (events.BatchCrashed, ERROR, "Batch crashed: a defect of the daemon, please report it", {"size": 2}),
        (events.Warned, WARNING, "mock processing: the key is a placeholder", {}),
        (events.LimitReached, INFO, "Rate limit reached, waiting for room", {"until": "2023-11-14T22:14:20+00:00"}),
        (events.TokenFailed, WARNING, "OAuth2 token not available", {"reason": "connection refused"}),
        (events.BreakerChanged, WARNING, "Circuit breaker changed", {"name": "ollama", "state": "open"}),
        (events.Parked, WARNING, "Task API refuses an outcome, parked until an operator looks", TASK),
        (events.Reported, DEBUG, "Outcome reported", TASK | {"receipt": "taken"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_words_level_and_facts(kind: type[Event], level: int, words: str, fields: dict[str, object]) -> None:
    (line,) = lines(SAMPLE[kind])
    assert (line.level, line.words) == (level, words)
    assert fields.items() <= dict(line.fields).items()


def test_a_succeeded_embedding_has_its_two_lines() -> None:
    made, completed = lines(SAMPLE[events.TaskSettled])
    assert (made.level, made.words) == (DEBUG, "Embedding created successfully")
    assert made.fields == TASK | {"model": "nomic-embed-text", "provider": "ollama", "dimensions": 768}
    assert (completed.level, completed.words) == (DEBUG, "Task processing completed")
    assert {name: completed.fields[name] for name in (*TASK, "status", "seconds", "tokens")} == TASK | {
        "status": "succeeded",
        "seconds": 0.1235,
        "tokens": 5,
    }


@pytest.mark.parametrize(("status", "level"), [("failed", WARNING), ("deferred", DEBUG)])
def test_a_task_that_did_not_succeed_has_one_line_with_the_reason(status: str, level: int) -> None:
    event = events.TaskSettled("t1", "c1", "text_embedding", status, 0.0, reason="no text", cause="Rejection")
    (line,) = lines(event)
    assert (line.level, line.words, line.fields["status"]) == (level, "Task processing completed", status)
    assert line.fields["reason"] == "no text"


def test_a_batch_key_is_told_as_model_and_dimensions() -> None:
    (line,) = lines(events.BatchStarted("text_embedding", "text-embedding-3-small 256", 5))
    assert line.fields == {"type": "text_embedding", "model": "text-embedding-3-small", "dimensions": "256", "size": 5}


def test_an_empty_page_is_no_news() -> None:
    (line,) = lines(events.Polled(listed=0, accepted=0, left_alone=0))
    assert (line.level, line.words, line.fields["count"]) == (DEBUG, "Found pending tasks", 0)


def test_refused_credentials_are_told_with_the_reason_which_says_what_to_check() -> None:
    (line,) = lines(events.TokenFailed(reason="no token endpoint: check OAUTH2_TOKEN_URL", refused=True))
    assert line.level == ERROR
    assert line.fields == {"reason": "no token endpoint: check OAUTH2_TOKEN_URL"}


def test_a_task_that_never_came_to_its_processor_makes_no_batch_line_at_info() -> None:
    (line,) = lines(events.BatchSettled("text_embedding", "", 1, 0, 1, 0, 0.0, "no text"))
    assert line.level == DEBUG


def observed(*given: Event, seconds_between: float = 1.0, level: int = INFO) -> list[tuple[int, str, dict[str, Any]]]:
    pad, clock = Pad(level), ManualClock()
    observer = LogObserver(pad, clock=clock)
    for event in given:
        observer(event)
        clock.advance(seconds_between)
    return pad.lines


def test_polls_that_fail_for_hours_are_told_once_a_minute_and_when_they_are_over() -> None:
    failures = [events.PollFailed("503", rest=10.0)] * 720
    written = observed(*failures, events.Polled(0, 0, 0), events.Polled(0, 0, 0), seconds_between=10.0)
    first, second, *_, last = written
    assert first == (WARNING, "Polling the Task API failed", {"reason": "503", "rest": 10.0})
    assert second[2]["times"] == 6
    assert len(written) == 121
    assert last == (INFO, "Polling the Task API works again", {"times": 720, "seconds": 7200.0})


def test_what_is_not_told_again_is_told_at_debug() -> None:
    failures = [events.PollFailed("503", rest=10.0)] * 3
    assert [level for level, _, _ in observed(*failures, level=DEBUG)] == [WARNING, DEBUG, DEBUG]


def test_an_unknown_type_is_told_once_ever() -> None:
    pages = [events.TypeUnknown("summary", 4), events.TypeUnknown("vision", 1)] * 100
    assert [fields["type"] for _, _, fields in observed(*pages, seconds_between=600.0)] == ["summary", "vision"]


def test_unusable_entries_are_told_again_when_they_change() -> None:
    pages = [events.EntryUnusable(2, "no id")] * 50 + [events.EntryUnusable(3, "no id")] * 50
    assert [fields["count"] for _, _, fields in observed(*pages, seconds_between=30.0)] == [2, 3]


def test_a_breaker_that_stays_open_does_not_flood_but_its_next_opening_is_told() -> None:
    cycle = [events.BreakerChanged("ollama", "half_open"), events.BreakerChanged("ollama", "open", "down")]
    written = observed(
        events.BreakerChanged("ollama", "open", "down"),
        *cycle * 10,
        events.BreakerChanged("ollama", "closed"),
        events.BreakerChanged("ollama", "open", "down again"),
    )
    assert [(fields["state"], fields.get("reason")) for _, _, fields in written] == [
        ("open", "down"),
        ("closed", None),
        ("open", "down again"),
    ]


def test_batches_that_are_only_put_off_do_not_flood_and_others_are_all_told() -> None:
    deferred = events.BatchSettled("text_embedding", "m", 64, 0, 0, 64, 0.0, "breaker open")
    done = events.BatchSettled("text_embedding", "m", 64, 64, 0, 0, 0.1)
    assert len(observed(*[deferred] * 50)) == 1
    assert len(observed(*[done] * 50)) == 50


def test_delivery_that_works_again_is_told_once() -> None:
    reported = SAMPLE[events.Reported]
    written = observed(SAMPLE[events.DeliveryHalted], reported, reported)
    assert [words for _, words, _ in written] == [
        "Task API takes no outcomes, all are kept",
        "Task API takes outcomes again",
    ]


def test_above_debug_the_events_of_single_tasks_cost_no_words() -> None:
    assert {events.TaskAccepted, events.TaskStarted, events.Reported} <= told.ONLY_DEBUG
    assert observed(*(sample for sample in SAMPLES if type(sample) in told.ONLY_DEBUG)) == []
