"""An end to waiting, for what is waited for thousands of times a second."""

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """``with Deadline(seconds):`` does what ``async with asyncio.timeout(seconds):`` does, for half of its CPU.

    What still waits inside after ``seconds`` is cancelled, and TimeoutError raised. A cancellation that comes from
    elsewhere passes, also where both come together. To be entered once.
    """

    __slots__ = ("_cancellations", "_passed", "_seconds", "_task", "_timer")

    _task: asyncio.Task[object]
    _timer: asyncio.TimerHandle

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._passed = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be made to stop waiting")
        self._task = task
        self._cancellations = task.cancelling()
        self._timer = task.get_loop().call_later(self._seconds, self._pass)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._passed and self._task.uncancel() <= self._cancellations and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def _pass(self) -> None:
        self._passed = True
        self._task.cancel()
