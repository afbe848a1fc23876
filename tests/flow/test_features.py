"""The optional routes of the Task API, used by the whole daemon: found, lost, and shared by several."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.domain.events import (
    DeliveryHalted,
    FeatureFound,
    FeatureLost,
    Parked,
    Polled,
    Reported,
    ReportPostponed,
    TaskAccepted,
    TasksLetGo,
    TaskStarted,
)
from ai_task_processor.domain.ports import Backlog
from tests.fakes.daemon import Daemon, right_vector, running, simulated_time
from tests.fakes.fleet import Fleet, Life, fleet, task_server
from tests.fakes.task_api_server import FakeTaskApi, Fault, answer, drop, hang, truncate
from tests.fakes.time import LoopClock

ALL = {"claim", "bulk"}
LEASE = 60


def a_task_api(count: int, *features: str) -> FakeTaskApi:
    api = FakeTaskApi(clock=LoopClock())
    api.features = {*features} or {*ALL}
    api.body_limit = 2_000_000
    api.add(*({"_id": str(number)} for number in range(count)))
    return api


def assert_right(api: FakeTaskApi, *, times: int = 1) -> None:
    """Every task has its own vector, and the same body was sent at most so many times."""
    assert api.states() == {"succeeded": len(api.tasks)}
    for task_id, bodies in api.patches.items():
        assert len(bodies) <= times, task_id
        assert all(body == bodies[0] for body in bodies)
        assert right_vector(bodies[0]["result"], api.tasks[task_id]["content"]["text"])


def started(*daemons: Daemon) -> Counter[str]:
    """How many times each task was begun, by whoever."""
    return Counter(event.task_id for daemon in daemons for event in daemon.watch.of(TaskStarted))


# --- Both ---------------------------------------------------------------------------------------------------------


@simulated_time
async def test_tasks_are_claimed_and_results_sent_together(tmp_path: Path) -> None:
    async with a_task_api(300) as api:
        async with running(api, tmp_path, fetch_limit=100, hold_limit=100) as daemon:
            await daemon.reported(300)
            await daemon.watch.seen(Polled, 8)
            assert await daemon.backlog() == Backlog()
            assert await daemon.metric("api_feature", feature="claim") == 1
            assert await daemon.metric("api_feature", feature="bulk") == 1
            assert await daemon.metric("api_requests_total", route="/api/ai-tasks", method="PATCH") < 30
            assert (await daemon.get("/ready"))[0] == 200
            assert {event.feature for event in daemon.watch.of(FeatureFound)} == ALL
        assert_right(api)
        assert api.fetches == []
        assert max(api.given.values()) == 1
        assert max(body["limit"] for body in api.claims) == 100


@pytest.mark.parametrize(("wanted", "used"), [("none", set[str]()), ("claim", {"claim"}), ("bulk", {"bulk"})])
@simulated_time
async def test_only_what_is_wanted_is_used(tmp_path: Path, wanted: str, used: set[str]) -> None:
    async with a_task_api(20) as api:
        async with running(api, tmp_path, api_features=wanted) as daemon:
            await daemon.reported(20)
        assert_right(api)
        assert bool(api.claims) is ("claim" in used)
        assert bool(api.fetches) is ("claim" not in used)
        assert bool(api.bulks) is ("bulk" in used)


@simulated_time
async def test_an_api_without_them_is_asked_now_and_then_and_used_when_it_learns_them(tmp_path: Path) -> None:
    async with a_task_api(5) as api:
        api.features.clear()
        async with running(api, tmp_path) as daemon:
            await daemon.reported(5)
            await daemon.watch.seen(Polled, 10)
            assert daemon.watch.of(FeatureFound) == []
            api.features |= ALL
            await daemon.watch.seen(FeatureFound, feature="claim", within=700)
            api.add(*({"_id": f"later {number}"} for number in range(5)))
            await daemon.reported(10)
            await daemon.watch.seen(Polled, 60)
        assert_right(api)
        assert api.given == {f"later {number}": 1 for number in range(5)}


@simulated_time
async def test_what_is_lost_in_the_middle_loses_no_task_and_comes_back(tmp_path: Path) -> None:
    async with a_task_api(200) as api:
        async with running(
            api, tmp_path, mock_latency_seconds=1, batch_size=5, fetch_limit=50, claim_lease_seconds=LEASE
        ) as daemon:
            await daemon.reported(20)
            api.features.clear()
            await daemon.watch.seen(FeatureLost, feature="bulk")
            await daemon.watch.seen(FeatureLost, feature="claim")
            await daemon.reported(120)
            api.features |= ALL
            await daemon.watch.seen(FeatureFound, 2, feature="claim")
            await daemon.reported(200)
            await daemon.watch.seen(Polled, len(daemon.watch.of(Polled)) + 5)
            assert await daemon.backlog() == Backlog()
            assert await daemon.metric("api_feature", feature="claim") == 1
            assert set(started(daemon).values()) == {1}
        assert_right(api)
        assert api.fetches


@simulated_time
async def test_the_restart_of_an_api_behind_a_proxy_loses_no_route(tmp_path: Path) -> None:
    async with a_task_api(60) as api:
        async with running(api, tmp_path, mock_latency_seconds=1, batch_size=5, fetch_limit=10) as daemon:
            await daemon.reported(10)
            for route in ("claim", "fetch", "patch", "bulk"):
                api.always(route, answer(404, "default backend - 404"))
            await daemon.watch.seen(ReportPostponed)
            await daemon.watch.seen(DeliveryHalted)
            api.heal()
            await daemon.reported(60)
            assert daemon.watch.of(FeatureLost, feature="claim") == []
        assert_right(api, times=100)
        assert max(api.given.values()) == 1


# --- Many results -----------------------------------------------------------------------------------------------------


@simulated_time
async def test_each_of_many_results_ends_by_its_own_status(tmp_path: Path) -> None:
    async with a_task_api(40) as api:
        for task_id, statuses in {"1": [404], "2": [409], "3": [422], "4": [500] * 3, "5": [503], "6": [410]}.items():
            api.script("patch", *map(answer, statuses), task_id=task_id)
        async with running(api, tmp_path) as daemon:
            await daemon.reported(39)
            await daemon.watch.seen(Polled, 5)
            receipts = {event.task_id: event.receipt for event in daemon.watch.of(Reported) if event.receipt != "taken"}
            assert receipts == {"1": "gone", "2": "conflict", "6": "gone"}
            assert [event.task_id for event in daemon.watch.of(Parked)] == ["3"]
            assert Counter(event.task_id for event in daemon.watch.of(ReportPostponed)) == {"4": 3, "5": 1}
            assert await daemon.backlog() == Backlog(parked=1)
            assert not daemon.watch.of(DeliveryHalted)
        sent = {task_id: len(bodies) for task_id, bodies in api.patches.items()}
        assert sent == {str(number): 1 for number in range(40)} | {"4": 4, "5": 2}


@pytest.mark.parametrize("fault", [answer(500), answer(503), drop(), drop(effect=True), hang(), truncate()])
@simulated_time
async def test_a_request_with_many_results_that_fails_is_sent_again(tmp_path: Path, fault: Fault) -> None:
    async with a_task_api(100) as api:
        api.script("bulk", answer(200, {"results": []}), fault, fault)
        async with running(api, tmp_path) as daemon:
            await daemon.reported(100)
            assert daemon.watch.of(ReportPostponed)
            assert await daemon.backlog() == Backlog()
            assert await daemon.metric("provider_inputs_total") == 100
        assert_right(api, times=2)


@simulated_time
async def test_a_result_that_spoils_every_request_ends_alone(tmp_path: Path) -> None:
    """As where the whole request answers 500 because one callback throws."""

    class Spoilt(FakeTaskApi):
        def _fault(self, route: str, task_id: str | None) -> Fault | None:  # type: ignore[override]
            if route == "bulk" and any("13" in ids for ids in self.bulks[-1:]):
                return answer(500)
            return super()._fault(route, task_id)  # type: ignore[arg-type]

    async with Spoilt(clock=LoopClock()) as api:
        api.features = {*ALL}
        api.add(*({"_id": str(number)} for number in range(64)))
        api.script("patch", answer(500), answer(500), task_id="13")
        async with running(api, tmp_path) as daemon:
            await daemon.reported(64)
        assert_right(api, times=4)


@simulated_time
async def test_a_refused_token_is_replaced_once_for_all(tmp_path: Path) -> None:
    async with a_task_api(200) as api:
        async with running(api, tmp_path, mock_latency_seconds=1, batch_size=20) as daemon:
            await daemon.watch.seen(TaskAccepted, 200)
            api.revoke_tokens()
            await daemon.reported(200)
            assert len(api.token_requests) == 2
            assert (await daemon.get("/ready"))[0] == 200
        assert_right(api, times=2)
        assert {len(bodies) for bodies in api.applied.values()} == {1}


@simulated_time
async def test_who_is_not_let_in_keeps_everything_and_tries_slowly(tmp_path: Path) -> None:
    async with a_task_api(100) as api:
        async with running(api, tmp_path, mock_latency_seconds=1) as daemon:
            await daemon.watch.seen(TaskAccepted, 100)
            for route in ("claim", "fetch", "patch", "bulk"):
                api.always(route, answer(403))
            await daemon.watch.seen(DeliveryHalted)
            assert (await daemon.get("/ready"))[0] == 503
            before = len(api.requests)
            await asyncio.sleep(900)
            assert len(api.requests) - before < 400
            assert (await daemon.backlog()).unreported == 100
            api.heal()
            await daemon.reported(100)
            await daemon.watch.seen(Polled, len(daemon.watch.of(Polled)) + 1)
            assert (await daemon.get("/ready"))[0] == 200
            assert await daemon.metric("provider_inputs_total") == 100
        assert_right(api, times=100)


# --- Leases -----------------------------------------------------------------------------------------------------------


@simulated_time
async def test_what_takes_longer_than_a_lease_stays_ours(tmp_path: Path) -> None:
    async with a_task_api(30) as api:
        async with running(
            api, tmp_path, mock_latency_seconds=3 * LEASE, batch_size=10, claim_lease_seconds=LEASE
        ) as daemon:
            await daemon.reported(30)
            assert set(started(daemon).values()) == {1}
        assert_right(api)
        assert api.given == dict.fromkeys(api.tasks, 1)
        assert len({body["worker"] for body in api.claims if body["limit"]}) == 1


@simulated_time
async def test_what_is_ours_stays_ours_over_a_restart(tmp_path: Path) -> None:
    async with a_task_api(40) as api:
        settings = {"mock_latency_seconds": 5, "batch_size": 4, "concurrency_limit": 1, "claim_lease_seconds": LEASE}
        async with running(api, tmp_path, **settings) as daemon:
            await daemon.reported(8)
        await asyncio.sleep(LEASE - 20)
        async with running(api, tmp_path, **settings) as daemon:
            await daemon.watch.seen(Reported, 40 - api.states()["succeeded"])
        assert_right(api)
        assert api.given == dict.fromkeys(api.tasks, 1)


@simulated_time
async def test_what_is_being_given_when_a_stop_comes_is_kept(tmp_path: Path) -> None:
    """Or it would lie still until the lease ends."""

    class Slow(FakeTaskApi):
        async def _answered(self, *args: Any) -> Any:
            answer = await super()._answered(*args)
            if self.given and args[0] == "claim":
                given.set()
                await asyncio.sleep(0.5)
            return answer

    given = asyncio.Event()
    async with Slow(clock=LoopClock()) as api:
        api.features = {*ALL}
        api.add(*({"_id": str(number)} for number in range(40)))
        async with running(api, tmp_path):
            await given.wait()
        assert api.patches == {}
        async with running(api, tmp_path) as daemon:
            await daemon.reported(40)
        assert_right(api)
        assert api.given == dict.fromkeys(api.tasks, 1)


@simulated_time
async def test_what_was_ours_goes_to_others_when_we_stay_away(tmp_path: Path) -> None:
    async with a_task_api(40) as api:
        settings = {"mock_latency_seconds": 5, "batch_size": 4, "concurrency_limit": 1, "claim_lease_seconds": LEASE}
        async with running(api, tmp_path / "one", **settings) as daemon:
            await daemon.reported(8)
        left = api.states()["in_progress"]
        assert left > 20
        async with running(api, tmp_path / "two", **settings) as other:
            await asyncio.sleep(LEASE)
            await other.reported(left)
        async with running(api, tmp_path / "one", **settings) as late:
            assert (await late.watch.seen(TasksLetGo)).count == left
            await late.watch.seen(Polled, 5)
            assert await late.backlog() == Backlog()
            assert started(late) == {}, "the other has done and paid for all of them"
        assert_right(api)
        assert api.states() == {"succeeded": 40}


@simulated_time
async def test_in_a_long_outage_nothing_is_begun_that_may_be_others_by_now(tmp_path: Path) -> None:
    async with a_task_api(60) as api:
        settings = {"mock_latency_seconds": 10, "batch_size": 2, "concurrency_limit": 1, "claim_lease_seconds": LEASE}
        async with running(api, tmp_path, **settings) as daemon:
            await daemon.watch.seen(TaskAccepted, 60)
            await api.down()
            await daemon.watch.seen(TasksLetGo)
            begun = len(started(daemon))
            await asyncio.sleep(10 * LEASE)
            assert len(started(daemon)) <= begun + 2, "what was under way"
            assert 8 <= begun <= 20
            await api.up()
            await daemon.reported(60)
            assert set(started(daemon).values()) == {1}
        assert_right(api, times=100)


@simulated_time
async def test_a_result_whose_lease_has_passed_to_another_is_taken_or_ends_the_matter(tmp_path: Path) -> None:
    """The first is cut off from the API while it works; the second finishes its tasks meanwhile."""
    async with a_task_api(20) as api, AsyncExitStack() as stack:
        api.conflict_when_finished = True
        first = await stack.enter_async_context(
            running(api, tmp_path / "one", mock_latency_seconds=2 * LEASE, claim_lease_seconds=1, api_features="claim")
        )
        await first.watch.seen(TaskAccepted, 20)
        api.always("claim", drop())
        await asyncio.sleep(1)
        api.heal()
        second = await stack.enter_async_context(running(api, tmp_path / "two", claim_lease_seconds=LEASE))
        await second.reported(20)
        await first.reported(20)
        assert {event.receipt for event in first.watch.of(Reported)} == {"conflict"}
        assert await first.backlog() == Backlog()
        assert api.states() == {"succeeded": 20}


# --- Several daemons --------------------------------------------------------------------------------------------------


@simulated_time
async def test_daemons_share_the_work_without_sharing_a_state(tmp_path: Path) -> None:
    async with a_task_api(300) as api, AsyncExitStack() as stack:
        crew = [
            await stack.enter_async_context(
                running(
                    api,
                    tmp_path / str(number),
                    mock_latency_seconds=1,
                    batch_size=10,
                    fetch_limit=20,
                    polling_interval_seconds=2,
                    claim_lease_seconds=LEASE,
                )
            )
            for number in range(3)
        ]
        while api.states()["succeeded"] < 300:  # noqa: ASYNC110  # any of them may be the last
            await asyncio.sleep(1)
        assert set(started(*crew).values()) == {1}
        assert all(len(started(daemon)) > 50 for daemon in crew), "each has its share"
        assert len({body["worker"] for body in api.claims if body["limit"]}) == 3
    assert_right(api)
    assert api.fetches == []


async def test_the_tasks_of_one_that_is_killed_pass_on_to_the_other(tmp_path: Path) -> None:
    count = 200
    settings = {
        "api_features": "claim,bulk",
        "claim_lease_seconds": 1,
        "mock_latency_seconds": 0.3,
        "fetch_limit": 50,
        "batch_size": 8,
        "concurrency_limit": 2,
        "polling_interval_seconds": 0.5,
        "log_level": "debug",
    }
    texts = [f"text number {number}" for number in range(count)]
    async with task_server(tmp_path) as tasks, fleet(tasks, "", tmp_path, **settings) as crew:
        ids = await tasks.post(texts)
        await start(crew, "one", "two")
        await crew.ready()
        await tasks.until("succeeded", count // 8, within=60)
        await crew.until(lambda: len(left(crew.running[0])) >= 20)
        await crew.kill(0)
        await tasks.until("succeeded", count, within=60)
        await crew.stop()
        await start(crew, "one")  # whose outcomes have all been delivered, by itself or by the other
        await crew.ready()
        await crew.stop()
        results = await tasks.results()
        counts = await tasks.counts()
    assert counts == {"succeeded": count}
    assert all(right_vector(results[task_id], text) for task_id, text in zip(ids, texts, strict=True))
    killed, survivor, again = crew.lives
    assert begun(survivor).isdisjoint(finished(killed))
    assert begun(survivor) & left(killed), "what the dead one held"
    assert {line["level"] for life in crew.lives for line in life.process.lines} <= {"debug", "info", "warning"}
    assert again.process.logged("AI Task Processor stopped", unreported=0)


async def start(crew: Fleet, *names: str) -> None:
    """Start daemons that share nothing but the Task API."""
    for name in names:
        await crew.start(state_url=f"sqlite:///{name}.db")


def begun(life: Life) -> set[str]:
    return {*life.tasks("Processing text embedding task")}


def finished(life: Life) -> set[str]:
    return {*life.tasks("Outcome reported")}


def left(life: Life) -> set[str]:
    """What it holds, done or not."""
    return {*life.tasks("Task accepted")} - finished(life)
