"""What embedding models cost."""

import math
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from ai_task_processor.domain.amount import USD
from ai_task_processor.providers.models import canonical

AS_OF = "2026-05"
SOURCE = "https://platform.openai.com/docs/pricing"
"""Whose prices these are, and the month in which they were last compared."""

PRICES: Mapping[str, Decimal] = MappingProxyType(
    {
        "text-embedding-3-small": Decimal("0.02"),
        "text-embedding-3-large": Decimal("0.13"),
        "text-embedding-ada-002": Decimal("0.10"),
    }
)
"""US dollars for a million tokens, at the vendor's standard tier."""

DEAREST = max(PRICES.values())

_MILLION = 10**6


class Prices:
    """The table, with ``given`` prices before it; a model in neither costs ``unknown``. All for a million tokens."""

    def __init__(self, given: Mapping[str, Decimal] = MappingProxyType({}), *, unknown: Decimal = DEAREST) -> None:
        prices = dict(PRICES) | {canonical(model): price for model, price in given.items()}
        self._prices = {model: _of_one(price) for model, price in prices.items()}
        self._unknown = _of_one(unknown)

    @property
    def least(self) -> int:
        """What a token costs at least, whatever the model."""
        return min(*self._prices.values(), self._unknown)

    def per_token(self, model: str) -> int:
        """What a token costs, in the unit of :data:`~ai_task_processor.domain.amount.USD`; rounded up."""
        return self._prices.get(canonical(model), self._unknown)


def _of_one(price: Decimal) -> int:
    return math.ceil(price * USD / _MILLION)


def free(_model: str) -> int:
    """What a token costs where nobody asks for money."""
    return 0
