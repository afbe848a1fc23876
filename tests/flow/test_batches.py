"""How many texts go into one request, in the whole daemon on simulated time."""

from pathlib import Path

from tests.fakes.daemon import MODEL, running, simulated_time
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.provider_faults import Slow
from tests.fakes.task_api_server import FakeTaskApi
from tests.fakes.time import LoopClock


@simulated_time
async def test_ollama_gets_as_many_texts_at_once_as_it_does_in_time(tmp_path: Path) -> None:
    seconds_per_text = 0.5
    async with FakeTaskApi(clock=LoopClock()) as api, OllamaServer(models=[MODEL]) as server:
        server.faults.rule = lambda body: Slow(seconds_per_text * len(body["input"]))
        api.add(*({"_id": f"t{number:03}"} for number in range(120)))
        settings = {"processing_mode": "ollama", "ollama_base_url": server.url, "batch_size": 32}
        async with running(api, tmp_path, **settings, concurrency_limit=1) as daemon:
            await daemon.reported(120)
        assert api.states() == {"succeeded": 120}
        sizes = [len(request["input"]) for request in server.requests]
        first = sizes.index(32)
        assert max(sizes[first + 4 :]) <= 4, "two seconds' worth, after 32, 16 and 8"
        assert sum(sizes[first:]) == 120, "nothing is asked for twice"


@simulated_time
async def test_a_lone_task_is_asked_for_at_once(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "alone"})
        clock = LoopClock()
        async with running(api, tmp_path) as daemon:
            began = clock.monotonic()
            await daemon.reported(1)
            assert clock.monotonic() - began < 0.02
