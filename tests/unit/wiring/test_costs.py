import pytest

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.settings import Settings
from ai_task_processor.wiring.engines import least, measure

SMALL = "text-embedding-3-small"


def settings(mode: str, **given: object) -> Settings:
    known = {"processing_mode": mode, "openai_api_key": "sk-1"}
    return Settings(_env_file=None, **(known | given))  # type: ignore[arg-type, call-arg]  # pydantic takes both


@pytest.mark.parametrize(
    ("mode", "per_token"), [("openai", 20_000), ("hybrid", 0), ("ollama", 0), ("local", 0), ("mock", 0)]
)
def test_only_where_every_engine_costs_money_a_closed_budget_stops_everything(mode: str, per_token: int) -> None:
    tokens = most_tokens("x")
    assert least(settings(mode)) == Amount(tasks=1, tokens=tokens, cost=per_token * tokens)


def test_the_cheapest_model_says_what_a_task_costs_at_least() -> None:
    assert least(settings("openai", model_prices={"mine": "0.001"})).cost == 1_000 * most_tokens("x")
    assert least(settings("openai", model_prices={"mine": 0})).cost == 0


@pytest.mark.parametrize(
    ("mode", "model", "per_token"),
    [
        ("openai", SMALL, 20_000),
        ("openai", "nomic-embed-text", 130_000),
        ("openai", "mine", 5_000_000),
        ("hybrid", SMALL, 20_000),
        ("hybrid", "nomic-embed-text:latest", 0),
        ("ollama", "nomic-embed-text", 0),
        ("local", SMALL, 0),
        ("mock", SMALL, 0),
    ],
)
def test_a_text_costs_what_the_engine_asked_first_takes(mode: str, model: str, per_token: int) -> None:
    tokens = most_tokens("some text")
    amount = measure(settings(mode, model_prices={"mine": 5}))("some text", model)
    assert amount == Amount(tasks=1, tokens=tokens, cost=per_token * tokens)
