"""Who may do what: the token route, and the check of every request that carries a token."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.security import OAuth2
from starlette.requests import HTTPConnection

from ai_task_processor.server import wire
from ai_task_processor.server.bodies import media_type, received
from ai_task_processor.server.credentials import Credentials
from ai_task_processor.server.oauth import FORM, READ, WRITE, TokenDenied, TokenRequest, grant
from ai_task_processor.server.problems import Problem
from ai_task_processor.server.tokens import TokenRefused, Tokens

TOKEN_ROUTE = "/oauth2/token"  # noqa: S105 - a route
MOST_FORM_BYTES = 64 * 1024
REALM = 'realm="ai-task-processor"'
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
READING = frozenset({"GET", "HEAD"})


class Access(OAuth2):
    """Gives tokens for the credentials, and as a dependency lets nobody pass without one.

    Reading needs the scope ``read``, everything else ``write``.
    """

    def __init__(self, credentials: Credentials, tokens: Tokens) -> None:
        scopes = {READ: "see tasks", WRITE: "create and change tasks"}
        super().__init__(
            flows={"clientCredentials": {"tokenUrl": TOKEN_ROUTE, "scopes": scopes}},
            scheme_name="OAuth2",
        )
        self._credentials = credentials
        self._tokens = tokens

    async def __call__(self, request: HTTPConnection) -> None:
        """Let a request pass. Raises Problem."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _refused("A bearer token is needed.", f"Bearer {REALM}")
        try:
            scopes = self._tokens.scopes(token.strip())
        except TokenRefused as error:
            challenge = f'Bearer {REALM}, error="invalid_token", error_description="{error}"'
            raise _refused(f"No access: {error}.", challenge) from error
        needed = READ if request.scope["method"] in READING else WRITE
        if needed not in scopes:
            challenge = f'Bearer {REALM}, error="insufficient_scope", scope="{needed}"'
            raise _refused(f"The token lacks the scope {needed}.", challenge, HTTPStatus.FORBIDDEN)

    def router(self) -> APIRouter:
        """The token route."""
        router = APIRouter(tags=["OAuth 2.0"])
        router.add_api_route(TOKEN_ROUTE, self.token, methods=["POST"], openapi_extra={"requestBody": _FORM_SCHEMA})
        return router

    async def token(self, request: Request) -> Response:
        """Give a token for the client's credentials (RFC 6749, section 4.4)."""
        try:
            body = await received(request, most=MOST_FORM_BYTES)
            asked = TokenRequest(media_type(request), body, request.headers.get("authorization", ""))
            return _answer(HTTPStatus.OK, grant(asked, self._credentials, self._tokens))
        except TokenDenied as denied:
            return _answer(denied.status, denied.body())


_FORM_SCHEMA = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["grant_type"],
                "properties": {
                    "grant_type": {"const": "client_credentials"},
                    "scope": {"type": "string"},
                    "client_id": {"type": "string"},
                    "client_secret": {"type": "string"},
                },
            }
        }
    },
}


def _refused(message: str, challenge: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> Problem:
    return Problem(status, message, headers={"WWW-Authenticate": challenge})


def _answer(status: HTTPStatus, body: dict[str, object]) -> Response:
    challenge = {"WWW-Authenticate": f"Basic {REALM}"} if status is HTTPStatus.UNAUTHORIZED else {}
    return Response(wire.write(body), status, headers={**NO_STORE, **challenge}, media_type="application/json")
