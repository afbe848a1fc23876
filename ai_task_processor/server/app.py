"""The task server as an ASGI application."""

from http import HTTPStatus

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ai_task_processor import __version__
from ai_task_processor.domain.clock import Clock
from ai_task_processor.domain.errors import JournalError
from ai_task_processor.server import wire
from ai_task_processor.server.access import Access
from ai_task_processor.server.bodies import JSON
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.problems import Problem
from ai_task_processor.server.routes import TaskRoutes
from ai_task_processor.server.store import TaskStore
from ai_task_processor.server.tokens import Tokens

TOKEN_SECONDS = 900
MOST_BYTES = 64 * 1024 * 1024


def create_app(
    store: TaskStore,
    credentials: Credentials,
    *,
    token_seconds: int = TOKEN_SECONDS,
    clock: Clock,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """The application over an open store.

    Tokens live ``token_seconds``; a body longer than ``most_bytes`` is refused. The pages that would load scripts from
    the internet are off, the description they show is at ``/openapi.json``.
    """
    app = FastAPI(
        title="AI Task Processor: task server",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    access = Access(credentials, Tokens(store.key, credentials, seconds=token_seconds, clock=clock))
    app.include_router(TaskRoutes(store, most_bytes=most_bytes).router(), dependencies=[Depends(access)])
    app.include_router(access.router())
    app.add_api_route("/health", _health, methods=["GET"])
    _answer_errors(app)
    return app


async def _health() -> dict[str, str]:
    """Whether the server answers; needs no token."""
    return {"status": "ok", "service": "ai-task-processor task server", "version": __version__}


def _answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_query)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(JournalError, _on_storage_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_defect)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - registered for nothing else
    return _answer(error)


async def _on_invalid_query(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    faults = [f"{details['loc'][-1]}: {details['msg']}" for details in error.errors()]
    return _answer(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(faults)))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    status = HTTPStatus(error.status_code)
    message = f"{request.method} {request.url.path}: {status.phrase}"
    return _answer(Problem(status, message, headers=error.headers))


async def _on_storage_error(_: Request, error: Exception) -> Response:
    message = f"The task server cannot use its database: {error}"
    return _answer(Problem(HTTPStatus.SERVICE_UNAVAILABLE, message, headers={"Retry-After": "10"}))


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # for nobody: the client has gone


async def _on_defect(_: Request, __: Exception) -> Response:
    return _answer(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The task server failed; its log has the traceback."))


def _answer(problem: Problem) -> Response:
    return Response(wire.write(problem.body()), problem.status, headers=problem.headers, media_type=JSON)
