"""The machine that the daemon runs on: an event loop without sockets, threads or waiting, and clocks that jump."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NoReturn, TypeVar

from tests.fakes.time import BEGINNING

T = TypeVar("T")

LONGEST_SPIN = 20_000
"""Rounds of the loop in one moment of simulated time, after which something is taken to spin."""


TURN = 1e-6
"""Seconds that a turn of the loop takes: without them a wait that ends a rounding error early would never end."""


class SimulationStuck(Exception):
    """The simulated world does not go on by itself."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop in one thread that touches nothing of the real machine.

    With nothing to do it moves its time to the next timer. What would need a socket or a thread is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []
        self._elapsed = 0.0
        self._spun = 0
        self._clock_resolution = 1e-6  # simulated months are too coarse as floats for the nanosecond of the real clock
        self._selector = self
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._elapsed

    def select(self, timeout: float | None) -> tuple[()]:
        """What the loop does when nothing is ready: here time passes."""
        if timeout is None:
            raise SimulationStuck("nothing will ever happen again")
        if timeout > 0:
            self._elapsed += timeout
            self._spun = 0
        else:
            self._elapsed += TURN
            self._spun += 1
            if self._spun > LONGEST_SPIN:
                self._spun = 0
                raise SimulationStuck(f"something spins at {self._elapsed}")
        return ()

    def _process_events(self, events: tuple[()]) -> None:
        pass

    def _write_to_self(self) -> None:
        """Nobody else has to wake this loop."""

    def run_in_executor(self, *_: object) -> NoReturn:  # type: ignore[override]
        raise AssertionError("a simulated daemon uses no threads")

    def add_reader(self, *_: object) -> NoReturn:
        raise AssertionError("a simulated daemon uses no sockets")

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")


class Machine:
    """The clocks. Monotonic time follows the loop until the machine starts anew; the wall clock jumps when told."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._shift = 0.0
        self._booted_at = -1_000.0
        self._boots = 1

    def wall(self) -> float:
        return BEGINNING + self._loop.time() + self._shift

    def monotonic(self) -> float:
        return self._loop.time() - self._booted_at

    def boot(self) -> str:
        return f"boot-{self._boots}"

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an operator or a time server does."""
        self._shift += seconds

    def reboot(self) -> None:
        """Start the machine anew; the wall clock is kept by a battery."""
        self._boots += 1
        self._booted_at = self._loop.time()


class Inline(Executor):
    """Runs what it is given at once, in the only thread there is."""

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # whoever waits for it gets it, as from any executor
            future.set_exception(error)
        return future
