"""What the first lines of the log warn of."""

import pytest

from ai_task_processor.settings import load_settings
from ai_task_processor.wiring.operation import warnings

REQUIRED = {
    "api_base_url": "https://api.example.com",
    "ory_project_slug": "slug",
    "oauth2_client_id": "id",
    "oauth2_client_secret": "secret",
}
SAFE = REQUIRED | {"processing_mode": "openai", "openai_api_key": "key"}


def test_a_usual_configuration_is_no_reason_to_warn() -> None:
    assert warnings(load_settings(None, **SAFE)) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"processing_mode": "mock"}, "as configured"),
        ({"openai_api_key": "your_openai_api_key_here"}, "placeholder"),
        ({"processing_mode": "local"}, "every model name"),
        ({"processing_mode": "hybrid"}, "not comparable"),
        ({"api_base_url": "http://api.example.com"}, "not https"),
        ({"claim_lease_seconds": 30, "circuit_breaker_recovery_seconds": 30}, "CLAIM_LEASE_SECONDS=30"),
    ],
)
def test_what_surprises_is_said_once(given: dict[str, object], words: str) -> None:
    (warning,) = warnings(load_settings(None, **SAFE | given))
    assert words in warning


@pytest.mark.parametrize(
    "given",
    [
        {"processing_mode": "hybrid", "hybrid_fallback_model": "none"},
        {"api_base_url": "http://127.0.0.1:3000"},
        {"claim_lease_seconds": 30, "circuit_breaker_recovery_seconds": 30, "api_features": "none"},
    ],
)
def test_what_is_safe_is_not_warned_of(given: dict[str, object]) -> None:
    assert warnings(load_settings(None, **SAFE | given)) == []


def test_a_slip_of_the_pen_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COST_LIMIT_PER_DYA", "5")
    assert warnings(load_settings(None, **SAFE)) == [
        "COST_LIMIT_PER_DYA is no setting and means nothing: is COST_LIMIT_PER_DAY meant?"
    ]
