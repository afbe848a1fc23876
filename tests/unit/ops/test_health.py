from typing import Any

import pytest

from ai_task_processor.domain import events
from ai_task_processor.domain.events import Event
from ai_task_processor.domain.ports import WindowUsage
from ai_task_processor.ops import health as rooms
from ai_task_processor.ops.health import Health, HealthSettings
from tests.fakes.events import SAMPLES
from tests.fakes.time import BEGINNING, ManualClock

MARGIN, GRACE = 150.0, 120.0

ABLE: tuple[Event, ...] = (
    events.Running(),
    events.TokenObtained(3600.0),
    events.Polled(0, 0, 0),
    events.ModelsReady("ollama"),
)


class Patient:
    """A health check with its clock, and a storage whose trouble a test chooses."""

    def __init__(self, *given: Event, providers: tuple[str, ...] = ("ollama",)) -> None:
        self.clock = ManualClock()
        self.trouble: str | None = None
        settings = HealthSettings(
            service="ai-task-processor",
            version="1.2.3",
            poll_margin=MARGIN,
            startup_grace=GRACE,
            limits_enabled=True,
            limits_strategy="rolling",
            providers=providers,
            preparing=("ollama",),
        )
        self.health = Health(settings, clock=self.clock, storage=lambda: self.trouble)
        self.sees(*given)

    def sees(self, *given: Event) -> None:
        for event in given:
            self.health(event)

    def planned(self, within: float) -> None:
        self.sees(events.PollPlanned(by=self.clock.now() + within))

    def failing(self) -> dict[str, str]:
        return {name: check.detail for name, check in self.health.checks().items() if not check.ok}


# --- Alive


def test_a_start_has_its_time_and_no_more() -> None:
    patient = Patient()
    patient.clock.advance(GRACE)
    assert patient.health.alive
    patient.clock.advance(1)
    assert not patient.health.alive


@pytest.mark.parametrize(
    "sign",
    [
        events.Started({}),
        events.Running(),
        events.EnsuringModels("ollama", ("m",)),
        events.ModelDownloading("ollama", "m", 1, 2),
        events.ModelsMissing("ollama", "down", rest=0),
    ],
)
def test_a_start_that_makes_progress_may_take_long(sign: Event) -> None:
    patient = Patient()
    for _ in range(50):
        patient.clock.advance(GRACE)
        patient.sees(sign)
    assert patient.health.alive
    patient.clock.advance(GRACE + 1)
    assert not patient.health.alive


def test_alive_while_polls_come_when_they_are_due() -> None:
    patient = Patient(*ABLE)
    for _ in range(100):
        patient.planned(within=30)
        patient.clock.advance(30 + MARGIN)
        assert patient.health.alive
    patient.clock.advance(1)
    assert not patient.health.alive


@pytest.mark.parametrize("sign", [*SAMPLES, events.ModelDownloading("ollama", "m")], ids=lambda one: type(one).__name__)
def test_once_polling_nothing_else_stands_in_for_a_poll(sign: Event) -> None:
    if isinstance(sign, events.PollPlanned | events.Stopping | events.StateLost):
        return
    patient = Patient(*ABLE)
    patient.planned(within=30)
    patient.clock.advance(30 + MARGIN)
    patient.sees(sign)
    assert patient.health.alive
    patient.clock.advance(1)
    assert not patient.health.alive


def test_waiting_for_a_lost_database_is_alive_and_not_ready() -> None:
    patient = Patient(*ABLE)
    for _ in range(1_000):
        patient.clock.advance(GRACE)
        patient.sees(events.StateLost("state database db cannot be reached", rest=2))
    assert patient.health.alive
    lost = patient.health.checks()["state"]
    assert not lost.ok
    assert "cannot be reached" in lost.detail
    patient.sees(events.StateRegained())
    assert patient.health.checks()["state"].ok


def test_a_replica_that_leaves_polling_to_another_is_ready() -> None:
    patient = Patient(events.Running(), events.TurnElsewhere())
    checks = patient.health.checks()
    assert checks["task_api"].ok
    assert checks["token"].ok


def test_who_is_paused_is_alive_and_able_and_says_so() -> None:
    patient = Patient(*ABLE, events.IntakePaused(), events.PollFailed("the last one that was on its way", 1))
    assert patient.failing() == {}
    assert "paused" in patient.health.checks()["running"].detail
    assert patient.health.health_body({})[1]["paused"] is True
    patient.sees(events.IntakeResumed())
    assert "paused" not in patient.health.checks()["running"].detail
    assert patient.health.health_body({})[1]["paused"] is False


def test_who_is_paused_before_the_first_poll_waits_for_nothing() -> None:
    patient = Patient(events.IntakePaused(), events.Running(), events.ModelsReady("ollama"))
    assert patient.failing() == {}
    patient.sees(events.IntakeResumed())
    assert set(patient.failing()) == {"task_api"}


def test_stopping_goes_before_paused() -> None:
    patient = Patient(*ABLE, events.IntakePaused(), events.Stopping("SIGTERM", 30))
    assert "stopping" in patient.failing()["running"]


def test_nothing_outside_makes_it_dead() -> None:
    patient = Patient(
        events.TokenFailed("no", refused=True),
        events.PollFailed("503", rest=60),
        events.DeliveryHalted(BEGINNING + 60, "down"),
        events.ProviderWasPaused("ollama", BEGINNING + 60, "quota"),
        events.BreakerChanged("ollama", "open"),
        events.ModelsMissing("ollama", "down", 5),
    )
    patient.trouble = "disk full"
    patient.planned(within=30)
    assert patient.health.health_body({})[0] == 200
    assert patient.health.ready_body()[0] == 503


def test_a_jump_of_the_wall_clock_kills_nobody() -> None:
    patient = Patient(*ABLE)
    patient.planned(within=30)
    patient.clock._now += 3600
    assert patient.health.alive
    patient.planned(within=30)
    patient.clock._now -= 7200
    patient.clock.advance(30 + MARGIN + 1)
    assert not patient.health.alive


def test_a_stop_is_waited_for_although_no_poll_comes_any_more() -> None:
    patient = Patient(*ABLE)
    patient.planned(within=0)
    patient.sees(events.Stopping("SIGTERM", grace=3600.0))
    patient.planned(within=0)
    patient.clock.advance(3600)
    assert patient.health.alive
    patient.clock.advance(MARGIN + 1)
    assert not patient.health.alive


def test_a_rest_without_end_is_no_illness() -> None:
    patient = Patient(*ABLE)
    patient.planned(within=float("inf"))
    patient.clock.advance(1e9)
    assert patient.health.alive


# --- Able


def test_at_first_it_is_not_able_and_says_what_it_waits_for() -> None:
    assert Patient().failing() == {
        "running": "starting",
        "token": "not asked for yet",
        "task_api": "not polled yet",
        "models": "ollama: not looked for yet",
    }


def test_able_when_everything_is_there() -> None:
    status, body = Patient(*ABLE).health.ready_body()
    assert (status, body["status"]) == (200, "ready")
    checks: Any = body["checks"]
    assert set(checks) == {"running", "token", "task_api", "models", "provider", "state"}
    assert all(check["ok"] is True and check["detail"] for check in checks.values())


@pytest.mark.parametrize(
    ("event", "check", "told"),
    [
        (events.Stopping("SIGTERM", 30), "running", "stopping (SIGTERM)"),
        (events.TokenFailed("no endpoint: check OAUTH2_TOKEN_URL", refused=True), "token", "check OAUTH2_TOKEN_URL"),
        (events.PollFailed("503 from the API", 2), "task_api", "503 from the API; tried again without your help"),
        (events.PollFailed("no answer", 2), "task_api", "check API_BASE_URL"),
        (events.DeliveryHalted(BEGINNING, "refused"), "task_api", "refused"),
        (events.EnsuringModels("ollama", ("a", "b")), "models", "ollama: looking for a, b"),
        (events.ModelDownloading("ollama", "a", 25, 100), "models", "downloading a (25 %)"),
        (events.ModelDownloading("ollama", "a"), "models", "downloading a"),
        (events.ModelsMissing("ollama", "no answer", 5), "models", "check OLLAMA_BASE_URL and SUPPORTED_MODELS"),
        (
            events.ProviderWasPaused("ollama", BEGINNING, "quota"),
            "provider",
            "probed again at 2023-11-14T22:13:20+00:00",
        ),
    ],
)
def test_one_thing_missing_makes_it_not_able_and_is_told(event: Event, check: str, told: str) -> None:
    patient = Patient(*ABLE, event)
    assert list(patient.failing()) == [check]
    assert told in patient.failing()[check]
    status, body = patient.health.ready_body()
    assert (status, body["status"]) == (503, "not_ready")


@pytest.mark.parametrize(
    ("trouble", "end"),
    [
        (events.TokenFailed("no", refused=True), events.TokenObtained(60)),
        (events.TokenFailed("no", refused=False), events.TokenObtained(60)),
        (events.PollFailed("503", 2), events.Polled(0, 0, 0)),
        (events.DeliveryHalted(BEGINNING, "down"), events.Reported("t", "c", "x", "failed", "taken", 0)),
        (events.DeliveryHalted(BEGINNING, "down"), events.ReportPostponed("t", "c", BEGINNING, "500")),
        (events.DeliveryHalted(BEGINNING, "down"), events.Parked("t", "c", "400")),
        (events.ModelsMissing("ollama", "down", 5), events.ModelsReady("ollama")),
        (events.ProviderWasPaused("ollama", BEGINNING, "quota"), events.ProviderResumed("ollama")),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_is_mended_is_able_again(trouble: Event, end: Event) -> None:
    assert Patient(*ABLE, trouble, end).failing() == {}


@pytest.mark.parametrize("sign", [events.Polled(0, 0, 0), events.ReportPostponed("t", "c", BEGINNING + 30, "403")])
def test_an_api_that_lists_tasks_but_takes_no_outcomes_is_not_able(sign: Event) -> None:
    assert "403" in Patient(*ABLE, events.DeliveryHalted(BEGINNING + 30, "403"), sign).failing()["task_api"]


def test_state_that_cannot_be_written_is_told_in_its_own_words() -> None:
    patient = Patient(*ABLE)
    patient.trouble = "disk full: free some space"
    assert patient.failing() == {"state": "disk full: free some space"}


def test_a_token_that_is_still_good_outlives_a_failed_renewal_but_not_a_refusal() -> None:
    patient = Patient(*ABLE, events.TokenFailed("down", refused=False))
    assert patient.failing() == {}
    assert "cannot be had: down" in patient.health.checks()["token"].detail
    patient.clock.advance(3601)
    assert "OAUTH2_TOKEN_URL" in patient.failing()["token"]
    assert list(Patient(*ABLE, events.TokenFailed("no", refused=True)).failing()) == ["token"]


def test_a_short_token_that_ran_out_between_two_polls_is_no_trouble() -> None:
    patient = Patient(*ABLE, events.TokenObtained(3.0))
    patient.clock.advance(30)
    assert patient.failing() == {}


def test_a_paused_provider_is_borne_while_another_works() -> None:
    both = ("ollama", "openai")
    patient = Patient(*ABLE, events.ProviderWasPaused("openai", BEGINNING, "quota"), providers=both)
    assert patient.failing() == {}
    assert "openai: paused (quota)" in patient.health.checks()["provider"].detail
    patient.sees(events.ProviderWasPaused("ollama", BEGINNING, "key"))
    assert list(patient.failing()) == ["provider"]


def test_an_open_breaker_is_told_only() -> None:
    patient = Patient(*ABLE, events.BreakerChanged("ollama", "open", "refused"))
    assert patient.health.checks()["provider"] == rooms.Check(
        ok=True, detail="ollama: down (refused): tried again without your help"
    )
    patient.sees(events.BreakerChanged("ollama", "closed"))
    assert patient.health.checks()["provider"].detail == "ollama: usable"


# --- Bodies


def test_the_body_of_health_is_as_the_contract_says() -> None:
    usage = {"minute": WindowUsage(3, 20, 17, BEGINNING + 60), "day": WindowUsage(0, 100, 100, None)}
    assert Patient().health.health_body(usage) == (
        200,
        {
            "status": "healthy",
            "service": "ai-task-processor",
            "version": "1.2.3",
            "paused": False,
            "rate_limiting": {
                "enabled": True,
                "strategy": "rolling",
                "current_usage": {
                    "minute": {"current": 3, "limit": 20, "remaining": 17, "reset_at": "2023-11-14T22:14:20+00:00"},
                    "day": {"current": 0, "limit": 100, "remaining": 100, "reset_at": None},
                },
            },
        },
    )


def test_an_unhealthy_body_says_so() -> None:
    patient = Patient()
    patient.clock.advance(GRACE + 1)
    status, body = patient.health.health_body({})
    assert (status, body["status"]) == (503, "unhealthy")
