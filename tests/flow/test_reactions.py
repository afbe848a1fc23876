"""Every row of the contract's table: what the Task API answers to a PATCH, and what the whole daemon does then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.domain.events import DeliveryHalted, Parked, Polled, Reported, ReportPostponed, TaskAccepted
from ai_task_processor.domain.ports import Backlog
from ai_task_processor.journal.state import State
from tests.fakes.daemon import Daemon, right_vector, running, simulated_time
from tests.fakes.task_api_server import FakeTaskApi, Fault, answer, drop, hang, truncate
from tests.fakes.time import LoopClock

NOTHING_HELD = Backlog()
PATCH = {"route": "/api/ai-tasks/{id}", "method": "PATCH"}


def assert_done(api: FakeTaskApi, *task_ids: str, times: int = 1) -> None:
    """Each of these tasks has its own vector, and the very same body was sent so many times."""
    for task_id in task_ids:
        bodies = api.patches[task_id]
        assert len(bodies) == times, task_id
        assert all(body == bodies[0] for body in bodies)
        assert set(bodies[0]) == {"state", "result"}
        assert bodies[0]["state"] == "succeeded"
        assert right_vector(bodies[0]["result"], api.tasks[task_id]["content"]["text"])


async def embedded(daemon: Daemon) -> float:
    """How many texts the provider was asked for."""
    return await daemon.metric("provider_inputs_total")


# --- 2xx: done --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@simulated_time
async def test_taken_is_done(tmp_path: Path, status: int) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(status, effect=True))
        api.add({"_id": "a"}, {"_id": "b"}, {"_id": "c"})
        async with running(api, tmp_path) as daemon:
            await daemon.reported(3)
            assert await daemon.backlog() == NOTHING_HELD
            assert await daemon.metric("reported_total", receipt="taken") == 3
            assert await daemon.metric("api_requests_total", status=str(status), **PATCH) == 3
            await daemon.watch.seen(Polled, 3)
        assert_done(api, "a", "b", "c")
        assert api.states() == {"succeeded": 3}


@simulated_time
async def test_taken_although_the_answer_broke_off_after_its_head(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("patch", truncate())
        api.add({"_id": "a"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Polled, 5)
            assert await daemon.backlog() == NOTHING_HELD
        assert_done(api, "a")


# --- 404, 410: gone; 409: somebody finished it ------------------------------------------------------------------------


@simulated_time
async def test_a_task_deleted_while_it_was_embedded_is_done_and_counted(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.add({"_id": "a"}, {"_id": "b"})
        async with running(api, tmp_path, mock_latency_seconds=2) as daemon:
            await daemon.watch.seen(TaskAccepted, 2)
            del api.tasks["a"]
            await daemon.reported(2)
            await daemon.watch.seen(Polled, 5)
            assert await daemon.metric("reported_total", receipt="gone") == 1
            assert await daemon.backlog() == NOTHING_HELD
        assert_done(api, "b")
        assert len(api.patches["a"]) == 1


@pytest.mark.parametrize(("status", "receipt"), [(404, "gone"), (410, "gone"), (409, "conflict")])
@simulated_time
async def test_gone_and_conflict_end_the_matter(tmp_path: Path, status: int, receipt: str) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("patch", answer(status, effect=True), task_id="a")
        api.add({"_id": "a"}, {"_id": "b"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Reported, receipt=receipt, task_id="a")
            await daemon.watch.seen(Polled, 5)
            assert await daemon.metric("reported_total", receipt=receipt) == 1
            assert await daemon.backlog() == NOTHING_HELD
            assert (await daemon.get("/ready"))[0] == 200
        assert_done(api, "a", "b")


@simulated_time
async def test_a_task_finished_by_somebody_else_keeps_their_result(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.conflict_when_finished = True
        api.add({"_id": "a"})
        async with running(api, tmp_path, mock_latency_seconds=2) as daemon:
            await daemon.watch.seen(TaskAccepted)
            api.tasks["a"] |= {"state": "succeeded", "result": [1.0]}
            await daemon.watch.seen(Reported, receipt="conflict")
            await daemon.watch.seen(Polled, 5)
            assert await daemon.backlog() == NOTHING_HELD
        assert api.tasks["a"]["result"] == [1.0]
        assert len(api.patches["a"]) == 1


# --- 400, 413, 422: refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
@simulated_time
async def test_refused_is_parked_and_can_be_sent_again(tmp_path: Path, status: int) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(status, {"message": "result must have 3 numbers"}), task_id="a")
        api.add({"_id": "a"}, {"_id": "b"})
        async with running(api, tmp_path) as daemon:
            parked = await daemon.watch.seen(Parked, task_id="a")
            assert f"HTTP {status}: result must have 3 numbers" in parked.reason
            await daemon.watch.seen(Polled, 20)
            assert len(api.patches["a"]) == 1, "a parked task is listed with every poll, and not done again"
            assert await embedded(daemon) == 2
            assert await daemon.metric("parked_results") == await daemon.metric("parked_total") == 1
            (row,) = await daemon.operator.list_rows({State.PARKED})
            assert (row.id, row.reason) == ("a", parked.reason)
            api.heal()
            assert await daemon.operator.retry(["a"]) == 1
            await daemon.watch.seen(Reported, task_id="a", within=300)
            assert await daemon.backlog() == NOTHING_HELD
            assert await embedded(daemon) == 2, "what was paid for is sent, not made again"
        assert_done(api, "a", times=2)
        assert_done(api, "b")


@simulated_time
async def test_a_refused_error_field_is_dropped_and_sent_once_more(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.forbid_error_field = True
        api.add({"_id": "a", "content": {"model": "nomic-embed-text"}})
        async with running(api, tmp_path) as daemon:
            await daemon.reported(1)
            assert await daemon.backlog() == NOTHING_HELD
        refused, taken = api.patches["a"]
        assert refused == {
            "state": "failed",
            "result": None,
            "error": "content.text must be a string, not missing.",
        }
        assert taken == {"state": "failed", "result": None}


# --- 401, 403: token, or not allowed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@simulated_time
async def test_a_refused_token_is_replaced_once_and_the_request_repeated(tmp_path: Path, status: int) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.refusal_status = status
        api.add(*({"_id": str(number)} for number in range(50)))
        async with running(api, tmp_path, mock_latency_seconds=1) as daemon:
            await daemon.watch.seen(TaskAccepted, 50)
            api.revoke_tokens()
            await daemon.reported(50)
            assert len(api.token_requests) == 2, "fifty refusals of one token are one refusal"
            assert await daemon.backlog() == NOTHING_HELD
            assert (await daemon.get("/ready"))[0] == 200
        assert {len(bodies) for bodies in api.applied.values()} == {1}
        assert api.states() == {"succeeded": 50}


@pytest.mark.parametrize("status", [401, 403])
@simulated_time
async def test_a_fresh_token_that_is_refused_keeps_everything_and_tries_slowly(tmp_path: Path, status: int) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(status))
        api.add(*({"_id": str(number)} for number in range(40)))
        async with running(api, tmp_path) as daemon:
            halted = await daemon.watch.seen(DeliveryHalted)
            assert f"HTTP {status}" in halted.reason
            code, body = await daemon.get("/ready")
            assert code == 503
            assert "OAUTH2_CLIENT_ID" in body["checks"]["task_api"]["detail"]
            began = len(api.requests)
            await daemon.watch.seen(Polled, 31)
            assert len(api.requests) - began < 400, "a quarter of an hour"
            assert len(api.token_requests) < 10
            assert (await daemon.backlog()).unreported == 40
            assert await embedded(daemon) == 40
            api.heal()
            await daemon.reported(40)
            assert await daemon.backlog() == NOTHING_HELD
            assert (await daemon.get("/ready"))[0] == 200
        assert {len(bodies) for bodies in api.applied.values()} == {1}


# --- 408, 425, 429, 5xx, no answer: not now ---------------------------------------------------------------------------

NOT_NOW: dict[str, Callable[[], Fault]] = {
    **{str(status): lambda status=status: answer(status) for status in (408, 425, 429, 500, 502, 503, 504)},
    "reset": drop,
    "hang": hang,
}


@pytest.mark.parametrize("fault", NOT_NOW)
@simulated_time
async def test_not_now_is_kept_and_sent_until_it_is_taken(tmp_path: Path, fault: str) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("patch", *(NOT_NOW[fault]() for _ in range(4)), task_id="a")
        api.add({"_id": "a"}, {"_id": "b"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Reported, task_id="b")
            await daemon.watch.seen(Reported, task_id="a")
            postponed = daemon.watch.of(ReportPostponed, task_id="a")
            assert len(postponed) == 4
            assert await daemon.metric("postponed_total") == 4
            assert await daemon.backlog() == NOTHING_HELD
            assert await embedded(daemon) == 2
        assert_done(api, "a", times=5)
        assert_done(api, "b")


@pytest.mark.parametrize("status", [429, 503, 500])
@simulated_time
async def test_retry_after_is_obeyed_by_every_lane(tmp_path: Path, status: int) -> None:
    class Timed(FakeTaskApi):
        def _record(self, *args: Any, **kwargs: Any) -> None:
            arrivals.append((self.clock.now(), args[0]))
            super()._record(*args, **kwargs)

    arrivals: list[tuple[float, str]] = []
    async with Timed(clock=LoopClock()) as api:
        api.script("patch", answer(status, headers={"Retry-After": "120"}))
        api.add(*({"_id": str(number)} for number in range(200)))
        async with running(api, tmp_path, delivery_concurrency=2) as daemon:
            await daemon.watch.seen(ReportPostponed)
            await daemon.reported(200)
            assert await daemon.backlog() == NOTHING_HELD
        times = sorted(moment for moment, route in arrivals if route == "patch")
        early = [moment for moment in times if moment < times[0] + 120]
        assert len(early) <= 2, "only what was on its way when the API asked to be left alone"
        assert {len(bodies) for bodies in api.applied.values()} == {1}


@simulated_time
async def test_a_task_api_down_for_an_hour_costs_nothing_but_time(tmp_path: Path) -> None:
    clock = LoopClock()
    async with FakeTaskApi(clock=clock) as api:
        api.add(*({"_id": str(number)} for number in range(100)))
        async with running(api, tmp_path, mock_latency_seconds=1) as daemon:
            await daemon.watch.seen(TaskAccepted, 100)
            await api.down()
            await daemon.watch.seen(DeliveryHalted)
            code, body = await daemon.get("/ready")
            assert (code, body["checks"]["task_api"]["ok"]) == (503, False)
            later = clock.now() + 3_600
            await daemon.watch.until(lambda: clock.now() > later, within=7_200)
            assert (await daemon.backlog()).unreported == 100
            assert await daemon.metric("oldest_unreported_result_age_seconds") >= 3_600 - 10
            assert (await daemon.get("/health"))[0] == 200, "alive never depends on the outside"
            assert await daemon.metric("api_requests_total", status="none") < 3_600 / 10, "bounded probing"
            await api.up()
            await daemon.reported(100)
            assert await daemon.backlog() == NOTHING_HELD
            assert await embedded(daemon) == 100
        assert_done(api, *map(str, range(100)))


@pytest.mark.parametrize(
    "lost", [drop(effect=True), hang(effect=True), answer(500, effect=True), answer(504, effect=True)]
)
@simulated_time
async def test_an_answer_lost_after_the_effect_is_repaired_by_the_same_body(tmp_path: Path, lost: Fault) -> None:
    """The server has set the state and lists the task no more: only sending it again runs the callback that failed."""
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.script("patch", lost, task_id="a")
        api.add({"_id": "a"}, {"_id": "b"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(Reported, task_id="a")
            await daemon.watch.seen(Polled, 5)
            assert await daemon.backlog() == NOTHING_HELD
            assert await embedded(daemon) == 2
        assert_done(api, "a", times=2)
        assert_done(api, "b")


@simulated_time
async def test_a_callback_that_throws_for_hours_holds_up_nobody_else(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(500, effect=True), task_id="poison")
        api.add({"_id": "poison"})
        async with running(api, tmp_path) as daemon:
            await daemon.watch.seen(ReportPostponed, 12)
            api.add(*({"_id": str(number)} for number in range(100)))
            began = LoopClock().now()
            await daemon.reported(100)
            assert LoopClock().now() - began < 60
            assert (await daemon.get("/ready"))[0] == 200
            assert (await daemon.backlog()).unreported == 1
            api.heal()
            await daemon.watch.seen(Reported, task_id="poison")
            assert await embedded(daemon) == 101
        bodies = api.patches["poison"]
        assert all(body == bodies[0] for body in bodies)
        assert len(bodies) == 13


@simulated_time
async def test_results_wait_across_restarts(tmp_path: Path) -> None:
    async with FakeTaskApi(clock=LoopClock()) as api:
        api.always("patch", answer(503))
        api.add(*({"_id": str(number)} for number in range(10)))
        for _ in range(3):
            async with running(api, tmp_path) as daemon:
                await daemon.watch.seen(ReportPostponed, 10)
                assert (await daemon.backlog()).unreported == 10
        api.heal()
        async with running(api, tmp_path) as daemon:
            await daemon.reported(10)
            assert await embedded(daemon) == 0
            assert await daemon.backlog() == NOTHING_HELD
        for task_id, bodies in api.patches.items():
            assert all(body == bodies[0] for body in bodies), task_id
        assert {len(bodies) for bodies in api.applied.values()} == {1}
