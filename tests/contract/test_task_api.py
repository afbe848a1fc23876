"""What any Task API must do that a daemon is to work for, over HTTP: docs/task-api.md, sentence by sentence."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest

from ai_task_processor.server.app import create_app
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.run import serve
from ai_task_processor.server.store import open_task_store
from tests.fakes import nest
from tests.fakes.time import ManualClock

TASKS = "/api/ai-tasks"
ME = Credentials("me", "hush")
VECTOR = [0.5, -0.25, 1.0]
DONE = {"state": "succeeded", "result": VECTOR}
FAILED = {"state": "failed", "result": None, "error": "too long"}


@dataclass
class Api:
    """A running Task API: ``client`` holds a token, ``create`` has tasks created and answers their ids.

    ``pass_seconds`` lets time pass for it.
    """

    client: httpx2.AsyncClient
    create: Callable[[list[dict[str, Any]]], Awaitable[list[str]]]
    pass_seconds: Callable[[float], Awaitable[None]]

    async def add(self, count: int = 1, **facts: Any) -> list[str]:
        task = {"type": "text_embedding", "content": {"text": "a text", "model": "nomic-embed-text"}, **facts}
        return await self.create([task] * count)

    async def pending(self, limit: int = 100) -> list[dict[str, Any]]:
        answer = await self.client.get(f"{TASKS}/pending", params={"limit": limit})
        assert answer.status_code == 200, answer.text
        listed: list[dict[str, Any]] = answer.json()
        return listed

    async def claim(self, limit: int, worker: str = "one", *, seconds: int = 2, **more: Any) -> list[dict[str, Any]]:
        answer = await self.asks_to_claim({"limit": limit, "leaseSeconds": seconds, "worker": worker, **more})
        assert answer.status_code == 200, answer.text
        claimed: list[dict[str, Any]] = answer.json()
        return claimed

    async def asks_to_claim(self, body: Any) -> httpx2.Response:
        return await self.client.post(f"{TASKS}/claim", json=body)

    async def patch(self, task_id: str, body: Any) -> int:
        return (await self.client.patch(f"{TASKS}/{task_id}", json=body)).status_code

    async def report(self, *results: Any) -> list[dict[str, Any]]:
        answer = await self.client.patch(TASKS, json={"results": results})
        assert answer.status_code == 200, answer.text
        verdicts: list[dict[str, Any]] = answer.json()["results"]
        return verdicts


@asynccontextmanager
async def task_server() -> AsyncIterator[Api]:
    clock = ManualClock()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    shutdown = asyncio.Event()
    async with open_task_store(":memory:", clock=clock) as store, asyncio.TaskGroup() as group:
        app = create_app(store, ME, clock=clock)
        group.create_task(serve(app, host="127.0.0.1", port=0, shutdown=shutdown, on_ready=url.set_result))
        async with httpx2.AsyncClient(base_url=await url) as client:
            form = {"grant_type": "client_credentials"}
            token = await client.post("/oauth2/token", data=form, auth=(ME.client_id, ME.client_secret))
            client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

            async def create(tasks: list[dict[str, Any]]) -> list[str]:
                answer = await client.post(TASKS, json=tasks)
                assert answer.status_code == 201, answer.text
                ids: list[str] = answer.json()["ids"]
                return ids

            async def pass_seconds(seconds: float) -> None:
                clock.advance(seconds)

            yield Api(client, create, pass_seconds)
        shutdown.set()


@asynccontextmanager
async def nestjs(rig: Mapping[str, str]) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {rig['token']}"}
    async with httpx2.AsyncClient(base_url=rig["url"], headers=headers) as client:

        async def create(tasks: list[dict[str, Any]]) -> list[str]:
            ids: list[str] = (await client.post("/test/tasks", json=tasks)).json()["ids"]
            return ids

        async def pass_seconds(seconds: float) -> None:
            await client.post("/test/time", json={"seconds": seconds})

        await client.post("/test/beginning")
        yield Api(client, create, pass_seconds)


@pytest.fixture(scope="module")
def nest_rig() -> Iterator[Mapping[str, str]]:
    with nest.contract_rig() as rig:
        yield rig


@pytest.fixture(params=["task server", "NestJS"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    server = task_server() if request.param == "task server" else nestjs(request.getfixturevalue("nest_rig"))
    async with server as running:
        yield running


# --- Access -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", ["", "Bearer nonsense", "Basic bWU6aHVzaA=="])
async def test_nobody_gets_in_without_a_token(api: Api, authorization: str) -> None:
    api.client.headers["Authorization"] = authorization
    asked = [("GET", "/pending"), ("PATCH", "/x"), ("PATCH", ""), ("POST", "/claim")]

    answers = [await api.client.request(method, TASKS + route) for method, route in asked]

    assert {answer.status_code for answer in answers} <= {401, 403}


# --- Listing ----------------------------------------------------------------------------------------------------------


async def test_pending_tasks_are_listed_until_they_are_reported(api: Api) -> None:
    first, second = await api.add(2, priority="high", callbackParams={"documentId": "7"})

    listed = await api.pending()

    assert [task["_id"] for task in listed] == [first, second]
    assert (
        listed[0].items()
        >= {
            "type": "text_embedding",
            "state": "pending",
            "content": {"text": "a text", "model": "nomic-embed-text"},
            "callbackParams": {"documentId": "7"},
            "priority": "high",
        }.items()
    )
    assert datetime.fromisoformat(listed[0]["createdAt"]).tzinfo is not None
    assert [task["_id"] for task in await api.pending(1)] == [first]
    assert await api.patch(first, DONE) == 200
    assert [task["_id"] for task in await api.pending()] == [second]


# --- One result -------------------------------------------------------------------------------------------------------


async def test_the_first_outcome_wins_and_may_be_repeated(api: Api) -> None:
    done, failed = await api.add(2)
    vector = np.random.default_rng(1).normal(size=1536).astype("<f4")
    body = orjson.loads(orjson.dumps({"state": "succeeded", "result": vector}, option=orjson.OPT_SERIALIZE_NUMPY))

    assert [await api.patch(done, body) for _ in range(2)] == [200, 200]
    assert [await api.patch(failed, FAILED) for _ in range(2)] == [200, 200]

    others = [(done, DONE), (done, FAILED), (failed, DONE), (failed, {**FAILED, "error": "other"})]
    assert [await api.patch(task_id, other) for task_id, other in others] == [409] * 4


@pytest.mark.parametrize(
    "body",
    [
        {"state": "finished"},
        {"state": "succeeded", "result": []},
        {"state": "succeeded", "result": "text"},
        {"result": VECTOR},
    ],
)
async def test_a_refused_result_changes_nothing(api: Api, body: object) -> None:
    (task_id,) = await api.add()

    assert await api.patch(task_id, body) in {400, 422}
    assert [task["_id"] for task in await api.pending()] == [task_id]


async def test_an_unknown_task_is_not_found(api: Api) -> None:
    assert await api.patch("0" * 24, DONE) == 404


# --- Many results -----------------------------------------------------------------------------------------------------


async def test_each_of_many_results_is_answered_as_if_it_had_come_alone(api: Api) -> None:
    done, failed, finished, spoilt, twice = await api.add(5)
    await api.patch(finished, FAILED)

    verdicts = await api.report(
        {"id": done, **DONE},
        {"id": failed, **FAILED},
        {"id": finished, **DONE},
        {"id": spoilt, "state": "succeeded", "result": []},
        {"id": "0" * 24, **DONE},
        {"id": twice, **DONE},
        {"id": twice, **DONE},
    )

    assert [verdict["id"] for verdict in verdicts] == [done, failed, finished, spoilt, "0" * 24, twice, twice]
    assert [verdict["status"] for verdict in verdicts] == [200, 200, 409, 422, 404, 200, 200]
    assert [bool(verdict.get("error")) for verdict in verdicts] == [False, False, True, True, True, False, False]
    assert [task["_id"] for task in await api.pending()] == [spoilt]
    assert await api.patch(done, DONE) == 200
    assert await api.patch(done, FAILED) == 409


@pytest.mark.parametrize("result", [None, 7, "text", [], {}, {"id": 5, **DONE}, {"id": "", **DONE}, {**DONE}])
async def test_a_result_that_makes_no_sense_spoils_no_other(api: Api, result: object) -> None:
    (task_id,) = await api.add()

    bad, good = await api.report(result, {"id": task_id, **DONE})

    assert bad["status"] in {400, 422}
    assert good == {"id": task_id, "status": 200}


@pytest.mark.parametrize("body", [{}, [], {"results": None}, {"results": {"id": "x"}}, {"results": [None] * 5_000}])
async def test_what_holds_no_list_of_results_or_too_long_a_one_is_refused(api: Api, body: object) -> None:
    answer = await api.client.patch(TASKS, json=body)

    assert answer.status_code in {400, 413, 422}


async def test_no_result_at_all_asks_whether_the_route_is_there(api: Api) -> None:
    assert await api.report() == []


# --- Claiming ---------------------------------------------------------------------------------------------------------


async def test_a_limit_of_0_asks_whether_the_route_is_there(api: Api) -> None:
    await api.add()

    assert await api.claim(0) == []
    assert len(await api.pending()) == 1


async def test_a_claimed_task_is_the_workers_own_until_its_lease_ends(api: Api) -> None:
    (task_id,) = await api.add()

    (task,) = await api.claim(5, "one", seconds=2)

    assert (task["_id"], task["state"], task["content"]["text"]) == (task_id, "in_progress", "a text")
    assert datetime.fromisoformat(task["leaseExpiresAt"]) > datetime.fromisoformat(task["createdAt"])
    assert await api.claim(5, "two") == []
    assert await api.claim(5, "one") == []
    assert await api.pending() == []
    await api.pass_seconds(2)
    (pending,) = await api.pending()
    assert (pending["_id"], pending["state"]) == (task_id, "pending")
    assert "leaseExpiresAt" not in pending
    assert [again["_id"] for again in await api.claim(5, "two")] == [task_id]


async def test_the_most_urgent_go_first_then_the_oldest(api: Api) -> None:
    asked = ["low", None, "critical", 2.5, "high", None, -1, "critical"]
    tasks = [{} if priority is None else {"priority": priority} for priority in asked]
    ids = [(await api.add(**facts))[0] for facts in tasks]

    claimed = [task["_id"] for limit in (3, 100) for task in await api.claim(limit)]

    assert claimed == [ids[place] for place in (6, 2, 7, 4, 1, 5, 3, 0)]


async def test_a_renewed_lease_begins_anew_but_only_for_its_holder(api: Api) -> None:
    mine, other = await api.add(2)
    await api.claim(1, "one", seconds=3)
    await api.claim(1, "two", seconds=3)
    await api.pass_seconds(2)

    assert await api.claim(0, "one", seconds=3, renew=[mine, other, "0" * 24]) == []
    await api.pass_seconds(2)

    assert [task["_id"] for task in await api.claim(5, "three")] == [other]
    await api.pass_seconds(2)
    assert await api.claim(0, "one", renew=[mine]) == []
    assert [task["_id"] for task in await api.claim(5, "three")] == [mine, other]


async def test_a_lease_that_has_ended_cannot_be_renewed(api: Api) -> None:
    (task_id,) = await api.add()
    await api.claim(1, "one", seconds=1)
    await api.pass_seconds(1)

    assert [task["_id"] for task in await api.claim(1, "one", renew=[task_id])] == [task_id]


async def test_two_workers_that_claim_at_once_share_what_there_is(api: Api) -> None:
    ids = await api.add(40)

    shares = await asyncio.gather(*(api.claim(10, f"worker {number}") for number in range(5)))

    claimed = [task["_id"] for share in shares for task in share]
    assert sorted(claimed) == sorted(ids)


async def test_a_finished_task_is_not_claimed_again_unless_it_is_set_back(api: Api) -> None:
    done, failed = await api.add(2)
    await api.claim(2, seconds=1)
    await api.report({"id": done, **DONE}, {"id": failed, **FAILED})
    await api.pass_seconds(2)

    assert await api.claim(5) == []
    assert await api.patch(done, {"state": "pending"}) == 200
    assert [task["_id"] for task in await api.claim(5)] == [done]


async def test_the_first_outcome_wins_also_when_the_lease_has_passed_to_another(api: Api) -> None:
    late, same = await api.add(2)
    await api.claim(2, "one", seconds=1)
    await api.pass_seconds(1)
    await api.claim(2, "two", seconds=1)

    assert await api.patch(late, DONE) == 200
    assert await api.patch(same, DONE) == 200

    verdicts = await api.report({"id": late, "state": "succeeded", "result": [7.0]}, {"id": same, **DONE})
    assert [verdict["status"] for verdict in verdicts] == [409, 200]


@pytest.mark.parametrize(
    "body",
    [
        {"limit": -1, "leaseSeconds": 5, "worker": "one"},
        {"limit": "many", "leaseSeconds": 5, "worker": "one"},
        {"limit": 1, "leaseSeconds": 0, "worker": "one"},
        {"limit": 1, "leaseSeconds": 10**9, "worker": "one"},
        {"limit": 1, "leaseSeconds": 5, "worker": ""},
        {"limit": 1, "leaseSeconds": 5, "worker": "w" * 5_000},
        {"limit": 1, "leaseSeconds": 5, "worker": "one", "renew": "x"},
        {"limit": 1, "leaseSeconds": 5, "worker": "one", "renew": [5]},
        {"limit": 1, "leaseSeconds": 5},
        [],
    ],
)
async def test_a_claim_that_makes_no_sense_is_refused(api: Api, body: object) -> None:
    await api.add()

    assert (await api.asks_to_claim(body)).status_code in {400, 422}
    assert len(await api.pending()) == 1
