"""A provider that does what a script says, and a limiter that counts."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from ai_task_processor.domain.amount import ONE_TASK, UNLIMITED, Amount
from ai_task_processor.domain.errors import RateLimited
from ai_task_processor.domain.ports import Embeddings, WindowUsage
from ai_task_processor.providers.mock import Mock

Call: TypeAlias = tuple[tuple[str, ...], str, int | None]
Step: TypeAlias = BaseException | Callable[[Call], Awaitable[None]] | None


class ScriptedProvider:
    """For each request the next step of ``script``: an error to raise, something to await first, or None (answer).

    After the script (or without one) ``rule`` gives the step for each call. Answers are those of the mock provider.
    ``calls`` holds (texts, model, dimensions) of each request.
    """

    def __init__(self, *script: Step, name: str = "scripted", serves: Callable[[str], bool] = lambda _: True) -> None:
        self.name = name
        self.serves = serves
        self.script = deque(script)
        self.rule: Callable[[Call], Step] = lambda _call: None
        self.change: Callable[[Embeddings], Embeddings] = lambda answer: answer
        self.calls: list[Call] = []
        self._mock = Mock()

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        call = (tuple(texts), model, dimensions)
        self.calls.append(call)
        step = self.script.popleft() if self.script else self.rule(call)
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            await step(call)
        answer = await self._mock.embed(texts, model=model, dimensions=dimensions)
        return self.change(Embeddings(answer.vectors, model=model, provider=self.name, tokens=answer.tokens))


class CountingLimiter:
    """Room for ``limit`` tasks in all; ``booked`` of them are taken, and ``settled`` says how each booking ended."""

    def __init__(self, limit: int = 1_000_000, *, until: float = 0.0) -> None:
        self.limit = limit
        self.until = until
        self.booked = 0
        self.taken: list[Amount] = []
        self.settled: list[Amount] = []

    async def take(self, amount: Amount) -> None:
        if self.booked + amount.tasks > self.limit:
            raise RateLimited("no room", until=self.until)
        self.booked += amount.tasks
        self.taken.append(amount)

    async def refund(self, amount: Amount) -> None:
        self.booked -= amount.tasks
        self.settled.append(Amount())

    async def settle(self, actual: Amount) -> None:
        self.settled.append(actual)

    def headroom(self) -> Amount:
        return replace(UNLIMITED, tasks=self.limit - self.booked)

    def opens_at(self, least: Amount = ONE_TASK) -> float | None:  # noqa: ARG002 - the port's signature
        return self.until if self.booked >= self.limit else None

    def usage(self) -> Mapping[str, WindowUsage]:
        return {}
