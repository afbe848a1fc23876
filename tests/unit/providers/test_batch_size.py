from collections.abc import Sequence

import pytest

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.batch_size import STEP, TARGET, BatchSize, Sized
from tests.fakes.time import ManualClock

MODEL = "nomic-embed-text"


@pytest.mark.parametrize(
    ("now", "texts", "seconds", "then"),
    [
        (64, 64, 0.1, 64),  # never above what is allowed
        (16, 16, 0.1, 16 + STEP),
        (60, 60, 0.1, 64),
        (16, 16, TARGET / 2, 16 + STEP),
        (16, 16, TARGET / 2 + 0.01, 16),  # neither fast nor slow
        (16, 16, TARGET, 16),
        (16, 5, 0.1, 16),  # says nothing of a full one
        (16, 16, TARGET + 0.01, 8),
        (64, 10, TARGET + 0.01, 5),  # these few were too many
        (3, 3, 60.0, 1),
        (1, 1, 60.0, 1),
        (1, 1, 0.1, 1 + STEP),
    ],
)
def test_more_while_it_is_fast_half_when_it_is_slow(now: int, texts: int, seconds: float, then: int) -> None:
    assert BatchSize(64, now).after(texts, seconds) == BatchSize(64, then)


class Server:
    """Takes so many seconds for each text of a model."""

    name = "ollama"

    def __init__(self, clock: ManualClock, **seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.fault: Exception | None = None

    def serves(self, model: str) -> bool:
        return model in self.seconds

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        assert dimensions is None
        self.clock.advance(self.seconds[model] * len(texts))
        if self.fault:
            raise self.fault
        return Embeddings(tuple(b"\x00\x00\x80\x3f" for _ in texts), model, self.name, len(texts))


async def settled(sized: Sized, model: str, requests: int = 60) -> list[int]:
    """The sizes of so many requests, each as large as it may be."""
    sizes = []
    for _ in range(requests):
        sizes.append(sized.batch_size(model))
        await sized.embed(["text"] * sizes[-1], model=model, dimensions=None)
    return sizes


async def test_each_model_finds_the_size_that_its_engine_does_in_time() -> None:
    clock = ManualClock()
    sized = Sized(Server(clock, small=0.001, middle=0.1, large=0.5), most=64, clock=clock)
    assert set(await settled(sized, "small")) == {64}
    assert max((await settled(sized, "middle"))[4:]) * 0.1 <= TARGET
    assert min((await settled(sized, "middle"))[4:]) * 0.1 > TARGET / 4
    assert max((await settled(sized, "large"))[6:]) * 0.5 <= TARGET


async def test_a_load_of_the_model_is_forgotten_soon() -> None:
    clock = ManualClock()
    server = Server(clock, model=1.0)
    sized = Sized(server, most=64, clock=clock)
    await sized.embed(["text"] * 64, model="model", dimensions=None)
    assert sized.batch_size("model") == 32
    server.seconds["model"] = 0.01
    assert await settled(sized, "model", 6) == [32, 40, 48, 56, 64, 64]


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 32), (0.001, 64)])
async def test_a_failure_counts_only_if_it_took_long(seconds: float, size: int) -> None:
    clock = ManualClock()
    server = Server(clock, model=seconds)
    server.fault = ProviderUnavailable("gone")
    sized = Sized(server, most=64, clock=clock)
    with pytest.raises(ProviderUnavailable):
        await sized.embed(["text"] * 64, model="model", dimensions=None)
    assert sized.batch_size("model") == size
