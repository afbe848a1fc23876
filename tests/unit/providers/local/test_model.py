import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ai_task_processor.domain.errors import ConfigurationError, ProviderRejected, ProviderUnavailable
from ai_task_processor.domain.events import SpaceChanged
from ai_task_processor.providers.local.model import PROBE, Embedded, LocalModel
from ai_task_processor.providers.space_store import MemorySpaceStore
from ai_task_processor.providers.spaces import Spaced, Spaces
from tests.fakes.flow import Recorder
from tests.fakes.time import ManualClock


class Letters:
    """Counts letters into vectors of 4, the last text first; ``before`` is called in the thread before each text."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.before = lambda _text: None

    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        for place in reversed(range(len(texts))):
            self.before(texts[place])
            self.embedded.append(texts[place])
            counts = [float(texts[place].count(letter)) for letter in "abcn"]
            yield place, np.array(counts, dtype=np.float32), len(texts[place])

    def close(self) -> None:
        pass


class Broken(Letters):
    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        raise ProviderUnavailable(f"no memory for {len(texts)} text")


def model(runtime: Letters) -> LocalModel:
    made = LocalModel(runtime, model="letters@1")
    assert runtime.embedded == [PROBE]
    runtime.embedded.clear()
    return made


def numbers(vector: bytes) -> list[float]:
    return [float(number) for number in np.frombuffer(vector, dtype="<f4")]


async def test_vectors_are_in_the_order_of_the_texts_whatever_that_of_the_runtime() -> None:
    answer = await model(Letters()).embed(["a", "bb", "ccc"], model="any", dimensions=None)
    assert [numbers(vector) for vector in answer.vectors] == [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]]
    assert (answer.model, answer.provider, answer.tokens) == ("letters@1", "local", 6)


async def test_fewer_dimensions_are_the_beginning_made_to_length_one() -> None:
    local = model(Letters())
    answer = await local.embed(["aaabbbbc"], model="any", dimensions=2)
    assert numbers(answer.vectors[0]) == pytest.approx([0.6, 0.8])
    answer = await local.embed(["aaabbbbc"], model="any", dimensions=4)
    assert numbers(answer.vectors[0]) == [3, 4, 1, 0]


async def test_more_dimensions_than_there_are_are_refused() -> None:
    with pytest.raises(ProviderRejected, match=r"dimensions is 5; letters@1 gives at most 4") as caught:
        await model(Letters()).embed(["a"], model="any", dimensions=5)
    assert caught.value.every_input


def test_a_model_that_cannot_embed_a_word_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="LOCAL_MODEL_PATH: letters@1 cannot embed a word: no memory for 1"):
        LocalModel(Broken(), model="letters@1")


async def test_batches_are_computed_one_after_another_and_the_loop_goes_on() -> None:
    runtime = Letters()
    local = model(runtime)
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wait(text: str) -> None:
        if text == "a":
            loop.call_soon_threadsafe(began.set)
            assert go_on.wait(10)

    runtime.before = wait
    async with asyncio.TaskGroup() as group:
        group.create_task(local.embed(["b", "a"], model="any", dimensions=None))
        group.create_task(local.embed(["c"], model="any", dimensions=None))
        await began.wait()
        assert runtime.embedded == []
        go_on.set()
    assert runtime.embedded == ["a", "b", "c"]


async def test_nobody_waits_nothing_more_is_computed() -> None:
    runtime = Letters()
    local = model(runtime)
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wait(text: str) -> None:
        if text == "last":
            loop.call_soon_threadsafe(began.set)
            assert go_on.wait(10)

    runtime.before = wait
    work = asyncio.create_task(local.embed(["never", "second", "last"], model="any", dimensions=None))
    await began.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    go_on.set()
    await loop.shutdown_default_executor()
    assert runtime.embedded == ["last"]


def test_every_name_is_served() -> None:
    local = model(Letters())
    assert local.serves("nomic-embed-text")
    assert local.name == "local"


async def test_another_file_under_the_same_name_is_another_space() -> None:
    store, told = MemorySpaceStore(), Recorder()
    for name in ("letters@1", "letters@1", "letters@2"):
        spaces = await Spaces.open(store, identities={"local": name}, clock=ManualClock())
        provider = Spaced(LocalModel(Letters(), model=name), spaces, observer=told)
        await provider.embed(["a"], model="any", dimensions=None)
    assert told.of(SpaceChanged) == [SpaceChanged("any", None, before="local letters@1 4", after="local letters@2 4")]
