import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.errors import ProviderRejected, ProviderUnavailable, RateLimited
from ai_task_processor.domain.events import TextsMixed
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.mock import Mock, mock_vector
from ai_task_processor.providers.neighbours import MOST_MODELS, PROBES, Neighbours
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import ScriptedProvider

MODEL = "m"
TRIAL = [PROBES, PROBES[1:]]
TEXTS = ("one", "two")


def asked(provider: ScriptedProvider) -> list[tuple[str, ...]]:
    return [texts for texts, _, _ in provider.calls]


class Mixing:
    """Gives the second of several texts the first one's vector, until it is mended."""

    name = "mixing"
    mended = False

    def serves(self, model: str) -> bool:
        return model == MODEL

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        answer = await Mock().embed(texts, model=model, dimensions=dimensions)
        first, *others = answer.vectors
        return answer if self.mended else replace(answer, vectors=(first, *others[1:], *([first] if others else [])))


async def test_several_texts_go_out_after_a_trial_of_the_model() -> None:
    provider = ScriptedProvider()
    neighbours = Neighbours(provider, observer=Recorder())
    for _ in range(2):
        answer = await neighbours.embed(TEXTS, model=MODEL, dimensions=4)
    assert answer.vectors == tuple(mock_vector(text, MODEL, 4) for text in TEXTS)
    assert asked(provider) == [*TRIAL, TEXTS, TEXTS]
    await neighbours.embed(TEXTS, model="other", dimensions=None)
    assert asked(provider)[4:] == [*TRIAL, TEXTS]


async def test_a_single_text_needs_no_trial() -> None:
    provider = ScriptedProvider()
    await Neighbours(provider, observer=Recorder()).embed(("one",), model=MODEL, dimensions=None)
    assert asked(provider) == [("one",)]


async def test_a_server_that_mixes_texts_is_not_believed_until_it_is_mended() -> None:
    server, told = Mixing(), Recorder()
    neighbours = Neighbours(server, observer=told)
    for texts in (TEXTS, TEXTS, TEXTS[:1]):
        with pytest.raises(ProviderUnavailable, match=r"mixing gives a text other vectors .* -np 1, or try -kvu"):
            await neighbours.embed(texts, model=MODEL, dimensions=None)
    assert told.of(TextsMixed) == [TextsMixed("mixing", MODEL)] * 3
    server.mended = True
    answer = await neighbours.embed(TEXTS, model=MODEL, dimensions=None)
    assert answer.vectors == tuple(mock_vector(text, MODEL) for text in TEXTS)


async def test_vectors_of_another_length_are_not_the_same() -> None:
    provider = ScriptedProvider()
    provider.change = lambda answer: replace(
        answer, vectors=tuple(one[: -4 * len(answer.vectors)] for one in answer.vectors)
    )
    with pytest.raises(ProviderUnavailable):
        await Neighbours(provider, observer=Recorder()).embed(TEXTS, model=MODEL, dimensions=None)


@pytest.mark.parametrize("error", [RateLimited("full", until=1.0), ProviderRejected("no such model", every_input=True)])
async def test_a_trial_that_breaks_off_goes_on_where_it_was(error: Exception) -> None:
    provider = ScriptedProvider(None, error)
    neighbours = Neighbours(provider, observer=Recorder())
    with pytest.raises(type(error)):
        await neighbours.embed(TEXTS, model=MODEL, dimensions=None)
    await neighbours.embed(TEXTS, model=MODEL, dimensions=None)
    assert asked(provider) == [*TRIAL, TRIAL[1], TEXTS]


async def test_those_who_come_at_once_share_one_trial() -> None:
    provider = ScriptedProvider()
    neighbours = Neighbours(provider, observer=Recorder())
    await asyncio.gather(*(neighbours.embed(TEXTS, model=MODEL, dimensions=None) for _ in range(5)))
    assert asked(provider) == [*TRIAL, *[TEXTS] * 5]


async def test_it_remembers_a_bounded_number_of_models() -> None:
    neighbours = Neighbours(ScriptedProvider(), observer=Recorder())
    for number in range(MOST_MODELS + 1):
        await neighbours.embed(TEXTS, model=str(number), dimensions=None)
    assert len(neighbours._trusted) == 1


def test_it_serves_what_is_served_within() -> None:
    neighbours = Neighbours(Mixing(), observer=Recorder())
    assert neighbours.name == "mixing"
    assert neighbours.serves(MODEL)
    assert not neighbours.serves("other")
