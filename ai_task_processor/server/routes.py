"""The routes of the tasks."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ai_task_processor.server import wire
from ai_task_processor.server.bodies import JSON, JSON_LINES, expect, parsed, received
from ai_task_processor.server.store import TaskStore
from ai_task_processor.server.tasks import State

TASKS_ROUTE = "/api/ai-tasks"
DEFAULT_LIMIT = 100
MOST_PENDING = 50_000
MOST_LISTED = 1_000

Limit = Annotated[int, Query(ge=1)]


class TaskRoutes:
    """Answers requests about tasks from a store; no body may be longer than ``most_bytes``."""

    def __init__(self, store: TaskStore, *, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes

    def router(self) -> APIRouter:
        """All routes: the most frequent first, the named ones before the one that would take their names for ids."""
        router = APIRouter(prefix=TASKS_ROUTE, tags=["Tasks"])
        add = router.add_api_route
        add("/{task_id}", self.change, methods=["PATCH"], openapi_extra=_documented(_CHANGE))
        add("", self.change_each, methods=["PATCH"], openapi_extra=_documented(_RESULTS))
        add("/claim", self.claim, methods=["POST"], openapi_extra=_documented(_CLAIM))
        add("", self.create, methods=["POST"], status_code=HTTPStatus.CREATED, openapi_extra=_documented(_NEW_TASKS))
        add("", self.list, methods=["GET"])
        add("/pending", self.pending, methods=["GET"])
        add("/stats", self.stats, methods=["GET"])
        add("/{task_id}", self.show, methods=["GET"])
        return router

    async def create(self, request: Request) -> Response:
        """Create tasks from one JSON object, an array of them, or JSON Lines: all of them or none."""
        kind = expect(request, {JSON, *JSON_LINES})
        body = await received(request, most=self._most_bytes)
        tasks = await parsed(wire.read_tasks if kind == JSON else wire.read_task_lines, body)
        return _json(wire.write({"ids": await self._store.add(tasks)}), HTTPStatus.CREATED)

    async def claim(self, request: Request) -> Response:
        """Take pending tasks for a while: the most urgent first, then in the order in which they came.

        They are in progress until ``leaseExpiresAt``, and pending again after that. Those of ``renew`` that the worker
        still holds get a new lease; what comes back are the newly claimed ones alone.
        """
        expect(request, {JSON})
        claim = await parsed(wire.read_claim, await received(request, most=self._most_bytes))
        tasks = await self._store.claim(claim)
        return _json(await asyncio.to_thread(wire.write_tasks, tasks))

    async def pending(self, limit: Limit = DEFAULT_LIMIT) -> Response:
        """Pending tasks, oldest first: at most 50,000, however high the limit is."""
        tasks = await self._store.pending(min(limit, MOST_PENDING))
        return _json(await asyncio.to_thread(wire.write_tasks, tasks))

    async def list(
        self,
        state: State | None = None,
        after: str | None = None,
        limit: Limit = DEFAULT_LIMIT,
        *,
        results: bool = False,
    ) -> Response:
        """Tasks in the order in which they came, at most 1,000 a page; ``next`` is the ``after`` of the next page."""
        limit = min(limit, MOST_LISTED)
        tasks = await self._store.page(state=state, after=after, limit=limit, results=results)
        return _json(await asyncio.to_thread(wire.write_page, tasks, limit))

    async def stats(self) -> Response:
        """How many tasks there are in each state."""
        counts = await self._store.counts()
        return _json(wire.write({state.value: number for state, number in counts.items()}))

    async def show(self, task_id: str) -> Response:
        """One task with its result."""
        return _json(wire.write(wire.task_json(await self._store.get(task_id))))

    async def change(self, task_id: str, request: Request) -> Response:
        """Say that work on a task begins, or what came of it; the same again changes nothing."""
        expect(request, {JSON})
        change = await parsed(wire.read_change, await received(request, most=self._most_bytes))
        return _json(wire.write(wire.changed_json(await self._store.change(task_id, change))))

    async def change_each(self, request: Request) -> Response:
        """Say of up to 1,000 tasks what came of them: each has the ``status`` that a request of its own would have."""
        expect(request, {JSON})
        reports = await parsed(wire.read_results, await received(request, most=self._most_bytes))
        outcomes = await self._store.change_each([(report.task_id, report.change) for report in reports])
        return _json(wire.write_verdicts(reports, outcomes))


_NEW_TASKS: Mapping[str, object] = {
    JSON: wire.NEW_TASKS_SCHEMA,
    "application/x-ndjson": {"type": "string", "description": "One new task per line."},
}
_CHANGE: Mapping[str, object] = {JSON: wire.CHANGE_SCHEMA}
_CLAIM: Mapping[str, object] = {JSON: wire.CLAIM_SCHEMA}
_RESULTS: Mapping[str, object] = {JSON: wire.RESULTS_SCHEMA}


def _documented(schemas: Mapping[str, object]) -> dict[str, object]:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, media_type=JSON)
