"""The simulated provider: charges, answers, fails, and remembers what it was paid for."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.errors import (
    ProviderAccountRefused,
    ProviderError,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.budget import tariff_of
from ai_task_processor.providers.mock import mock_vector
from tests.simulation import faults
from tests.simulation.invariants import CANARY, Charge, Ledger
from tests.simulation.life import Life
from tests.simulation.scenario import CRASHING, POISON, Engine, Scenario
from tests.simulation.spending import Request

_NOT_BELIEVED = (faults.NOT_FINITE, faults.TOO_FEW, faults.WRONG_LENGTH, faults.ZEROS)


class SimulatedProvider:
    """One service. Each charge has a vector of its own, so that every number tells which payment it came from."""

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        ledger: Ledger,
        *,
        price: Callable[[str], int],
        sent: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self.name = name
        self._price = price
        self._traits: Engine = scenario.engines[name]
        self._healed = scenario.healed
        self._clocks_differ = scenario.clocks_differ
        self._ledger = ledger
        self._sent = sent
        self._tell = tell
        self._chance = random.Random(f"provider {name} {scenario.seed}")
        self._blamed = Counter[str]()
        self._patience = _patience(scenario)

    @property
    def timeout(self) -> float:
        return self._traits.timeout

    async def embed(self, life: Life, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        """One request of ``life``; it goes on here also when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._check_wishes(life, texts, now)
        fault = self._fault(texts, now)
        self._tell(f"{self.name} <- {len(texts)} texts, {fault or 'well'}")
        self._ledger.counts[f"provider: {fault or 'well'}"] += 1
        self._ledger.requests[self.name].append(now)
        answer: asyncio.Future[Embeddings] = loop.create_future()
        if fault == faults.REFUSED:
            await asyncio.sleep(self._delay())
            raise ProviderUnavailable(f"{self.name} cannot be reached", sent=False)
        request = self._ledger.spending.send(tariff_of(model, self._price).most_for(texts))
        self._sent()

        def work() -> None:
            outcome, charges = self._outcome(life, texts, request, model=model, dimensions=dimensions, fault=fault)
            if outcome is not None:
                reply = _Reply(life, texts, request, self._price(model), outcome, charges, fault not in _NOT_BELIEVED)
                loop.call_later(self._delay(), self._give, reply, answer)

        loop.call_later(self._delay(), work)
        return await answer

    def _delay(self) -> float:
        return self._traits.weather.delay(asyncio.get_running_loop().time(), self._healed, self._chance)

    def _fault(self, texts: Sequence[str], now: float) -> str:
        """What will go wrong. A text is not met by more single faults than its task has attempts to spare."""
        fault = self._traits.weather.fault(now, self._healed, self._chance)
        if not fault or self._traits.weather.outage(now):
            return fault
        if any(self._blamed[text] >= self._patience for text in texts if text != CANARY):
            return ""
        self._blamed.update(texts)
        return fault

    def _outcome(
        self, life: Life, texts: Sequence[str], request: Request, *, model: str, dimensions: int | None, fault: str
    ) -> tuple[Embeddings | ProviderError | None, Sequence[Charge]]:
        """What this request comes to, None where nothing is ever said; and what was charged for."""
        error = self._refusal(texts, fault)
        if error is not None or fault == faults.HANG_BEFORE:
            return error, ()
        now = asyncio.get_running_loop().time()
        charges = [self._ledger.charge(text, now, life.facts, request) for text in texts]
        if fault == faults.HANG_AFTER:
            return None, charges
        if fault == faults.ERROR_AFTER:
            return ProviderUnavailable(f"{self.name} broke down (500)"), charges
        vectors = tuple(mock_vector(f"{charge.number} {charge.text}", model, dimensions) for charge in charges)
        if fault in _NOT_BELIEVED:
            return _spoilt(Embeddings(vectors, model, self.name), fault), charges
        self._ledger.by_vector.update(zip(vectors, charges, strict=True))
        return Embeddings(vectors, model, self.name, tokens=self._figure(request)), charges

    def _figure(self, request: Request) -> int:
        """What the provider counted: 0 where it does not say."""
        return math.ceil(request.reserved.tokens * self._traits.figure)

    def _refusal(self, texts: Sequence[str], fault: str) -> ProviderError | None:
        """What is said without a charge."""
        wish = float(self._chance.choice(self._traits.weather.wishes))
        errors: dict[str, ProviderError] = {
            faults.ERROR_BEFORE: ProviderUnavailable(f"{self.name} is down (500)"),
            faults.BUSY_WITH_WISH: ProviderUnavailable(f"{self.name} is busy (503)", retry_after=wish),
            faults.THROTTLED: ProviderThrottled(f"{self.name} has enough (429)"),
            faults.THROTTLED_WITH_WISH: ProviderThrottled(f"{self.name} has enough (429)", retry_after=wish),
            faults.QUOTA: ProviderAccountRefused(f"{self.name}: insufficient_quota"),
        }
        return errors[fault] if fault in errors else self._complaint(texts)

    def _complaint(self, texts: Sequence[str]) -> ProviderError | None:
        """What is wrong with the texts."""
        if len(texts) > 1 and sum(map(len, texts)) > self._traits.most_characters:
            return ProviderRejected("too many tokens in one request")
        if any(text.startswith(POISON) for text in texts):
            return ProviderRejected("the input is refused")
        if any(text.startswith(CRASHING) for text in texts):
            return ProviderUnavailable(f"{self.name} broke down over this (500)")
        return None

    def _check_wishes(self, life: Life, texts: Sequence[str], now: float) -> None:
        """A wish is obeyed for these texts; not after a jump of the clock, nor where two tasks have one text."""
        for text in texts:
            if (
                self._ledger.allowed.get(text) == 1
                and not self._clocks_differ
                and now < self._ledger.wishes.get((self.name, life.facts.number, text), 0.0) - 0.01
            ):
                self._ledger.violated(f"{self.name} was asked for {text[:30]!r} before its Retry-After was over")

    def _give(self, reply: "_Reply", answer: "asyncio.Future[Embeddings]") -> None:
        if answer.done():
            return
        now = asyncio.get_running_loop().time()
        request, outcome = reply.request, reply.outcome
        if isinstance(outcome, ProviderError):
            answer.set_exception(outcome)
            answer.exception()  # the daemon may have died meanwhile: nobody has to look
            self._note_wish(reply, outcome, now)
            if not isinstance(outcome, ProviderUnavailable):
                self._ledger.spending.hear(request, Amount(tasks=len(reply.texts)))
            return
        answer.set_result(outcome)
        if reply.is_believable:
            tokens = outcome.tokens or request.reserved.tokens
            self._ledger.spending.hear(request, Amount(len(reply.texts), tokens, tokens * reply.price))
            for charge in reply.charges:
                charge.answered_at = now

    def _note_wish(self, reply: "_Reply", error: ProviderError, now: float) -> None:
        """Halves of a batch that is refused are requests of their own, and go to the first provider again."""
        life = reply.life.facts.number
        until = now + (getattr(error, "retry_after", None) or 0.0)
        self._ledger.wishes.update({(self.name, life, text): until for text in reply.texts})
        if isinstance(error, ProviderRejected):
            for name in self._ledger.scenario.engines:
                self._ledger.wishes.update({(name, life, text): 0.0 for text in reply.texts})


@dataclass(frozen=True, slots=True)
class _Reply:
    """What comes back of a request; its model's ``price`` is for a token."""

    life: Life
    texts: Sequence[str]
    request: Request
    price: int
    outcome: Embeddings | ProviderError
    charges: Sequence[Charge]
    is_believable: bool


class Leaf:
    """The provider as one life of the daemon reaches it."""

    def __init__(self, provider: SimulatedProvider, life: Life, served: Sequence[str] = ()) -> None:
        self._provider = provider
        self._life = life
        self._served = served

    @property
    def name(self) -> str:
        return self._provider.name

    def serves(self, model: str) -> bool:
        return not self._served or model.removesuffix(":latest") in self._served

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        self._life.point("provider before")
        answer = await self._provider.embed(self._life, texts, model=model, dimensions=dimensions)
        self._life.point("provider after")
        return answer


def _patience(scenario: Scenario) -> int:
    """How many single faults a text can meet without its task running out of attempts."""
    outages = sum(len(engine.weather.outages) for engine in scenario.engines.values())
    company = 7 if any(task.kind == CRASHING for task in scenario.tasks) else 0
    return max(0, int(str(scenario.settings["max_attempts"])) - 2 - outages - company)


def _spoilt(answer: Embeddings, fault: str) -> Embeddings:
    """The answer as nobody should believe it."""
    vectors = [np.frombuffer(vector, "<f4").copy() for vector in answer.vectors]
    if fault == faults.NOT_FINITE:
        vectors[-1][0] = np.nan
    elif fault == faults.ZEROS:
        vectors[0][:] = 0
    elif fault == faults.WRONG_LENGTH:
        vectors = [vector[:-1] for vector in vectors]
    else:
        vectors.pop()
    return Embeddings(tuple(vector.tobytes() for vector in vectors), answer.model, answer.provider)
