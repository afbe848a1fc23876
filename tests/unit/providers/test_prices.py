from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.domain.amount import USD
from ai_task_processor.providers.prices import DEAREST, PRICES, Prices, free


@pytest.mark.parametrize(("model", "dollars"), [(model, price) for model, price in PRICES.items()])
def test_a_million_tokens_of_a_known_model_cost_what_the_table_says(model: str, dollars: Decimal) -> None:
    assert Prices().per_token(model) * 10**6 == dollars * USD


def test_a_given_price_goes_before_the_table_and_counts_under_either_name() -> None:
    prices = Prices({"text-embedding-3-small": Decimal("0.5"), "mine:latest": Decimal(0)})
    assert prices.per_token("text-embedding-3-small") == 500_000
    assert prices.per_token("mine") == prices.per_token("mine:latest") == 0


def test_an_unknown_model_is_never_free_by_itself() -> None:
    assert Prices().per_token("somebody-elses") == DEAREST * USD / 10**6 == 130_000
    assert Prices(unknown=Decimal(2)).per_token("somebody-elses") == 2_000_000
    assert Prices(unknown=Decimal(0)).per_token("somebody-elses") == 0


@given(st.decimals(0, 1_000_000, places=12))
def test_a_price_is_never_rounded_down(price: Decimal) -> None:
    per_token = Prices({"m": price}).per_token("m")
    assert 0 <= per_token - price * USD / 10**6 < 1


def test_engines_of_our_own_are_free() -> None:
    assert free("text-embedding-3-large") == 0
