"""Everything that the contract says has been seen in real servers, lived with by the whole daemon."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ai_task_processor.domain.events import (
    ClaimLost,
    EntryUnusable,
    Polled,
    PollFailed,
    Reported,
    ReportPostponed,
    TaskAccepted,
    TaskSettled,
    TypeUnknown,
)
from ai_task_processor.domain.ports import Backlog
from tests.fakes.daemon import right_vector, running, simulated_time
from tests.fakes.task_api_server import FakeTaskApi, answer
from tests.fakes.time import LoopClock

NOTHING_HELD = Backlog()


def dated(number: int, **facts: Any) -> dict[str, Any]:
    """A task that is ``number`` seconds younger than the oldest."""
    minutes, seconds = divmod(number, 60)
    hours, minutes = divmod(minutes, 60)
    return {"_id": f"t{number:05}", "createdAt": f"2024-01-01T{hours:02}:{minutes:02}:{seconds:02}.000Z", **facts}


def shuffled(count: int) -> list[dict[str, Any]]:
    tasks = [dated(number) for number in range(count)]
    random.Random(5).shuffle(tasks)
    return tasks


def assert_each_done_once(api: FakeTaskApi) -> None:
    assert api.states() == {"succeeded": len(api.tasks)}
    assert {len(bodies) for bodies in api.patches.values()} == {1}
    assert all(right_vector(task["result"], task["content"]["text"]) for task in api.tasks.values())


# --- The limit is ignored ---------------------------------------------------------------------------------------------


@simulated_time
async def test_a_server_that_ignores_the_limit(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.ignore_limit = True
        api.add(*shuffled(600))
        async with running(api, tmp_path, hold_limit=200, fetch_limit=100, mock_latency_seconds=1) as daemon:
            await daemon.watch.seen(Polled)
            accepted = [event.task_id for event in daemon.watch.of(TaskAccepted)]
            assert accepted == [f"t{number:05}" for number in range(200)], "what there is room for, oldest first"
            await daemon.reported(600)
            assert len(api.fetches) <= 8, "not the same page again while there is work"
            assert await daemon.backlog() == NOTHING_HELD
        assert_each_done_once(api)


@simulated_time
async def test_fifty_thousand_tasks_in_one_page(tmp_path: Path) -> None:
    text = "x" * 600
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.ignore_limit = True
        api.add(*shuffled(50_000))
        for task in api.tasks.values():
            task["content"]["text"] += text
        async with running(api, tmp_path, hold_limit=256, mock_latency_seconds=1) as daemon:
            polled = await daemon.watch.seen(Polled)
            assert (polled.listed, polled.accepted) == (50_000, 256)
            await daemon.reported(256)
            assert (await daemon.get("/health"))[0] == 200
            assert len(api.fetches) <= 2
        done = sorted(api.patches)
        assert done[:256] == [f"t{number:05}" for number in range(256)]
        assert {len(bodies) for bodies in api.patches.values()} == {1}


# --- Tasks are listed until they have been PATCHed --------------------------------------------------------------------


@simulated_time
async def test_a_task_is_listed_again_while_it_is_held(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(500), task_id="a")
        api.add({"_id": "a"})
        async with running(api, tmp_path, mock_latency_seconds=200) as daemon:
            await daemon.watch.seen(Polled, 6)
            assert daemon.watch.of(TaskSettled) == [], "listed again while it is embedded"
            await daemon.watch.seen(ReportPostponed, 3)
            await daemon.watch.seen(Polled, 20)
            api.heal()
            await daemon.reported(1)
            assert await daemon.metric("provider_inputs_total") == 1
            assert sum(event.accepted for event in daemon.watch.of(Polled)) == 1
        assert right_vector(api.tasks["a"]["result"], "text of a")


# --- Shapes -----------------------------------------------------------------------------------------------------------


@simulated_time
async def test_shapes_of_tasks(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.tasks["by id"] = {"id": "by id", "type": "text_embedding", "state": "pending", "content": {"text": "one"}}
        api.add(
            {"_id": "bare", "content": "two"},
            {"_id": "extra", "content": {"text": "three", "language": "en"}, "__v": 0, "owner": {"name": "x"}},
            {"_id": "short", "content": {"text": "four", "dimensions": 64}},
            {"_id": "latest", "content": {"text": "five", "model": "nomic-embed-text:latest"}},
            {"_id": "wide", "content": {"text": "six", "model": "text-embedding-3-large"}},
            {"_id": "undated", "createdAt": None, "content": {"text": "seven"}},
            {"_id": "a/b?c#d é", "content": {"text": "eight"}},
        )
        async with running(api, tmp_path) as daemon:
            await daemon.reported(8)
            assert await daemon.backlog() == NOTHING_HELD
        results = {task_id: task["result"] for task_id, task in api.tasks.items()}
        assert right_vector(results["by id"], "one")
        assert right_vector(results["bare"], "two")
        assert right_vector(results["extra"], "three")
        assert right_vector(results["short"], "four", dimensions=64)
        assert right_vector(results["latest"], "five")
        assert right_vector(results["wide"], "six", model="text-embedding-3-large")
        assert len(results["wide"]) == 3_072, "under the body limit of 100 kB"
        assert right_vector(results["undated"], "seven")
        assert right_vector(results["a/b?c#d é"], "eight")


@simulated_time
async def test_priority_goes_before_age(tmp_path: Path) -> None:
    ranks: list[Any] = ["low", None, 7, "high", "critical", 0, "HIGH", "unheard of"]
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*(dated(number, priority=rank) for number, rank in enumerate(ranks)))
        async with running(api, tmp_path, batch_size=1, concurrency_limit=1, delivery_concurrency=1) as daemon:
            await daemon.reported(len(ranks))
            order = [ranks[int(event.task_id[1:])] for event in daemon.watch.of(TaskSettled)]
        assert order == ["critical", 0, "high", "HIGH", None, "unheard of", "low", 7]


@simulated_time
async def test_the_detailed_result(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "a"})
        async with running(api, tmp_path, result_format="detailed") as daemon:
            await daemon.reported(1)
        result = api.tasks["a"]["result"]
        assert right_vector(result.pop("embedding"), "text of a")
        tokens = result["usage"]["total_tokens"]
        assert tokens > 0
        assert result == {
            "model": "nomic-embed-text",
            "provider": "mock",
            "dimensions": 768,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


# --- Malformed among good ---------------------------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[Any, str]] = {
    "no content": (None, "content must be a text, or an object"),
    "a list": ([1], "content must be a text, or an object"),
    "no text": ({"model": "nomic-embed-text"}, "content.text must be a string, not missing"),
    "a number": ({"text": 5}, "content.text must be a string, not a number"),
    "empty": ({"text": "  "}, "content.text is empty"),
    "model": ({"text": "x", "model": 7}, "content.model must be the name of a model"),
    "dimensions": ({"text": "x", "dimensions": -1}, "content.dimensions must be a whole number"),
}


@simulated_time
async def test_unusable_content_fails_with_words_for_the_author_and_stops_nobody(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add(*({"_id": name, "content": content} for name, (content, _) in UNUSABLE.items()))
        api.add(*({"_id": str(number)} for number in range(20)))
        async with running(api, tmp_path) as daemon:
            await daemon.reported(20 + len(UNUSABLE))
            assert await daemon.backlog() == NOTHING_HELD
            assert await daemon.metric("tasks_total", status="failed") == len(UNUSABLE)
            assert await daemon.metric("provider_inputs_total") == 20
        for name, (_, words) in UNUSABLE.items():
            (body,) = api.patches[name]
            assert body["state"] == "failed"
            assert body["result"] is None
            assert words in body["error"]
        assert all(right_vector(api.tasks[str(number)]["result"], f"text of {number}") for number in range(20))


@simulated_time
async def test_a_model_that_is_not_served_here_fails_with_those_that_are(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "a", "content": {"text": "x", "model": "unheard-of"}})
        ollama = {"ollama_base_url": "http://127.0.0.1:9", "supported_models": ("m1", "m2")}
        async with running(api, tmp_path, processing_mode="ollama", **ollama) as daemon:
            await daemon.reported(1)
        assert api.tasks["a"]["error"] == "content.model unheard-of is not supported here; use one of: m1, m2."


@simulated_time
async def test_entries_without_a_usable_id_are_told_counted_and_left_alone(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.entries = [None, 7, [], {"type": "text_embedding", "content": "x"}, {"_id": {"a": 1}}, {"_id": ""}]
        api.add({"_id": "good"})
        async with running(api, tmp_path) as daemon:
            await daemon.reported(1)
            unusable = await daemon.watch.seen(EntryUnusable)
            assert unusable.count == 6
            assert await daemon.metric("entries_unusable_total") >= 6
            await daemon.watch.seen(Polled, 10)
            assert (await daemon.get("/ready"))[0] == 200
        assert list(api.patches) == ["good"]


@simulated_time
async def test_a_type_that_nobody_here_knows_stays_pending(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "strange", "type": "vision"}, {"_id": "good"}, {"_id": "typeless", "type": 5})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Polled, 5)
            assert await daemon.backlog() == NOTHING_HELD
            assert await daemon.metric("tasks_unknown_type_total") >= 2
            assert {event.type for event in daemon.watch.of(TypeUnknown)} == {"vision", ""}
        assert list(api.patches) == ["good"]
        assert api.states() == {"pending": 2, "succeeded": 1}


@simulated_time
async def test_a_type_that_nobody_here_knows_fails_where_that_is_asked_for(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "strange", "type": "vision"}, {"_id": "good"})
        async with running(api, tmp_path, unknown_task_types="fail") as daemon:
            await daemon.reported(2)
        assert api.tasks["strange"]["error"] == "type 'vision' is not known here; known types: text_embedding"
        assert api.tasks["good"]["state"] == "succeeded"


@pytest.mark.parametrize(
    "page", [b"<html>login</html>", b"", b'{"message": "hello"}', b"null", b'[{"_id": "a"', b'"tasks"']
)
@simulated_time
async def test_a_page_that_is_none_is_asked_for_again(tmp_path: Path, page: bytes) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("fetch", answer(200, page), answer(200, page))
        api.add({"_id": "a"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(PollFailed, 2)
            assert (await daemon.get("/ready"))[1]["checks"]["task_api"]["ok"] is False
            await daemon.reported(1)
            assert (await daemon.get("/ready"))[0] == 200
        assert_each_done_once(api)


# --- Nothing starves --------------------------------------------------------------------------------------------------


@simulated_time
async def test_tasks_left_alone_do_not_starve_the_queue(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.entries = [{"content": "no id"}] * 50
        api.add(*({"_id": f"strange {number}", "type": "vision"} for number in range(300)))
        api.add(*({"_id": f"good {number}"} for number in range(60)))
        async with running(api, tmp_path, fetch_limit=10) as daemon:
            await daemon.reported(60)
            assert await daemon.backlog() == NOTHING_HELD
        assert api.states() == {"pending": 300, "succeeded": 60}
        assert {len(bodies) for bodies in api.patches.values()} == {1}


@simulated_time
async def test_parked_and_postponed_tasks_do_not_starve_the_queue(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        for number in range(40):
            api.always("patch", answer(400 if number % 2 else 500), task_id=f"bad {number}")
        api.add(*({"_id": f"bad {number}"} for number in range(40)))
        api.add(*({"_id": f"good {number}"} for number in range(40)))
        async with running(api, tmp_path, fetch_limit=10) as daemon:
            await daemon.reported(40)
            held = await daemon.backlog()
            assert (held.parked, held.unreported) == (20, 20)
        assert {task["state"] for task_id, task in api.tasks.items() if "good" in task_id} == {"succeeded"}


# --- Stale pages, and tasks set back ----------------------------------------------------------------------------------


class SlowPages(FakeTaskApi):
    """Makes each page at once, and sends it when ``gate`` is open."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.gate = asyncio.Event()
        self.gate.set()

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        page = await super()._fetch(request)
        await self.gate.wait()
        return page


@simulated_time
async def test_a_page_requested_before_the_acknowledgement_brings_nothing_back(tmp_path: Path) -> None:
    async with SlowPages(clock=LoopClock()) as api:
        api.add({"_id": "a"})
        async with running(api, tmp_path, mock_latency_seconds=100, request_timeout=600) as daemon:
            await daemon.watch.seen(TaskAccepted)
            api.gate.clear()
            pages = len(api.fetches)
            await api.until(lambda: len(api.fetches) > pages)  # this page lists the task, which is being embedded
            await daemon.reported(1)
            assert api.states() == {"succeeded": 1}
            api.gate.set()
            polled = await daemon.watch.seen(Polled, len(daemon.watch.of(Polled)) + 1)
            assert (polled.listed, polled.accepted) == (1, 0)
            await daemon.watch.seen(Polled, len(daemon.watch.of(Polled)) + 3)
            assert await daemon.metric("provider_inputs_total") == 1
        assert len(api.patches["a"]) == 1


@simulated_time
async def test_a_task_set_back_to_pending_is_done_again(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "a"})
        async with running(api, tmp_path) as daemon:
            await daemon.reported(1)
            api.tasks["a"] |= {"state": "pending", "content": {"text": "a new text", "model": "nomic-embed-text"}}
            await daemon.reported(2)
            assert await daemon.backlog() == NOTHING_HELD
        assert right_vector(api.patches["a"][0]["result"], "text of a")
        assert right_vector(api.patches["a"][1]["result"], "a new text")
        assert len(api.patches["a"]) == 2


# --- Claims -----------------------------------------------------------------------------------------------------------


@simulated_time
async def test_claiming_says_in_progress_first_and_leaves_what_somebody_else_has(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("patch", answer(409, effect=True), task_id="theirs")
        api.add({"_id": "ours"}, {"_id": "theirs"})
        async with running(api, tmp_path, claim_tasks=True) as daemon:
            await daemon.watch.seen(ClaimLost, task_id="theirs")
            await daemon.reported(1)
            assert await daemon.backlog() == NOTHING_HELD
            assert await daemon.metric("claims_lost_total", receipt="conflict") == 1
        assert api.patches["theirs"] == [{"state": "in_progress"}]
        assert [body["state"] for body in api.patches["ours"]] == ["in_progress", "succeeded"]


@simulated_time
async def test_our_own_claims_are_resumed_after_a_restart(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "a"})
        with pytest.RaisesGroup(pytest.RaisesExc(Crash), allow_unwrapped=True, flatten_subgroups=True):
            async with running(api, tmp_path, claim_tasks=True, mock_latency_seconds=50):
                await api.until(lambda: "a" in api.patches)
                raise Crash
        assert api.states() == {"in_progress": 1}, "never listed again"
        async with running(api, tmp_path, claim_tasks=True) as daemon:
            await daemon.reported(1)
        assert api.states() == {"succeeded": 1}


class Crash(Exception):
    """The power fails."""


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", [3, "3600", None, 90, 1_000_000])
@simulated_time
async def test_tokens_of_any_life_are_asked_for_seldom(tmp_path: Path, life: Any) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.token_life = life
        api.add(*({"_id": str(number)} for number in range(100)))
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Polled, 20)
            assert api.states() == {"succeeded": 100}
            assert not [event for event in daemon.watch.events if isinstance(event, PollFailed)]
            assert len(api.token_requests) <= len(api.fetches) + 1
        assert_each_done_once(api)


@simulated_time
async def test_wrong_credentials_are_told_tried_slowly_and_mended(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.client_secret = "rotated"
        api.add({"_id": "a"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(PollFailed, 10)
            code, body = await daemon.get("/ready")
            assert code == 503
            assert "OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET" in body["checks"]["token"]["detail"]
            assert (await daemon.get("/health"))[0] == 200
            assert await daemon.metric("token_requests_total", outcome="refused") >= 1
            assert api.fetches == []
            api.client_secret = str(daemon.settings.oauth2_client_secret.get_secret_value())
            await daemon.reported(1)
            assert (await daemon.get("/ready"))[0] == 200
        assert_each_done_once(api)


@simulated_time
async def test_a_token_endpoint_that_is_down_behaves_like_an_api_that_is_down(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("token", answer(503))
        api.add({"_id": "a"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(PollFailed, 5)
            assert (await daemon.get("/ready"))[0] == 503
            assert (await daemon.get("/health"))[0] == 200
            api.heal()
            await daemon.watch.seen(Reported, within=120)
        assert_each_done_once(api)


@simulated_time
async def test_a_token_endpoint_down_for_an_hour_delays_no_outcome_by_itself(tmp_path: Path) -> None:
    clock = LoopClock()
    async with FakeTaskApi(clock=clock) as api:
        api.token_life = 30
        api.add(*({"_id": str(number)} for number in range(20)))
        async with running(api, tmp_path, mock_latency_seconds=60) as daemon:
            await daemon.watch.seen(TaskAccepted, 20)
            api.always("token", answer(503))
            later = clock.now() + 3_600
            await daemon.watch.until(lambda: clock.now() > later)
            assert (await daemon.backlog()).unreported == 20
            api.heal()
            mended = clock.now()
            await daemon.reported(20)
            assert clock.now() - mended < 120
        assert_each_done_once(api)
