import asyncio

from tests.fakes.time import BEGINNING, LoopClock, virtual_time


@virtual_time
async def test_virtual_time_passes_without_waiting() -> None:
    clock = LoopClock()
    await asyncio.sleep(30 * 86_400)
    assert clock.now() >= BEGINNING + 30 * 86_400
