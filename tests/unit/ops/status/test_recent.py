from ai_task_processor.domain.events import (
    BatchSettled,
    BreakerChanged,
    Polled,
    ProviderCalled,
    ProviderResumed,
    ProviderWasPaused,
    Running,
    Stopping,
    TaskSettled,
)
from ai_task_processor.ops.status.facts import Breaker, Failure, Minute, Refusal
from ai_task_processor.ops.status.recent import MOST_BREAKERS, MOST_FAILURES, Recent
from tests.fakes.time import BEGINNING, ManualClock


def settled(succeeded: int = 0, failed: int = 0, deferred: int = 0) -> BatchSettled:
    size = succeeded + failed + deferred
    return BatchSettled("text_embedding", "m", size, succeeded, failed, deferred, seconds=1.0)


def called(tokens: int, cost: float) -> ProviderCalled:
    return ProviderCalled("openai", "m", "succeeded", 1, tokens, 1.0, cost)


def failed(task_id: str) -> TaskSettled:
    return TaskSettled(task_id, "c", "text_embedding", "failed", 1.0, reason=f"because of {task_id}")


def test_an_hour_is_kept_minute_by_minute() -> None:
    clock = ManualClock()
    recent = Recent(clock=clock)
    recent(settled(succeeded=3, failed=1))
    recent(called(100, 0.25))
    clock.advance(59)
    recent(settled(succeeded=1))
    clock.advance(1)
    recent(settled(deferred=2))
    assert recent.minutes[-2:] == (Minute(4, 1, 0, 100, 0.25), Minute(deferred=2))
    assert recent.minutes[:-2] == (Minute(),) * 58
    clock.advance(58 * 60)
    assert recent.minutes[0] == Minute(4, 1, 0, 100, 0.25)
    clock.advance(60)
    assert recent.minutes[0] == Minute(deferred=2)
    assert recent.total == Minute(4, 1, 2, 100, 0.25)


def test_a_long_silence_empties_the_hour_and_costs_nothing() -> None:
    clock = ManualClock()
    recent = Recent(clock=clock)
    recent(settled(succeeded=3))
    clock.advance(1e9)
    assert recent.minutes == (Minute(),) * 60
    assert recent.total.succeeded == 3
    assert recent.uptime == 1e9


def test_the_last_failures_are_kept_and_no_more() -> None:
    clock = ManualClock()
    recent = Recent(clock=clock)
    for number in range(MOST_FAILURES + 5):
        recent(failed(str(number)))
        recent(TaskSettled("good", "c", "text_embedding", "succeeded", 1.0))
        clock.advance(1)
    assert len(recent.failures) == MOST_FAILURES
    newest = str(MOST_FAILURES + 4)
    at = BEGINNING + MOST_FAILURES + 4
    assert recent.failures[0] == Failure(newest, "text_embedding", at, f"because of {newest}")


def test_breakers_are_as_they_were_last() -> None:
    clock = ManualClock()
    recent = Recent(clock=clock, breakers=["task_api", "openai"])
    clock.advance(10)
    recent(BreakerChanged("openai", "open", "timeout"))
    assert recent.breakers == (
        Breaker("task_api", "closed", BEGINNING),
        Breaker("openai", "open", BEGINNING + 10, "timeout"),
    )
    recent(BreakerChanged("openai", "half_open"))
    assert recent.breakers[1].reason == "timeout", "why it opened is still the question"
    recent(BreakerChanged("openai", "closed"))
    assert recent.breakers[1] == Breaker("openai", "closed", BEGINNING + 10)


def test_providers_that_refuse_are_kept_until_they_do_not() -> None:
    recent = Recent(clock=ManualClock())
    recent(ProviderWasPaused("openai", BEGINNING + 30, "no quota"))
    recent(ProviderWasPaused("openai", BEGINNING + 90, "no quota"))
    assert recent.refusals == (Refusal("openai", BEGINNING + 90, "no quota"),)
    recent(ProviderResumed("openai"))
    assert recent.refusals == ()


def test_names_without_end_are_not_kept_without_end() -> None:
    recent = Recent(clock=ManualClock())
    for number in range(MOST_BREAKERS * 2):
        recent(BreakerChanged(str(number), "open"))
        recent(ProviderWasPaused(str(number), BEGINNING, ""))
    assert len(recent.breakers) == len(recent.refusals) == MOST_BREAKERS


def test_the_life_of_the_daemon() -> None:
    recent = Recent(clock=ManualClock())
    assert (recent.polled_at, recent.is_running, recent.is_stopping) == (None, False, False)
    recent(Running())
    recent(Polled(listed=1, accepted=1, left_alone=0))
    recent(Stopping("SIGTERM", 30.0))
    assert (recent.polled_at, recent.is_running, recent.is_stopping) == (BEGINNING, True, True)
