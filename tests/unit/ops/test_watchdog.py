import asyncio
import time

from ai_task_processor.domain.clock import SystemClock
from ai_task_processor.domain.events import Event, LoopLagged
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.watchdog import watch_loop

HELD_UP = 0.03


async def test_a_loop_that_is_held_up_is_noticed() -> None:
    lags: list[float] = []
    told = asyncio.Event()

    def observe(event: Event) -> None:
        assert isinstance(event, LoopLagged)
        lags.append(event.seconds)
        told.set()

    watchdog = asyncio.create_task(watch_loop(observe, every=0.001))
    await told.wait()
    lags.clear()
    told.clear()
    time.sleep(HELD_UP)  # noqa: ASYNC251  # that the loop is held up is what this is about
    await told.wait()
    watchdog.cancel()
    assert HELD_UP - 0.002 <= lags[0] < 1.0


def test_lags_are_counted_by_their_length() -> None:
    metrics = Metrics("1", clock=SystemClock())
    for seconds in (0.0, 0.004, 0.07):
        metrics(LoopLagged(seconds))
    _, body = metrics.render("", None, {}, 0.0)
    name = "ai_task_processor_event_loop_lag_seconds_bucket"
    assert f'{name}{{le="0.05"}} 2.0' in body.decode()
    assert f'{name}{{le="0.1"}} 3.0' in body.decode()
