import pytest

from ai_task_processor.domain.errors import (
    BreakerOpen,
    NotNow,
    ProviderAccountRefused,
    ProviderPaused,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    TaskProcessorError,
)
from ai_task_processor.domain.events import FellBack
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.checks import usual_length
from ai_task_processor.providers.hybrid import Hybrid
from ai_task_processor.providers.mock import mock_vector
from ai_task_processor.providers.models import canonical
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import ScriptedProvider, Step

NOMIC = "nomic-embed-text"
SMALL = "text-embedding-3-small"
OWN = ("nomic-embed-text", "our-own", "mxbai-embed-large")
DOWN = ProviderUnavailable("connection refused", sent=False)


class House:
    def __init__(self, *primary: Step, fallback: tuple[Step, ...] = (), fallback_model: str | None = SMALL) -> None:
        self.told = Recorder()
        self.ollama = ScriptedProvider(*primary, name="ollama", serves=lambda model: canonical(model) in OWN)
        self.openai = ScriptedProvider(*fallback, name="openai")
        self.lengths: dict[str, int] = {}
        self.hybrid = Hybrid(
            self.ollama, self.openai, fallback_model=fallback_model, observer=self.told, usual=self._usual
        )

    def _usual(self, model: str) -> int | None:
        return self.lengths.get(model) or usual_length(model)

    async def ask(self, *texts: str, model: str = NOMIC, dimensions: int | None = None) -> Embeddings:
        return await self.hybrid.embed(texts or ("a", "b"), model=model, dimensions=dimensions)

    async def error(self, *texts: str, model: str = NOMIC) -> TaskProcessorError:
        with pytest.raises(TaskProcessorError) as caught:
            await self.ask(*texts, model=model)
        return caught.value


async def test_the_first_does_what_it_can() -> None:
    house = House()
    answer = await house.ask()
    assert answer.provider == "ollama"
    assert house.openai.calls == []
    assert house.told.events == []


@pytest.mark.parametrize(
    "away",
    [
        DOWN,
        ProviderUnavailable("500", own_fault=True),
        BreakerOpen("open", until=1.0),
        ProviderPaused("being pulled", until=1.0),
    ],
)
async def test_the_second_helps_out_with_its_model_and_the_first_s_length(away: TaskProcessorError) -> None:
    house = House(away)
    answer = await house.ask()
    assert house.openai.calls == [(("a", "b"), SMALL, 768)]
    assert answer.vectors == (mock_vector("a", SMALL, 768), mock_vector("b", SMALL, 768))
    assert (answer.provider, answer.model) == ("openai", SMALL)
    assert house.told.events == [FellBack(model=NOMIC, fallback_model=SMALL, inputs=2, reason=str(away))]


async def test_dimensions_asked_for_are_asked_for_again() -> None:
    house = House(DOWN)
    await house.ask(dimensions=256)
    assert house.openai.calls == [(("a", "b"), SMALL, 256)]


async def test_the_fallback_model_s_own_length_need_not_be_asked_for() -> None:
    house = House(DOWN, fallback_model="bge-m3")
    await house.ask(model="mxbai-embed-large")
    assert house.openai.calls == [(("a", "b"), "bge-m3", None)]


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("no room", until=1.0),
        ProviderRejected("invalid"),
        ProviderAccountRefused("no key"),
    ],
)
async def test_other_troubles_are_no_reason(error: TaskProcessorError) -> None:
    house = House(error)
    assert await house.error() is error
    assert house.openai.calls == []


async def test_without_a_fallback_model_it_waits_for_the_first() -> None:
    house = House(DOWN, fallback_model=None)
    assert await house.error() is DOWN
    assert house.openai.calls == []


async def test_a_fallback_model_that_cannot_give_the_length_is_not_asked() -> None:
    house = House(DOWN, fallback_model="text-embedding-ada-002")
    assert await house.error() is DOWN
    assert house.openai.calls == []


async def test_an_unknown_model_s_length_must_be_learned_before_the_second_may_help() -> None:
    house = House(DOWN, DOWN)
    assert await house.error(model="our-own") is DOWN
    house.lengths["our-own"] = 384
    second = await house.ask(model="our-own")
    assert second.provider == "openai"
    assert len(second.vectors[0]) == 4 * 384


async def test_a_model_that_the_first_does_not_serve_is_the_second_s_own() -> None:
    house = House()
    answer = await house.ask(model="text-embedding-3-large", dimensions=64)
    assert (answer.provider, answer.model) == ("openai", "text-embedding-3-large")
    assert house.ollama.calls == []
    assert house.openai.calls == [(("a", "b"), "text-embedding-3-large", 64)]
    assert house.told.of(FellBack) == []


async def test_a_refusal_of_one_of_many_by_the_second_is_passed_on_to_be_split() -> None:
    refusal = ProviderRejected("too long")
    house = House(DOWN, fallback=(refusal,))
    assert await house.error("fine", "long") is refusal


@pytest.mark.parametrize(
    ("refusal", "texts"),
    [
        (ProviderRejected("too long"), ("long",)),
        (ProviderRejected("no such model", every_input=True), ("fine", "fine too")),
    ],
)
async def test_what_the_substitute_refuses_waits_for_the_first(refusal: ProviderRejected, texts: tuple[str]) -> None:
    house = House(DOWN, fallback=(refusal,))
    assert await house.error(*texts) is DOWN
    assert house.told.of(FellBack) == []


@pytest.mark.parametrize(
    ("away", "second", "until"),
    [
        (BreakerOpen("open", until=30.0), RateLimited("no room", until=60.0), 30.0),
        (BreakerOpen("open", until=90.0), RateLimited("no room", until=60.0), 60.0),
        (DOWN, BreakerOpen("open", until=45.0), 45.0),
    ],
)
async def test_when_neither_can_the_earlier_time_counts(away: TaskProcessorError, second: NotNow, until: float) -> None:
    house = House(away, fallback=(second,))
    error = await house.error()
    assert isinstance(error, NotNow)
    assert error.until == until


async def test_when_both_are_down_it_is_unavailable() -> None:
    house = House(DOWN, fallback=(ProviderUnavailable("500"),))
    assert isinstance(await house.error(), ProviderUnavailable)


def test_it_serves_what_either_serves() -> None:
    house = House()
    assert house.hybrid.serves(NOMIC)
    assert house.hybrid.serves("text-embedding-3-large")
    picky = Hybrid(house.ollama, house.ollama, fallback_model=None, observer=house.told)
    assert not picky.serves("text-embedding-3-large")


async def test_inputs_at_fault_stay_so_when_the_second_cannot_now() -> None:
    at_fault = ProviderUnavailable("500", own_fault=True)
    house = House(at_fault, fallback=(RateLimited("no room", until=50),))
    assert await house.error() is at_fault


async def test_inputs_at_fault_stay_so_when_the_second_is_down() -> None:
    house = House(ProviderUnavailable("500", own_fault=True), fallback=(ProviderUnavailable("down"),))
    error = await house.error()
    assert isinstance(error, ProviderUnavailable)
    assert error.own_fault
