import asyncio
import random
from collections.abc import Collection, Mapping, Sequence

import pytest
from msgspec.structs import replace

from ai_task_processor.domain.amount import Amount
from ai_task_processor.domain.errors import JournalError, ProviderRejected, ProviderUnavailable, TaskProcessorError
from ai_task_processor.domain.events import CacheAnswered, CacheDamaged, CacheFilled
from ai_task_processor.domain.ports import Embeddings
from ai_task_processor.providers.cache import CacheStore, Kept, cache_key, packed
from ai_task_processor.providers.cache_store import MemoryCacheStore
from ai_task_processor.providers.cached import Cached
from ai_task_processor.providers.checks import usual_length
from ai_task_processor.providers.mock import mock_vector
from tests.fakes.flow import Recorder
from tests.fakes.scripted_provider import Call, CountingLimiter, ScriptedProvider, Step
from tests.fakes.time import virtual_time

MODEL = "nomic-embed-text"
PLENTY = 10_000_000
DOWN = ProviderUnavailable("500")


async def slow(_call: Call) -> None:
    await asyncio.sleep(10)


async def slow_and_down(_call: Call) -> None:
    await asyncio.sleep(10)
    raise DOWN


async def hang(_call: Call) -> None:
    await asyncio.Event().wait()


class House:
    def __init__(
        self, *script: Step, store: CacheStore | None = None, name: str = "openai", identity: str = ""
    ) -> None:
        self.told = Recorder()
        self.provider = ScriptedProvider(*script, name=name)
        self.store = store or MemoryCacheStore(PLENTY)
        self.lengths: dict[str, int] = {}
        self.cached = Cached(self.provider, self.store, observer=self.told, identity=identity, usual=self._usual)

    async def ask(self, *texts: str, model: str = MODEL, dimensions: int | None = None) -> Embeddings:
        return await self.cached.embed(texts, model=model, dimensions=dimensions)

    def asking(self, *texts: str) -> asyncio.Task[Embeddings]:
        return asyncio.create_task(self.ask(*texts))

    def sent(self) -> list[tuple[str, ...]]:
        return [texts for texts, _, _ in self.provider.calls]

    def tally(self) -> tuple[int, int, int]:
        answered = self.told.of(CacheAnswered)
        return (
            sum(event.hits for event in answered),
            sum(event.shared for event in answered),
            sum(event.misses for event in answered),
        )

    def _usual(self, model: str) -> int | None:
        return self.lengths.get(model) or usual_length(model)


def right(answer: Embeddings, *texts: str, model: str = MODEL, dimensions: int | None = None) -> bool:
    return answer.vectors == tuple(mock_vector(text, model, dimensions) for text in texts)


# --- One after the other ----------------------------------------------------------------------------------------------


async def test_a_repeat_comes_from_the_cache_and_costs_no_tokens() -> None:
    house = House()
    first, second = await house.ask("a", "b"), await house.ask("b", "a")
    assert right(second, "b", "a")
    assert house.sent() == [("a", "b")]
    assert first.tokens > 0
    assert second.tokens == 0
    assert (first.known, second.known) == (frozenset(), {0, 1})
    assert (second.model, second.provider) == (first.model, first.provider)
    assert house.tally() == (2, 0, 2)


async def test_only_what_is_new_is_sent_in_one_request_and_the_order_stands() -> None:
    house = House()
    await house.ask("b", "d")
    answer = await house.ask("a", "b", "c", "d", "e")
    assert right(answer, "a", "b", "c", "d", "e")
    assert house.sent() == [("b", "d"), ("a", "c", "e")]
    assert answer.known == {1, 3}
    assert house.told.of(CacheAnswered)[-1] == CacheAnswered("openai", MODEL, hits=2, shared=0, misses=3)


async def test_equal_texts_of_one_call_are_one_input() -> None:
    house = House()
    answer = await house.ask("same", "other", "same")
    assert right(answer, "same", "other", "same")
    assert house.sent() == [("same", "other")]
    assert answer.known == frozenset()


async def test_another_model_or_length_is_another_question() -> None:
    house = House()
    for model, dimensions in ((MODEL, None), (MODEL, 64), (MODEL, 128), ("bge-m3", None), ("bge-m3", 64)):
        assert right(await house.ask("a", model=model, dimensions=dimensions), "a", model=model, dimensions=dimensions)
    assert len(house.provider.calls) == 5
    await house.ask("a", model=f"{MODEL}:latest", dimensions=64)
    assert len(house.provider.calls) == 5


async def test_providers_and_servers_do_not_share() -> None:
    store = MemoryCacheStore(PLENTY)
    mock, real = House(store=store, name="mock"), House(store=store, name="openai", identity="https://api.openai.com")
    other = House(store=store, name="openai", identity="http://localhost")
    for house in (mock, real, other, real):
        await house.ask("a")
    assert [len(house.provider.calls) for house in (mock, real, other)] == [1, 1, 1]


async def test_the_store_tells_how_full_it_is() -> None:
    house = House()
    await house.ask("a", "b")
    filling = house.store.filling()
    assert house.told.of(CacheFilled) == [CacheFilled(entries=2, size=filling.size, evicted=0)]


async def test_without_room_every_repeat_is_asked_again() -> None:
    house = House(store=MemoryCacheStore(0))
    await house.ask("a", "a")
    await house.ask("a")
    assert house.sent() == [("a",), ("a",)]


async def test_an_error_passes_and_nothing_is_remembered_of_it() -> None:
    house = House(DOWN)
    with pytest.raises(ProviderUnavailable) as caught:
        await house.ask("a")
    assert caught.value is DOWN
    assert right(await house.ask("a"), "a")


async def test_hits_need_no_provider() -> None:
    house = House()
    await house.ask("a")
    house.provider.rule = lambda _call: DOWN
    assert right(await house.ask("a"), "a")
    with pytest.raises(ProviderUnavailable):
        await house.ask("a", "b")


# --- What cannot be believed ------------------------------------------------------------------------------------------


class Damaging(MemoryCacheStore):
    """Gives back other bytes than it was given, for as long as it is told to."""

    damage: bytes | None = None

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        found = await super().get_many(keys)
        return found if self.damage is None else dict.fromkeys(found, self.damage)


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\xff" * 3_000])
async def test_a_damaged_entry_is_dropped_counted_and_asked_for_anew(damage: bytes) -> None:
    store = Damaging(PLENTY)
    house = House(store=store)
    await house.ask("a", "b")
    store.damage = damage
    assert right(await house.ask("a", "c"), "a", "c")
    assert house.sent() == [("a", "b"), ("a", "c")]
    assert house.told.of(CacheDamaged) == [CacheDamaged("openai", MODEL, count=1)]
    store.damage = None
    assert right(await house.ask("a", "b"), "a", "b")
    assert len(house.sent()) == 2


@pytest.mark.parametrize("vector", [b"", bytes(3), bytes(4 * 767), mock_vector("a", MODEL, 64)])
async def test_an_entry_of_another_length_is_dropped(vector: bytes) -> None:
    house = House()
    key = cache_key("openai ", MODEL, None, "a")
    await house.store.put_many({key: packed(key, Kept(vector, MODEL))})
    assert right(await house.ask("a"), "a")
    assert house.told.of(CacheDamaged)[0].count == 1


async def test_the_length_of_an_unknown_model_is_the_one_that_was_learned() -> None:
    house = House()
    key = cache_key("openai ", "our-own", None, "a")
    await house.store.put_many({key: packed(key, Kept(mock_vector("a", "our-own", 64), "our-own"))})
    assert len((await house.ask("a", model="our-own")).vectors[0]) == 4 * 64
    house.lengths["our-own"] = 768
    assert len((await house.ask("a", model="our-own")).vectors[0]) == 4 * 768


async def test_when_a_name_comes_to_mean_another_model_no_answer_mixes_the_two() -> None:
    house = House()
    await house.ask("a", "b")
    house.provider.change = lambda answer: replace(answer, model="newer")
    answer = await house.ask("a", "c", "b")
    assert right(answer, "a", "c", "b")
    assert answer.model == "newer"
    assert answer.known == frozenset()
    assert house.sent() == [("a", "b"), ("c",), ("a", "b")]
    assert (await house.ask("a", "b", "c")).model == "newer"
    assert len(house.sent()) == 3


async def test_a_provider_that_changes_its_model_all_the_time_is_not_believed() -> None:
    house = House()
    names = iter("xyz")
    house.provider.change = lambda answer: replace(answer, model=next(names))
    await house.ask("a")
    with pytest.raises(ProviderUnavailable, match="several models"):
        await house.ask("a", "b")


# --- At the same time -------------------------------------------------------------------------------------------------


@virtual_time
async def test_equal_texts_in_flight_are_one_input() -> None:
    house = House(slow, slow)
    answers = await asyncio.gather(*(house.ask("a", "b") for _ in range(50)))
    assert all(right(answer, "a", "b") for answer in answers)
    assert house.sent() == [("a", "b")]
    assert sum(answer.tokens for answer in answers) == answers[0].tokens > 0
    assert house.tally() == (0, 98, 2)


@virtual_time
async def test_batches_that_overlap_send_each_text_once_at_the_same_time() -> None:
    house = House(slow, slow, slow)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asyncio.gather(house.ask("a", "b"), house.ask("b", "c"), house.ask("c", "d", "a"))
    assert [right(answer, *texts) for answer, texts in zip(answers, ("ab", "bc", "cda"), strict=True)] == [True] * 3
    assert house.sent() == [("a", "b"), ("c",), ("d",)]
    assert [answer.known for answer in answers] == [frozenset(), {0}, {0, 2}]
    assert loop.time() - began == 10


@virtual_time
async def test_a_ring_of_batches_does_not_wait_for_itself() -> None:
    house = House(slow, slow)
    async with asyncio.timeout(100):
        answers = await asyncio.gather(house.ask("a", "x"), house.ask("b", "x", "a"), house.ask("a", "b"))
    assert [right(answer, *texts) for answer, texts in zip(answers, ("ax", "bxa", "ab"), strict=True)] == [True] * 3


@virtual_time
async def test_when_the_leader_fails_a_follower_asks_for_itself() -> None:
    house = House(slow_and_down)
    leader, followers = house.asking("a", "poison"), [house.asking("a") for _ in range(9)]
    answers = await asyncio.gather(*followers)
    assert all(right(answer, "a") for answer in answers)
    assert house.sent() == [("a", "poison"), ("a",)]
    assert leader.exception() is DOWN


@virtual_time
async def test_a_rejection_of_the_leader_s_text_is_not_its_follower_s() -> None:
    house = House()
    house.provider.rule = lambda call: ProviderRejected("too long") if "poison" in call[0] else slow
    leader, follower = house.asking("poison", "a"), house.asking("a", "b")
    assert right(await follower, "a", "b")
    assert isinstance(leader.exception(), ProviderRejected)


@virtual_time
async def test_a_provider_that_is_down_is_asked_once_by_each_and_all_fail() -> None:
    house = House(*[slow_and_down] * 5)
    results = await asyncio.gather(*(house.ask("a") for _ in range(5)), return_exceptions=True)
    assert results == [DOWN] * 5
    assert len(house.sent()) == 5


@virtual_time
async def test_a_leader_that_is_cancelled_hands_over() -> None:
    house = House(hang)
    leader, followers = house.asking("a", "b"), [house.asking("b", "c") for _ in range(3)]
    await asyncio.sleep(1)
    leader.cancel()
    answers = await asyncio.gather(*followers)
    assert leader.cancelled()
    assert all(right(answer, "b", "c") for answer in answers)
    assert house.sent() == [("a", "b"), ("c",), ("b",)]


@virtual_time
async def test_a_follower_that_is_cancelled_disturbs_nobody() -> None:
    house = House(slow)
    leader, follower, other = house.asking("a"), house.asking("a"), house.asking("a")
    await asyncio.sleep(1)
    follower.cancel()
    assert right(await leader, "a")
    assert right(await other, "a")
    assert follower.cancelled()
    assert house.sent() == [("a",)]


class SlowStore(MemoryCacheStore):
    """Takes a second to read and a minute to write."""

    async def get_many(self, keys: Collection[bytes]) -> Mapping[bytes, bytes]:
        await asyncio.sleep(1)
        return await super().get_many(keys)

    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        await asyncio.sleep(60)
        return await super().put_many(entries)


@virtual_time
async def test_an_answer_is_stored_before_it_is_handed_out_and_nobody_asks_meanwhile() -> None:
    house = House(store=SlowStore(PLENTY))
    loop = asyncio.get_running_loop()
    leader = house.asking("a")
    await asyncio.sleep(30)
    assert not leader.done()
    late = house.asking("a")
    assert right(await late, "a")
    assert loop.time() < 60
    assert right(await leader, "a")
    assert loop.time() > 60
    assert right(await house.ask("a"), "a")
    assert house.sent() == [("a",)]


@virtual_time
async def test_a_leader_cancelled_while_it_looks_into_the_store_hands_over() -> None:
    house = House(store=SlowStore(PLENTY))
    leader, follower = house.asking("a"), house.asking("a")
    await asyncio.sleep(0.5)
    leader.cancel()
    assert right(await follower, "a")
    assert house.sent() == [("a",)]


class BrokenStore(MemoryCacheStore):
    async def put_many(self, entries: Mapping[bytes, bytes]) -> int:
        raise JournalError(f"the disk is too full for {len(entries)} entries")


@virtual_time
async def test_a_store_that_fails_is_a_failure_of_the_state() -> None:
    house = House(store=BrokenStore(PLENTY))
    with pytest.raises(JournalError):
        await house.ask("a")


@virtual_time
async def test_no_mix_of_calls_errors_and_cancellations_gives_a_wrong_vector_or_never_ends() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        house = House(store=MemoryCacheStore(chance.choice([0, 40_000, PLENTY])))
        house.provider.rule = lambda _call, chance=chance: chance.choice([None, slow, slow_and_down, DOWN])  # type: ignore[misc]
        batches = [tuple(chance.choices("abcdefgh", k=chance.randint(1, 6))) for _ in range(30)]
        calls = []
        for texts in batches:
            calls.append(house.asking(*texts))
            await asyncio.sleep(chance.choice([0, 0, 3]))
            if chance.random() < 0.2:
                chance.choice(calls).cancel()
        async with asyncio.timeout(10_000):
            results = await asyncio.gather(*calls, return_exceptions=True)
        for texts, result in zip(batches, results, strict=True):
            if isinstance(result, Embeddings):
                assert right(result, *texts)
            else:
                assert isinstance(result, TaskProcessorError | asyncio.CancelledError)
        assert house.cached._flights == {}


# --- As a provider ----------------------------------------------------------------------------------------------------


class Booking(ScriptedProvider):
    """Books what it is asked for, as the guard does."""

    def __init__(self, limiter: CountingLimiter) -> None:
        super().__init__()
        self._limiter = limiter

    async def embed(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Embeddings:
        await self._limiter.take(Amount(tasks=len(texts)))
        return await super().embed(texts, model=model, dimensions=dimensions)


@virtual_time
async def test_hits_and_shared_texts_cost_no_budget() -> None:
    limiter = CountingLimiter(limit=3)
    cached = Cached(Booking(limiter), MemoryCacheStore(PLENTY), observer=Recorder())
    for texts in ("ab", "aab", "abc", "cba"):
        await asyncio.gather(*(cached.embed(texts, model=MODEL, dimensions=None) for _ in range(4)))
    assert limiter.booked == 3


def test_it_is_known_by_the_name_and_serves_what_the_one_within_does() -> None:
    provider = ScriptedProvider(name="ollama", serves=lambda model: model == MODEL)
    cached = Cached(provider, MemoryCacheStore(1), observer=Recorder())
    assert (cached.name, cached.serves(MODEL), cached.serves("other")) == ("ollama", True, False)


@virtual_time
async def test_what_a_call_has_paid_for_before_it_failed_is_not_asked_again_even_where_nothing_is_kept() -> None:
    house = House(slow_and_down, None, DOWN, store=MemoryCacheStore(0))
    leader = house.asking("shared")
    await asyncio.sleep(1)
    with pytest.raises(ProviderUnavailable):
        await house.ask("own", "shared")  # "own" is answered; "shared" fails with the leader, then by itself
    with pytest.raises(ProviderUnavailable):
        await leader
    assert right(await house.ask("own", "shared"), "own", "shared")
    assert house.sent() == [("shared",), ("own",), ("shared",), ("shared",)]
    assert right(await house.ask("own"), "own")
    assert house.sent()[-1] == ("own",)  # handed out once, then forgotten as it was to be
