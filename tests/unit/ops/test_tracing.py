import asyncio
import threading

from ai_task_processor.ops.tracing import FAREWELL_SECONDS, _ended
from tests.fakes.time import virtual_time


@virtual_time
async def test_the_end_does_not_wait_for_ever_for_a_collector_that_hangs() -> None:
    collector = threading.Event()
    began = asyncio.get_running_loop().time()
    await _ended(lambda: collector.wait(60) and None)
    assert asyncio.get_running_loop().time() - began == FAREWELL_SECONDS
    collector.set()


async def test_the_end_comes_as_soon_as_the_last_spans_are_taken() -> None:
    taken: list[str] = []
    await _ended(lambda: taken.append("all"))
    assert taken == ["all"]
