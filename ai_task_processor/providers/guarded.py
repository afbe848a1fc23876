"""Retry, concurrency, breaker, limits and timeout around any provider; only believable answers get through."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import Struct

from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import (
    NotNow,
    ProviderAccountRefused,
    ProviderError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.events import ProviderCalled
from ai_task_processor.domain.ports import EmbeddingProvider, Embeddings, Observer
from ai_task_processor.providers.budget import Budget
from ai_task_processor.providers.checks import Usual, check_embeddings, usual_length
from ai_task_processor.providers.concurrency import Concurrency
from ai_task_processor.providers.pause import Pause
from ai_task_processor.resilience.breaker import Breaker
from ai_task_processor.resilience.retry import Backoff, retry

CANARY = "canary"
"""What is embedded to learn whether a provider that failed serves others."""

_OUTCOMES: tuple[tuple[type[ProviderError], str], ...] = (
    (ProviderThrottled, "throttled"),
    (ProviderRejected, "rejected"),
    (ProviderAccountRefused, "refused"),
    (ProviderError, "unavailable"),
)


def counts(error: Exception) -> bool:
    """What a breaker of a provider is to count: being unavailable, unless it serves others meanwhile."""
    return isinstance(error, ProviderUnavailable) and not error.own_fault


class Patience(Struct, frozen=True):
    """How long a request is worth trying: ``attempts`` of ``timeout`` seconds each, ``backoff`` between them."""

    attempts: int
    backoff: Backoff
    timeout: float


class Guarded:
    """A provider that can be asked at any time.

    Around it, from outside: the pause of a refused account or a long throttling; the attempts of ``patience``; its
    turn in ``concurrency``; the ``breaker`` (made with :func:`counts`); the ``budget``, which every sending books; the
    timeout of one request; and the checks of its answer.

    A request that failed does not speak against the provider if another one succeeded meanwhile, or if a canary then
    does: the inputs are at fault. Raised are ProviderUnavailable (``own_fault`` says which), ProviderRejected,
    BreakerOpen, RateLimited and ProviderPaused.
    """

    def __init__(
        self,
        provider: EmbeddingProvider,
        *,
        patience: Patience,
        concurrency: Concurrency,
        breaker: Breaker,
        budget: Budget,
        clock: Clock,
        observer: Observer,
        usual: Usual = usual_length,
    ) -> None:
        self._provider = provider
        self._patience = patience
        self._concurrency = concurrency
        self._breaker = breaker
        self._budget = budget
        self._clock = clock
        self._observer = observer
        self._usual = usual
        self.pause = Pause(provider.name, clock=clock, observer=observer)
        """The pause of a refused account, for whoever shows it."""
        self._successes = 0
        self._dead_canaries = 0
        self._one_canary = asyncio.Lock()

    @property
    def name(self) -> str:
        """The name of the provider within."""
        return self._provider.name

    def serves(self, model: str) -> bool:
        """What the provider within serves."""
        return self._provider.serves(model)

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """Embed ``texts``, in several attempts if it must be."""
        attempt = partial(self._attempt, texts, model=model, dimensions=dimensions)
        return await self.pause.call(partial(self._try_again, attempt))

    async def _try_again(self, attempt: Callable[[], Awaitable[Embeddings]]) -> Embeddings:
        """Several attempts; inputs once found at fault stay so where limits leave no more room to find out."""
        at_fault: list[ProviderUnavailable] = []

        async def noted() -> Embeddings:
            try:
                return await self._concurrency.call(attempt)
            except ProviderUnavailable as error:
                error.own_fault = error.own_fault or bool(at_fault)
                at_fault.extend([error] if error.own_fault else [])
                raise

        try:
            return await retry(
                noted,
                attempts=self._patience.attempts,
                backoff=self._patience.backoff,
                name=self.name,
                observer=self._observer,
            )
        except NotNow as error:
            if at_fault:
                raise at_fault[-1] from error
            raise

    async def _attempt(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        self.pause.check()  # it may have begun while this request waited for its turn
        return await self._breaker.call(partial(self._judged, texts, model=model, dimensions=dimensions))

    async def _judged(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """One request; if it fails, who is at fault."""
        successes = self._successes
        try:
            return await self._admitted(texts, model=model, dimensions=dimensions)
        except ProviderUnavailable as error:
            error.own_fault = error.sent and await self._serves_others(model, successes)
            raise

    async def _serves_others(self, model: str, successes: int) -> bool:
        dead_canaries = self._dead_canaries
        async with self._one_canary:  # those who fail together share one canary
            if self._successes > successes:
                return True
            return self._dead_canaries == dead_canaries and await self._canary_lives(model)

    async def _canary_lives(self, model: str) -> bool:
        try:
            await self._admitted((CANARY,), model=model, dimensions=None)
        except ProviderUnavailable:
            self._dead_canaries += 1
            return False
        except (ProviderError, NotNow):
            return False  # it says nothing
        return True

    async def _admitted(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        observed = partial(self._observed, texts, model=model, dimensions=dimensions)
        return await self._budget.call(observed, texts=texts, model=model)

    async def _observed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        began = self._clock.monotonic()
        try:
            answer = await self._believed(texts, model=model, dimensions=dimensions)
        except ProviderError as error:
            self._tell(model, _outcome(error), inputs=len(texts), tokens=0, began=began)
            raise
        self._successes += 1
        self._tell(model, "succeeded", inputs=len(texts), tokens=answer.tokens, began=began)
        return answer

    def _tell(self, model: str, outcome: str, *, inputs: int, tokens: int, began: float) -> None:
        seconds = self._clock.monotonic() - began
        self._observer(
            ProviderCalled(
                provider=self.name,
                model=model,
                outcome=outcome,
                inputs=inputs,
                tokens=tokens,
                seconds=seconds,
                cost=self._budget.dollars(tokens, model),
            )
        )

    async def _believed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        try:
            async with asyncio.timeout(self._patience.timeout):
                answer = await self._provider.embed(texts, model=model, dimensions=dimensions)
        except TimeoutError as error:
            raise ProviderUnavailable(f"{self.name} took longer than {self._patience.timeout:g} seconds") from error
        check_embeddings(answer, inputs=len(texts), dimensions=dimensions, usual=self._usual)
        return answer


def _outcome(error: ProviderError) -> str:
    return next(word for kind, word in _OUTCOMES if isinstance(error, kind))
