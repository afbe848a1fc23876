"""Books every request with the limiter before it is sent, and settles it by what it turned out to be."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec import Struct

from ai_task_processor.domain.amount import USD, Amount
from ai_task_processor.domain.errors import NotNow, ProviderError, ProviderUnavailable
from ai_task_processor.domain.ports import Embeddings, RateLimiter
from ai_task_processor.domain.tokens import most_tokens
from ai_task_processor.providers.models import most_read
from ai_task_processor.providers.prices import free


class Budget:
    """Lets requests to one provider through as long as ``limiter`` has room for them.

    A request is reserved by an upper estimate of its tokens, and of what they cost at ``price`` (for a token of the
    model). Afterwards it counts with the provider's own figure, or as reserved where that gives none. What was never
    sent is given back whole; what the provider refused is a task that was sent, but its tokens are not charged; what
    ended in between may have been charged and stays as it was reserved.
    """

    def __init__(self, limiter: RateLimiter, *, price: Callable[[str], int] = free) -> None:
        self._limiter = limiter
        self._price = price

    async def call(
        self, function: Callable[[], Awaitable[Embeddings]], *, texts: Sequence[str], model: str
    ) -> Embeddings:
        """Await ``function`` if there is room; its answer and errors pass through. Raises RateLimited."""
        tariff = tariff_of(model, self._price)
        reserved = tariff.most_for(texts)
        await self._limiter.take(reserved)
        try:
            answer = await function()
        except (ProviderError, NotNow) as error:
            await self._settle_refused(reserved, error)
            raise
        tokens = answer.tokens or reserved.tokens
        await self._limiter.settle(Amount(reserved.tasks, tokens, tokens * tariff.price))
        return answer

    def dollars(self, tokens: int, model: str) -> float:
        """What so many tokens cost in US dollars."""
        return tokens * self._price(model) / USD

    async def _settle_refused(self, reserved: Amount, error: ProviderError | NotNow) -> None:
        if isinstance(error, NotNow):
            await self._limiter.refund(reserved)
        elif not isinstance(error, ProviderUnavailable):
            await self._limiter.settle(Amount(tasks=reserved.tasks))
        elif not error.sent:
            await self._limiter.refund(reserved)


class Tariff(Struct, frozen=True):
    """What texts for one model come to: ``most`` tokens of each are read at most, and each token costs ``price``."""

    most: int
    price: int

    def most_for(self, texts: Iterable[str]) -> Amount:
        """The most that a request with these texts can come to, in all likelihood."""
        tasks = tokens = 0
        for text in texts:
            tasks += 1
            tokens += min(most_tokens(text), self.most)
        return Amount(tasks, tokens, tokens * self.price)


def tariff_of(model: str, price: Callable[[str], int]) -> Tariff:
    """The tariff of a model, where ``price`` says what a token of it costs."""
    return Tariff(most_read(model), price(model))
