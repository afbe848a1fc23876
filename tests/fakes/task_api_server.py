"""A Task API and its token endpoint over real sockets, which go wrong as they are told to."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from aiohttp import web

from ai_task_processor.domain.clock import Clock, SystemClock

Route: TypeAlias = Literal["token", "fetch", "patch", "claim", "bulk"]

CLIENT_ID = "daemon"
CLIENT_SECRET = "correct-horse-battery-staple"
BODY_LIMIT = 100 * 1024
"""What Nest takes unless it is told otherwise."""


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of the right thing; with ``effect`` after the right thing was done."""

    kind: Literal["answer", "drop", "hang", "truncate"]
    effect: bool = False
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(status: int, body: Any = None, *, headers: Mapping[str, str] | None = None, effect: bool = False) -> Fault:
    """Another answer: ``body`` as JSON, or as it is where it is text or bytes; None is Nest's usual error."""
    return Fault("answer", effect, status, body, headers or {})


def drop(*, effect: bool = False) -> Fault:
    """The connection is reset without an answer."""
    return Fault("drop", effect)


def hang(*, effect: bool = False) -> Fault:
    """No answer until :meth:`FakeTaskApi.release`, then the connection is reset."""
    return Fault("hang", effect)


def truncate() -> Fault:
    """The right answer, whose body breaks off half way."""
    return Fault("truncate", effect=True)


@dataclass(frozen=True)
class Recorded:
    """A request as it arrived; ``body`` is the form for a token request, JSON for all others that have one."""

    route: Route
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    task_id: str = ""
    body: Any = None


class FakeTaskApi:
    """Keeps tasks, lists those pending in the order in which they were added, and takes PATCHes.

    All attributes may be changed while it runs. ``tasks`` holds each task by id as it stands now. ``entries`` are
    listed in addition, as they are, whatever happens: room for malformed ones. ``patches`` holds the bodies that
    arrived for each id, ``applied`` those that took effect. ``token_life`` is sent as ``expires_in`` (None: not
    sent), and a token lives so long by ``clock``.

    ``features`` names the optional routes that there are, claim and bulk; ``leases`` says of claimed tasks who has them
    and until when, ``given`` how many times each was claimed. With ``tls`` it encrypts, and is to be asked by a name of
    its certificate at ``port``. A fault of a task's PATCH is also the status of its
    result among many.
    """

    def __init__(self, *, clock: Clock | None = None, prefix: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.client_id = CLIENT_ID
        self.client_secret = CLIENT_SECRET
        self.tasks: dict[str, dict[str, Any]] = {}
        self.entries: list[Any] = []
        self.requests: list[Recorded] = []
        self.applied: dict[str, list[Any]] = {}
        self.token_life: Any = 3600
        self.refusal_status = 401
        self.ignore_limit = False
        self.forbid_error_field = False
        self.conflict_when_finished = False
        self.features: set[str] = set()
        self.leases: dict[str, tuple[str, float]] = {}
        self.given = Counter[str]()
        self.body_limit = BODY_LIMIT
        self.peak = Counter[str]()
        self._running = Counter[str]()
        self._prefix = prefix
        self._tls = tls
        self._tokens: dict[str, float] = {}
        self._issued = 0
        self._once: dict[tuple[Route, str | None], deque[Fault]] = {}
        self._always: dict[tuple[Route, str | None], Fault] = {}
        self._released = asyncio.Event()
        self._arrival = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # --- What a test says ---------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """For ``API_BASE_URL``."""
        return f"http://127.0.0.1:{self._port}{self._prefix}"

    @property
    def token_url(self) -> str:
        """For ``OAUTH2_TOKEN_URL``."""
        return f"http://127.0.0.1:{self._port}/oauth2/token"

    def add(self, *tasks: dict[str, Any]) -> None:
        """Add pending tasks; a task given only an ``_id`` is a text embedding."""
        for task in tasks:
            document = {
                "type": "text_embedding",
                "state": "pending",
                "content": {"text": f"text of {task.get('_id', task.get('id'))}", "model": "nomic-embed-text"},
                "callbackRoute": "verification_update_embedding",
                "callbackParams": {"documentId": "doc-id"},
                "createdAt": "2024-01-01T00:00:00.000Z",
                "updatedAt": None,
                **task,
            }
            self.tasks[str(document.get("_id", document.get("id")))] = document

    def script(self, route: Route, *faults: Fault, task_id: str | None = None) -> None:
        """Let the next requests to ``route`` (of ``task_id``, if given) go wrong, one fault for each, then no more."""
        self._once.setdefault((route, task_id), deque()).extend(faults)

    def always(self, route: Route, fault: Fault, *, task_id: str | None = None) -> None:
        """Let every request to ``route`` (of ``task_id``, if given) go wrong until :meth:`heal`."""
        self._always[route, task_id] = fault

    def heal(self) -> None:
        """Forget every fault, scripted or standing."""
        self._once.clear()
        self._always.clear()

    def revoke_tokens(self) -> None:
        """Refuse every token given so far."""
        self._tokens.clear()

    def release(self) -> None:
        """End the hanging of all requests that hang now."""
        self._released.set()
        self._released = asyncio.Event()

    async def down(self) -> None:
        """Close the port; requests in work are cut off."""
        if self._runner is not None:
            self.release()
            await self._runner.cleanup()
            self._runner = None

    async def up(self) -> None:
        """Open the port, the same one as before."""
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.down()

    # --- What a test asks ---------------------------------------------------------------------------------------------

    @property
    def fetches(self) -> list[Recorded]:
        """The requests for pending tasks."""
        return [request for request in self.requests if request.route == "fetch"]

    @property
    def claims(self) -> list[Any]:
        """The bodies of the requests that claimed or renewed."""
        return [request.body for request in self.requests if request.route == "claim"]

    @property
    def bulks(self) -> list[list[str]]:
        """The ids of each request with many results, or none."""
        return [
            [each["id"] for each in request.body["results"]] for request in self.requests if request.route == "bulk"
        ]

    @property
    def token_requests(self) -> list[Recorded]:
        """The requests for a token."""
        return [request for request in self.requests if request.route == "token"]

    @property
    def patches(self) -> dict[str, list[Any]]:
        """The bodies that arrived for each task id, alone or among many, with or without effect."""
        bodies: dict[str, list[Any]] = {}
        for request in self.requests:
            if request.route == "patch":
                bodies.setdefault(request.task_id, []).append(request.body)
            elif request.route == "bulk":
                for result in request.body["results"]:
                    bodies.setdefault(result["id"], []).append(_without_id(result))
        return bodies

    async def until(self, condition: Callable[[], bool], *, within: float = 60.0) -> None:
        """Wait for a request after whose arrival ``condition`` holds; return at once if it holds already.

        At most ``within`` seconds of the loop's time, which may be simulated.
        """
        try:
            async with asyncio.timeout(within):
                while not condition():
                    await self._arrival.wait()
        except TimeoutError:
            raise AssertionError(f"what was waited for did not come in {within:g} s: {dict(self.states())}") from None

    def states(self) -> Counter[str]:
        """How many tasks are in each state."""
        return Counter(str(task["state"]) for task in self.tasks.values())

    # --- What it does -------------------------------------------------------------------------------------------------

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self.body_limit)
        app.router.add_post("/oauth2/token", self._token)
        app.router.add_get(self._prefix + "/api/ai-tasks/pending", self._fetch)
        app.router.add_patch(self._prefix + "/api/ai-tasks/{id}", self._patch)
        app.router.add_post(self._prefix + "/api/ai-tasks/claim", self._optional("claim", self._give))
        app.router.add_patch(self._prefix + "/api/ai-tasks", self._optional("bulk", self._change_each))
        return app

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = dict(await request.post())
        self._record("token", request, body=form)
        return await self._answered("token", None, request, lambda: self._issue(request, form))

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self._record("fetch", request)
        return await self._answered("fetch", None, request, lambda: self._list(request))

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["id"]
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self._record("patch", request, task_id=task_id)
            return _error(413, "request entity too large")
        body = json.loads(raw)
        self._record("patch", request, task_id=task_id, body=body)
        return await self._answered("patch", task_id, request, lambda: self._change(request, task_id, body))

    def _optional(
        self, route: Literal["claim", "bulk"], work: Callable[[web.Request, Any], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if route not in self.features:
                return _error(404, f"Cannot {request.method} {request.path}")
            try:
                body = json.loads(await request.read())
            except web.HTTPRequestEntityTooLarge:
                return _error(413, "request entity too large")
            self._record(route, request, body=body)
            return await self._answered(route, None, request, lambda: work(request, body))

        return handle

    def _record(self, route: Route, request: web.Request, *, task_id: str = "", body: Any = None) -> None:
        headers = dict(request.headers)
        self.requests.append(Recorded(route, request.raw_path, headers, dict(request.query), task_id, body))
        self._arrival.set()
        self._arrival = asyncio.Event()

    async def _answered(self, route: Route, task_id: str | None, request: web.Request, work: Any) -> web.StreamResponse:
        self._running[route] += 1
        self.peak[route] = max(self.peak[route], self._running[route])
        try:
            fault = self._fault(route, task_id)
            if fault is None:
                right: web.Response = work()
                return right
            return await self._wrong(fault, request, work() if fault.effect else None)
        finally:
            self._running[route] -= 1

    def _fault(self, route: Route, task_id: str | None) -> Fault | None:
        for key in ((route, task_id), (route, None)):
            if self._once.get(key):
                return self._once[key].popleft()
        return self._always.get((route, task_id)) or self._always.get((route, None))

    async def _wrong(self, fault: Fault, request: web.Request, right: web.Response | None) -> web.StreamResponse:
        if fault.kind == "answer":
            return _response(fault)
        if fault.kind == "truncate" and right is not None:
            return await _half(right, request)
        if fault.kind == "hang":
            await self._released.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _issue(self, request: web.Request, form: dict[str, Any]) -> web.Response:
        given = _basic(request.headers.get("Authorization", "")) or (form.get("client_id"), form.get("client_secret"))
        if given != (self.client_id, self.client_secret):
            said = {"error": "invalid_client", "error_description": "Client authentication failed"}
            return web.json_response(said, status=401)
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        self._issued += 1
        token = f"token-{self._issued}-of-the-tests"
        self._tokens[token] = self.clock.now() + float(self.token_life or 3600)
        said = {"access_token": token, "token_type": "bearer", "scope": form.get("scope", "")}
        return web.json_response(said if self.token_life is None else {**said, "expires_in": self.token_life})

    def _list(self, request: web.Request) -> web.Response:
        if not self._lets_in(request):
            return _error(self.refusal_status, "Unauthorized")
        listed = self.entries + self._pending()
        if not self.ignore_limit:
            listed = listed[: int(request.query["limit"])]
        return web.json_response(listed)

    def _pending(self) -> list[dict[str, Any]]:
        for task_id, (_, until) in list(self.leases.items()):
            if until <= self.clock.now():
                self._free(task_id)
        return [task for task in self.tasks.values() if task["state"] == "pending"]

    def _free(self, task_id: str) -> None:
        """The lease has ended; the task may have been deleted meanwhile."""
        del self.leases[task_id]
        if task_id in self.tasks:
            self.tasks[task_id]["state"] = "pending"

    def _give(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if not self._lets_in(request):
            return _error(self.refusal_status, "Unauthorized")
        until = self.clock.now() + body["leaseSeconds"]
        given = self._pending()[: body["limit"]]
        renewed = [task_id for task_id in body.get("renew", []) if self.leases.get(task_id, ("",))[0] == body["worker"]]
        self.leases |= {str(task["_id"]): (body["worker"], until) for task in given}
        self.leases |= dict.fromkeys(renewed, (body["worker"], until))
        self.given.update(str(task["_id"]) for task in given)
        for task in given:
            task["state"] = "in_progress"
        return web.json_response(given)

    def _change_each(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        if not self._lets_in(request):
            return _error(self.refusal_status, "Unauthorized")
        return web.json_response({"results": [self._verdict(request, result) for result in body["results"]]})

    def _verdict(self, request: web.Request, result: dict[str, Any]) -> dict[str, Any]:
        fault = self._fault("patch", result["id"])
        answer = self._change(request, result["id"], _without_id(result)) if fault is None or fault.effect else None
        status = answer.status if fault is None and answer else fault.status if fault else 500
        return {"id": result["id"], "status": status} | ({"error": "as it is"} if status >= 400 else {})

    def _change(self, request: web.Request, task_id: str, body: dict[str, Any]) -> web.Response:
        if not self._lets_in(request):
            return _error(self.refusal_status, "Unauthorized")
        if task_id not in self.tasks:
            return _error(404, f"Task {task_id} not found")
        if self.forbid_error_field and "error" in body:
            return _error(400, ["property error should not exist"])
        task = self.tasks[task_id]
        if self.conflict_when_finished and task["state"] in {"succeeded", "failed"}:
            return _error(409, "Task is already finished")
        self.applied.setdefault(task_id, []).append(body)
        task.update(body)
        self.leases.pop(task_id, None)
        return web.json_response(task)

    def _lets_in(self, request: web.Request) -> bool:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self._tokens.get(token, 0.0) > self.clock.now()


def _without_id(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "id"}


def _basic(header: str) -> tuple[str, str] | None:
    with contextlib.suppress(ValueError):
        client_id, colon, secret = base64.b64decode(header.removeprefix("Basic ")).decode("latin1").partition(":")
        if header.startswith("Basic ") and colon:
            return client_id, secret
    return None


def _error(status: int, message: Any) -> web.Response:
    """As Nest says it."""
    return web.json_response({"statusCode": status, "message": message}, status=status)


def _response(fault: Fault) -> web.Response:
    if fault.body is None and fault.status >= 400:
        response = _error(fault.status, "as scripted")
        response.headers.update(fault.headers)
        return response
    if isinstance(fault.body, bytes | str):
        body = fault.body.encode() if isinstance(fault.body, str) else fault.body
        return web.Response(status=fault.status, body=body, headers=dict(fault.headers))
    body = b"" if fault.body is None else json.dumps(fault.body).encode()
    return web.Response(status=fault.status, body=body, headers=dict(fault.headers), content_type="application/json")


async def _half(right: web.Response, request: web.Request) -> web.StreamResponse:
    body = right.body
    assert isinstance(body, bytes)
    response = web.StreamResponse(status=right.status, headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response
