"""The task server over real sockets, from the first token to the last shutdown."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest

from ai_task_processor.domain.errors import ConfigurationError, JournalError
from ai_task_processor.server.app import create_app
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.run import run_task_server, serve
from ai_task_processor.server.store import TaskStore, open_task_store
from ai_task_processor.storage.engine import Storage
from tests.fakes.time import ManualClock

ME = Credentials("me", "hush")
TASKS = "/api/ai-tasks"
TASK = {"type": "text_embedding", "content": {"text": "a", "model": "m"}, "callbackRoute": "r", "callbackParams": {}}


class Server:
    """A running task server with a client that holds a token."""

    def __init__(self, client: httpx2.AsyncClient, clock: ManualClock) -> None:
        self.client = client
        self.clock = clock

    async def authorise(self, **form: str) -> None:
        data = {"grant_type": "client_credentials"} | form
        answer = await self.client.post("/oauth2/token", data=data, auth=(ME.client_id, ME.client_secret))
        assert answer.status_code == 200, answer.text
        self.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    async def post(self, *tasks: object) -> list[str]:
        answer = await self.client.post(TASKS, json=list(tasks))
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["ids"]
        return ids

    async def patch(self, task_id: str, **change: object) -> httpx2.Response:
        return await self.client.patch(f"{TASKS}/{task_id}", content=orjson.dumps(change))


@asynccontextmanager
async def started(run: Callable[[asyncio.Event, Callable[[str], None]], Awaitable[None]]) -> AsyncIterator[str]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    shutdown = asyncio.Event()

    async def main() -> None:
        await run(shutdown, ready.set_result)

    task = asyncio.create_task(main())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield ready.result() if ready.done() else await task  # type: ignore[func-returns-value, misc]
    finally:
        shutdown.set()
        await task


@asynccontextmanager
async def serving(database: str = ":memory:", *, most_bytes: int = 1_000_000) -> AsyncIterator[Server]:
    clock = ManualClock()

    async def run(shutdown: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        async with open_task_store(database, clock=clock) as store:
            app = create_app(store, ME, token_seconds=60, clock=clock, most_bytes=most_bytes)
            await serve(app, host="127.0.0.1", port=0, shutdown=shutdown, on_ready=on_ready)

    async with started(run) as url, httpx2.AsyncClient(base_url=url) as client:
        server = Server(client, clock)
        await server.authorise()
        yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as running:
        yield running


# --- Tokens -----------------------------------------------------------------------------------------------------------


async def test_without_a_token_nothing_is_answered_but_health_and_the_description(server: Server) -> None:
    del server.client.headers["Authorization"]
    routes = [("POST", TASKS), ("GET", TASKS), *(("GET", f"{TASKS}/{name}") for name in ("pending", "stats", "x"))]

    for method, route in [*routes, ("PATCH", f"{TASKS}/x"), ("PATCH", TASKS), ("POST", f"{TASKS}/claim")]:
        answer = await server.client.request(method, route)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="ai-task-processor"')
    health = await server.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    description = (await server.client.get("/openapi.json")).json()
    assert set(description["paths"][TASKS]) == {"post", "get", "patch"}
    assert set(description["paths"][f"{TASKS}/claim"]) == {"post"}
    assert (await server.client.get("/docs")).status_code == 404


async def test_a_token_answer_must_not_be_stored(server: Server) -> None:
    form = {"grant_type": "client_credentials", "client_id": "me", "client_secret": "hush", "scope": "read write"}
    answer = await server.client.post("/oauth2/token", data=form, headers={"Authorization": ""})

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["token_type"] == "Bearer"
    assert answer.json()["expires_in"] == 60


async def test_wrong_credentials_are_an_invalid_client(server: Server) -> None:
    form = {"grant_type": "client_credentials"}
    answer = await server.client.post("/oauth2/token", data=form, auth=("me", "wrong"))

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


async def test_an_unsupported_grant_is_a_bad_request(server: Server) -> None:
    answer = await server.client.post("/oauth2/token", data={"grant_type": "password"}, auth=("me", "hush"))

    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


async def test_a_token_ends_and_a_new_one_goes_on(server: Server) -> None:
    server.clock.advance(59)
    assert (await server.client.get(TASKS)).status_code == 200
    server.clock.advance(1)

    refused = await server.client.get(TASKS)

    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert "expired" in refused.json()["message"]
    await server.authorise()
    assert (await server.client.get(TASKS)).status_code == 200


async def test_a_scope_bounds_what_a_token_allows(server: Server) -> None:
    await server.authorise(scope="read")

    refused = await server.client.post(TASKS, json=TASK)

    assert refused.status_code == 403
    assert 'scope="write"' in refused.headers["WWW-Authenticate"]
    assert (await server.client.get(f"{TASKS}/pending")).status_code == 200


# --- Creating ---------------------------------------------------------------------------------------------------------


async def test_one_many_and_lines(server: Server) -> None:
    one = await server.client.post(TASKS, json=TASK)
    many = await server.client.post(TASKS, json=[TASK] * 3)
    body = b"\n".join([orjson.dumps(TASK)] * 5)
    kinds = ["application/x-ndjson", "application/jsonl; charset=utf-8"]
    lines = [await server.client.post(TASKS, content=body, headers={"Content-Type": kind}) for kind in kinds]

    ids = [task_id for answer in (one, many, *lines) for task_id in answer.json()["ids"]]

    assert [len(answer.json()["ids"]) for answer in (one, many, *lines)] == [1, 3, 5, 5]
    listed = (await server.client.get(f"{TASKS}/pending")).json()
    assert [task["_id"] for task in listed] == ids
    stamps = {"createdAt": "2023-11-14T22:13:20.000Z", "updatedAt": "2023-11-14T22:13:20.000Z"}
    assert listed[0] == TASK | {"_id": ids[0], "state": "pending"} | stamps


async def test_many_thousand_in_one_request(server: Server) -> None:
    ids = await server.post(*({"type": "t", "content": number} for number in range(7_000)))

    assert len(set(ids)) == 7_000
    assert len((await server.client.get(f"{TASKS}/pending")).json()) == 100
    assert len((await server.client.get(f"{TASKS}/pending?limit=1000000000")).json()) == 7_000


async def test_nothing_is_taken_of_a_request_with_a_fault(server: Server) -> None:
    answer = await server.client.post(TASKS, json=[TASK, {"type": "t"}, TASK, {"content": 1}])

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"index": 1, "message": "content: Field required"},
        {"index": 3, "message": "type: Field required"},
    ]
    assert (await server.client.get(f"{TASKS}/stats")).json()["pending"] == 0


@pytest.mark.parametrize(("line", "status"), [(b'{"type": "t"', 400), (b'{"type": "t"}', 422)])
async def test_a_bad_line_is_named(server: Server, line: bytes, status: int) -> None:
    body = b"\n".join([orjson.dumps(TASK), b"", line, orjson.dumps(TASK)])

    answer = await server.client.post(TASKS, content=body, headers={"Content-Type": "application/x-ndjson"})

    assert answer.status_code == status
    assert [(fault["index"], fault["line"]) for fault in answer.json()["errors"]] == [(1, 3)]
    assert (await server.client.get(f"{TASKS}/stats")).json()["pending"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 422),
        (b"5", {}, 422),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b" " * 20_001, {}, 413),
        (b" " * 80_000, {}, 413),
    ],
)
async def test_bodies_that_are_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    async with serving(most_bytes=20_000) as server:
        answer = await server.client.post(TASKS, content=body, headers=headers)

        assert answer.status_code == answer.json()["statusCode"] == status
        assert len(answer.json()["message"]) > 10
        assert (await server.client.get(f"{TASKS}/stats")).json()["pending"] == 0


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_pending_ends_with_the_first_change(server: Server) -> None:
    first, second, third = await server.post(TASK, TASK, TASK)
    await server.patch(first, state="in_progress")
    await server.patch(second, state="failed", error="no")

    assert [task["_id"] for task in (await server.client.get(f"{TASKS}/pending")).json()] == [third]


async def test_pages_of_a_state_with_and_without_results(server: Server) -> None:
    ids = await server.post(*[TASK] * 5)
    await asyncio.gather(*(server.patch(task_id, state="succeeded", result=[0.5]) for task_id in ids[:4]))
    query: dict[str, str | int] = {"state": "succeeded", "limit": 3}

    first = (await server.client.get(TASKS, params=query)).json()
    last = (await server.client.get(TASKS, params=query | {"after": first["next"], "results": "true"})).json()

    assert [task["_id"] for task in first["tasks"]] == ids[:3]
    assert "result" not in first["tasks"][0]
    assert [(task["_id"], task["result"]) for task in last["tasks"]] == [(ids[3], [0.5])]
    assert last["next"] is None
    assert [task["_id"] for task in (await server.client.get(TASKS)).json()["tasks"]] == ids


@pytest.mark.parametrize("route", ["?state=done", "?limit=0", "/pending?limit=x", "?results=maybe", "?after=nobody"])
async def test_queries_that_are_refused(server: Server, route: str) -> None:
    answer = await server.client.get(TASKS + route)

    assert answer.status_code == 422
    assert route.partition("?")[2].partition("=")[0] in answer.json()["message"]


async def test_unknown_ids_routes_and_methods(server: Server) -> None:
    assert (await server.client.get(f"{TASKS}/64b000000000000000000000")).status_code == 404
    assert (await server.patch("pending", state="in_progress")).status_code == 404
    assert (await server.client.get("/nowhere")).json()["statusCode"] == 404
    assert (await server.client.delete(TASKS)).json()["error"] == "Method Not Allowed"


# --- Changing ---------------------------------------------------------------------------------------------------------


async def test_a_vector_comes_back_bit_for_bit(server: Server) -> None:
    (task_id,) = await server.post(TASK)
    vector = np.random.default_rng(1).normal(size=1536).astype("<f4")
    body = orjson.dumps({"state": "succeeded", "result": vector}, option=orjson.OPT_SERIALIZE_NUMPY)

    answer = await server.client.patch(f"{TASKS}/{task_id}", content=body)

    assert answer.status_code == 200
    assert answer.json().keys() == {"_id", "type", "state", "updatedAt"}
    shown = await server.client.get(f"{TASKS}/{task_id}")
    assert orjson.dumps(shown.json()["result"]) in body
    assert np.array_equal(np.array(shown.json()["result"], dtype="<f4"), vector)
    assert shown.json()["error"] is None


@pytest.mark.parametrize(
    "result",
    [
        [0.1, 0.123456789012345],
        {"embedding": [0.5, 1], "model": "m", "provider": "p", "dimensions": 2, "usage": {"tokens": 3}},
    ],
)
async def test_other_results_come_back_as_they_were_sent(server: Server, result: object) -> None:
    (task_id,) = await server.post(TASK)

    assert (await server.patch(task_id, state="succeeded", result=result)).status_code == 200
    assert (await server.client.get(f"{TASKS}/{task_id}")).json()["result"] == result


async def test_the_same_again_is_fine_and_another_outcome_is_a_conflict(server: Server) -> None:
    done, failed = await server.post(TASK, TASK)
    for _ in range(2):
        assert (await server.patch(done, state="succeeded", result=[0.5])).status_code == 200
        assert (await server.patch(failed, state="failed", result=None, error="too long")).status_code == 200

    for task_id, change in [
        (done, {"state": "succeeded", "result": [0.25]}),
        (done, {"state": "failed", "error": "too long"}),
        (done, {"state": "in_progress"}),
        (failed, {"state": "failed", "error": "other"}),
        (failed, {"state": "succeeded", "result": [0.5]}),
    ]:
        assert (await server.patch(task_id, **change)).status_code == 409
    assert (await server.client.get(f"{TASKS}/{failed}")).json()["error"] == "too long"


async def test_a_finished_task_can_be_done_again(server: Server) -> None:
    (task_id,) = await server.post(TASK)
    await server.patch(task_id, state="succeeded", result=[0.5])

    assert (await server.patch(task_id, state="pending")).status_code == 200
    (pending,) = (await server.client.get(f"{TASKS}/pending")).json()
    assert pending["_id"] == task_id
    assert (await server.client.get(f"{TASKS}/{task_id}")).json()["result"] is None
    assert (await server.patch(task_id, state="succeeded", result=[0.25])).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no body"),
        (b"{", 400, "not JSON"),
        (b'{"state": "succeeded", "result": [NaN]}', 400, "not JSON"),
        (b'{"state": "succeeded", "result": [1e999]}', 400, "infinity"),
        (b'{"state": "succeeded", "result": []}', 422, "result: is empty"),
        (b'{"state": "succeeded", "result": [null]}', 422, "index 0"),
        (b'{"state": "succeeded", "result": "text"}', 422, "result: an embedding is"),
        (b'{"state": "succeeded"}', 422, "result: a task that succeeded has one"),
        (b'{"state": "finished"}', 422, "state: "),
        (b'{"state": "failed", "error": 5}', 422, "error: "),
        (b"[]", 422, "valid dictionary"),
    ],
)
async def test_changes_that_are_refused_change_nothing(server: Server, body: bytes, status: int, words: str) -> None:
    (task_id,) = await server.post(TASK)

    answer = await server.client.patch(f"{TASKS}/{task_id}", content=body)

    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert (await server.client.get(f"{TASKS}/{task_id}")).json()["state"] == "pending"


async def test_a_form_is_no_change(server: Server) -> None:
    (task_id,) = await server.post(TASK)

    assert (await server.client.patch(f"{TASKS}/{task_id}", data={"state": "failed"})).status_code == 415


async def test_another_type_of_task_may_have_any_result(server: Server) -> None:
    (task_id,) = await server.post({"type": "summary", "content": "long"})

    assert (await server.patch(task_id, state="succeeded", result={"summary": "short"})).status_code == 200
    assert (await server.client.get(f"{TASKS}/{task_id}")).json()["result"] == {"summary": "short"}


async def test_changes_at_once_all_count_and_only_one_of_rivals_wins(server: Server) -> None:
    ids = await server.post(*[TASK] * 120)
    rivals = [server.patch(task_id, state="succeeded", result=[n, 0.5]) for task_id in ids for n in range(2)]

    statuses = [answer.status_code for answer in await asyncio.gather(*rivals)]

    assert sorted(statuses) == [200] * 120 + [409] * 120
    counts = {"pending": 0, "in_progress": 0, "succeeded": 120, "failed": 0}
    assert (await server.client.get(f"{TASKS}/stats")).json() == counts


# --- Process ----------------------------------------------------------------------------------------------------------


async def test_tasks_results_and_tokens_survive_a_restart(tmp_path: Path) -> None:
    database = str(tmp_path / "tasks.db")
    async with serving(database) as server:
        done, waiting = await server.post(TASK, TASK)
        await server.patch(done, state="succeeded", result=[0.1, 0.2])
        authorization = server.client.headers["Authorization"]

    async with serving(database) as server:
        server.client.headers["Authorization"] = authorization
        assert (await server.client.get(f"{TASKS}/{done}")).json()["result"] == [0.1, 0.2]
        assert [task["_id"] for task in (await server.client.get(f"{TASKS}/pending")).json()] == [waiting]


@pytest.mark.parametrize(("host", "beginning"), [("0.0.0.0", "http://127.0.0.1:"), ("localhost", "http://")])  # noqa: S104 - listens for a moment
async def test_the_whole_server_tells_where_it_answers(tmp_path: Path, host: str, beginning: str) -> None:
    def run(shutdown: asyncio.Event, on_ready: Callable[[str], None]) -> Awaitable[None]:
        return run_task_server(
            database=str(tmp_path / "tasks.db"),
            host=host,
            port=0,
            credentials=ME,
            token_seconds=60,
            shutdown=shutdown,
            on_ready=on_ready,
        )

    async with started(run) as url, httpx2.AsyncClient(base_url=url) as client:
        assert url.startswith(beginning)
        assert (await client.get("/health")).status_code == 200


class Broken(Storage):
    """A storage whose disk is full, or whose code has a defect."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def read(self, _: object) -> Any:
        raise self._error

    write = read


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(JournalError("the disk is full"), 503, "the disk is full"), (KeyError("a text"), 500, "has the traceback")],
)
async def test_a_failing_database_is_an_error_of_the_server(error: Exception, status: int, words: str) -> None:
    clock = ManualClock()
    app = create_app(TaskStore(Broken(error), key=b"k" * 32, clock=clock), ME, clock=clock)

    def run(shutdown: asyncio.Event, on_ready: Callable[[str], None]) -> Awaitable[None]:
        return serve(app, host="127.0.0.1", port=0, shutdown=shutdown, on_ready=on_ready)

    async with started(run) as url, httpx2.AsyncClient(base_url=url) as client:
        server = Server(client, clock)
        await server.authorise()
        for answer in (await server.patch("x", state="in_progress"), await client.get(f"{TASKS}/pending")):
            assert answer.status_code == answer.json()["statusCode"] == status
            assert words in answer.json()["message"]
            assert "a text" not in answer.text


async def test_an_address_in_use_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError, match="cannot listen on"):
        await run_task_server(
            database=str(tmp_path / "tasks.db"),
            host="127.0.0.1",
            port=taken.getsockname()[1],
            credentials=ME,
            token_seconds=60,
            shutdown=asyncio.Event(),
            on_ready=print,
        )


async def test_a_stop_does_not_wait_for_idle_connections() -> None:
    async with serving() as server:
        url = str(server.client.base_url)
        idle = httpx2.AsyncClient(base_url=url)
        await idle.get("/health")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
    with pytest.raises(httpx2.ConnectError):
        await idle.get("/health")
    await idle.aclose()
