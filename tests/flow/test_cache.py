"""Nothing is paid for twice: the whole daemon with its cache, through repeats, restarts, crashes and damage."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from ai_task_processor.app import World, open_app
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import JournalError, ProviderUnavailable
from ai_task_processor.domain.events import CacheDamaged, Running, SpaceChanged
from ai_task_processor.domain.outcome import Outcome
from ai_task_processor.journal.sql import SqlJournal
from ai_task_processor.settings import Settings, load_settings
from ai_task_processor.storage.engine import open_storage
from ai_task_processor.wiring.engines import Bench, Engine, MakeEngine
from ai_task_processor.wiring.state import State, state_in
from tests.fakes.daemon import Inline, right_vector, running, settings_for, simulated_time
from tests.fakes.scripted_provider import ScriptedProvider
from tests.fakes.task_api_server import FakeTaskApi
from tests.fakes.time import LoopClock

MODEL = "nomic-embed-text"


def asking(provider: ScriptedProvider, identity: str = "") -> MakeEngine:
    def make(_bench: Bench, _name: str) -> Engine:
        return Engine(provider, timeout=60, identity=identity)

    return make


def add(api: FakeTaskApi, **texts: str) -> None:
    api.add(*({"_id": task_id, "content": {"text": words, "model": MODEL}} for task_id, words in texts.items()))


def answered(api: FakeTaskApi, **texts: str) -> bool:
    return all(right_vector(api.tasks[task_id]["result"], words) for task_id, words in texts.items())


@simulated_time
async def test_a_repeat_after_a_restart_makes_no_provider_call_and_costs_no_budget(tmp_path: Path) -> None:
    provider = ScriptedProvider(name="openai")
    limits = {"rate_limit_per_day": 3}
    async with FakeTaskApi(clock=LoopClock()) as api:
        add(api, a="one", b="two")
        async with running(api, tmp_path, engine=asking(provider), **limits) as daemon:
            await daemon.reported(2)
        assert len(provider.calls) == 1
        add(api, c="two", d="one")
        async with running(api, tmp_path, engine=asking(provider), **limits) as daemon:
            await daemon.reported(2)
            assert await daemon.metric("cache_hits_total", provider="openai", model=MODEL) == 2
            assert await daemon.metric("cache_misses_total") == 0
            assert await daemon.metric("cache_entries") == 2
            assert await daemon.metric("rate_limit_used", window="day") == 2
        assert len(provider.calls) == 1
        assert answered(api, a="one", b="two", c="two", d="one")


@simulated_time
async def test_equal_texts_in_batches_at_the_same_time_are_sent_once(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        texts = {f"t{number}": f"text {number % 10}" for number in range(80)}
        add(api, **texts)
        async with running(api, tmp_path, mock_latency_seconds=5, batch_size=16) as daemon:
            await daemon.reported(80)
            assert await daemon.metric("provider_inputs_total") == 10
            assert await daemon.metric("cache_misses_total") == 10
        assert answered(api, **texts)


@simulated_time
async def test_without_a_cache_a_repeat_is_asked_again(tmp_path: Path) -> None:
    provider = ScriptedProvider(name="openai")
    async with FakeTaskApi(clock=LoopClock()) as api:
        for task_id in ("a", "b"):
            add(api, **{task_id: "one"})
            async with running(api, tmp_path, engine=asking(provider), embedding_cache_mb=0) as daemon:
                await daemon.reported(1)
        assert len(provider.calls) == 2


@simulated_time
async def test_turning_the_cache_off_empties_it(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        add(api, a="one")
        async with running(api, tmp_path) as daemon:
            await daemon.reported(1)
        for megabytes, entries in ((256, 1), (0, 0), (256, 0)):
            async with running(api, tmp_path, embedding_cache_mb=megabytes) as daemon:
                await daemon.watch.seen(Running)
                assert await daemon.metric("cache_entries") == entries


@simulated_time
async def test_mock_vectors_never_reach_a_real_mode_nor_those_of_another_server(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        providers = [ScriptedProvider(name=name) for name in ("mock", "openai", "openai")]
        for number, (provider, identity) in enumerate(zip(providers, ("", "https://one", "https://two"), strict=True)):
            add(api, **{f"t{number}": "the same"})
            async with running(api, tmp_path, engine=asking(provider, identity)) as daemon:
                await daemon.reported(1)
        assert [len(provider.calls) for provider in providers] == [1, 1, 1]


class PowerCut(SqlJournal):
    """Dies before an outcome is written."""

    async def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        raise JournalError(f"the power went before {len(outcomes)} outcomes were written")


@asynccontextmanager
async def cut_off(settings: Settings, clock: Clock) -> AsyncIterator[State]:
    async with open_storage(settings.state_location, executor=Inline()) as storage:
        yield replace(await state_in(storage, settings, clock), journal=PowerCut(storage, clock))


@simulated_time
async def test_a_crash_between_the_answer_and_its_outcome_pays_nothing_twice(tmp_path: Path) -> None:
    provider = ScriptedProvider(name="openai")
    async with FakeTaskApi(clock=LoopClock()) as api:
        add(api, a="one", b="two")
        world = World(
            clock=LoopClock(), randomness=random.Random(1), engine=asking(provider), state=cut_off, serves=False
        )
        async with open_app(load_settings(None, **settings_for(api, tmp_path)), world=world) as app:
            with pytest.raises(ExceptionGroup) as caught:
                await app.run()
        assert caught.group_contains(JournalError, match="the power went")
        assert api.patches == {}
        async with running(api, tmp_path, engine=asking(provider)) as daemon:
            await daemon.reported(2)
        assert len(provider.calls) == 1
        assert answered(api, a="one", b="two")


@simulated_time
async def test_damaged_entries_are_dropped_counted_never_sent_and_never_fatal(tmp_path: Path) -> None:
    provider = ScriptedProvider(name="openai")
    async with FakeTaskApi(clock=LoopClock()) as api:
        add(api, a="one", b="two", c="three")
        async with running(api, tmp_path, engine=asking(provider)) as daemon:
            await daemon.reported(3)
        async with open_storage(f"sqlite:///{tmp_path / 'state.db'}", executor=Inline()) as storage:
            for place, damage in enumerate(("zeroblob(3088)", "'text'", "substr(entry, 1, 99)")):
                statement = text(
                    f"UPDATE embedding_cache SET entry = {damage} WHERE rowid ="  # noqa: S608  # constants
                    " (SELECT rowid FROM embedding_cache ORDER BY rowid LIMIT 1 OFFSET :place)"
                )
                await storage.write(lambda c, s=statement, p=place: c.execute(s, {"place": p}))
        add(api, d="one", e="two", f="three")
        async with running(api, tmp_path, engine=asking(provider)) as daemon:
            await daemon.reported(3)
            assert [event.count for event in daemon.watch.of(CacheDamaged)] == [3]
            assert await daemon.metric("cache_damaged_total") == 3
            assert await daemon.metric("cache_entries") == 3
        assert answered(api, a="one", b="two", c="three", d="one", e="two", f="three")


@simulated_time
async def test_a_fallback_and_the_way_back_are_changes_of_space_also_across_a_restart(tmp_path: Path) -> None:
    ollama, openai = ScriptedProvider(name="ollama"), ScriptedProvider(name="openai")
    hybrid = {"processing_mode": "hybrid", "openai_api_key": "sk-1", "max_retries": 0}

    def make(_bench: Bench, name: str) -> Engine:
        return Engine({"ollama": ollama, "openai": openai}[name], timeout=60)

    async with FakeTaskApi(clock=LoopClock()) as api:
        seen = []
        for number, down in enumerate((False, True, True, False)):
            ollama.rule = lambda _call, down=down: (
                ProviderUnavailable("connection refused", sent=False) if down else None
            )  # type: ignore[misc]
            add(api, **{f"t{number}": f"text {number}"})
            async with running(api, tmp_path, engine=make, **hybrid) as daemon:
                await daemon.reported(1)
                seen.append([(event.before, event.after) for event in daemon.watch.of(SpaceChanged)])
                assert await daemon.metric("space_changes_total", model=MODEL) == len(seen[-1])
        own, other = "ollama nomic-embed-text 768", "openai text-embedding-3-small 768"
        assert seen == [[], [(own, other)], [], [(other, own)]]
