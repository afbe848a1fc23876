"""Time that a test moves: a clock set by hand, and an event loop that skips its waits."""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BEGINNING = 1_700_000_000.0
"""Unix seconds at which simulated time begins: 2023-11-14 22:13:20 UTC."""


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = BEGINNING) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds


class LoopClock:
    """The clock of a running event loop; under :func:`virtual_time` that is simulated time."""

    def __init__(self, beginning: float = BEGINNING) -> None:
        self._beginning = beginning

    def now(self) -> float:
        return self._beginning + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting costs nothing: with nothing to do it moves its time to the next timer.

    Before it says that there is nothing to do it looks for ``patience`` real seconds whether something can be read.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._elapsed = 0.0
        super().__init__(_SkippingSelector(patience, self._skip))

    def time(self) -> float:
        return self._elapsed

    def _skip(self, seconds: float) -> None:
        self._elapsed += seconds


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, patience: float, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._patience = patience
        self._skip_time = skip

    def select(self, timeout: float | None = None) -> Sequence[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(self._patience)
        if not ready:
            self._skip_time(timeout)
        return ready


def on_simulated_time(test: Callable[P, Awaitable[T]], *, patience: float = 0.0) -> Callable[P, T]:
    """``test``, run on such a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def main() -> T:
            return await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=functools.partial(SimulatedLoop, patience)) as runner:
            return runner.run(main())

    return run


def virtual_time(test: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Run an async test on a loop whose timers fire at once, in order, as if the time between had passed."""
    return on_simulated_time(test)
