import asyncio

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.errors import ProviderUnavailable
from ai_task_processor.domain.events import SpaceChanged
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.space_store import MemorySpaceStore
from ai_task_processor.providers.spaces import MOST_SPACES, SAVED_EVERY, Sighting, Spaced, Spaces
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import ScriptedProvider
from tests.fakes.time import BEGINNING, ManualClock

MODEL = "nomic-embed-text"
SMALL = "text-embedding-3-small"


class CountingStore(MemorySpaceStore):
    saved = 0

    async def save(self, sighting: Sighting, forget: object) -> None:
        self.saved += 1
        await super().save(sighting, forget)  # type: ignore[arg-type]


class House:
    """Answers as it is told to, under the name of another provider and model if wanted."""

    def __init__(self) -> None:
        self.told = Recorder()
        self.clock = ManualClock()
        self.store = CountingStore()
        self.identities = {"ollama": "http://one", "openai": "http://two"}
        self.provider = ScriptedProvider(name="ollama")
        self.spaces: Spaces

    async def open(self) -> "House":
        self.spaces = await Spaces.open(self.store, identities=self.identities, clock=self.clock)
        self.spaced = Spaced(self.provider, self.spaces, observer=self.told)
        return self

    async def ask(self, name: str = MODEL, dimensions: int | None = None, **change: object) -> Embeddings:
        self.provider.change = lambda answer: replace(answer, **change)  # type: ignore[arg-type]
        return await self.spaced.embed(["a", "b"], model=name, dimensions=dimensions)

    def changes(self) -> list[tuple[str, int | None, str, str]]:
        return [(one.name, one.dimensions, one.before, one.after) for one in self.told.of(SpaceChanged)]


FALLBACK = {"provider": "openai", "model": SMALL}
OWN_SPACE = "ollama nomic-embed-text 768"
FALLBACK_SPACE = "openai text-embedding-3-small 768"


def vectors(length: int) -> tuple[bytes, bytes]:
    return (bytes([1]) * 4 * length,) * 2


async def test_the_first_answer_is_no_change_and_a_repeat_costs_nothing() -> None:
    house = await House().open()
    for _ in range(100):
        await house.ask()
        house.clock.advance(1)
    assert house.changes() == []
    assert house.store.saved == 1


async def test_a_fallback_is_a_change_and_so_is_the_way_back() -> None:
    house = await House().open()
    for change in ({}, FALLBACK, FALLBACK, {}, {}):
        await house.ask(**change)
    assert house.changes() == [
        (MODEL, None, OWN_SPACE, FALLBACK_SPACE),
        (MODEL, None, FALLBACK_SPACE, OWN_SPACE),
    ]


async def test_names_and_the_dimensions_asked_for_are_looked_at_apart() -> None:
    house = await House().open()
    await house.ask()
    await house.ask(dimensions=256)
    await house.ask("bge-m3")
    await house.ask(f"{MODEL}:latest")
    assert house.changes() == []
    await house.ask(dimensions=256, **FALLBACK)
    assert [(name, dimensions) for name, dimensions, *_ in house.changes()] == [(MODEL, 256)]


async def test_a_restart_remembers_the_space_that_was_current() -> None:
    house = await House().open()
    for change in ({}, FALLBACK, {}, FALLBACK):
        await house.ask(**change)
    await house.open()
    await house.ask(**FALLBACK)
    assert len(house.changes()) == 3
    await house.ask()
    assert len(house.changes()) == 4


async def test_a_clock_that_was_set_back_between_two_runs_hides_nothing() -> None:
    house = await House().open()
    await house.ask()
    house.clock.advance(-3_600)
    await house.open()
    await house.ask(**FALLBACK)
    await house.open()
    await house.ask(**FALLBACK)
    assert house.changes() == [(MODEL, None, OWN_SPACE, FALLBACK_SPACE)]


async def test_use_is_written_down_once_an_hour() -> None:
    house = await House().open()
    for _ in range(3 * 60):
        await house.ask()
        house.clock.advance(60)
    assert house.store.saved == 3
    (kept,) = await house.store.load()
    assert kept.first_seen == BEGINNING
    assert kept.last_seen == pytest.approx(BEGINNING + 2 * SAVED_EVERY)
    assert kept.count == 2 * 121


# --- The usual length -------------------------------------------------------------------------------------------------


async def test_an_unknown_model_s_length_is_learned_and_outlives_a_restart() -> None:
    house = await House().open()
    assert house.spaces.usual("ollama")("our-own") is None
    await house.ask("our-own:latest", vectors=vectors(384))
    for _ in range(2):
        assert house.spaces.usual("ollama")("our-own") == 384
        assert house.spaces.usual("openai")("our-own") is None
        await house.open()


async def test_another_length_of_the_same_model_is_not_believed() -> None:
    house = await House().open()
    await house.ask("our-own", vectors=vectors(384))
    with pytest.raises(ProviderUnavailable, match="our-own gave 385 dimensions instead of 384"):
        await house.ask("our-own", vectors=vectors(385))
    assert house.changes() == []
    assert house.spaces.usual("ollama")("our-own") == 384


async def test_of_two_first_answers_at_once_one_is_believed() -> None:
    house = await House().open()
    results = await asyncio.gather(
        house.ask("our-own", vectors=vectors(384)),
        Spaced(ScriptedProvider(name="ollama"), house.spaces, observer=house.told).embed(
            ["a"], model="our-own", dimensions=None
        ),
        return_exceptions=True,
    )
    assert [type(result) for result in results if isinstance(result, Exception)] == [ProviderUnavailable]


async def test_a_length_asked_for_is_not_the_usual_one() -> None:
    house = await House().open()
    await house.ask("our-own", 100, vectors=vectors(100))
    assert house.spaces.usual("ollama")("our-own") is None


async def test_a_length_that_a_stand_in_was_asked_for_is_not_its_usual_one() -> None:
    house = await House().open()
    await house.ask(provider="openai", model="stand-in")
    assert house.spaces.usual("openai")("stand-in") is None


async def test_well_known_lengths_are_known_and_never_unlearned() -> None:
    house = await House().open()
    assert house.spaces.usual("openai")(f"{MODEL}:latest") == 768
    await house.ask(dimensions=64)
    assert house.spaces.usual("ollama")(MODEL) == 768


async def test_a_server_at_another_address_may_have_another_length_and_that_is_a_change() -> None:
    house = await House().open()
    await house.ask("our-own", vectors=vectors(384))
    house.identities["ollama"] = "http://elsewhere"
    await house.open()
    await house.ask("our-own", vectors=vectors(384))
    assert house.changes() == []
    house.identities["ollama"] = "http://a-third"
    await house.open()
    await house.ask("our-own", vectors=vectors(512))
    assert house.changes() == [("our-own", None, "ollama our-own 384", "ollama our-own 512")]
    assert house.spaces.usual("ollama")("our-own") == 512


async def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    house = await House().open()
    for number in range(MOST_SPACES + 5):
        await house.ask(f"m{number}")
        house.clock.advance(1)
    names = {sighting.name for sighting in await house.store.load()}
    assert names == {f"m{number}" for number in range(5, MOST_SPACES + 5)}
    assert house.spaces.usual("ollama")("m4") is None
    assert house.spaces.usual("ollama")("m5") == 768
    await house.ask("m0", **FALLBACK)
    assert house.changes() == []


async def test_an_address_is_not_written_down() -> None:
    house = await House().open()
    await house.ask()
    assert "http" not in str(await house.store.load())


def test_it_is_known_by_the_name_and_serves_what_the_one_within_does() -> None:
    house = House()
    house.provider.serves = lambda model: model == MODEL
    spaces = Spaces((), store=house.store, identities={}, clock=house.clock)
    spaced = Spaced(house.provider, spaces, observer=house.told)
    assert (spaced.name, spaced.serves(MODEL), spaced.serves("other")) == ("ollama", True, False)
